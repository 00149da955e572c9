//! Requests of the control protocol: each error by its name, whatever comes in, and the way there and back.

use cp_proto::limits::{PASSWORD_MAX_BYTES, USERNAME_MAX_BYTES};
use cp_proto::values::{Password, Username};
use cpd_control::request::COMMANDS;
use cpd_control::{ControlError, ErrorCode, NAME_RULE, PASSWORD_RULE, PurgeFilter, Request, request, rfc3339};
use cpd_control::{encode_error, encode_ok};
use proptest::prelude::*;

fn refused(line: &str) -> ControlError {
    request::parse(line.as_bytes()).expect_err(line)
}

#[track_caller]
fn check(line: &str, code: ErrorCode, named: &str) {
    let error = refused(line);
    assert_eq!(error.code, code, "{line}: {error}");
    assert!(error.message.contains(named), "{line}: '{}' does not name '{named}'", error.message);
}

#[test]
fn each_fault_has_its_code_and_names_what_is_wrong() {
    check("", ErrorCode::BadJson, "ends too early");
    check("[]", ErrorCode::BadJson, "not a JSON object");
    check("\"secret\"", ErrorCode::BadJson, "not a JSON object");
    check("{\"v\":1", ErrorCode::BadJson, "ends too early");
    check("{\"v\":1} {}", ErrorCode::BadJson, "column 9");
    check("{\"v\":1,\"cmd\":\"\\ud800\"}", ErrorCode::BadJson, "column");
    check("{}", ErrorCode::MissingField, "'v'");
    check("{\"v\":2,\"cmd\":\"status\"}", ErrorCode::UnknownVersion, "version 2 ");
    check("{\"v\":\"1\",\"cmd\":\"status\"}", ErrorCode::UnknownVersion, "version 1 is");
    check("{\"v\":1.0,\"cmd\":\"status\"}", ErrorCode::UnknownVersion, "version 1 is");
    check("{\"v\":1}", ErrorCode::MissingField, "'cmd'");
    check("{\"v\":1,\"cmd\":7}", ErrorCode::BadValue, "'cmd'");
    check("{\"v\":1,\"cmd\":\"user.frob\"}", ErrorCode::UnknownCommand, "'user.frob'");
    check("{\"v\":1,\"cmd\":\"status\",\"full\":true}", ErrorCode::UnknownField, "'full'");
    check("{\"v\":1,\"cmd\":\"user.show\",\"nmae\":\"bob\"}", ErrorCode::UnknownField, "'nmae'");
    check("{\"v\":1,\"cmd\":\"user.show\"}", ErrorCode::MissingField, "'name'");
    check("{\"v\":1,\"cmd\":\"user.add\",\"name\":\"bob\"}", ErrorCode::MissingField, "'password'");
    check("{\"v\":1,\"cmd\":\"status\",\"v\":1}", ErrorCode::DuplicateField, "'v'");
    check("{\"v\":1,\"cmd\":\"status\",\"\\u0076\":1}", ErrorCode::DuplicateField, "'v'");
    check("{\"v\":1,\"cmd\":\"user.show\",\"name\":[\"bob\"]}", ErrorCode::BadValue, "'name'");
    check("{\"v\":1,\"cmd\":\"user.show\",\"name\":null}", ErrorCode::BadValue, "'name'");
    check("{\"v\":1,\"cmd\":\"user.show\",\"name\":\"-bob\"}", ErrorCode::BadName, NAME_RULE);
    check("{\"v\":1,\"cmd\":\"user.list\",\"after\":\"\"}", ErrorCode::BadName, NAME_RULE);
    check("{\"v\":1,\"cmd\":\"user.list\",\"limit\":0}", ErrorCode::BadValue, "1 to 256");
    check("{\"v\":1,\"cmd\":\"user.list\",\"limit\":257}", ErrorCode::BadValue, "'limit'");
    check("{\"v\":1,\"cmd\":\"user.list\",\"limit\":-1}", ErrorCode::BadValue, "'limit'");
    check("{\"v\":1,\"cmd\":\"session.close\",\"id\":18446744073709551616}", ErrorCode::BadValue, "'id'");
    check("{\"v\":1,\"cmd\":\"queue.show\",\"user\":\"bob\",\"body\":1}", ErrorCode::BadValue, "'body'");
    check("{\"v\":1,\"cmd\":\"queue.purge\",\"user\":\"bob\",\"id\":0}", ErrorCode::BadValue, "'id'");
    let error = request::parse(b"{\"v\":1,\"cmd\":\"\xff\"}").expect_err("not UTF-8");
    assert_eq!(error.code, ErrorCode::NotUtf8);
    assert!(error.message.contains("byte 15"), "{error}");
}

