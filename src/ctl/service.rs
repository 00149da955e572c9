//! What systemd says about cpd.service: asked before a question would start it, and for the reason when it is not there.
//!
//! That the service runs is read from a link that the manager keeps for its journal, so that it costs nothing, and needs no
//! bus and no right. Where there is none, systemctl(1) is asked, for a bounded time.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::SOCKET_DEFAULT;

/// How long systemctl may take.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Longest answer of systemctl that is looked at, in bytes.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;
const SERVICE: &str = "cpd.service";
/// Answers in the place of a service that has failed.
const STAND_IN: &str = "cpd-failed.service";
const SOCKET_UNIT: &str = "cpd-control.socket";
const PROPERTIES: &str = "--property=Id,ActiveState,SubState,Result,ExecMainStatus,StatusText";

/// Where systemd is asked.
#[derive(Clone, Debug)]
pub(crate) struct Manager {
    /// The control socket that it holds open for the service.
    pub socket: PathBuf,
    /// The folder in which it keeps a link for each unit that is active.
    pub units: PathBuf,
    /// systemctl(1), and words before its own.
    pub program: Vec<OsString>,
}

impl Default for Manager {
    fn default() -> Manager {
        Manager {
            socket: PathBuf::from(SOCKET_DEFAULT),
            units: PathBuf::from("/run/systemd/units"),
            program: vec![OsString::from("systemctl")],
        }
    }
}

/// The state of the service, as far as it can be said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct State {
    /// As `ActiveState=` of the control socket, and of the service; empty where systemctl does not say.
    socket: String,
    active: String,
    sub: String,
    result: String,
    exit_status: String,
    status_text: String,
}

impl Manager {
    /// Whether systemd is there, and its service has no process. That is so between two starts as well.
    pub fn lacks_the_service(&self) -> bool {
        // A link without a target: its text is what matters to the manager.
        let runs = |unit: &&str| self.units.join(format!("invocation:{unit}")).symlink_metadata().is_ok();
        self.units.is_dir() && ![SERVICE, STAND_IN].iter().any(runs)
    }

    /// What systemctl says of the two units; nothing in it where it cannot be asked, or not in time.
    pub fn state(&self) -> State {
        let Some((program, words)) = self.program.split_first() else { return State::default() };
        let asked = Command::new(program)
            .args(words)
            .args(["show", SOCKET_UNIT, SERVICE, "--no-pager", PROPERTIES])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = asked else { return State::default() };
        let (sender, read) = channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if output.take(ANSWER_MAX_BYTES).read_to_end(&mut bytes).is_ok() {
                    // Nobody listens any more when it took too long.
                    let _ = sender.send(bytes);
                }
            });
        }
        let answer = read.recv_timeout(PATIENCE).unwrap_or_default();
        // Where it has ended already this does nothing, and where it hangs it is not waited for.
        let _ = child.kill();
        let _ = child.wait();
        State::read(&String::from_utf8_lossy(&answer))
    }
}

impl State {
    /// A paragraph a unit, a line a property.
    fn read(answer: &str) -> State {
        let value = |unit: &str, key: &str| {
            let mut paragraphs = answer.split("\n\n");
            let paragraph = paragraphs.find(|text| text.lines().any(|line| line.strip_prefix("Id=") == Some(unit)))?;
            let of_key = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(|text| text.trim().to_owned());
            paragraph.lines().find_map(of_key)
        };
        let of_service = |key: &str| value(SERVICE, key).unwrap_or_default();
        State {
            socket: value(SOCKET_UNIT, "ActiveState").unwrap_or_default(),
            active: of_service("ActiveState"),
            sub: of_service("SubState"),
            result: of_service("Result"),
            exit_status: of_service("ExecMainStatus"),
            status_text: of_service("StatusText"),
        }
    }

    /// Whether a connection to the control socket would start the service, as far as can be told.
    pub fn would_start(&self) -> bool {
        !self.runs() && matches!(self.socket.as_str(), "active" | "")
    }

    /// Whether the service runs, or is being started: a connection starts nothing.
    fn runs(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
            || (self.active == "activating" && self.sub != "auto-restart")
    }

    /// Whether it ended by itself: there is a cause to mend.
    pub fn has_failed(&self) -> bool {
        self.active == "failed" || (self.active == "activating" && self.sub == "auto-restart")
    }

