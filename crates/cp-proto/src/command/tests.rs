//! The rules of docs/protocol.md sections 1 to 3 that a single line can obey or break.

use proptest::prelude::*;

use super::*;

/// The command that a line is parsed into, as text such as `send bob hello`.
fn meaning(line: &[u8]) -> String {
    describe(Command::parse(Line::Whole(line), false))
}

fn describe(command: Command<'_>) -> String {
    match command {
        Command::User(name) => format!("user {name}"),
        Command::BadUser => "bad user".into(),
        Command::Pass(password) => format!("pass {}", String::from_utf8_lossy(password.as_bytes())),
        Command::BadPass => "bad pass".into(),
        Command::Send { recipient, body } => format!("send {recipient} {}", String::from_utf8_lossy(body)),
        Command::BadSend(fault) => format!("{fault:?}"),
        Command::Receive { window } => format!("receive {window}"),
        Command::Wait { seconds } => format!("wait {seconds}"),
        Command::Acknowledge => "250".into(),
        Command::Reject => "550".into(),
        Command::Recover => "201".into(),
        Command::Terminate => "term".into(),
        Command::Help => "help".into(),
        Command::Bad(_) => "bad".into(),
    }
}

fn check(cases: &[(&str, &str)]) {
    for (line, expected) in cases {
        assert_eq!(meaning(line.as_bytes()), *expected, "{line:?}");
    }
}

#[test]
fn a_verb_in_either_case_and_one_space() {
    check(&[
        ("USERbob", "user bob"),
        ("USER bob", "user bob"),
        ("user bob", "user bob"),
        ("uSeR bob", "user bob"),
        ("USER  bob", "bad user"),
        (" USERbob", "bad"),
        ("USER\tbob", "bad user"),
        ("USERbob ", "bad user"),
        ("USER", "bad user"),
        ("USER ", "bad user"),
        ("USERabcdefghij", "user abcdefghij"),
        ("USERabcdefghijk", "bad user"),
        ("USE", "bad"),
        ("", "bad"),
        ("\u{ff35}SERbob", "bad"),
        ("HELO bob", "bad"),
        ("USERS bob", "bad user"),
        ("USER b\u{0}b", "bad user"),
    ]);
}

#[test]
fn passwords() {
    check(&[
        ("PASSsecret", "pass secret"),
        ("PASS secret", "pass secret"),
        ("pass two words", "pass two words"),
        ("PASS  secret", "bad pass"),
        ("PASSsecret ", "bad pass"),
        ("PASS", "bad pass"),
        ("PASS ", "bad pass"),
        ("PASS123456789012345", "pass 123456789012345"),
        ("PASS1234567890123456", "bad pass"),
        ("PASS:", "pass :"),
        ("PASSa\tb", "bad pass"),
    ]);
}

#[test]
fn codes_are_three_digits_and_then_the_end_or_a_space() {
    check(&[
        ("250", "250"),
        ("250 message successfully downloaded", "250"),
        ("250 ", "250"),
        ("2501", "bad"),
        ("250x", "bad"),
        ("250\t", "bad"),
        ("550", "550"),
        ("550 no", "550"),
        ("201", "201"),
        ("201 recovered", "201"),
        ("25", "bad"),
        (" 250", "bad"),
        ("240", "bad"),
        ("255 end", "bad"),
        ("000", "bad"),
        ("TERM", "term"),
        ("term", "term"),
        ("TERMinate", "term"),
        ("TERM \u{7}", "term"),
        ("TER", "bad"),
    ]);
}

#[test]
fn numbers_are_decimal_digits_alone_and_in_range() {
    check(&[
        ("RMSG", "receive 1"),
        ("RMSG ", "receive 1"),
        ("RMSG1", "receive 1"),
        ("RMSG 1", "receive 1"),
        ("RMSG256", "receive 256"),
        ("RMSG257", "bad"),
        ("RMSG0", "bad"),
        ("RMSG007", "receive 7"),
        ("RMSG+1", "bad"),
        ("RMSG-1", "bad"),
        ("RMSG1 ", "bad"),
        ("RMSG  1", "bad"),
        ("RMSG1.0", "bad"),
        ("RMSG0x1", "bad"),
        ("RMSG\u{661}", "bad"),
        ("RMSG65537", "bad"),
        ("RMSG4294967297", "bad"),
        ("RMSG18446744073709551617", "bad"),
        ("RMSGbob:hi", "bad"),
        ("WMSG", "bad"),
        ("WMSG ", "bad"),
        ("WMSG1", "wait 1"),
        ("WMSG 300", "wait 300"),
        ("WMSG301", "bad"),
        ("WMSG0", "bad"),
        ("wmsg5", "wait 5"),
    ]);
}

