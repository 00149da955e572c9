//! Writes the completions of cpctl for bash, zsh or fish to standard output, from its one table of commands.
//!
//! `cargo run -p cpd-completions -- bash`

use std::io::Write;
use std::process::ExitCode;

use clap_complete::{Shell, generate};

fn main() -> ExitCode {
    let shell = std::env::args().nth(1).and_then(|name| name.parse::<Shell>().ok());
    let Some(shell) = shell else {
        eprintln!("usage: cpd-completions bash|zsh|fish");
        return ExitCode::from(64);
    };
    match std::io::stdout().lock().write_all(&script(shell)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cpd-completions: {error}");
            ExitCode::from(74)
        }
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut cpd::ctl::arguments::cpctl(), "cpctl", &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_flag_of_the_table_is_offered() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(script(shell)).expect("text");
            for command in cpd::ctl::table::COMMANDS {
                for word in command.words {
                    assert!(text.contains(word), "{shell}: {word}");
                }
                for flag in command.flags {
                    assert!(text.contains(flag.long), "{shell}: {}", flag.long);
                }
            }
        }
    }
}
