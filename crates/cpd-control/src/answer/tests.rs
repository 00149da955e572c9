//! Every request and every result, as they appear in answers.

use cp_proto::limits::MESSAGE_MAX_BYTES;
use cp_proto::values::Username;
use cpd_core::engine::counters::Counters;
use cpd_core::engine::port::{AddressKey, MessageId, UserRow};

use super::*;
use crate::{BACKUP_CHUNK_BYTES, ROWS_MAX, request};

const WALL: u64 = 1_800_000_000;
const NOW: Millis = 1 << 40;

/// The fields of a request of each command.
const FIELDS: &[(&str, &str)] = &[
    ("user.add", r#","name":"bob","password":"hunter2""#),
    ("user.passwd", r#","name":"bob","password":"hunter2","keep_sessions":true"#),
    ("user.list", r#","after":"al","limit":5"#),
    ("user.show", r#","name":"bob""#),
    ("user.lock", r#","name":"bob""#),
    ("user.unlock", r#","name":"bob""#),
    ("user.remove", r#","name":"bob""#),
    ("queue.list", ""),
    ("queue.show", r#","user":"bob","after":7,"body":true"#),
    ("queue.purge", r#","user":"bob","id":7,"from":"eve","older_than_seconds":60"#),
    ("store.shrink", ""),
    ("store.backup", ""),
    ("store.backup.read", r#","backup":3,"offset":4"#),
    ("store.backup.end", r#","backup":3"#),
    ("store.check", r#","after":9"#),
    ("session.list", r#","after":4294967296"#),
    ("session.close", r#","id":4294967297"#),
    ("throttle.list", ""),
    ("throttle.clear", r#","user":"bob","address":"192.0.2.1""#),
    ("ping", ""),
    ("status", ""),
];

fn ask(command: &str) -> Request<()> {
    let (_, fields) = FIELDS.iter().find(|(name, _)| *name == command).expect("a command");
    let line = format!("{{\"v\":1,\"cmd\":\"{command}\"{fields}}}");
    request::parse(line.as_bytes()).expect("a request").map_password(|_| ())
}

fn answer(command: &str, result: AdminResult) -> String {
    let peer_of = |id: SessionId| (id.slot != 9).then(|| (format!("192.0.2.1:{}", id.slot), "cp"));
    let wall_seconds_at = |at: Millis| (1000 * WALL).saturating_add_signed(at as i64 - NOW as i64) / 1000;
    let details = StatusDetails::default();
    let context = AnswerContext {
        version: "1.2.3",
        uptime_seconds: 77,
        wall_seconds_at: &wall_seconds_at,
        details: &details,
        peer_of: &peer_of,
    };
    let line = String::from_utf8(render(&ask(command), result, &context)).expect("text");
    line.strip_suffix('\n').expect("a line").to_owned()
}

fn refusal(command: &str, result: AdminResult) -> String {
    let error = outcome(&ask(command), &result).expect_err("a refusal");
    let line = String::from_utf8(error.encode()).expect("text");
    assert_eq!(answer(command, result) + "\n", line);
    format!("{error}")
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn user(text: &str, last_login: Option<u64>) -> UserRow {
    UserRow { name: name(text), locked: last_login.is_none(), created: WALL, last_login }
}

fn message(id: u64, body: Option<String>) -> MessageRow {
    MessageRow { id: MessageId(id), sender: name("eve"), queued_at: WALL, bytes: 5, body }
}

#[test]
fn plain_results_have_their_answers() {
    for command in ["user.add", "user.unlock", "store.backup.end", "session.close"] {
        assert_eq!(answer(command, AdminResult::Done), r#"{"ok":true}"#);
    }
    for command in ["user.passwd", "user.lock"] {
        assert_eq!(answer(command, AdminResult::SessionsEnded { sessions: 2 }), r#"{"ok":true,"sessions":2}"#);
    }
    let gone = || AdminResult::Removed { messages: 3, sessions: 1 };
    assert_eq!(answer("user.remove", gone()), r#"{"ok":true,"messages":3,"sessions":1}"#);
    assert_eq!(answer("queue.purge", gone()), r#"{"ok":true,"messages":3}"#);
    let backup = AdminResult::Backup { backup: 3, bytes: 4096 };
    assert_eq!(answer("store.backup", backup), r#"{"ok":true,"backup":3,"bytes":4096}"#);
    assert_eq!(answer("store.backup.read", AdminResult::Bytes(b"SQL".to_vec())), r#"{"ok":true,"data":"U1FM"}"#);
    let checked = AdminResult::Checked { rows: 10, damaged: vec!["message 7".to_owned()], next: Some(9) };
    assert_eq!(answer("store.check", checked), r#"{"ok":true,"rows":10,"damaged":["message 7"],"next":9}"#);
}

#[test]
fn throttles_say_whom_they_keep_out() {
    let throttled = |subject| Throttled { subject, failures: 4, addresses: 2, until: NOW };
    let network = AddressKey::V6(0x2001_0db8_0000_0000);
    let rows = vec![
        throttled(Subject::Address(network)),
        throttled(Subject::Name(name("bob"))),
        throttled(Subject::NameAt(name("eve"), AddressKey::V4(0xc000_0201))),
    ];
    let rest = r#""failures":4,"addresses":2,"until":"2027-01-15T08:00:00Z"}"#;
    let expected = [
        format!(r#"{{"user":null,"address":"2001:db8::/64",{rest}"#),
        format!(r#"{{"user":"bob","address":null,{rest}"#),
        format!(r#"{{"user":"eve","address":"192.0.2.1",{rest}"#),
    ]
    .join(",");
    let said = answer("throttle.list", AdminResult::Throttles { rows, more: true });
    assert_eq!(said, format!(r#"{{"ok":true,"throttles":[{expected}],"more":true}}"#));
}

#[test]
fn refusals_name_what_they_are_about() {
    assert_eq!(refusal("user.add", AdminResult::UserExists), "user_exists: there is a user 'bob' already");
    for command in ["user.passwd", "user.show", "user.lock", "user.unlock", "user.remove", "queue.show", "queue.purge"]
    {
        assert_eq!(refusal(command, AdminResult::NoSuchUser), "no_such_user: there is no user 'bob'");
    }
    assert_eq!(refusal("session.close", AdminResult::NoSuchSession), "no_such_session: there is no session 4294967297");
    assert_eq!(
        refusal("queue.purge", AdminResult::NoSuchMessage),
        "no_such_message: there is no message 7 in the queue of 'bob'"
    );
    for command in ["store.backup.read", "store.backup.end"] {
        let said = refusal(command, AdminResult::NoSuchBackup);
        assert_eq!(said, "no_such_backup: there is no backup 3, or no longer");
    }
    assert_eq!(refusal("store.backup", AdminResult::Busy), "busy: another backup is under way: try again");
    assert_eq!(refusal("user.add", AdminResult::Busy), "busy: the daemon has too much to do: try again");
    assert_eq!(refusal("status", AdminResult::Failed("disk full".to_owned())), "store_failed: disk full");
    assert!(answer("user.add", AdminResult::Bytes(Vec::new())).contains("\"internal\""));
    assert!(answer("user.show", AdminResult::Users { rows: Vec::new(), more: false }).contains("\"internal\""));
}

#[test]
fn pages_of_names_end_where_they_end() {
    let state = |row, queued, throttled| UserState { row, queued, throttled };
    let rows = || vec![state(user("al", None), 0, None), state(user("bob", Some(WALL)), 4, Some(NOW))];
    let al =
        r#"{"name":"al","locked":true,"created":"2027-01-15T08:00:00Z","last_login":null,"queued":0,"throttled":null}"#;
    let bob = concat!(
        r#""name":"bob","locked":false,"created":"2027-01-15T08:00:00Z","#,
        r#""last_login":"2027-01-15T08:00:00Z","queued":4,"throttled":"2027-01-15T08:00:00Z"}"#
    );
    let page = answer("user.list", AdminResult::Users { rows: rows(), more: true });
    assert_eq!(page, format!("{{\"ok\":true,\"rows\":[{al},{{{bob}],\"next\":\"bob\"}}"));
    let last = answer("user.list", AdminResult::Users { rows: rows(), more: false });
    assert!(last.ends_with("\"next\":null}"), "{last}");
    let one = answer("user.show", AdminResult::Users { rows: rows().split_off(1), more: false });
    assert_eq!(one, format!("{{\"ok\":true,{bob}"));
    let summary = QueueSummary { user: name("bob"), messages: 2, bytes: 11, oldest: WALL };
    let queues = answer("queue.list", AdminResult::Queues { rows: vec![summary], more: true });
    assert_eq!(
        queues,
        r#"{"ok":true,"rows":[{"user":"bob","messages":2,"bytes":11,"oldest":"2027-01-15T08:00:00Z"}],"next":"bob"}"#
    );
    let empty = answer("queue.list", AdminResult::Queues { rows: Vec::new(), more: false });
    assert_eq!(empty, r#"{"ok":true,"rows":[],"next":null}"#);
}

#[test]
fn paging_continues_after_a_page_whose_messages_are_gone() {
    let rows = vec![message(8, Some("a\tb".to_owned())), message(9, None)];
    assert_eq!(
        answer("queue.show", AdminResult::Messages { rows, more: true }),
        concat!(
            r#"{"ok":true,"rows":[{"id":8,"sender":"eve","queued_at":"2027-01-15T08:00:00Z","bytes":5,"body":"a\tb"},"#,
            r#"{"id":9,"sender":"eve","queued_at":"2027-01-15T08:00:00Z","bytes":5}],"next":9}"#
        )
    );
    let none = |more| answer("queue.show", AdminResult::Messages { rows: Vec::new(), more });
    assert_eq!(none(false), r#"{"ok":true,"rows":[],"next":null}"#);
    assert_eq!(none(true), r#"{"ok":true,"rows":[],"next":8}"#);
}

#[test]
fn answers_stay_within_the_bound() {
    let full = "\"".repeat(MESSAGE_MAX_BYTES);
    let rows = |body: &str| (0..u64::from(ROWS_MAX)).map(|id| message(id + 1, Some(body.to_owned()))).collect();
    let page = answer("queue.show", AdminResult::Messages { rows: rows(&full), more: true });
    assert!(page.starts_with("{\"ok\":true") && page.len() < ANSWER_MAX_BYTES);
    let chunk = answer("store.backup.read", AdminResult::Bytes(vec![0; BACKUP_CHUNK_BYTES as usize]));
    assert!(chunk.starts_with("{\"ok\":true") && chunk.len() < ANSWER_MAX_BYTES);
    let page = answer("queue.show", AdminResult::Messages { rows: rows(&full.repeat(10)), more: true });
    assert!(page.contains("\"internal\"") && page.len() < 200);
    let checked = AdminResult::Checked { rows: 1, damaged: vec!["message".to_owned(); 5000], next: None };
    assert_eq!(answer("store.check", checked).matches("message").count(), 256);
}

#[test]
fn sessions_are_shown_by_the_names_of_the_status() {
    let row = |serial, slot, user| SessionRow {
        id: SessionId { serial, slot },
        user,
        state: StateName::ProcessCommand,
        opened: NOW - 3_600_000 + 999,
        idle: 1_999,
    };
    let rows = vec![row(4_294_967_297, 3, Some(name("bob"))), row(4_294_967_298, 9, None)];
    assert_eq!(
        answer("session.list", AdminResult::Sessions { rows, more: true }),
        concat!(
            r#"{"ok":true,"rows":[{"id":4294967297,"user":"bob","address":"192.0.2.1:3","listener":"cp","#,
            r#""state":"process_command","since":"2027-01-15T07:00:00Z","idle_seconds":1}],"next":4294967298}"#
        )
    );
}

#[test]
fn the_status_has_every_state_and_every_counter() {
    let counters = Counters {
        connections_accepted: 1,
        connections_refused: 2,
        logins: 3,
        login_failures: 4,
        logins_throttled: 5,
        messages_accepted: 6,
        messages_refused: 7,
        messages_delivered: 8,
        messages_expired: 9,
        messages_purged: 10,
        messages_removed: 15,
        messages_at_start: 16,
        bad_commands: 11,
        timeouts: 12,
        store_batches: 13,
        store_failures: 14,
    };
    let status = requests::Status {
        connections: 28,
        states: std::array::from_fn(|at| (StateName::ALL[at], at as u32 + 1)),
        queued_messages: 21,
        queued_bytes: 22,
        store_bytes: 23,
        counters,
    };
    assert_eq!(
        answer("status", AdminResult::Status(Box::new(status))),
        concat!(
            r#"{"ok":true,"version":"1.2.3","uptime_seconds":77,"connections":28,"sessions":{"idle":1,"#,
            r#""user_validated":2,"authentication_validated":3,"process_command":4,"sending_message":5,"#,
            r#""receiving_message":6,"error_processing":7},"queued_messages":21,"store_bytes":23,"counters":{"#,
            r#""connections_accepted":1,"connections_refused":2,"logins":3,"login_failures":4,"logins_throttled":5,"#,
            r#""messages_accepted":6,"messages_refused":7,"messages_delivered":8,"messages_expired":9,"#,
            r#""messages_purged":10,"bad_commands":11,"timeouts":12,"store_batches":13,"store_failures":14}}"#
        )
    );
}

#[test]
fn a_ping_is_answered_with_the_version() {
    assert_eq!(answer("ping", AdminResult::Done), r#"{"ok":true,"version":"1.2.3"}"#);
}

#[test]
fn a_backup_chunk_decodes_to_the_bytes_that_were_encoded() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(BackupChunk::new(&bytes).bytes(), Some(bytes));
    assert_eq!(BackupChunk { data: "no base64!".to_owned() }.bytes(), None);
}
