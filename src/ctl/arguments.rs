//! The parser of the command line, which is made from the table of commands.

use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use cp_proto::values::Username;
use cpd_control::NAME_RULE;
use cpd_control::fields::parse_address;

use super::defaults::{DATA_SOCKET, SOCKET_DEFAULT, SOCKET_VARIABLE, TIMEOUT_DEFAULT};
use super::table::{ArgumentKind, COMMANDS, CtlCommand, GROUPS};
use super::target::parse_timeout;
use crate::duration;

/// The position of the global options in the help of each command: after its own options.
const GLOBAL_OPTIONS_ORDER: usize = 100;

/// The parser of cpctl's command line. Shell completions are made from it, too.
pub fn cpctl() -> clap::Command {
    let socket_help = format!("The daemon's control socket [default: {SOCKET_DEFAULT}, or ${SOCKET_VARIABLE}]");
    let mut cpctl = clap::Command::new("cpctl")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Administers a running cpd")
        .after_help("Exit status: 0 done, 1 refused, 2 usage, 69 the daemon cannot be reached, 77 not permitted.\nMore in cpctl(8).")
        .subcommand_required(true)
        .arg(
            Arg::new("socket")
                .long("socket")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .global(true)
                .display_order(GLOBAL_OPTIONS_ORDER)
                .help(socket_help),
        )
        .arg(
            Arg::new("data")
                .long("data")
                .value_name("DIR")
                .value_parser(ValueParser::path_buf())
                .conflicts_with("socket")
                .global(true)
                .display_order(GLOBAL_OPTIONS_ORDER)
                .help(format!("The daemon that runs as 'cpd --data DIR': its socket is DIR/{DATA_SOCKET}")),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("TIME")
                .value_parser(parse_timeout)
                .global(true)
                .display_order(GLOBAL_OPTIONS_ORDER)
                .help(format!("Give up when the daemon is silent this long [default: {}s]", TIMEOUT_DEFAULT.as_secs())),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .global(true)
                .display_order(GLOBAL_OPTIONS_ORDER)
                .help("Print one JSON document instead of text for people"),
        );
    for (group, about) in GROUPS {
        let within = COMMANDS.iter().filter(|command| command.words.first() == Some(group) && command.words.len() > 1);
        cpctl = cpctl.subcommand(
            clap::Command::new(*group).about(*about).subcommand_required(true).subcommands(within.map(subcommand)),
        );
    }
    cpctl.subcommands(COMMANDS.iter().filter(|command| command.words.len() == 1).map(subcommand))
}

/// The command that was typed, with its own arguments, or `None` if the table has no such command.
pub(super) fn matched_command(matches: &ArgMatches) -> Option<(&'static CtlCommand, &ArgMatches)> {
    let (first, inner) = matches.subcommand()?;
    let found = |words: &[&str]| COMMANDS.iter().find(|command| command.words == words);
    match inner.subcommand() {
        Some((second, innermost)) => Some((found(&[first, second])?, innermost)),
        None => Some((found(&[first])?, inner)),
    }
}

/// Puts the parser's error into one line, such as `the following required arguments were not provided: <NAME>`, and
/// adds its tip and a pointer to the help.
pub(super) fn one_line_error(error_text: &str) -> String {
    let lines = error_text.lines().map(str::trim);
    let what: Vec<&str> = lines.clone().take_while(|line| !line.is_empty()).collect();
    let what = what.join(" ");
    let mut line = what.strip_prefix("error: ").unwrap_or(&what).to_owned();
    if let Some(tip) = lines.clone().find_map(|line| line.strip_prefix("tip: ")) {
        line = format!("{line} ({tip})");
    }
    line + "; see cpctl --help"
}

fn subcommand(command: &CtlCommand) -> clap::Command {
    let word = command.words.last().copied().unwrap_or_default();
    let arguments = command.arguments.iter().map(|argument| {
        with_value_parser(Arg::new(argument.name).value_name(argument.name), argument.kind)
            .required(true)
            .help(argument.help)
    });
    let flags = command.flags.iter().map(|flag| {
        let arg = Arg::new(flag.long).long(flag.long).help(flag.help).conflicts_with_all(flag.conflicts);
        match flag.value {
            Some((name, kind)) => with_value_parser(arg.value_name(name), kind),
            None => arg.action(ArgAction::SetTrue),
        }
    });
    clap::Command::new(word).about(command.about).args(arguments).args(flags)
}

fn with_value_parser(arg: Arg, kind: ArgumentKind) -> Arg {
    match kind {
        ArgumentKind::Name => arg.value_parser(|text: &str| Username::parse(text.as_bytes()).ok_or(NAME_RULE)),
        ArgumentKind::MessageId => arg.value_parser(value_parser!(u64).range(1..)),
        ArgumentKind::SessionId => arg.value_parser(value_parser!(u64)),
        ArgumentKind::Age => arg.value_parser(duration::parse_age),
        ArgumentKind::Address => arg.value_parser(|text: &str| {
            parse_address(text).ok_or("an IP address is needed, as 192.0.2.1 or 2001:db8::1")
        }),
        ArgumentKind::File => arg.value_parser(value_parser!(PathBuf)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpd_control::request;

    #[test]
    fn the_table_makes_a_sound_parser() {
        cpctl().debug_assert();
        for command in COMMANDS {
            let mut line = vec!["cpctl".to_owned()];
            line.extend(command.words.iter().map(|word| (*word).to_owned()));
            line.extend(command.arguments.iter().map(|_| "7".to_owned()));
            let matches = cpctl().try_get_matches_from(line).expect("complete");
            assert_eq!(matched_command(&matches).expect("found").0.words, command.words);
        }
    }

    #[test]
    fn the_table_and_the_control_protocol_have_the_same_commands() {
        let mut sent: Vec<&str> = COMMANDS.iter().flat_map(|command| command.sends.iter().copied()).collect();
        sent.sort_unstable();
        sent.dedup();
        let mut known: Vec<&str> = request::COMMANDS.iter().map(|spec| spec.name).collect();
        known.sort_unstable();
        assert_eq!(sent, known);
        for command in COMMANDS {
            assert!(command.sends.contains(&command.words.join(".").as_str()), "{}", command.name());
        }
    }
}
