//! The replies against docs/protocol.md section 4.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::proto::dfa::{Dialect, Say};
use crate::proto::table::matrix;

/// The codes and texts of the contract's table.
fn contract() -> Vec<String> {
    let text = include_str!("../../../docs/protocol.md");
    let section = text.split("\n## ").find(|section| section.starts_with("4. ")).expect("section 4");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let texts = rows.map(|row| {
        let mut columns = row.trim_matches('|').split(" | ").map(str::trim);
        format!("{} {}", columns.next().expect("a code"), columns.next().expect("a text"))
    });
    // What is marked so is not there yet.
    texts.filter(|text| !text.contains("[not yet]")).map(|text| text.replace(" **[ext]**", "")).collect()
}

/// Every reply that a client can get, and whether Error Processing follows it: those of the state table, and those that
/// are said to what no session is for.
fn said() -> Vec<(Reply, bool)> {
    let mut said: Vec<(Reply, bool)> = Vec::new();
    for dialect in [Dialect::Cp, Dialect::Classic] {
        for cell in matrix(dialect) {
            if let Say::Reply(reply) = cell.say {
                said.push((reply, reply.is_failure() && cell.next == "Error Processing"));
            }
        }
    }
    for stage in [Stage::Idle, Stage::UserValidated] {
        said.push((Reply::BadCommand(stage, Why::Http), false));
        said.push((Reply::BadCommand(stage, Why::Overlong), false));
    }
    said.push((Reply::BadCommand(Stage::Idle, Why::Crowded), false));
    said.push((Reply::BadCommand(Stage::UserValidated, Why::TooManySessions), false));
    said
}

fn pdu(reply: Reply, recover: bool) -> String {
    let mut out = b"before".to_vec();
    reply.write(recover, &mut out);
    let line = out.strip_prefix(b"before").and_then(|l| l.strip_suffix(b"\r\n")).expect("appended, with CRLF");
    String::from_utf8(line.to_vec()).expect("ASCII")
}

#[test]
fn codes_and_texts_are_those_of_the_contract() {
    let code: Vec<&str> = ALL.iter().map(|reply| reply.heading()).collect();
    assert_eq!(code, contract());
    let codes: BTreeSet<&str> = ALL.iter().map(|reply| reply.code()).collect();
    assert_eq!(codes.len(), ALL.len());
    assert!(codes.iter().all(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit())));
}

#[test]
fn each_is_one_short_line_that_begins_as_the_contract_has_it() {
    for (reply, recover) in said() {
        let line = pdu(reply, recover);
        assert!(line.starts_with(reply.heading()), "{line}");
        assert!(ALL.iter().any(|known| known.heading() == reply.heading()), "{line}");
        assert!(line.len() <= TEXT_MAX_BYTES && line.bytes().all(|b| (0x20..0x7f).contains(&b)), "{line}");
        assert!(!line.ends_with([' ', ';', ':']) && !line.contains("; ;") && !line.contains(": ;"), "{line}");
        // Who has to recover is told how; in the classic dialect nobody has to.
        assert_eq!(line.contains("; send 201") && reply.is_failure(), recover, "{line}");
    }
}

#[test]
fn each_cause_in_each_state_has_a_text_of_its_own() {
    let mut texts: BTreeMap<String, Reply> = BTreeMap::new();
    for (reply, recover) in said() {
        let known = texts.entry(pdu(reply, recover)).or_insert(reply);
        // What closes the connection needs no word of what would be next.
        let closes = |reply| matches!(reply, Reply::BadCommand(_, Why::Overlong | Why::Http));
        assert!(*known == reply || closes(*known) && closes(reply), "one text for {known:?} and {reply:?}");
    }
    let of = |code: &str| texts.keys().filter(|text| text.starts_with(code)).count();
    assert_eq!((of("214"), of("560"), of("565"), of("545"), of("546")), (5, 1, 1, 2, 2), "{texts:#?}");
    assert_eq!((of("540"), of("550")), (24, 4), "each with and without a way to recover: {texts:#?}");
    assert!(of("500") >= 25, "{texts:#?}");
}

#[test]
fn what_a_person_needs_to_go_on_is_in_the_text() {
    for (reply, recover, text) in [
        (Reply::BadCommand(Stage::Idle, Why::OutOfOrder), false, "500 bad command: log in with USER first"),
        (Reply::BadCommand(Stage::UserValidated, Why::OutOfOrder), false, "500 bad command: send PASS first"),
        (Reply::BadCommand(Stage::ErrorProcessing, Why::OutOfOrder), false, "500 bad command: send 201 first"),
        (
            Reply::BadCommand(Stage::ProcessCommand, Why::Window),
            false,
            "500 bad command: RMSG takes a number from 1 to 256",
        ),
        (
            Reply::BadCommand(Stage::Idle, Why::UnknownVerb),
            false,
            "500 bad command: unknown verb; log in with USER first",
        ),
        (
            Reply::SendError(NotSent::SenderFull),
            true,
            "540 error sending message: your share of that queue is used up; send 201",
        ),
        (
            Reply::SendError(NotSent::Stalled),
            true,
            "540 error sending message: not stored, the disk does not answer; send 201",
        ),
        (
            Reply::SendError(NotSent::Unknown),
            true,
            "540 error sending message: not known to be stored, retry may double; send 201",
        ),
        (Reply::SendError(NotSent::NoRoom), true, "540 error sending message: no room; send 201 to go on, TERM to end"),
        (Reply::SendError(NotSent::NoRoom), false, "540 error sending message: no room"),
        (Reply::TooManyColons, true, "546 too many : characters found in PDU: this server takes one colon; send 201"),
        (Reply::NoSuchUser, true, "545 receiver user does not exist; send 201 to go on, TERM to end"),
        (Reply::UserError, false, "560 error sending username"),
        (Reply::AuthError, false, "565 error authenticating user"),
    ] {
        assert_eq!(pdu(reply, recover), text);
    }
}

/// The verbs of section 3 that a state takes, as the state table has them.
#[test]
fn help_names_the_verbs_that_its_state_takes_and_no_other() {
    let verbs = ["USER", "PASS", "SMSG", "RMSG", "WMSG", "250", "550", "201", "HELP", "TERM"];
    let replies: Vec<Reply> =
        said().into_iter().map(|(reply, _)| reply).filter(|reply| reply.code() == "214").collect();
    for reply in replies {
        let Reply::Help(stage) = reply else { panic!("{reply:?}") };
        let text = pdu(reply, false);
        for verb in verbs {
            let taken = matrix(Dialect::Cp).into_iter().any(|cell| {
                let here = cell.situation.stage() == stage && cell.situation.answers();
                here && cell.kind.name() == verb
                    && !matches!(cell.say, Say::Reply(Reply::BadCommand(..)))
                    && !cell.is_silent()
            });
            assert_eq!(text.contains(verb), taken, "{verb} in {text}");
        }
    }
}

#[test]
fn the_longest_message_fits_a_pdu() {
    let mut out = Vec::new();
    write_message(Username::parse(b"abcdefghij").expect("a name"), &[b'm'; 1009], &mut out);
    assert_eq!(out.len(), crate::proto::limits::PDU_MAX_BYTES + 2);
    assert!(out.starts_with(b"RMSGabcdefghij:mmm") && out.ends_with(b"m\r\n"));
}
