//! The line of the log for each command and each kind of result.

use cpd_control::request::COMMANDS;

use super::*;

const PEER: Caller = Caller { uid: 0, pid: 12 };

/// A request of each command: its name and fields, and its line of the log if the result is just `Done`.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("user.add", r#","name":"bob","password":"hunter2""#, "admin cmd=user.add user=bob uid=0 pid=12 result=ok"),
    (
        "user.passwd",
        r#","name":"bob","password":"hunter2","keep_sessions":true"#,
        "admin cmd=user.passwd user=bob keep_sessions=true uid=0 pid=12 result=ok",
    ),
    ("user.list", r#","after":"al","limit":5"#, ""),
    ("user.show", r#","name":"bob""#, ""),
    ("user.lock", r#","name":"bob""#, "admin cmd=user.lock user=bob uid=0 pid=12 result=ok"),
    ("user.unlock", r#","name":"bob""#, "admin cmd=user.unlock user=bob uid=0 pid=12 result=ok"),
    ("user.remove", r#","name":"bob""#, "admin cmd=user.remove user=bob uid=0 pid=12 result=ok"),
    ("queue.list", "", ""),
    ("queue.show", r#","user":"bob","after":7,"body":true"#, ""),
    (
        "queue.purge",
        r#","user":"bob","id":7,"from":"eve","older_than_seconds":60"#,
        "admin cmd=queue.purge user=bob id=7 older_than_seconds=60 from=eve uid=0 pid=12 result=ok",
    ),
    ("store.shrink", "", "admin cmd=store.shrink uid=0 pid=12 result=ok"),
    ("store.backup", "", "admin cmd=store.backup uid=0 pid=12 result=ok"),
    ("store.backup.read", r#","backup":3,"offset":4"#, ""),
    ("store.backup.end", r#","backup":3"#, ""),
    ("store.check", r#","after":9"#, ""),
    ("session.list", r#","after":4294967296"#, ""),
    ("session.close", r#","id":4294967297"#, "admin cmd=session.close session=4294967297 uid=0 pid=12 result=ok"),
    ("throttle.list", "", ""),
    (
        "throttle.clear",
        r#","user":"bob","address":"192.0.2.1""#,
        "admin cmd=throttle.clear user=bob addr=192.0.2.1 uid=0 pid=12 result=ok",
    ),
    ("ping", "", ""),
    ("status", "", ""),
];

fn ask(command: &str) -> Request<()> {
    let (_, fields, _) = REQUESTS.iter().find(|(name, ..)| *name == command).expect("a command");
    let line = format!("{{\"v\":1,\"cmd\":\"{command}\"{fields}}}");
    request::parse(line.as_bytes()).expect("a request").map_password(|_| ())
}

#[test]
fn each_change_has_its_line() {
    assert_eq!(REQUESTS.len(), COMMANDS.len());
    for (command, _, logged) in REQUESTS {
        let request = ask(command);
        assert_eq!(request.command(), *command);
        let line = log_line(&request, PEER, &AdminResult::Done).map(LogLine::into_text);
        assert_eq!(line.unwrap_or_default(), *logged);
    }
    let all = Request::ThrottleClear { user: None, address: None };
    let line = log_line(&all, PEER, &AdminResult::FailuresCleared { buckets: 1 }).expect("a line").into_text();
    assert_eq!(line, "admin cmd=throttle.clear all=true uid=0 pid=12 result=ok");
}

#[test]
fn changes_say_what_they_did() {
    let gone = AdminResult::Removed { messages: 3, sessions: 1 };
    let logged = |command, result: &AdminResult| log_line(&ask(command), PEER, result).expect("a line").into_text();
    assert_eq!(
        logged("user.remove", &gone),
        "admin cmd=user.remove user=bob uid=0 pid=12 result=ok messages=3 sessions=1"
    );
    assert!(logged("queue.purge", &gone).ends_with(" result=ok messages=3"));
    assert!(logged("user.lock", &AdminResult::SessionsEnded { sessions: 2 }).ends_with(" result=ok sessions=2"));
    assert!(logged("user.add", &AdminResult::UserExists).ends_with(" result=user_exists"));
    assert_eq!(
        logged("user.lock", &AdminResult::Failed("disk full".to_owned())),
        "admin cmd=user.lock user=bob uid=0 pid=12 result=store_failed cause=\"disk full\""
    );
}
