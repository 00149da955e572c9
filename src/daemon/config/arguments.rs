//! The command line of cpd.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use crate::daemon::exit::{ExitCode, Fatal};

/// What the command line says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Arguments {
    /// `--config FILE`; without it [`super::DEFAULT_FILE`] is read if it is there.
    pub config: Option<PathBuf>,
    /// `--data DIR`: the first try without root.
    pub data: Option<PathBuf>,
    /// `--listen ADDR:PORT`, once or more: in the place of `listen.cp`.
    pub listen: Vec<SocketAddr>,
    /// `--check`: read and check the configuration, then end.
    pub check: bool,
    /// What is to be done to the store instead of serving it.
    pub tool: Option<Tool>,
}

/// Work on the store of a cpd that does not run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tool {
    /// `--restore FILE`: put this backup in the store's place.
    Restore(PathBuf),
    /// `--check-store[=FILE]`: name what is damaged in the store, or in this copy of one.
    CheckStore(Option<PathBuf>),
    /// `--salvage NEW`: copy what is sound to a new file.
    Salvage(PathBuf),
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invocation {
    Run(Arguments),
    /// `--help` or `--version`: print this on stdout and end with 0.
    Print(String),
}

/// The parser, for the check of the manual page as well.
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
                .value_parser(listen)
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

fn listen(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "it is an address with port, as 127.0.0.1:5035 or [::]:5035".to_owned())?;
    match super::addresses::no_place_to_listen(address) {
        Some(why) => Err(format!("it {why}")),
        None => Ok(address),
    }
}

/// Reads the command line, `arguments` beginning with the program's name. Errors: [`ExitCode::Usage`].
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
        Some(Tool::Restore(path) | Tool::Salvage(path) | Tool::CheckStore(Some(path))) => Some(path),
        Some(Tool::CheckStore(None)) | None => None,
    };
    let paths = [arguments.config.as_ref(), arguments.data.as_ref(), named];
    if paths.into_iter().flatten().any(|path| path.as_os_str().is_empty()) {
        return Err(Fatal::new(ExitCode::Usage, "a path must not be empty (try cpd --help)"));
    }
    Ok(Invocation::Run(arguments))
}

fn tool(matches: &mut ArgMatches) -> Option<Tool> {
    let is_check = matches.contains_id("check-store");
    let restore = matches.remove_one("restore").map(Tool::Restore);
    let salvage = || matches.remove_one("salvage").map(Tool::Salvage);
    let tool = restore.or_else(salvage);
    tool.or_else(|| is_check.then(|| Tool::CheckStore(matches.remove_one("check-store"))))
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
            (&["cpd", "--restore", "/c"][..], Tool::Restore("/c".into())),
            (&["cpd", "--check-store"], Tool::CheckStore(None)),
            (&["cpd", "--check-store=/c"], Tool::CheckStore(Some("/c".into()))),
            (&["cpd", "--salvage", "/c"], Tool::Salvage("/c".into())),
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
