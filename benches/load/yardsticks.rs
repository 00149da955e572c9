//! The servers that run in this program's own children: `load --child NAME …`. Each prints its port as one line, then
//! serves until its standard input ends, which it does when its parent ends in whatever way.

use std::io::{Read, Write};

use crate::filtered::{FILTERED, become_it};
use crate::floor::{self, FloorOptions};
use crate::memory_server;

/// The arguments of a child that appends messages to the file that follows.
pub const FLOOR: &str = "floor";
/// The same without a file; the number of messages that a download brings follows.
pub const FLOOR_MEMORY: &str = "floor-memory";
/// The daemon's reactor with a store in memory.
pub const MEMORY: &str = "memory";

/// Runs as a child; returns only when that fails.
pub fn run(arguments: &[String]) -> Result<(), String> {
    // Before there is a thread: the filter is this one's, and the program that it becomes has an input of its own.
    if let [kind, program, rest @ ..] = arguments
        && kind == FILTERED
    {
        return become_it(program, rest);
    }
    std::thread::spawn(|| {
        let mut rest = [0; 64];
        while std::io::stdin().read(&mut rest).is_ok_and(|read| read > 0) {}
        std::process::exit(0);
    });
    match arguments {
        [kind, file] if kind == FLOOR => serve_floor(&FloorOptions { file: Some(file.into()), queue: 0 }),
        [kind, queue] if kind == FLOOR_MEMORY => {
            let queue = queue.parse().map_err(|_| format!("not a number: {queue}"))?;
            serve_floor(&FloorOptions { file: None, queue })
        }
        [kind] if kind == MEMORY => memory_server::serve(announce),
        _ => Err(format!("no such child: {arguments:?}")),
    }
}

fn serve_floor(options: &FloorOptions) -> Result<(), String> {
    floor::serve(options, announce).map_err(|e| format!("floor: {e}"))
}

/// Tells the parent where this child listens.
fn announce(port: u16) {
    println!("{port}");
    let _ = std::io::stdout().flush();
}
