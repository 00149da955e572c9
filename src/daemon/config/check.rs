//! `cpd --check`: what can be said of a configuration without starting, and without touching anything.

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::unistd::Group;

use super::{Arguments, Config, DEFAULT_FILE};
use crate::daemon::exit::{ExitCode, Fatal};
use crate::daemon::store_tools::store_error;
use crate::store::{self, OpenErrorKind};

/// The command that changes where the packaged service listens.
pub const LISTEN_COMMAND: &str = "cpd-listen";
/// Where unit files are, the stronger ones first.
const UNIT_FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// What was found out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// For standard output, a line each.
    pub lines: Vec<String>,
    pub warnings: Vec<String>,
}

/// Checks what the arguments ask for. `root`: of the file system in which units are looked for.
///
/// # Errors
/// The configuration's own, and what a start would end with as far as it can be seen.
pub fn check(arguments: &Arguments, root: &Path) -> Result<Report, Fatal> {
    let config = Config::load(arguments)?;
    let handed = Handed::by_units(arguments, root);
    let mut report = Report { lines: lines(arguments, &config, handed), warnings: config.warnings.clone() };
    store(arguments, &config)?;
    if !handed.control {
        control(&config, &mut report)?;
    } else if config.asks_for("control.socket") && config.control_socket != Config::default().control_socket {
        let path = config.control_socket.display();
        report
            .warnings
            .push(format!("control.socket: {path} is not used where systemd starts cpd: cpd-control.socket decides"));
    }
    if handed.cp && config.asks_for("listen.cp") {
        let file = config.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display();
        report.warnings.push(format!(
            "{file}: listen.cp is not used where systemd starts cpd: cpd.socket decides, and '{LISTEN_COMMAND}' changes it"
        ));
    }
    Ok(report)
}

/// Whose sockets systemd hands over to the packaged service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Handed {
    cp: bool,
    control: bool,
}

impl Handed {
    /// By the unit files of a system that systemd has booted; they are about the packaged service's configuration alone.
    fn by_units(arguments: &Arguments, root: &Path) -> Handed {
        let packaged = arguments.data.is_none()
            && arguments.listen.is_empty()
            && arguments.config.as_deref().is_none_or(|file| file == Path::new(DEFAULT_FILE));
        let booted = root.join("run/systemd/system").is_dir();
        let has = |unit: &str| packaged && booted && is_installed(unit, root);
        Handed { cp: has("cpd.socket"), control: has("cpd-control.socket") }
    }
}

/// Whether there is such a unit, and it is not masked.
fn is_installed(unit: &str, root: &Path) -> bool {
    let mut places = UNIT_FOLDERS.iter().map(|folder| root.join(folder).join(unit));
    let found = places.find(|place| place.symlink_metadata().is_ok());
    found.is_some_and(|place| std::fs::read_link(place).map_or(true, |target| target != Path::new("/dev/null")))
}

fn lines(arguments: &Arguments, config: &Config, handed: Handed) -> Vec<String> {
    let file = match (&config.file, &config.data) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(folder)) => format!("none read; the defaults of --data {}", folder.display()),
        (None, None) => format!("none read, since there is no {DEFAULT_FILE}; the defaults"),
    };
    let mut lines = vec![format!("configuration: {file}")];
    if handed.cp {
        let decides = "cpd.socket decides where systemd starts cpd, not the file";
        lines.push(format!("listen.cp: {decides} ('{LISTEN_COMMAND}' shows and changes it)"));
    } else {
        let origin = match (&config.file, arguments.listen.is_empty()) {
            (_, false) => "--listen",
            (Some(_), true) if config.named.contains("listen.cp") => "the file",
            _ => "the default",
        };
        lines.push(format!("listen.cp: {} ({origin} decides)", list(&config.cp)));
    }
    if !config.classic.is_empty() {
        lines.push(format!("listen.classic: {}", list(&config.classic)));
    }
    lines
}

fn list(addresses: &[SocketAddr]) -> String {
    let mut text = String::new();
    for address in addresses {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{address}");
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// Of a store somewhere that somebody has named: the default folder is made by the package or by systemd.
fn store(arguments: &Arguments, config: &Config) -> Result<(), Fatal> {
    let path = &config.store_path;
    let asked = config.asks_for("store.path");
    if let Some(folder) = missing_folder(path, config) {
        let said = format!("store.path: {}: the store's folder does not exist", folder.display());
        return if asked { Err(Fatal::new(ExitCode::CannotCreate, said)) } else { Ok(()) };
    }
    if !path.parent().is_some_and(Path::exists) {
        return Ok(());
    }
    match store::probe(path, config.data.is_some()) {
        // Whoever asks need not be the one who may look there.
        Err(error) if error.kind == OpenErrorKind::Permission || (error.kind == OpenErrorKind::System && !asked) => {
            Ok(())
        }
        found => found.map_err(|error| store_error(error, arguments)),
    }
}

fn control(config: &Config, report: &mut Report) -> Result<(), Fatal> {
    let path = &config.control_socket;
    if config.asks_for("control.socket") {
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
    if config.asks_for("control.group") && !group.is_empty() && matches!(Group::from_name(group), Ok(None)) {
        report.warnings.push(format!("control.group: there is no group {group}: the socket will be its owner's alone"));
    }
    Ok(())
}

/// The folder of `path`, if it is sure that there is none and that none will be made.
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

    /// A file with this text, checked in a system with these units.
    fn checked(text: &str, units: &[&str], change: impl FnOnce(&mut Arguments)) -> Result<Report, Fatal> {
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
    fn what_a_start_would_end_with_is_told() {
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
        // As a start would, with its code: what is there is no store, or a store was there.
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let path = |name: &str| format!("store.path = {:?}\n", root.path().join(name));
        std::fs::write(root.path().join("text"), "precious").unwrap();
        symlink("nowhere", root.path().join("link")).unwrap();
        drop(store::Store::open(&root.path().join("gone.db")).unwrap().load(|_| (), |_| ()).unwrap());
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
    fn the_file_and_who_decides_are_told() {
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
        assert!(!Handed::by_units(&packaged, root.path()).cp, "not booted by systemd");
        std::fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        assert_eq!(Handed::by_units(&packaged, root.path()), Handed { cp: true, control: false });
        let own = Arguments { config: Some("/tmp/x.toml".into()), ..Arguments::default() };
        assert!(!Handed::by_units(&own, root.path()).cp);
        symlink("/dev/null", root.path().join("etc/systemd/system/cpd.socket")).unwrap();
        assert!(!Handed::by_units(&packaged, root.path()).cp);
        let told = lines(&packaged, &Config::default(), Handed { cp: true, control: true });
        assert!(told[1].contains("cpd.socket decides") && told[1].contains(LISTEN_COMMAND), "{told:?}");
    }
}
