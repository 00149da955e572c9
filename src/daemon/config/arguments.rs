//! The command line of cpd.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use crate::daemon::exit::{ExitCode, Fatal};

/// The parsed command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Arguments {
    /// `--config FILE`. Without it, and without `--data`, [`super::DEFAULT_FILE`] is read if it exists.
    pub config: Option<PathBuf>,
    /// `--data DIR`: keep all files in this directory, for a first try without root.
    pub data: Option<PathBuf>,
    /// `--listen ADDR:PORT`, possibly repeated: replaces `listen.cp`.
    pub listen: Vec<SocketAddr>,
    /// `--check`: read and check the configuration, then end.
    pub check: bool,
    /// A tool to run on the store instead of serving.
    pub tool: Option<StoreTool>,
}

/// A tool that works on a store while no cpd runs on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreTool {
    /// `--restore FILE`: replace the store by this backup.
    Restore(PathBuf),
    /// `--check-store[=FILE]`: list the damage in the store, or in this copy of one.
    CheckStore(Option<PathBuf>),
    /// `--salvage NEW`: copy everything undamaged into a new file.
    Salvage(PathBuf),
}

/// What the command line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invocation {
    /// Run the daemon, a check or a tool.
    Run(Arguments),
    /// `--help` or `--version`: print this on stdout and exit with 0.
    Print(String),
}

/// The parser of the command line. The test of the manual page uses it as well.
pub fn command() -> Command {
    let path = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).value_parser(ValueParser::path_buf()).help(help)
    };
    Command::new("cpd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Daemon for CP, the Chat Protocol; stays in the foreground")
        .arg(path("config", "FILE", "Read this configuration instead of /etc/cpd/cpd.toml"))
        .arg(path(
            "data",
            "DIR",
            "First try without root: store and control socket in DIR, listening on 127.0.0.1:5035",
        ))
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDR:PORT")
                .action(ArgAction::Append)
                .value_parser(parse_listen_address)
                .help("Listen there, in the place of listen.cp; may be given more than once"),
        )
        .arg(Arg::new("check").long("check").action(ArgAction::SetTrue).help("Check the configuration and exit"))
        .arg(path("restore", "FILE", "Put this backup in the place of the store of a cpd that does not run, and exit"))
        .arg(
            path("check-store", "FILE", "Name what is damaged in the store, or in a copy of one, and exit")
                .num_args(0..=1)
                .require_equals(true),
        )
        .arg(path("salvage", "NEW", "Copy what is sound of a damaged store into a new file, and exit"))
        .group(ArgGroup::new("instead").args(["check", "restore", "check-store", "salvage"]))
}

fn parse_listen_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "an address and a port are wanted, such as 127.0.0.1:5035 or [::]:5035".to_owned())?;
    match super::addresses::listen_obstacle(address) {
        Some(why) => Err(format!("it {why}")),
        None => Ok(address),
    }
}

/// Parses the command line. The first of `arguments` is the program's name.
///
/// # Errors
/// [`ExitCode::Usage`].
pub fn parse<I, T>(arguments: I) -> Result<Invocation, Fatal>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Invocation::Print(error.to_string()));
        }
        Err(error) => {
            let text = error.to_string();
            let cause = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return Err(Fatal::new(ExitCode::Usage, format!("{cause} (try cpd --help)")));
        }
    };
    let arguments = Arguments {
        config: matches.remove_one("config"),
        data: matches.remove_one("data"),
        listen: matches.remove_many("listen").map(Iterator::collect).unwrap_or_default(),
        check: matches.get_flag("check"),
        tool: tool(&mut matches),
    };
    let named = match &arguments.tool {
        Some(StoreTool::Restore(path) | StoreTool::Salvage(path) | StoreTool::CheckStore(Some(path))) => Some(path),
        Some(StoreTool::CheckStore(None)) | None => None,
    };
    let paths = [arguments.config.as_ref(), arguments.data.as_ref(), named];
    if paths.into_iter().flatten().any(|path| path.as_os_str().is_empty()) {
        return Err(Fatal::new(ExitCode::Usage, "a path must not be empty (try cpd --help)"));
    }
    Ok(Invocation::Run(arguments))
}

fn tool(matches: &mut ArgMatches) -> Option<StoreTool> {
    let is_check = matches.contains_id("check-store");
    let restore = matches.remove_one("restore").map(StoreTool::Restore);
    let salvage = || matches.remove_one("salvage").map(StoreTool::Salvage);
    let tool = restore.or_else(salvage);
    tool.or_else(|| is_check.then(|| StoreTool::CheckStore(matches.remove_one("check-store"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        command().debug_assert();
        let all = ["cpd", "--config", "/a", "--data=/b", "--check", "--listen", "[::1]:7", "--listen=0.0.0.0:8"];
        let all = parse(all).unwrap();
        let listen = vec!["[::1]:7".parse().unwrap(), "0.0.0.0:8".parse().unwrap()];
        let expected =
            Arguments { config: Some("/a".into()), data: Some("/b".into()), listen, check: true, tool: None };
        assert_eq!(all, Invocation::Run(expected));
        for (words, tool) in [
            (&["cpd", "--restore", "/c"][..], StoreTool::Restore("/c".into())),
            (&["cpd", "--check-store"], StoreTool::CheckStore(None)),
            (&["cpd", "--check-store=/c"], StoreTool::CheckStore(Some("/c".into()))),
            (&["cpd", "--salvage", "/c"], StoreTool::Salvage("/c".into())),
        ] {
            let expected = Arguments { tool: Some(tool), ..Arguments::default() };
            assert_eq!(parse(words).unwrap(), Invocation::Run(expected));
        }
        assert_eq!(parse(["cpd"]).unwrap(), Invocation::Run(Arguments::default()));
    }

    #[test]
    fn help_and_version_are_printed() {
        let version = format!("cpd {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(parse(["cpd", "--version"]).unwrap(), Invocation::Print(version));
        let Invocation::Print(help) = parse(["cpd", "--help"]).unwrap() else { panic!("no help") };
        for option in ["--config", "--data", "--listen", "--check", "--version", "--help"] {
            assert!(help.contains(option), "{option}");
        }
    }

    #[test]
    fn wrong_arguments_are_one_line_and_64() {
        for wrong in [
            &["cpd", "--confg", "x"][..],
            &["cpd", "x"],
            &["cpd", "--data"],
            &["cpd", "--data", ""],
            &["cpd", "--listen", "5035"],
            &["cpd", "--listen", "localhost:5035"],
            &["cpd", "--listen", ""],
        ] {
            let fatal = parse(wrong).unwrap_err();
            assert_eq!(fatal.code, ExitCode::Usage, "{wrong:?}");
            assert!(!fatal.message.contains('\n') && fatal.message.contains("--help"), "{}", fatal.message);
        }
    }
}
