//! What is asked of the person at the terminal, and what is read from standard input instead.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::thread::JoinHandle;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::control::PASSWORD_RULE;
use crate::control::frame::wipe;
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::signals::Caught;
use crate::proto::limits::PASSWORD_MAX_BYTES;
use crate::proto::types::Password;

/// Longest answer to a yes-or-no question that is read, in bytes.
const ANSWER_MAX_BYTES: u64 = 64;
/// Signals that end cpctl at a prompt, once the terminal is as it was.
const ENDINGS: [i32; 5] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM];

/// Whether somebody sits there who could be asked.
pub(crate) fn somebody_there() -> bool {
    std::io::stdin().is_terminal() && terminal().is_ok()
}

/// Asks for the new password of `name` twice, without echo.
pub(crate) fn password_twice(name: &str) -> Result<Password, Failure> {
    let caught = Caught::new(&ENDINGS);
    let typed = Quiet::begin().map_err(|e| terminal_failed(&e)).and_then(|mut quiet| {
        let first = password(&quiet.ask(&format!("New password for {name}: "))?)?;
        let second = quiet.ask("The same again: ")?;
        if first.as_bytes() != second.0 {
            return Err(Failure::new(Exit::Refused, "the two are not the same; nothing was changed"));
        }
        Ok(first)
    });
    // The terminal has its echo again by now.
    caught.obey();
    typed
}

/// The password in the first line of standard input.
pub(crate) fn password_from_stdin() -> Result<Password, Failure> {
    // As much as the longest password and its line end, and one byte to see that it is too long.
    let mut line = Secret(Vec::with_capacity(PASSWORD_MAX_BYTES + 3));
    let mut byte = [0u8; 1];
    let mut input = std::io::stdin().lock();
    while line.0.len() < PASSWORD_MAX_BYTES + 2 {
        match input.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.0.extend_from_slice(&byte),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::new(Exit::Refused, format!("standard input: {error}"))),
        }
    }
    if line.0.last() == Some(&b'\r') {
        line.0.pop();
    }
    password(&line)
}

/// Whether the person at the terminal says yes.
pub(crate) fn confirmed(question: &str) -> Result<bool, Failure> {
    let mut tty = terminal().map_err(|e| terminal_failed(&e))?;
    let mut answer = Vec::new();
    write!(tty, "{question} [y/N] ")
        .and_then(|()| BufReader::new(tty.take(ANSWER_MAX_BYTES)).read_until(b'\n', &mut answer))
        .map_err(|e| terminal_failed(&e))?;
    Ok(answer.trim_ascii().eq_ignore_ascii_case(b"y") || answer.trim_ascii().eq_ignore_ascii_case(b"yes"))
}

/// Bytes that are overwritten when dropped.
struct Secret(Vec<u8>);

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn password(typed: &Secret) -> Result<Password, Failure> {
    Password::parse(&typed.0).ok_or_else(|| Failure::new(Exit::Usage, PASSWORD_RULE))
}

/// The terminal without echo, from before the first prompt is shown, so that nothing typed at once is seen. It also
/// keeps SIGINT from the keyboard away, which rpassword then raises itself, and hands it back as it was, also to
/// whoever has it when a signal ends cpctl.
struct Quiet {
    tty: File,
    before: Termios,
    signals: Handle,
    watch: Option<JoinHandle<()>>,
}

impl Quiet {
    fn begin() -> std::io::Result<Quiet> {
        let tty = terminal()?;
        let before = tcgetattr(&tty)?;
        // A signal does not wake a read that the library takes up again, so it is another thread that waits for one.
        let mut signals = Signals::new(ENDINGS)?;
        let (handle, at_its_end, as_it_was) = (signals.handle(), tty.try_clone()?, before.clone());
        let watch = std::thread::Builder::new().spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let _ = tcsetattr(&at_its_end, SetArg::TCSANOW, &as_it_was);
                let _ = emulate_default_handler(signal);
            }
        })?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        let begun = Quiet { tty, before, signals: handle, watch: Some(watch) };
        tcsetattr(&begun.tty, SetArg::TCSAFLUSH, &quiet)?;
        Ok(begun)
    }

    fn ask(&mut self, prompt: &str) -> Result<Secret, Failure> {
        self.tty.write_all(prompt.as_bytes()).map_err(|e| terminal_failed(&e))?;
        rpassword::read_password().map(|typed| Secret(typed.into_bytes())).map_err(|e| terminal_failed(&e))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.tty, SetArg::TCSANOW, &self.before);
        self.signals.close();
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

fn terminal() -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

fn terminal_failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("the terminal: {error}; nothing was changed"))
}
