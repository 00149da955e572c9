//! `cpd --check`: checks a configuration as far as that is possible without starting and without changing anything.

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use cpd_store::OpenErrorKind;
use nix::unistd::Group;

use super::{Arguments, Config, DEFAULT_FILE};
use crate::daemon::exit::{ExitCode, Fatal};
use crate::daemon::store_tools::store_error;

/// The command that changes where the packaged service listens.
pub const LISTEN_COMMAND: &str = "cpd-listen";
/// The directories of unit files, in the order of their precedence.
const UNIT_FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigReport {
    /// The lines for standard output.
    pub lines: Vec<String>,
    /// The warnings for standard error.
    pub warnings: Vec<String>,
}

/// Checks the configuration that the arguments select. Unit files are searched for below `root`.
///
/// # Errors
/// Those of [`Config::load`], and those that a start would fail with, as far as they can be found out without one.
pub fn check(arguments: &Arguments, root: &Path) -> Result<ConfigReport, Fatal> {
    let config = Config::load(arguments)?;
    let systemd_sockets = SystemdSockets::from_unit_files(arguments, root);
    let mut report =
        ConfigReport { lines: report_lines(arguments, &config, systemd_sockets), warnings: config.warnings.clone() };
    check_store(arguments, &config)?;
    if !systemd_sockets.control {
        check_control_socket(&config, &mut report)?;
    } else if config.is_explicit("control.socket") && config.control_socket != Config::default().control_socket {
        let path = config.control_socket.display();
        report
            .warnings
            .push(format!("control.socket: {path} is not used where systemd starts cpd: cpd-control.socket decides"));
    }
    if systemd_sockets.cp && config.is_explicit("listen.cp") {
        let file = config.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display();
        report.warnings.push(format!(
            "{file}: listen.cp is not used where systemd starts cpd: cpd.socket decides, and '{LISTEN_COMMAND}' changes it"
        ));
    }
    Ok(report)
}

/// Which sockets systemd hands over to the packaged service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SystemdSockets {
    cp: bool,
    control: bool,
}

impl SystemdSockets {
    /// Goes by the unit files, if the system was booted with systemd. The units concern the packaged service only, so
    /// they do not count for another configuration.
    fn from_unit_files(arguments: &Arguments, root: &Path) -> SystemdSockets {
        let packaged = arguments.data.is_none()
            && arguments.listen.is_empty()
            && arguments.config.as_deref().is_none_or(|file| file == Path::new(DEFAULT_FILE));
        let booted = root.join("run/systemd/system").is_dir();
        let has = |unit: &str| packaged && booted && is_installed(unit, root);
        SystemdSockets { cp: has("cpd.socket"), control: has("cpd-control.socket") }
    }
}

/// Whether the unit exists and is not masked.
fn is_installed(unit: &str, root: &Path) -> bool {
    let mut candidates = UNIT_FOLDERS.iter().map(|folder| root.join(folder).join(unit));
    let found = candidates.find(|path| path.symlink_metadata().is_ok());
    found.is_some_and(|path| std::fs::read_link(path).map_or(true, |target| target != Path::new("/dev/null")))
}

fn report_lines(arguments: &Arguments, config: &Config, systemd_sockets: SystemdSockets) -> Vec<String> {
    let file = match (&config.file, &config.data) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(folder)) => format!("none read; the defaults of --data {}", folder.display()),
        (None, None) => format!("none read, since there is no {DEFAULT_FILE}; the defaults"),
    };
    let mut lines = vec![format!("configuration: {file}")];
    if systemd_sockets.cp {
        let decides = "cpd.socket decides where systemd starts cpd, not the file";
        lines.push(format!("listen.cp: {decides} ('{LISTEN_COMMAND}' shows and changes it)"));
    } else {
        let origin = match (&config.file, arguments.listen.is_empty()) {
            (_, false) => "--listen",
            (Some(_), true) if config.explicit_keys.contains("listen.cp") => "the file",
            _ => "the default",
        };
        lines.push(format!("listen.cp: {} ({origin} decides)", join_addresses(&config.cp)));
    }
    if !config.classic.is_empty() {
        lines.push(format!("listen.classic: {}", join_addresses(&config.classic)));
    }
    lines
}