#[test]
fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = open.repeat(100_000) + "1" + &close.repeat(100_000);
        check(&deep, ErrorCode::TooDeep, "levels");
        check(&format!("{{\"v\":1,\"cmd\":{deep}}}"), ErrorCode::TooDeep, "levels");
        check(&open.repeat(100_000), ErrorCode::TooDeep, "levels");
    }
    let line = format!("{{\"v\":1,\"cmd\":\"user.show\",\"name\":\"{}\\\"{}\"}}", "[".repeat(50), "{".repeat(50));
    check(&line, ErrorCode::BadName, "");
}

#[test]
fn many_fields_and_long_names_stay_small() {
    let many: Vec<String> = (0..5000).map(|n| format!("\"f{n}\":1")).collect();
    check(&format!("{{{}}}", many.join(",")), ErrorCode::UnknownField, "'f16'");
    let long = "x".repeat(50_000);
    let error = refused(&format!("{{\"v\":1,\"cmd\":\"status\",\"{long}\":1}}"));
    assert_eq!(error.code, ErrorCode::UnknownField);
    assert!(error.message.len() < 200);
    assert!(refused(&format!("{{\"v\":1,\"cmd\":\"{long}\"}}")).message.len() < 200);
}

#[test]
fn a_refusal_holds_nothing_that_a_terminal_would_obey() {
    // JSON lets DEL and C1 pass as they are; U+009B begins a terminal's commands.
    for character in ["\u{7f}", "\u{85}", "\u{9b}", "\\u001b", "\\u009b"] {
        for line in [
            format!("{{\"v\":1,\"cmd\":\"sta{character}tus\"}}"),
            format!("{{\"v\":1,\"cmd\":\"status\",\"a{character}b\":1}}"),
            format!("{{\"v\":1,\"a{character}b\":1,\"a{character}b\":1}}"),
        ] {
            let error = refused(&line);
            assert!(!error.message.chars().any(char::is_control), "{error:?}");
            assert!(error.message.contains('\u{fffd}'), "{error:?}");
        }
    }
}

#[test]
fn a_password_is_in_no_error_and_no_debug_form() {
    let secret = "hunter2-hunter2-hunter2";
    for line in [
        format!("{{\"v\":1,\"cmd\":\"user.add\",\"name\":\"bob\",\"password\":\"{secret}\"}}"),
        format!("{{\"v\":1,\"cmd\":\"user.add\",\"name\":\"-\",\"password\":\"{secret}\"}}"),
        format!("{{\"v\":1,\"cmd\":\"user.add\",\"name\":\"bob\",\"password\":[\"{secret}\"]}}"),
        format!("{{\"v\":1,\"cmd\":\"user.add\",\"name\":\"bob\",\"password\":\"{secret}\\q\"}}"),
        format!("\"{secret}\""),
        format!("{{\"v\":\"{secret}\"}}"),
    ] {
        let error = refused(&line);
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
    }
    check(
        &format!("{{\"v\":1,\"cmd\":\"user.add\",\"name\":\"bob\",\"password\":\"{secret}\"}}"),
        ErrorCode::BadPassword,
        PASSWORD_RULE,
    );
    let request = request::parse(b"{\"v\":1,\"cmd\":\"user.add\",\"name\":\"bob\",\"password\":\"hunter2\"}");
    assert!(!format!("{request:?}").contains("hunter2"));
    let line = request::encode(&request.expect("well formed"));
    assert!(!format!("{line:?}").contains("hunter2"));
}

#[test]
fn a_new_password_does_not_begin_with_a_byte_order_mark() {
    for command in ["user.add", "user.passwd"] {
        check(
            &format!("{{\"v\":1,\"cmd\":\"{command}\",\"name\":\"bob\",\"password\":\"\\ufeffhunter2\"}}"),
            ErrorCode::BadPassword,
            "a byte order mark",
        );
    }
}

#[test]
fn rules_name_the_limits_and_codes_are_unique() {
    assert!(NAME_RULE.contains(&format!("1 to {USERNAME_MAX_BYTES} ")));
    assert!(PASSWORD_RULE.contains(&format!("1 to {PASSWORD_MAX_BYTES} ")));
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
        assert!(!code.meaning().is_empty());
    }
    assert_eq!(ErrorCode::parse("no_such_code"), None);
}