    /// Why the service is not there and what to type, one sentence.
    pub fn sentence(&self) -> String {
        if self.has_failed() {
            let again = if self.active == "failed" { "has failed" } else { "fails and is started again and again" };
            return format!("{SERVICE} {again} ({}); mend that, then: systemctl restart cpd", self.cause());
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
            // Of a cpd that could not say why it ended it is a status of better days.
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
    use crate::ctl::client::Client;
    use crate::ctl::target::{Origin, Target};

    /// A manager whose systemctl is this script, which has links for these units, and whose socket is in its folder.
    fn manager(script: &str, units: &[&str]) -> (tempfile::TempDir, Manager) {
        let dir = tempfile::tempdir().unwrap();
        // Run by its interpreter: what has just been written cannot be run while another thread makes a process.
        std::fs::write(dir.path().join("show"), format!("{script}\n")).unwrap();
        for unit in units {
            symlink("0123456789abcdef0123456789abcdef", dir.path().join(format!("invocation:{unit}"))).unwrap();
        }
        let manager = Manager {
            socket: dir.path().join("control.sock"),
            units: dir.path().to_owned(),
            program: vec!["sh".into(), dir.path().join("show").into()],
        };
        (dir, manager)
    }

    /// As systemctl 252 and 257 answer.
    fn said(socket: &str, service: &str) -> State {
        State::read(&format!(
            "Id=cpd-control.socket\nActiveState={socket}\n\nLoadState=loaded\nId=cpd.service\n{service}\n"
        ))
    }

    #[test]
    fn only_a_service_without_a_process_is_asked_about() {
        assert!(manager("", &[]).1.lacks_the_service());
        assert!(!manager("", &["cpd.service"]).1.lacks_the_service());
        assert!(!manager("", &["cpd-failed.service"]).1.lacks_the_service(), "somebody answers, and says why");
        let nowhere = Manager { units: PathBuf::from("/nonexistent"), ..Manager::default() };
        assert!(!nowhere.lacks_the_service(), "without systemd there is nothing to start");
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
            assert_eq!(said(socket, service).would_start(), would, "{socket} {service}");
        }
        assert!(State::default().would_start(), "where nobody can tell, nothing is started");
    }

    #[test]
    fn a_failure_is_told_with_its_cause() {
        let told = |service: &str| said("active", service).sentence();
        let failed = "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\nStatusText=/etc/cpd/cpd.toml:3: unknown key\n";
        assert_eq!(
            told(failed),
            "cpd.service has failed (exit status 78: /etc/cpd/cpd.toml:3: unknown key); mend that, then: systemctl restart cpd"
        );
        let killed = told("ActiveState=failed\nResult=watchdog\nExecMainStatus=6\nStatusText=\n");
        assert!(killed.contains("watchdog, status 6; journalctl -u cpd says why"), "{killed}");
        let again = told("ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=71\n");
        assert!(again.contains("again and again (exit status 71"), "{again}");
        let stopped =
            "ActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\nStatusText=connections: 0\n";
        assert_eq!(told(stopped), "cpd.service is stopped (systemctl start cpd)");
        assert!(State::default().sentence().contains("systemctl start cpd"), "what to type is said in any case");
    }

    #[test]
    fn systemctl_is_asked_without_waiting_for_ever() {
        let (_dir, works) =
            manager("[ \"$3\" = cpd.service ] && printf 'Id=cpd.service\\nActiveState=inactive\\n'", &[]);
        assert_eq!(works.state().active, "inactive");
        for script in ["exit 1", "echo 'Failed to connect to bus' >&2; exit 1"] {
            assert_eq!(manager(script, &[]).1.state(), State::default());
        }
        let (_dir, hangs) = manager("exec sleep 600", &[]);
        let begun = Instant::now();
        assert_eq!(hangs.state(), State::default());
        assert!(begun.elapsed() < Duration::from_secs(300));
        let missing = Manager { program: vec!["/nonexistent/systemctl".into()], ..Manager::default() };
        assert_eq!(missing.state(), State::default());
    }

    #[test]
    fn a_question_does_not_knock_at_a_stopped_services_socket_and_a_change_does() {
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
                origin: Origin::Default,
                timeout: Duration::from_secs(60),
                may_start: false,
                manager,
            };
            let asked = Client::connect(&target);
            match (says, asked) {
                (None, Ok(_)) => assert!(listener.accept().is_ok(), "{script}"),
                (Some(says), Err(failure)) => {
                    assert!(failure.message.contains(says), "{}", failure.message);
                    assert_eq!((failure.exit.code(), failure.code.is_some()), (69, true));
                    assert!(listener.accept().is_err(), "{script}: somebody knocked");
                }
                (says, asked) => panic!("{script}: {says:?}, {}", asked.is_ok()),
            }
            target.may_start = true;
            assert!(Client::connect(&target).is_ok() && listener.accept().is_ok(), "{script}: a change starts it");
            // Another daemon's socket is nothing to systemd.
            target.manager.socket = PathBuf::from(SOCKET_DEFAULT);
            target.may_start = false;
            assert!(Client::connect(&target).is_ok());
        }
    }
}
