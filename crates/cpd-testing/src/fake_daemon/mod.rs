//! A daemon's control socket with a scripted answer to every request, and cpctl run against it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use cpd_control::answer::*;
use cpd_control::{ErrorCode, Request, encode_error, encode_ok, request};
use tempfile::TempDir;

pub struct FakeDaemon {
    pub folder: TempDir,
    pub socket: PathBuf,
    /// Every request as its line, in order.
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl FakeDaemon {
    /// Answers every request with what `answer` says, a whole line; closes the connection at an empty one.
    pub fn start(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> FakeDaemon {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, record) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, record) = (Arc::clone(&answer), Arc::clone(&record));
                std::thread::spawn(move || serve(&stream, &*answer, &record));
            }
        });
        FakeDaemon { folder, socket, seen }
    }

    pub fn cpctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::programs::cpctl());
        command.env_remove("CPCTL_SOCKET").arg("--socket").arg(&self.socket).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn serve(mut stream: &UnixStream, answer: &dyn Fn(&Request) -> Vec<u8>, record: &Mutex<Vec<String>>) {
    let reader = BufReader::new(stream.try_clone().expect("a second handle"));
    for line in reader.lines().map_while(Result::ok) {
        let request = request::parse(line.as_bytes());
        record.lock().expect("not poisoned").push(line);
        let answer = match &request {
            Ok(request) => answer(request),
            Err(error) => error.encode(),
        };
        if answer.is_empty() || stream.write_all(&answer).is_err() {
            break;
        }
    }
}

/// What a small healthy daemon would say: one user bob with three messages.
#[allow(clippy::too_many_lines, reason = "a table: one answer for each request")]
pub fn small(request: &Request) -> Vec<u8> {
    let bob = UserInfo {
        name: "bob".to_owned(),
        locked: false,
        created: "2026-01-02T03:04:05Z".to_owned(),
        last_login: None,
        queued: 3,
        throttled: None,
    };
    let body = |text: &str| matches!(request, Request::QueueShow { body: true, .. }).then(|| text.to_owned());
    let message = |id, text: &str| MessageInfo {
        id,
        sender: "alice".to_owned(),
        queued_at: "2026-01-03T00:00:00Z".to_owned(),
        bytes: text.len() as u64,
        body: body(text),
    };
    match request {
        Request::UserAdd { name, .. } if name.as_str() == "taken" => {
            encode_error(ErrorCode::UserExists, "there is a user 'taken' already")
        }
        Request::UserShow { name } | Request::UserLock { name } if ["nobody", "carol"].contains(&name.as_str()) => {
            encode_error(ErrorCode::NoSuchUser, &format!("there is no user '{name}'"))
        }
        Request::UserAdd { .. } | Request::UserUnlock { .. } | Request::StoreBackupEnd { .. } => encode_ok(&Done {}),
        Request::SessionClose { id: 7 } => encode_ok(&Done {}),
        Request::SessionClose { .. } => encode_error(ErrorCode::NoSuchSession, "there is no session with that id"),
        Request::UserPasswd { keep_sessions, .. } => encode_ok(&SessionsEnded { sessions: u64::from(!keep_sessions) }),
        Request::UserLock { .. } => encode_ok(&SessionsEnded { sessions: 2 }),
        Request::UserShow { .. } => encode_ok(&bob),
        Request::UserRemove { .. } => encode_ok(&Removed { messages: 3, sessions: 1 }),
        Request::UserList { .. } => encode_ok(&NamePage { rows: vec![bob], next: None }),
        Request::QueueList { .. } => encode_ok(&NamePage {
            rows: vec![QueueInfo {
                user: "bob".to_owned(),
                messages: 3,
                bytes: 30,
                oldest: "2026-01-03T00:00:00Z".to_owned(),
            }],
            next: None,
        }),
        Request::QueueShow { .. } => {
            encode_ok(&IdPage { rows: vec![message(8, "hi"), message(12, "tab\there \u{9b}31m")], next: None })
        }
        Request::QueuePurge { .. } => encode_ok(&Purged { messages: 1 }),
        Request::StoreBackup => encode_ok(&Backup { backup: 5, bytes: 11 }),
        Request::StoreBackupRead { offset, .. } => {
            let whole = b"hello store";
            let from = usize::try_from(*offset).expect("small").min(whole.len());
            encode_ok(&BackupChunk::new(&whole[from..whole.len().min(from + 4)]))
        }
        Request::StoreShrink => encode_ok(&cpd_control::answer::Shrunk { before_bytes: 5000, after_bytes: 4096 }),
        Request::StoreCheck { .. } => encode_ok(&CheckPage { rows: 4, damaged: Vec::new(), next: None }),
        Request::SessionList { .. } => encode_ok(&IdPage {
            rows: vec![SessionInfo {
                id: 7,
                user: None,
                address: "[::1]:40000".to_owned(),
                listener: "cp".to_owned(),
                state: "idle".to_owned(),
                since: "2026-01-03T00:00:00Z".to_owned(),
                idle_seconds: 65,
            }],
            next: None,
        }),
        Request::ThrottleList { .. } => encode_ok(&Throttles {
            throttles: vec![ThrottleInfo {
                user: Some("bob".to_owned()),
                address: None,
                failures: 50,
                addresses: 3,
                until: "2026-01-03T00:00:00Z".to_owned(),
            }],
            more: false,
        }),
        Request::ThrottleClear { .. } => encode_ok(&ThrottlesCleared { forgotten: 2 }),
        Request::Ping => encode_ok(&Pong { version: "0.1.0".to_owned() }),
        Request::Status { details } => encode_ok(&StatusAnswer {
            version: "0.1.0".to_owned(),
            uptime_seconds: 90_061,
            connections: 1,
            listeners: details.then(|| {
                vec![ListenerInfo {
                    listener: "cp".to_owned(),
                    address: "[::]:5035".to_owned(),
                    opened_by: "systemd".to_owned(),
                }]
            }),
            configuration: details.then(ConfigurationInfo::default),
            sessions: StateName::ALL.iter().map(|state| (state.key(), 0)).collect(),
            counters: COUNTERS.iter().filter(|c| *details || !c.in_details_only).map(|c| (c.name, 0)).collect(),
            ..StatusAnswer::default()
        }),
    }
}

/// Runs it, and says its exit code, stdout and stderr.
pub fn run(command: &mut Command) -> (i32, String, String) {
    told(&command.output().expect("cpctl runs"))
}

pub fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
