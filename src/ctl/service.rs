//! The state of cpd.service as systemd knows it. It is looked up before connecting, so that a command that changes
//! nothing does not start a stopped service, and after a failure, to report the cause.
//!
//! Whether the service runs is read from a link that systemd keeps for its journal; that is cheap and needs neither a
//! bus nor privileges. If there is no link, systemctl(1) is run, for a bounded time.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::defaults::SOCKET_DEFAULT;

/// How long systemctl may take before it is killed.
const SYSTEMCTL_TIMEOUT: Duration = Duration::from_millis(1500);
/// The most bytes that are read of systemctl's output.
const SYSTEMCTL_OUTPUT_MAX_BYTES: u64 = 64 * 1024;
const SERVICE: &str = "cpd.service";
/// The stand-in, which answers in place of a service that has failed.
const STAND_IN: &str = "cpd-failed.service";
const SOCKET_UNIT: &str = "cpd-control.socket";
const PROPERTIES: &str = "--property=Id,ActiveState,SubState,Result,ExecMainStatus,StatusText";

/// How systemd is asked. Tests use other paths and another program.
#[derive(Clone, Debug)]
pub(crate) struct ServiceManager {
    /// The control socket that systemd holds open for the service.
    pub socket: PathBuf,
    /// The folder in which systemd keeps a link for each active unit.
    pub units: PathBuf,
    /// The program systemctl(1), with arguments to put before all others.
    pub systemctl: Vec<OsString>,
}

impl Default for ServiceManager {
    fn default() -> ServiceManager {
        ServiceManager {
            socket: PathBuf::from(SOCKET_DEFAULT),
            units: PathBuf::from("/run/systemd/units"),
            systemctl: vec![OsString::from("systemctl")],
        }
    }
}

/// The state of the service and of its control socket. Properties that systemctl does not report are empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ServiceState {
    /// `ActiveState` of the control socket.
    socket: String,
    /// `ActiveState` of the service; the properties below are the service's, too.
    active: String,
    sub: String,
    result: String,
    exit_status: String,
    status_text: String,
}

impl ServiceManager {
    /// Whether systemd runs on this machine and neither the service nor its stand-in has a process. This is also true
    /// between two starts of the service.
    pub fn service_has_no_process(&self) -> bool {
        // The link has no target, because its text is what systemd stores; so it must not be followed.
        let runs = |unit: &&str| self.units.join(format!("invocation:{unit}")).symlink_metadata().is_ok();
        self.units.is_dir() && ![SERVICE, STAND_IN].iter().any(runs)
    }

    /// Asks systemctl for the state of the two units. The state is empty if it cannot be run or does not answer in
    /// time.
    pub fn state(&self) -> ServiceState {
        let Some((program, words)) = self.systemctl.split_first() else { return ServiceState::default() };
        let asked = Command::new(program)
            .args(words)
            .args(["show", SOCKET_UNIT, SERVICE, "--no-pager", PROPERTIES])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = asked else { return ServiceState::default() };
        let (sender, read) = channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if output.take(SYSTEMCTL_OUTPUT_MAX_BYTES).read_to_end(&mut bytes).is_ok() {
                    // This fails if the caller has already given up waiting.
                    let _ = sender.send(bytes);
                }
            });
        }
        let answer = read.recv_timeout(SYSTEMCTL_TIMEOUT).unwrap_or_default();
        // This has no effect if the process has ended; a process that hangs is killed, so that waiting for it ends.
        let _ = child.kill();
        let _ = child.wait();
        ServiceState::parse(&String::from_utf8_lossy(&answer))
    }
}

impl ServiceState {
    /// Parses the output of `systemctl show`: one paragraph per unit and one line per property.
    fn parse(answer: &str) -> ServiceState {
        let value = |unit: &str, key: &str| {
            let mut paragraphs = answer.split("\n\n");
            let paragraph = paragraphs.find(|text| text.lines().any(|line| line.strip_prefix("Id=") == Some(unit)))?;
            let of_key = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(|text| text.trim().to_owned());
            paragraph.lines().find_map(of_key)
        };
        let of_service = |key: &str| value(SERVICE, key).unwrap_or_default();
        ServiceState {
            socket: value(SOCKET_UNIT, "ActiveState").unwrap_or_default(),
            active: of_service("ActiveState"),
            sub: of_service("SubState"),
            result: of_service("Result"),
            exit_status: of_service("ExecMainStatus"),
            status_text: of_service("StatusText"),
        }
    }