#[test]
fn answers_are_one_line_of_json_each() {
    let ok = encode_ok(&cpd_control::answer::Purged { messages: 3 });
    assert_eq!(ok, b"{\"ok\":true,\"messages\":3}\n");
    assert_eq!(encode_ok(&cpd_control::answer::Done {}), b"{\"ok\":true}\n");
    let no = encode_error(ErrorCode::UserExists, "there is a user 'bob'\nalready");
    assert_eq!(
        String::from_utf8(no).expect("text"),
        "{\"ok\":false,\"error\":{\"code\":\"user_exists\",\"message\":\"there is a user 'bob'\\nalready\"}}\n"
    );
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    assert_eq!(rfc3339(1_800_000_000), "2027-01-15T08:00:00Z");
    assert!(rfc3339(u64::MAX).starts_with("9999-12-3"), "{}", rfc3339(u64::MAX));
}

fn name() -> impl Strategy<Value = Username> {
    "[a-zA-Z0-9][a-zA-Z0-9._-]{0,9}".prop_map(|n| Username::parse(n.as_bytes()).expect("well formed"))
}

fn password() -> impl Strategy<Value = Password> {
    "[!-~\u{e4}][ -~]{0,11}[!-~]".prop_map(|p| Password::parse(p.as_bytes()).expect("well formed"))
}

fn request() -> impl Strategy<Value = Request> {
    let page = || (proptest::option::of(name()), 1u32..=256);
    let which = (proptest::option::of(1u64..), proptest::option::of(name()), proptest::option::of(1u64..))
        .prop_map(|(id, from, older_than_seconds)| PurgeFilter { id, from, older_than_seconds });
    prop_oneof![
        (name(), password()).prop_map(|(name, password)| Request::UserAdd { name, password }),
        (name(), password(), any::<bool>()).prop_map(|(name, password, keep_sessions)| Request::UserPasswd {
            name,
            password,
            keep_sessions
        }),
        page().prop_map(|(after, limit)| Request::UserList { after, limit }),
        name().prop_map(|name| Request::UserShow { name }),
        name().prop_map(|name| Request::UserLock { name }),
        name().prop_map(|name| Request::UserUnlock { name }),
        name().prop_map(|name| Request::UserRemove { name }),
        page().prop_map(|(after, limit)| Request::QueueList { after, limit }),
        (name(), any::<u64>(), 1u32..=256, any::<bool>()).prop_map(|(user, after, limit, body)| Request::QueueShow {
            user,
            after,
            limit,
            body
        }),
        (name(), which).prop_map(|(user, which)| Request::QueuePurge { user, which }),
        Just(()).prop_map(|()| Request::StoreBackup),
        any::<(u64, u64)>().prop_map(|(backup, offset)| Request::StoreBackupRead { backup, offset }),
        any::<u64>().prop_map(|backup| Request::StoreBackupEnd { backup }),
        (any::<u64>(), 1u32..=256).prop_map(|(after, limit)| Request::StoreCheck { after, limit }),
        (any::<u64>(), 1u32..=256).prop_map(|(after, limit)| Request::SessionList { after, limit }),
        any::<u64>().prop_map(|id| Request::SessionClose { id }),
        Just(()).prop_map(|()| Request::Ping),
        any::<bool>().prop_map(|details| Request::Status { details }),
    ]
}

/// Encoding shows all that `Debug` hides.
fn same(a: &Request, b: &Request) -> bool {
    request::encode(a).as_bytes() == request::encode(b).as_bytes() && format!("{a:?}") == format!("{b:?}")
}

proptest! {
    #[test]
    fn what_is_encoded_parses_to_the_same(request in request()) {
        let line = request::encode(&request);
        let bytes = line.as_bytes().strip_suffix(b"\n").expect("a newline");
        prop_assert!(!bytes.contains(&b'\n'));
        let again = request::parse(bytes).expect("what we say ourselves");
        prop_assert!(same(&request, &again));
        prop_assert!(COMMANDS.iter().any(|shape| shape.name == request.command()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = request::parse(&bytes);
    }

    #[test]
    fn no_damaged_request_makes_it_panic(request in request(), cut in 0usize..200, byte in any::<u8>(), at in 0usize..200) {
        let line = request::encode(&request);
        let mut bytes = line.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Err(error) = request::parse(&bytes) {
            prop_assert!(error.message.len() < 300);
        }
    }

    #[test]
    fn json_like_text_never_panics(text in "[\\[\\]{}\":,\\\\ a-e0-9u.-]{0,200}") {
        let _ = request::parse(text.as_bytes());
    }
}
