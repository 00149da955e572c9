//! A program at a terminal: what it shows, and keys for it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::openpty;

use super::{need, wait_for};

pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    /// Runs `program` in a session of its own with this as its terminal.
    #[track_caller]
    pub fn runs(program: &[&str], prepare: impl FnOnce(&mut Command)) -> Terminal {
        need("setsid", "util-linux");
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let slave = || Stdio::from(pty.slave.try_clone().expect("a second handle"));
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).args(program).env("TERM", "dumb");
        command.stdin(slave()).stdout(slave()).stderr(slave());
        prepare(&mut command);
        let child = command.spawn().expect("setsid runs");
        let keyboard = File::from(pty.master);
        let mut reader = keyboard.try_clone().expect("a second handle");
        let screen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0u8; 1024];
            // The end is an error here: the terminal is hung up.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shown.lock().expect("not poisoned").extend_from_slice(&bytes[..count]);
            }
        });
        Terminal { keyboard, screen, child }
    }

    /// Everything shown so far, lines ended by LF.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("not poisoned")).replace('\r', "")
    }

    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until the screen, seen through `eyes`, is `expected`.
    #[track_caller]
    pub fn waits_until_it_shows(&self, expected: &str, eyes: impl Fn(&str) -> String) {
        let begun = std::time::Instant::now();
        loop {
            let seen = eyes(&self.screen());
            if seen == expected {
                return;
            }
            let hopeless = !expected.starts_with(&seen) && begun.elapsed() > super::QUIET * 10;
            let late = begun.elapsed() > super::PATIENCE;
            assert!(!hopeless && !late, "on the screen:\n{seen}\ninstead of:\n{expected}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the end of the program", || child.try_wait().expect("a child"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ctrl-C reaches the program; setsid itself is only waiting for it.
        let _ = self.keyboard.write_all(b"\x03");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
