//! The unit files against the program's own names and numbers. That systemd takes them is checked by `.ci/run`.

use std::path::Path;

use cpd::daemon::config::{Config, DEFAULT_PORT};
use cpd::daemon::exit::ExitCode;
use cpd::daemon::logging::JOURNAL_SOCKET;

/// Section, key and value of each line of a unit.
pub struct Unit(Vec<(String, String, String)>);

impl Unit {
    pub fn read(name: &str) -> Unit {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (mut lines, mut section) = (Vec::new(), String::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.to_owned();
            } else {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
                lines.push((section.clone(), key.to_owned(), value.to_owned()));
            }
        }
        Unit(lines)
    }

    pub fn all(&self, section: &str, key: &str) -> Vec<&str> {
        let found = self.0.iter().filter(|(s, k, _)| s == section && k == key);
        found.map(|(_, _, value)| value.as_str()).collect()
    }

    /// The value of a key that is there once.
    #[track_caller]
    pub fn one(&self, section: &str, key: &str) -> &str {
        let all = self.all(section, key);
        assert_eq!(all.len(), 1, "[{section}] {key}=");
        all[0]
    }
}

#[test]
fn the_sockets_are_those_of_the_default_configuration() {
    let config = Config::default();
    let (cp, control) = (Unit::read("cpd.socket"), Unit::read("cpd-control.socket"));
    // This machine alone, as the configuration has it, and the other loopback address, be IPv6 there or not.
    let here = ["127.0.0.1", "[::1]"].map(|address| format!("{address}:{DEFAULT_PORT}"));
    assert_eq!(cp.all("Socket", "ListenStream"), here);
    assert_eq!((cp.one("Socket", "BindIPv6Only"), cp.one("Socket", "FreeBind")), ("both", "yes"));
    assert_eq!(control.one("Socket", "ListenStream"), config.control_socket.display().to_string());
    assert_eq!(control.one("Socket", "SocketGroup"), config.control_group);
    assert_eq!((control.one("Socket", "SocketMode"), control.one("Socket", "SocketUser")), ("0660", "root"));
    for (unit, name) in [(&cp, "cp"), (&control, "control")] {
        assert_eq!(unit.one("Socket", "FileDescriptorName"), name);
        assert_eq!(unit.one("Socket", "Service"), "cpd.service");
        assert_eq!(unit.one("Install", "WantedBy"), "sockets.target");
        // cpd accepts for itself.
        assert!(unit.all("Socket", "Accept").is_empty());
        // Closed only by what starts cpd without end and without a failure.
        let limit = ["TriggerLimitIntervalSec", "TriggerLimitBurst"].map(|key| unit.one("Socket", key));
        assert_eq!(limit, ["5", "100"]);
        assert_eq!(unit.one("Unit", "StartLimitIntervalSec"), "0");
    }
}

#[test]
fn the_service_fits_the_program() {
    let (unit, config) = (Unit::read("cpd.service"), Config::default());
    assert_eq!((unit.one("Service", "Type"), unit.one("Service", "NotifyAccess")), ("notify", "main"));
    assert_eq!(unit.one("Service", "ExecStart"), "/usr/sbin/cpd");
    // The file is checked before the process hears of it.
    assert_eq!(unit.all("Service", "ExecReload"), ["/usr/sbin/cpd --check", "/usr/bin/kill -HUP $MAINPID"]);
    assert_eq!(unit.one("Unit", "Wants"), "cpd.socket");
    assert_eq!(unit.one("Unit", "Requires"), "cpd-control.socket");
    assert_eq!(unit.all("Unit", "After"), ["cpd.socket cpd-control.socket", "cpd-failed.service"]);
    assert_eq!(unit.one("Service", "Sockets"), "cpd.socket cpd-control.socket");
    let state = Path::new("/var/lib").join(unit.one("Service", "StateDirectory"));
    assert_eq!(config.store_path.parent(), Some(state.as_path()));
    let never =
        [ExitCode::Usage, ExitCode::DamagedStore, ExitCode::CannotCreate, ExitCode::NotPermitted, ExitCode::Config];
    let never: Vec<String> = never.iter().map(|code| (*code as u8).to_string()).collect();
    let by_systemd: Vec<String> = (200..=245).map(|code: u8| code.to_string()).collect();
    assert_eq!(unit.all("Service", "RestartPreventExitStatus"), [never.join(" "), by_systemd.join(" ")]);
    // What else may fail is tried again once a second at most.
    assert_eq!((unit.one("Service", "Restart"), unit.one("Service", "RestartSec")), ("on-failure", "1"));
    // A machine that was paused is no daemon that hangs: cpd watches itself, by the time in which it ran.
    assert!(unit.all("Service", "WatchdogSec").is_empty());
    let number = |key: &str| unit.one("Service", key).parse::<u32>().expect("a number");
    let connections = config.settings.limits.connections;
    assert!(number("LimitNOFILE") > connections);
    assert!(number("FileDescriptorStoreMax") >= 2, "a restart leaves two");
    // With it every peer of the control socket would be nobody.
    assert!(unit.all("Service", "PrivateUsers").is_empty());
    // Every thread has its place: those that verify passwords, and a dozen beside them.
    let parse = |threads: u32| Config::parse(Path::new("x"), &format!("auth.threads = {threads}\n"));
    let threads = (1..).take_while(|threads| parse(*threads).is_ok()).last().expect("a number");
    assert!(number("TasksMax") >= threads + 32);
    // A limit that kills cannot be right for every number of connections and messages.
    assert!(unit.all("Service", "MemoryMax").is_empty());
}

