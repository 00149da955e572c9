//! What is asked of the person at the terminal, and what is read from standard input instead.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::control::PASSWORD_RULE;
use crate::control::password::{PasswordFault, new_password};
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::signals::Caught;
use crate::ctl::typed::{Keys, Secret, Step, Typed};
use crate::proto::types::Password;

/// Longest answer to a yes-or-no question that is read, in bytes.
const ANSWER_MAX_BYTES: u64 = 64;
/// Bytes of a line of standard input that are kept, and read at most: what is longer is no password.
const LINE_KEPT_BYTES: usize = 1024;
const LINE_READ_MAX_BYTES: usize = 1024 * 1024;
/// Signals that end cpctl at a prompt, once the terminal is as it was.
const ENDINGS: [i32; 5] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM];

/// Whether somebody sits there who could be asked.
pub(crate) fn somebody_there() -> bool {
    io::stdin().is_terminal() && terminal().is_ok()
}

/// Asks for the new password of `name` twice, without echo.
pub(crate) fn password_twice(name: &str) -> Result<Password, Failure> {
    let caught = Caught::new(&ENDINGS);
    let typed = Quiet::begin().map_err(|e| terminal_failed(&e)).and_then(|mut quiet| {
        let (first, bytes) = quiet.ask(&format!("{}.\nNew password for {name}: ", capitalized(PASSWORD_RULE)))?;
        let first = checked(&first, bytes, "your terminal is not in UTF-8")?;
        let (second, _) = quiet.ask("The same again: ")?;
        if first.as_bytes() != second.as_bytes() {
            return Err(Failure::new(Exit::Refused, "the two are not the same; nothing was changed"));
        }
        quiet.keep_what_follows();
        Ok(first)
    });
    // The terminal has its echo again by now.
    caught.obey();
    typed
}