fn join_addresses(addresses: &[SocketAddr]) -> String {
    let mut text = String::new();
    for address in addresses {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{address}");
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// Checks the store's path. A missing directory is an error only if the path was configured, since the package or
/// systemd creates the default one.
fn check_store(arguments: &Arguments, config: &Config) -> Result<(), Fatal> {
    let path = &config.store_path;
    let asked = config.is_explicit("store.path");
    if let Some(folder) = missing_folder(path, config) {
        let said = format!("store.path: {}: the store's folder does not exist", folder.display());
        return if asked { Err(Fatal::new(ExitCode::CannotCreate, said)) } else { Ok(()) };
    }
    if !path.parent().is_some_and(Path::exists) {
        return Ok(());
    }
    match cpd_store::preflight(path, config.data.is_some()) {
        // The check may run as a user who has no access to the store.
        Err(error) if error.kind == OpenErrorKind::Permission || (error.kind == OpenErrorKind::System && !asked) => {
            Ok(())
        }
        found => found.map_err(|error| store_error(error, arguments)),
    }
}

/// Checks the path and the group of the control socket, as far as they were configured.
fn check_control_socket(config: &Config, report: &mut ConfigReport) -> Result<(), Fatal> {
    let path = &config.control_socket;
    if config.is_explicit("control.socket") {
        let cannot = |what: String| {
            Err(Fatal::new(ExitCode::CannotCreate, format!("control.socket: {}: {what}", path.display())))
        };
        if let Some(folder) = missing_folder(path, config) {
            return cannot(format!("the folder {} does not exist", folder.display()));
        }
        if path.symlink_metadata().is_ok_and(|there| !there.file_type().is_socket()) {
            return cannot("something that is not a socket is there".to_owned());
        }
    }
    let group = &config.control_group;
    if config.is_explicit("control.group") && !group.is_empty() && matches!(Group::from_name(group), Ok(None)) {
        report.warnings.push(format!("control.group: there is no group {group}: the socket will be its owner's alone"));
    }
    Ok(())
}

/// The directory of `path` if it certainly does not exist and a start would not create it.
fn missing_folder(path: &Path, config: &Config) -> Option<PathBuf> {
    let folder = path.parent()?;
    if config.data.as_deref() == Some(folder) {
        return None;
    }
    let missing = match std::fs::metadata(folder) {
        Ok(there) => !there.is_dir(),
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    };
    missing.then(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Checks a file with this text, with these units installed. HERE in the text stands for the test's directory.
    fn checked(text: &str, units: &[&str], change: impl FnOnce(&mut Arguments)) -> Result<ConfigReport, Fatal> {
        let root = tempfile::tempdir().unwrap();
        for folder in ["run/systemd/system", "usr/lib/systemd/system", "etc/systemd/system"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for unit in units {
            std::fs::write(root.path().join("usr/lib/systemd/system").join(unit), "").unwrap();
        }
        let file = root.path().join("cpd.toml");
        std::fs::write(&file, text.replace("HERE", &root.path().display().to_string())).unwrap();
        let mut arguments = Arguments { config: Some(file), ..Arguments::default() };
        change(&mut arguments);
        check(&arguments, root.path())
    }

    #[test]
    fn a_check_reports_what_a_start_would_fail_with() {
        for (text, says) in [
            ("store.path = \"HERE\"", "is not a file"),
            ("store.path = \"/dev/null\"", "is not a file"),
            ("store.path = \"HERE/none/cpd.db\"", "none: the store's folder does not exist"),
            ("store.path = \"HERE/cpd.toml/cpd.db\"", "cpd.toml: the store's folder does not exist"),
            ("control.socket = \"HERE/none/control.sock\"", "none does not exist"),
            ("control.socket = \"HERE/cpd.toml\"", "not a socket"),
        ] {
            let fatal = checked(text, &[], |_| {}).unwrap_err();
            assert_eq!(fatal.code, ExitCode::CannotCreate, "{text}");
            assert!(fatal.message.contains(says), "{fatal}");
        }
        // The check fails with the same code as a start: something else is there, or the store has disappeared.
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let path = |name: &str| format!("store.path = {:?}\n", root.path().join(name));
        std::fs::write(root.path().join("text"), "precious").unwrap();
        symlink("nowhere", root.path().join("link")).unwrap();
        drop(cpd_store::Store::open(&root.path().join("gone.db")).unwrap().load(|_| (), |_| ()).unwrap());
        std::fs::remove_file(root.path().join("gone.db")).unwrap();
        for (name, code) in [
            ("text", ExitCode::DamagedStore),
            ("gone.db", ExitCode::DamagedStore),
            ("link", ExitCode::System),
            (&"x".repeat(240), ExitCode::CannotCreate),
        ] {
            let fatal = checked(&path(name), &[], |_| {}).unwrap_err();
            assert_eq!(fatal.code, code, "{fatal}");
        }
        let before = std::fs::read_dir(root.path()).unwrap().count();
        assert!(checked(&path("new.db"), &[], |_| {}).is_ok());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), before, "a check makes nothing");
        let report = checked("control.group = \"no-such-grp-x\"\n", &[], |_| {}).unwrap();
        assert!(report.warnings.len() == 1 && report.warnings[0].contains("no-such-grp-x"), "{report:?}");
        assert!(checked("store.path = \"HERE/cpd.db\"\n", &[], |_| {}).unwrap().warnings.is_empty());
    }

    #[test]
    fn the_report_names_the_file_and_what_decides_the_addresses() {
        let report = checked("", &["cpd.socket"], |_| {}).unwrap();
        assert!(report.lines[0].ends_with("/cpd.toml"), "{report:?}");
        assert_eq!(
            report.lines[1], "listen.cp: 127.0.0.1:5035 (the default decides)",
            "the units are not about this file"
        );
        let report = checked("listen.cp = [\"[::]:7\"]\nlisten.classic = [\"127.0.0.1:8\"]", &[], |_| {}).unwrap();
        assert_eq!(report.lines[1..], ["listen.cp: [::]:7 (the file decides)", "listen.classic: 127.0.0.1:8"]);
        let report =
            checked("listen.cp = [\"[::]:7\"]", &[], |a| a.listen = vec!["127.0.0.1:9".parse().unwrap()]).unwrap();
        assert_eq!(report.lines[1], "listen.cp: 127.0.0.1:9 (--listen decides)");
        let report = checked("", &[], |a| (a.config, a.data) = (None, Some("/tmp/no-such-folder".into()))).unwrap();
        assert!(report.lines[0].contains("the defaults of --data /tmp/no-such-folder"), "{report:?}");
    }

    #[test]
    fn a_unit_decides_unless_it_is_masked() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/lib/systemd/system")).unwrap();
        std::fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
        std::fs::write(root.path().join("usr/lib/systemd/system/cpd.socket"), "").unwrap();
        let packaged = Arguments::default();
        assert!(!SystemdSockets::from_unit_files(&packaged, root.path()).cp, "not booted by systemd");
        std::fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        assert_eq!(
            SystemdSockets::from_unit_files(&packaged, root.path()),
            SystemdSockets { cp: true, control: false }
        );
        let own = Arguments { config: Some("/tmp/x.toml".into()), ..Arguments::default() };
        assert!(!SystemdSockets::from_unit_files(&own, root.path()).cp);
        symlink("/dev/null", root.path().join("etc/systemd/system/cpd.socket")).unwrap();
        assert!(!SystemdSockets::from_unit_files(&packaged, root.path()).cp);
        let told = report_lines(&packaged, &Config::default(), SystemdSockets { cp: true, control: true });
        assert!(told[1].contains("cpd.socket decides") && told[1].contains(LISTEN_COMMAND), "{told:?}");
    }
}