#[test]
fn the_service_names_each_call_and_each_place_of_programs() {
    let unit = Unit::read("cpd.service");
    let words =
        |key: &str| -> Vec<&str> { unit.all("Service", key).into_iter().flat_map(str::split_whitespace).collect() };
    let calls = words("SystemCallFilter");
    assert!(calls.iter().all(|call| !call.starts_with(['@', '~'])), "{calls:?}");
    let twice = calls.iter().enumerate().find(|(at, call)| calls[..*at].contains(call));
    assert_eq!(twice, None);
    // One of a pair is what x86-64 has and another machine has not, or what a libc may take instead.
    let pairs = [
        ["access", "faccessat"],
        ["faccessat", "faccessat2"],
        ["clone", "clone3"],
        ["epoll_wait", "epoll_pwait"],
        ["newfstatat", "statx"],
        ["poll", "ppoll"],
        ["readlink", "readlinkat"],
        ["rename", "renameat"],
        ["renameat", "renameat2"],
        ["unlink", "unlinkat"],
    ];
    for [one, other] in pairs {
        assert!(calls.contains(&one) && calls.contains(&other), "{one} and {other}");
    }
    assert_eq!(unit.one("Service", "SystemCallErrorNumber"), "EPERM");
    // Shells have their places below /usr/lib, and not in the folders of libraries.
    let programs = words("ExecPaths");
    let (folders, own): (Vec<&str>, Vec<&str>) = programs.into_iter().partition(|path| path.starts_with('-'));
    assert_eq!(own, ["/usr/sbin/cpd", "/usr/bin/kill"]);
    for folder in folders {
        let triplet = folder.strip_prefix("-/usr/lib/").expect("a folder of libraries");
        assert!(triplet.contains("-linux-gnu") && !triplet.contains('/'), "{folder}");
    }
    assert_eq!(words("NoExecPaths"), ["/", "/var/lib/cpd"]);
    // Where cpd finds the log and the manager.
    let seen = words("BindReadOnlyPaths");
    let journal = Path::new(JOURNAL_SOCKET).parent().expect("a folder").display().to_string();
    assert!(seen.contains(&format!("-{journal}").as_str()) && seen.contains(&"-/run/systemd/notify"), "{seen:?}");
}

#[test]
fn the_stand_in_has_the_sockets_and_ends_with_a_restart() {
    let (service, unit) = (Unit::read("cpd.service"), Unit::read("cpd-failed.service"));
    assert_eq!(service.one("Unit", "OnFailure"), "cpd-failed.service");
    assert_eq!(unit.one("Unit", "PartOf"), "cpd.service");
    assert_eq!(unit.one("Service", "Sockets"), service.one("Service", "Sockets"));
    assert_eq!((unit.one("Service", "Type"), unit.one("Unit", "StartLimitIntervalSec")), ("oneshot", "0"));
    // With its sandbox, and without where that is what fails; and should both fail, not again at once.
    let program = "/usr/libexec/cpd/cpd-failed";
    // As root, which may ask for it; and should it be gone, cpd ends as well as ever.
    assert_eq!(service.one("Service", "ExecStopPost"), format!("-+{program} --ended"));
    assert!(unit.all("Unit", "RefuseManualStart").is_empty());
    assert_eq!(unit.all("Service", "ExecStart"), [format!("-{program}"), format!("+{program}")]);
    assert_eq!((unit.one("Service", "Restart"), unit.one("Service", "RestartSec")), ("on-failure", "20"));
    // It does not need what cpd may be missing: its user, its program, its folder.
    for key in ["User", "Group", "StateDirectory"] {
        assert!(unit.all("Service", key).is_empty(), "{key}");
    }
}
