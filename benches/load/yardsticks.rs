//! The servers that run in this program's own children: `load --child NAME …`. Each prints its port as one line, then
//! serves until its standard input ends, which it does when its parent ends in whatever way.

use std::io::{Read, Write};

use crate::floor::{self, FloorOptions};

/// The arguments of a child that appends messages to the file that follows.
pub const FLOOR: &str = "floor";
/// The same without a file; the number of messages that a download brings follows.
pub const FLOOR_MEMORY: &str = "floor-memory";
/// The daemon's reactor with a store in memory.
pub const MEMORY: &str = "memory";

/// Runs as a child; returns only when that fails.
pub fn run(arguments: &[String]) -> Result<(), String> {
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
        [kind] if kind == MEMORY => memory_server(),
        _ => Err(format!("no such child: {arguments:?}")),
    }
}

fn serve_floor(options: &FloorOptions) -> Result<(), String> {
    floor::serve(options, announce).map_err(|e| format!("floor: {e}"))
}

// ---------------------------------------------------------------------------------------------------------------------
// TO BE FILLED IN: the daemon's reactor with a store in memory.
//
// It is the limit of `fetch` and is shown beside `store`. What it must do:
// - bind 127.0.0.1:0, call `announce(port)` once it listens, then serve until the process ends (standard input's end
//   ends it, see `run`);
// - know the users `server::user_name(0 .. server::USERS)`, all with the password `server::PASSWORD` and the cheapest
//   hash, with the limits of `server::configuration`;
// - keep queues in memory: `fetch` fills them through the protocol before it downloads.
// As long as it returns an error, `fetch` is held against the floor instead, which makes its messages out of nothing.
// ---------------------------------------------------------------------------------------------------------------------
fn memory_server() -> Result<(), String> {
    Err("not available".into())
}

/// Tells the parent where this child listens.
fn announce(port: u16) {
    println!("{port}");
    let _ = std::io::stdout().flush();
}