#[test]
fn messages_and_the_order_of_their_faults() {
    let long = |bytes: usize| format!("SMSGbob:{}", "m".repeat(bytes));
    check(&[
        ("SMSGbob:hello", "send bob hello"),
        ("SMSG bob:hello", "send bob hello"),
        ("smsg bob: hello ", "send bob  hello "),
        ("SMSGbob:a\tb", "send bob a\tb"),
        ("SMSGbob:TERM", "send bob TERM"),
        (&long(1009), &format!("send bob {}", "m".repeat(1009))),
        // A missing colon or an empty side is found first.
        ("SMSG", "NoColon"),
        ("SMSGbob", "NoColon"),
        ("SMSG!", "NoColon"),
        ("SMSG:", "EmptySide"),
        ("SMSG:hello", "EmptySide"),
        ("SMSG::hello", "EmptySide"),
        ("SMSGbob:", "EmptySide"),
        ("SMSG !:", "EmptySide"),
        // Next comes a second colon.
        ("SMSGbob:a:b", "TooManyColons"),
        ("SMSGbob::", "TooManyColons"),
        ("SMSGbob:a:\u{7}", "TooManyColons"),
        ("SMSG!:a:b", "TooManyColons"),
        (&format!("{}:", long(1009)), "TooManyColons"),
        // Next come the length and the characters of the message.
        (&long(1010), "TooLong"),
        ("SMSGbob:\u{7}", "ControlCharacter"),
        ("SMSG!:\u{7}", "ControlCharacter"),
        ("SMSGbob:\u{85}", "ControlCharacter"),
        // The recipient's name is checked last.
        ("SMSG!:hello", "ImpossibleName"),
        ("SMSGabcdefghijk:hello", "ImpossibleName"),
        ("SMSG  bob:hello", "ImpossibleName"),
        ("SMSGbob :hello", "ImpossibleName"),
        ("SMSGb\u{0}b:hello", "ImpossibleName"),
    ]);
    assert_eq!(meaning(b"SMSGbob:\xff"), "NotUtf8");
    assert_eq!(meaning(b"SMSGbob:\xff:"), "TooManyColons");
    assert_eq!(meaning(b"SMSG\xff:hello"), "ImpossibleName");
}

#[test]
fn with_colons_allowed_the_first_one_ends_the_recipient() {
    for (line, expected) in [
        ("SMSGbob:a:b", "send bob a:b"),
        ("SMSGbob::", "send bob :"),
        ("SMSGbob::)", "send bob :)"),
        ("SMSG::a", "EmptySide"),
        ("SMSGbob:", "EmptySide"),
        ("SMSG!:a:b", "ImpossibleName"),
        ("SMSGbob:a:\u{7}", "ControlCharacter"),
    ] {
        assert_eq!(describe(Command::parse(Line::Whole(line.as_bytes()), true)), expected, "{line:?}");
    }
}

#[test]
fn an_over_long_line_is_a_bad_pdu_of_its_verb() {
    for (verb, expected) in [
        (b"USER", "bad user"),
        (b"pass", "bad pass"),
        (b"SmSg", "TooLong"),
        (b"RMSG", "bad"),
        (b"WMSG", "bad"),
        (b"TERM", "bad"),
        (b"250 ", "bad"),
        (b"\0\0\0\0", "bad"),
    ] {
        assert_eq!(describe(Command::parse(Line::Overlong(*verb), false)), expected);
        assert_eq!(describe(Command::parse(Line::Overlong(*verb), true)), expected);
    }
}

#[test]
fn help_ignores_what_follows_it_and_a_bad_line_has_a_cause() {
    check(&[("HELP", "help"), ("help", "help"), ("HELP me", "help"), ("HELPme", "help"), ("HEL", "bad")]);
    let fault = |line| match Command::parse(line, false) {
        Command::Bad(fault) => fault,
        other => panic!("{other:?}"),
    };
    for (line, expected) in [
        ("", PduFault::Empty),
        (" ", PduFault::UnknownVerb),
        ("QUIT", PduFault::UnknownVerb),
        ("2501", PduFault::UnknownVerb),
        ("25", PduFault::UnknownVerb),
        ("RMSG all", PduFault::Window),
        ("RMSG257", PduFault::Window),
        ("WMSG", PduFault::Seconds),
        ("WMSG0", PduFault::Seconds),
    ] {
        assert_eq!(fault(Line::Whole(line.as_bytes())), expected, "{line:?}");
    }
    for verb in [b"HELP", b"RMSG", b"250 ", b"TERM"] {
        assert_eq!(fault(Line::Overlong(*verb)), PduFault::Overlong);
    }
}

#[test]
fn verbs_with_codes_of_their_own() {
    assert_eq!(Verb::of(b"uSER bob"), Verb::User);
    assert_eq!(Verb::of(b"PASS"), Verb::Pass);
    assert_eq!(Verb::of(b"smsgbob:x"), Verb::Smsg);
    for other in [b"USE".as_slice(), b"", b"RMSG", b"TERM", b" USER", b"\xff\xff\xff\xff"] {
        assert_eq!(Verb::of(other), Verb::Other);
    }
}

proptest! {
    #[test]
    fn no_line_breaks_the_parser(
        verb in prop_oneof![
            prop::sample::select(vec!["USER", "PASS", "SMSG", "RMSG", "WMSG", "TERM", "HELP", "250", "550", "201", "smsg "])
                .prop_map(|v| v.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ],
        rest in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 1000..1020),
            "[a-z]{0,11}:?[ -~é\t]{0,30}".prop_map(String::into_bytes),
        ],
        allow_colon: bool,
    ) {
        let line = [verb, rest].concat();
        match Command::parse(Line::Whole(&line), allow_colon) {
            Command::Send { body, .. } => {
                prop_assert!(is_valid_message(body));
                prop_assert!(line.ends_with(body));
                prop_assert!(allow_colon || !body.contains(&b':'));
            }
            Command::Receive { window } => prop_assert!((1..=256).contains(&window)),
            Command::Wait { seconds } => prop_assert!((1..=300).contains(&seconds)),
            _ => {}
        }
    }
}
