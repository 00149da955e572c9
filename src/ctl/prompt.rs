//! Passwords and confirmations: prompts on the terminal, and a password from standard input.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use cp_proto::secret::WipedBytes;
use cp_proto::values::Password;
use cpd_control::PASSWORD_RULE;
use cpd_control::password::{PasswordFault, parse_new_password};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::ctl::exit::{ExitStatus, Failure};
use crate::ctl::line_editor::{EditingKeys, KeyEffect, LineEditor};
use crate::ctl::signals::DeferredSignals;

/// The most bytes that are read of the answer to a yes-or-no question.
const CONFIRMATION_MAX_BYTES: u64 = 64;
/// The most bytes of a line of standard input that are kept. A longer line is not a password.
const LINE_KEPT_BYTES: usize = 1024;
/// The most bytes of a line of standard input that are read, to report its length.
const LINE_READ_MAX_BYTES: usize = 1024 * 1024;
/// The signals that end cpctl at a prompt. The terminal is restored first.
const ENDING_SIGNALS: [i32; 5] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM];

/// Whether there is a terminal, so that the user can be asked.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && open_terminal().is_ok()
}

/// Asks for the new password of `name` twice, without echo.
///
/// # Errors
/// [`ExitStatus::Usage`] for an invalid password; [`ExitStatus::Refused`] if the two differ, none was typed or the
/// terminal fails.
pub(crate) fn ask_password_twice(name: &str) -> Result<Password, Failure> {
    let deferred = DeferredSignals::new(&ENDING_SIGNALS);
    let typed = EchoOff::begin().map_err(|e| terminal_failed(&e)).and_then(|mut quiet| {
        let (first, bytes) = quiet.ask(&format!("{}.\nNew password for {name}: ", capitalized(PASSWORD_RULE)))?;
        let first = validate(&first, bytes, "your terminal is not in UTF-8")?;
        let (second, _) = quiet.ask("Repeat the password: ")?;
        if first.as_bytes() != &*second {
            return Err(Failure::new(ExitStatus::Refused, "the two are not the same; nothing was changed"));
        }
        quiet.keep_typeahead();
        Ok(first)
    });
    // The terminal was restored when `quiet` was dropped.
    deferred.raise();
    typed
}

/// Reads the password from the next line of standard input. Nothing after that line is read, so that it is left for the
/// next reader.
///
/// # Errors
/// [`ExitStatus::Usage`] for an invalid password, [`ExitStatus::Refused`] if reading fails.
pub(crate) fn read_password_from_stdin() -> Result<Password, Failure> {
    let failed = |error: &io::Error| Failure::new(ExitStatus::Refused, format!("standard input: {error}"));
    // `io::stdin` cannot be used, because it reads ahead.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(|e| failed(&e))?);
    let mut line = WipedBytes::default();
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
                if line.len() < LINE_KEPT_BYTES {
                    line.append(&[byte]);
                }
                length += 1;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares this pipe has made it non-blocking, so wait here.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            }
            Err(error) => return Err(failed(&error)),
        }
    };
    if complete && length == line.len() && line.last() == Some(&b'\r') {
        line.pop();
        length -= 1;
    }
    validate(&line, length, "standard input is not in UTF-8")
}

/// Asks a yes-or-no question on the terminal and returns whether the answer is yes.
pub(crate) fn ask_yes_or_no(question: &str) -> Result<bool, Failure> {
    let mut tty = open_terminal().map_err(|e| terminal_failed(&e))?;
    let mut answer = Vec::new();
    write!(tty, "{question} [y/N] ")
        .and_then(|()| BufReader::new(tty.take(CONFIRMATION_MAX_BYTES)).read_until(b'\n', &mut answer))
        .map_err(|e| terminal_failed(&e))?;
    Ok(answer.trim_ascii().eq_ignore_ascii_case(b"y") || answer.trim_ascii().eq_ignore_ascii_case(b"yes"))
}