    /// Whether connecting to the control socket would start the service. If the state is not known, this is assumed.
    pub fn would_activate(&self) -> bool {
        !self.is_running() && matches!(self.socket.as_str(), "active" | "")
    }

    /// Whether the service runs or is being started, so that connecting does not start it.
    fn is_running(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
            || (self.active == "activating" && self.sub != "auto-restart")
    }

    /// Whether the service has failed, or fails again and again, so that there is a cause to fix.
    pub fn has_failed(&self) -> bool {
        self.active == "failed" || (self.active == "activating" && self.sub == "auto-restart")
    }

    /// A sentence that says why the service does not run and which command helps.
    pub fn describe(&self) -> String {
        if self.has_failed() {
            let again = if self.active == "failed" { "has failed" } else { "fails and is started again and again" };
            return format!("{SERVICE} {again} ({}); correct that, then run: systemctl restart cpd", self.cause());
        }
        match self.active.as_str() {
            "" => format!(
                "{SERVICE} is stopped, or has failed (systemctl status cpd says which, systemctl start cpd starts it)"
            ),
            _ => format!("{SERVICE} is stopped (systemctl start cpd)"),
        }
    }

    fn cause(&self) -> String {
        let number = match self.exit_status.as_str() {
            "" | "0" => self.result.clone(),
            status if self.result == "exit-code" => format!("exit status {status}"),
            status => format!("{}, status {status}", self.result),
        };
        match self.status_text.as_str() {
            // A cpd that was killed could not report why; then the status text is from before and not the cause.
            text if self.result == "exit-code" && !text.is_empty() => format!("{number}: {text}"),
            _ => format!("{number}; journalctl -u cpd says why"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;
    use crate::ctl::client::DaemonClient;
    use crate::ctl::target::{SocketOrigin, Target};

    /// A manager whose systemctl is `script`, with links for `units` and with its socket in a temporary folder.
    fn manager(script: &str, units: &[&str]) -> (tempfile::TempDir, ServiceManager) {
        let dir = tempfile::tempdir().unwrap();
        // The script is run through its interpreter, because a file that was just written cannot be executed while a
        // child that another thread forked still holds it open.
        std::fs::write(dir.path().join("show"), format!("{script}\n")).unwrap();
        for unit in units {
            symlink("0123456789abcdef0123456789abcdef", dir.path().join(format!("invocation:{unit}"))).unwrap();
        }
        let manager = ServiceManager {
            socket: dir.path().join("control.sock"),
            units: dir.path().to_owned(),
            systemctl: vec!["sh".into(), dir.path().join("show").into()],
        };
        (dir, manager)
    }

    /// The state from output in the format of systemctl 252 and 257.
    fn said(socket: &str, service: &str) -> ServiceState {
        ServiceState::parse(&format!(
            "Id=cpd-control.socket\nActiveState={socket}\n\nLoadState=loaded\nId=cpd.service\n{service}\n"
        ))
    }

    #[test]
    fn a_service_with_a_process_is_not_asked_about() {
        assert!(manager("", &[]).1.service_has_no_process());
        assert!(!manager("", &["cpd.service"]).1.service_has_no_process());
        assert!(!manager("", &["cpd-failed.service"]).1.service_has_no_process(), "somebody answers, and says why");
        let nowhere = ServiceManager { units: PathBuf::from("/nonexistent"), ..ServiceManager::default() };
        assert!(!nowhere.service_has_no_process(), "without systemd there is nothing to start");
    }

    #[test]
    fn only_an_active_socket_of_a_service_that_does_not_run_would_start_it() {
        for (socket, service, would) in [
            ("active", "ActiveState=inactive", true),
            ("active", "ActiveState=failed", true),
            ("active", "ActiveState=activating\nSubState=auto-restart", true),
            ("active", "ActiveState=activating\nSubState=start", false),
            ("active", "ActiveState=active", false),
            ("inactive", "ActiveState=inactive", false),
        ] {
            assert_eq!(said(socket, service).would_activate(), would, "{socket} {service}");
        }
        assert!(ServiceState::default().would_activate(), "where nobody can tell, nothing is started");
    }

    #[test]
    fn a_failure_is_described_with_its_cause() {
        let told = |service: &str| said("active", service).describe();
        let failed = "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\nStatusText=/etc/cpd/cpd.toml:3: unknown key\n";
        assert_eq!(
            told(failed),
            "cpd.service has failed (exit status 78: /etc/cpd/cpd.toml:3: unknown key); correct that, then run: systemctl restart cpd"
        );
        let killed = told("ActiveState=failed\nResult=watchdog\nExecMainStatus=6\nStatusText=\n");
        assert!(killed.contains("watchdog, status 6; journalctl -u cpd says why"), "{killed}");
        let again = told("ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=71\n");
        assert!(again.contains("again and again (exit status 71"), "{again}");
        let stopped =
            "ActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\nStatusText=connections: 0\n";
        assert_eq!(told(stopped), "cpd.service is stopped (systemctl start cpd)");
        assert!(ServiceState::default().describe().contains("systemctl start cpd"), "what to type is said in any case");
    }

    #[test]
    fn systemctl_is_killed_when_it_hangs() {
        let (_dir, works) =
            manager("[ \"$3\" = cpd.service ] && printf 'Id=cpd.service\\nActiveState=inactive\\n'", &[]);
        assert_eq!(works.state().active, "inactive");
        for script in ["exit 1", "echo 'Failed to connect to bus' >&2; exit 1"] {
            assert_eq!(manager(script, &[]).1.state(), ServiceState::default());
        }
        let (_dir, hangs) = manager("exec sleep 600", &[]);
        let begun = Instant::now();
        assert_eq!(hangs.state(), ServiceState::default());
        assert!(begun.elapsed() < Duration::from_secs(300));
        let missing = ServiceManager { systemctl: vec!["/nonexistent/systemctl".into()], ..ServiceManager::default() };
        assert_eq!(missing.state(), ServiceState::default());
    }

    #[test]
    fn queries_do_not_activate_a_stopped_service_and_changes_do() {
        let script = |service: &str| {
            format!("printf 'Id=cpd-control.socket\\nActiveState=active\\n\\nId=cpd.service\\n{service}\\n'")
        };
        let failed = "ActiveState=failed\\nResult=exit-code\\nExecMainStatus=78\\nStatusText=line 3";
        for (script, units, says) in [
            (script("ActiveState=inactive"), &[][..], Some("cpd.service is stopped (systemctl start cpd)")),
            (script(failed), &[], Some("(exit status 78: line 3)")),
            ("exit 1".to_owned(), &[], Some("systemctl start cpd")),
            (script("ActiveState=active"), &[], None),
            ("exit 1".to_owned(), &["cpd.service"], None),
            ("echo; echo Id=cpd-control.socket; echo ActiveState=inactive".to_owned(), &[], None),
        ] {
            let (_dir, manager) = manager(&script, units);
            let listener = UnixListener::bind(&manager.socket).unwrap();
            listener.set_nonblocking(true).unwrap();
            let mut target = Target {
                socket: manager.socket.clone(),
                origin: SocketOrigin::Default,
                timeout: Duration::from_secs(60),
                may_start_service: false,
                manager,
            };
            let asked = DaemonClient::connect(&target);
            match (says, asked) {
                (None, Ok(_)) => assert!(listener.accept().is_ok(), "{script}"),
                (Some(says), Err(failure)) => {
                    assert!(failure.message.contains(says), "{}", failure.message);
                    assert_eq!((failure.exit.code(), failure.json_code.is_some()), (69, true));
                    assert!(listener.accept().is_err(), "{script}: somebody knocked");
                }
                (says, asked) => panic!("{script}: {says:?}, {}", asked.is_ok()),
            }
            target.may_start_service = true;
            assert!(
                DaemonClient::connect(&target).is_ok() && listener.accept().is_ok(),
                "{script}: a change starts it"
            );
            // systemd is not asked about a socket that is not the service's.
            target.manager.socket = PathBuf::from(SOCKET_DEFAULT);
            target.may_start_service = false;
            assert!(DaemonClient::connect(&target).is_ok());
        }
    }
}
