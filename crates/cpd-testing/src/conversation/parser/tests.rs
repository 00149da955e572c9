//! What the parser of the scripts accepts and refuses.

use super::*;

fn script(body: &str) -> Result<Script, SyntaxError> {
    parse(Path::new("test.txt"), &format!("# a title\n{body}\n"))
}

fn actions(body: &str) -> Vec<Action> {
    script(body).unwrap().steps.into_iter().map(|step| step.action).collect()
}

fn send(connection: usize, bytes: &[u8]) -> Action {
    Action::Send { connection, bytes: bytes.to_vec() }
}

fn expect(connection: usize, what: Expected) -> Action {
    Action::Expect { connection, what }
}

#[test]
fn parser_reads_a_dialogue() {
    let read = script("\n# note\nuser: bob my secret\nC: USERbob\nS: 220\nC2:\nS2: RMSGann:{x*3}").unwrap();
    assert_eq!(read.title, "a title");
    assert_eq!(read.users, [User { name: "bob".into(), password: "my secret".into() }]);
    let lines: Vec<usize> = read.steps.iter().map(|step| step.line).collect();
    assert_eq!(lines, [5, 6, 7, 8]);
    let expected = [
        send(1, b"USERbob\r\n"),
        expect(1, Expected::Code("220".into())),
        send(2, b"\r\n"),
        expect(2, Expected::Line(b"RMSGann:xxx".to_vec())),
    ];
    assert_eq!(read.steps.into_iter().map(|step| step.action).collect::<Vec<_>>(), expected);
}

#[test]
fn parser_reads_raw_burst_and_flood() {
    assert_eq!(actions("C raw: \"US\\xff\""), [send(1, b"US\xff")]);
    assert_eq!(actions("C3 burst: USERbob | PASSx"), [send(3, b"USERbob\r\nPASSx\r\n")]);
    assert_eq!(actions("C flood: NOOP"), [Action::Flood { connection: 1, bytes: b"NOOP\r\n".to_vec() }]);
    assert_eq!(actions("S raw: \"[yes]\\r\\n\""), [expect(1, Expected::Bytes(b"[yes]\r\n".to_vec()))]);
}

#[test]
fn parser_reads_events() {
    let read = actions("C: <fin>\nC: <reset>\nC2: <gone>\nS: <close>\nS: <quiet>\nwait: 70ms\nmark:\nafter: 1s");
    let expected = [
        Action::Fin { connection: 1 },
        Action::Reset { connection: 1 },
        Action::Gone { connection: 2 },
        expect(1, Expected::Close),
        expect(1, Expected::Quiet),
        Action::Wait(Duration::from_millis(70)),
        Action::Mark,
        Action::After(Duration::from_secs(1)),
    ];
    assert_eq!(read, expected);
}

#[test]
fn parser_reads_settings_and_the_listener() {
    let read =
        script("set: timeouts.ack = \"300ms\"\nset: limits.queue_messages = 2\nlistener: classic\nC: x").unwrap();
    assert_eq!(read.settings[0], Setting { key: "timeouts.ack".into(), value: toml::Value::String("300ms".into()) });
    assert_eq!(read.settings[1].value, toml::Value::Integer(2));
    assert_eq!(read.listener, Listener::Classic);
}

#[test]
fn parser_unfolds_a_login() {
    let read = script("user: bob secret\nC2: <login bob>").unwrap();
    assert_eq!(read.steps.len(), 4);
    assert!(read.steps.iter().all(|step| step.line == 3));
    assert_eq!(read.steps[2].action, send(2, b"PASSsecret\r\n"));
    assert_eq!(read.steps[3].action, expect(2, Expected::Code("230".into())));
}

#[test]
fn parser_reads_admin_with_its_input() {
    let arguments = ["user", "lock", "bob"].map(String::from).to_vec();
    assert_eq!(actions("admin: user lock bob"), [Action::Admin { arguments, stdin: None }]);
    let arguments = ["user", "passwd", "bob", "--password-stdin"].map(String::from).to_vec();
    let stdin = Some("new one\n".to_string());
    assert_eq!(actions("admin: user passwd bob --password-stdin < new one"), [Action::Admin { arguments, stdin }]);
}

#[test]
fn parser_refuses_what_it_does_not_know() {
    let wrong = [
        "C",
        "C:x",
        "C : x",
        "c: x",
        "C0: x",
        "C1: x",
        "C100: x",
        "Cx: x",
        "X: x",
        "C what: x",
        "S burst: a | b",
        "C: trailing ",
        " C: x",
        "C: <what>",
        "S: <fin>",
        "S:",
        "C raw: x",
        "C raw: \"\\q\"",
        "C raw: \"\"",
        "C burst: a",
        "C burst: a |  | b",
        "wait: soon",
        "after: 5",
        "mark: now",
        "admin:",
        "set: x",
        "set: a..b = 1",
        "set: a.b = nonsense",
        "user: bob",
        "listener: tls",
        "C: <login bob>",
        "C: hi\nuser: bob secret",
    ];
    for body in wrong {
        assert!(script(body).is_err(), "{body}");
    }
}

#[test]
fn parser_names_the_line() {
    assert_eq!(script("C: x\n\nwhat: x").unwrap_err().line, 4);
    assert_eq!(parse(Path::new("x"), "C: x\n").unwrap_err().line, 1);
    assert_eq!(script("").unwrap_err().message, "nobody says anything");
}