/// The password in the next line of standard input. Not a byte behind that line is read: it is for whoever comes next.
pub(crate) fn password_from_stdin() -> Result<Password, Failure> {
    let failed = |error: &io::Error| Failure::new(Exit::Refused, format!("standard input: {error}"));
    // Not the library's stdin, which reads ahead.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(|e| failed(&e))?);
    let mut line = Secret::with_room(LINE_KEPT_BYTES);
    let mut length = 0usize;
    let mut byte = [0u8; 1];
    let complete = loop {
        if length >= LINE_READ_MAX_BYTES {
            break false;
        }
        match input.read(&mut byte) {
            Ok(0) => break false,
            Ok(_) if byte == *b"\n" => break true,
            Ok(_) => {
                let [byte] = byte;
                line.push(byte);
                length += 1;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else who has the same pipe does not want to wait; here there is nothing else to do.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            }
            Err(error) => return Err(failed(&error)),
        }
    };
    if complete && length == line.as_bytes().len() && line.as_bytes().last() == Some(&b'\r') {
        line.pop();
        length -= 1;
    }
    checked(&line, length, "standard input is not in UTF-8")
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

/// The password that was typed, `bytes` being the length of all of it. `foreign`: what it means that it is not UTF-8.
fn checked(typed: &Secret, bytes: usize, foreign: &str) -> Result<Password, Failure> {
    let found = match new_password(typed.as_bytes()) {
        // Of a line that was not kept whole, the part need not be UTF-8.
        Ok(_) | Err(PasswordFault::NotUtf8) if bytes > typed.as_bytes().len() => Err(PasswordFault::TooLong { bytes }),
        Err(PasswordFault::TooLong { .. }) => Err(PasswordFault::TooLong { bytes }),
        found => found,
    };
    found.map_err(|fault| {
        let said =
            if fault == PasswordFault::NotUtf8 { format!("{foreign}: {PASSWORD_RULE}") } else { fault.to_string() };
        Failure::new(Exit::Usage, format!("{said}; nothing was changed")).with_code("bad_password")
    })
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The terminal without echo, from before the first prompt is shown, so that nothing typed at once is seen. Every byte
/// comes as it was typed; only the keys that send signals are the terminal's. It is handed back as it was, also to
/// whoever has it when a signal ends cpctl.
struct Quiet {
    tty: File,
    before: Termios,
    keys: Keys,
    signals: Handle,
    watch: Option<JoinHandle<()>>,
    /// How the terminal is handed back: what is typed ahead is a password, and not to be seen or taken for a command.
    back: SetArg,
}

impl Quiet {
    fn begin() -> io::Result<Quiet> {
        let tty = terminal()?;
        let before = tcgetattr(&tty)?;
        let quiet = silenced(&before);
        // A signal does not wake a read that the library takes up again, so it is another thread that waits for one.
        let mut signals = Signals::new(ENDINGS.iter().chain(&[SIGCONT]))?;
        let (handle, at_its_end, as_it_was, again) =
            (signals.handle(), tty.try_clone()?, before.clone(), quiet.clone());
        let watch = std::thread::Builder::new().spawn(move || {
            for signal in &mut signals.forever() {
                if signal == SIGCONT {
                    // Whoever had the terminal while cpctl was stopped has put it in order for itself.
                    let _ = tcsetattr(&at_its_end, SetArg::TCSANOW, &again);
                } else {
                    let _ = tcsetattr(&at_its_end, SetArg::TCSAFLUSH, &as_it_was);
                    let _ = emulate_default_handler(signal);
                }
            }
        })?;
        let keys = keys(&before);
        let begun = Quiet { tty, before, keys, signals: handle, watch: Some(watch), back: SetArg::TCSAFLUSH };
        tcsetattr(&begun.tty, SetArg::TCSAFLUSH, &quiet)?;
        Ok(begun)
    }

    /// What is typed up to the next Enter, and its length where that is more than what is kept.
    fn ask(&mut self, prompt: &str) -> Result<(Secret, usize), Failure> {
        let mut typed = Typed::new(self.keys);
        self.tty.write_all(prompt.as_bytes()).map_err(|e| terminal_failed(&e))?;
        let step = self.read_into(&mut typed);
        // The Enter was not shown either.
        let _ = self.tty.write_all(b"\n");
        match step.map_err(|e| terminal_failed(&e))? {
            Step::End => Err(Failure::new(Exit::Refused, "no password was typed; nothing was changed")),
            Step::Complete | Step::More => Ok(typed.finish()),
        }
    }

    fn read_into(&mut self, typed: &mut Typed) -> io::Result<Step> {
        let mut byte = [0u8; 1];
        loop {
            match self.tty.read(&mut byte) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it was hung up")),
                Ok(_) => {
                    let [key] = byte;
                    match typed.key(key) {
                        Step::More => {}
                        step => return Ok(step),
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What is typed ahead of the end is meant for whoever has the terminal next.
    fn keep_what_follows(&mut self) {
        self.back = SetArg::TCSANOW;
    }
}

/// `before` without echo, without editing and without anything that changes or keeps back a byte, but for the CR of the
/// Enter key. The key that would stop cpctl with the terminal in this state is a byte like any other.
fn silenced(before: &Termios) -> Termios {
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::IEXTEN);
    let changing = [InputFlags::ISTRIP, InputFlags::IUCLC, InputFlags::INLCR, InputFlags::IGNCR, InputFlags::PARMRK];
    changing.into_iter().for_each(|flag| quiet.input_flags.remove(flag));
    quiet.input_flags.remove(InputFlags::IXON | InputFlags::IXANY);
    for (index, value) in [
        (SpecialCharacterIndices::VMIN, 1),
        (SpecialCharacterIndices::VTIME, 0),
        (SpecialCharacterIndices::VSUSP, DISABLED),
    ] {
        if let Some(place) = quiet.control_chars.get_mut(index as usize) {
            *place = value;
        }
    }
    quiet
}

/// Stands where no key has a function: `_POSIX_VDISABLE` of Linux.
const DISABLED: u8 = 0;

fn keys(terminal: &Termios) -> Keys {
    let key = |index: SpecialCharacterIndices| {
        terminal.control_chars.get(index as usize).copied().filter(|key| *key != DISABLED)
    };
    Keys {
        erase: key(SpecialCharacterIndices::VERASE),
        kill: key(SpecialCharacterIndices::VKILL),
        end: key(SpecialCharacterIndices::VEOF),
        utf8: terminal.input_flags.contains(InputFlags::IUTF8),
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.tty, self.back, &self.before);
        self.signals.close();
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

fn terminal() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

fn terminal_failed(error: &io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("the terminal: {error}; nothing was changed"))
}