/// Checks a new password. `bytes` is its whole length, which may be more than was kept.
/// `not_utf8_message` begins the error message if it is not UTF-8.
fn validate(typed: &[u8], bytes: usize, not_utf8_message: &str) -> Result<Password, Failure> {
    let found = match parse_new_password(typed) {
        // The kept part of a longer line may end in the middle of a character, so its length is reported instead.
        Ok(_) | Err(PasswordFault::NotUtf8) if bytes > typed.len() => Err(PasswordFault::TooLong { bytes }),
        Err(PasswordFault::TooLong { .. }) => Err(PasswordFault::TooLong { bytes }),
        found => found,
    };
    found.map_err(|fault| {
        let said = if fault == PasswordFault::NotUtf8 {
            format!("{not_utf8_message}: {PASSWORD_RULE}")
        } else {
            fault.to_string()
        };
        Failure::new(ExitStatus::Usage, format!("{said}; nothing was changed")).with_json_code("bad_password")
    })
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Turns the terminal's echo off while it exists. Echo is off before the first prompt is shown, so that early typing is
/// not visible. Every byte is read as it was typed; the terminal handles only the keys that send signals. The terminal
/// is restored when this value is dropped and also when a signal ends cpctl.
struct EchoOff {
    tty: File,
    /// The settings to restore.
    saved: Termios,
    keys: EditingKeys,
    signals: Handle,
    /// The thread that waits for signals.
    signal_thread: Option<JoinHandle<()>>,
    /// How the terminal is restored. By default, input that was typed ahead is discarded, because it may be a password
    /// and must neither be shown nor taken for a command.
    restore_action: SetArg,
}

impl EchoOff {
    fn begin() -> io::Result<EchoOff> {
        let tty = open_terminal()?;
        let before = tcgetattr(&tty)?;
        let quiet = without_echo(&before);
        // A signal does not end the read from the terminal, which is retried, so another thread waits for signals.
        let mut signals = Signals::new(ENDING_SIGNALS.iter().chain(&[SIGCONT]))?;
        let (handle, signal_tty, saved_settings, quiet_settings) =
            (signals.handle(), tty.try_clone()?, before.clone(), quiet.clone());
        let signal_thread = std::thread::Builder::new().spawn(move || {
            for signal in &mut signals.forever() {
                if signal == SIGCONT {
                    // Another program had the terminal while cpctl was stopped and may have turned its echo on.
                    let _ = tcsetattr(&signal_tty, SetArg::TCSANOW, &quiet_settings);
                } else {
                    let _ = tcsetattr(&signal_tty, SetArg::TCSAFLUSH, &saved_settings);
                    let _ = emulate_default_handler(signal);
                }
            }
        })?;
        let keys = editing_keys(&before);
        let begun = EchoOff {
            tty,
            saved: before,
            keys,
            signals: handle,
            signal_thread: Some(signal_thread),
            restore_action: SetArg::TCSAFLUSH,
        };
        tcsetattr(&begun.tty, SetArg::TCSAFLUSH, &quiet)?;
        Ok(begun)
    }

    /// Shows a prompt and reads a line. Returns the bytes that were kept and the length of the whole line.
    fn ask(&mut self, prompt: &str) -> Result<(WipedBytes, usize), Failure> {
        let mut typed = LineEditor::new(self.keys);
        self.tty.write_all(prompt.as_bytes()).map_err(|e| terminal_failed(&e))?;
        let step = self.read_into(&mut typed);
        // Enter was not echoed either.
        let _ = self.tty.write_all(b"\n");
        match step.map_err(|e| terminal_failed(&e))? {
            KeyEffect::EndOfInput => {
                Err(Failure::new(ExitStatus::Refused, "no password was typed; nothing was changed"))
            }
            KeyEffect::Complete | KeyEffect::Continue => Ok(typed.finish()),
        }
    }

    /// Reads until Enter or the end of input.
    fn read_into(&mut self, typed: &mut LineEditor) -> io::Result<KeyEffect> {
        let mut byte = [0u8; 1];
        loop {
            match self.tty.read(&mut byte) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the terminal was closed")),
                Ok(_) => {
                    let [key] = byte;
                    match typed.press(key) {
                        KeyEffect::Continue => {}
                        step => return Ok(step),
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps input that was typed ahead when the terminal is restored, because it is meant for the next program.
    fn keep_typeahead(&mut self) {
        self.restore_action = SetArg::TCSANOW;
    }
}

/// The settings `before` without echo, line editing and everything that changes or holds back bytes, except that the CR
/// of the Enter key may still become LF. The key that suspends a program is disabled, because it would leave the
/// terminal in this state.
fn without_echo(before: &Termios) -> Termios {
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

/// The value for a function that no key has: `_POSIX_VDISABLE` on Linux.
const DISABLED: u8 = 0;

/// The editing keys in the settings of a terminal.
fn editing_keys(terminal: &Termios) -> EditingKeys {
    let key = |index: SpecialCharacterIndices| {
        terminal.control_chars.get(index as usize).copied().filter(|key| *key != DISABLED)
    };
    EditingKeys {
        erase: key(SpecialCharacterIndices::VERASE),
        kill: key(SpecialCharacterIndices::VKILL),
        end_of_input: key(SpecialCharacterIndices::VEOF),
        utf8: terminal.input_flags.contains(InputFlags::IUTF8),
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.tty, self.restore_action, &self.saved);
        self.signals.close();
        if let Some(signal_thread) = self.signal_thread.take() {
            let _ = signal_thread.join();
        }
    }
}

/// Opens the terminal of this process, even if standard input and output are redirected.
fn open_terminal() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

fn terminal_failed(error: &io::Error) -> Failure {
    Failure::new(ExitStatus::Refused, format!("the terminal: {error}; nothing was changed"))
}
