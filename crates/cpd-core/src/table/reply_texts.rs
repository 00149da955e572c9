//! The texts of all replies that the state table gives.

use std::collections::BTreeMap;

use cp_proto::reply::{ALL, BadCommandCause, Reply, ReplyStage, SendFailure, TEXT_MAX_BYTES};

use super::matrix;
use crate::dfa::{Dialect, Response};

/// Every reply that a client can get, and whether Error Processing follows it: those of the state table, and those to
/// clients that are not served.
fn said() -> Vec<(Reply, bool)> {
    let mut said: Vec<(Reply, bool)> = Vec::new();
    for dialect in [Dialect::Cp, Dialect::Classic] {
        for cell in matrix(dialect) {
            if let Response::Reply(reply) = cell.response {
                said.push((reply, reply.is_failure() && cell.next == "Error Processing"));
            }
        }
    }
    for stage in [ReplyStage::Idle, ReplyStage::UserValidated] {
        said.push((Reply::BadCommand(stage, BadCommandCause::Http), false));
        said.push((Reply::BadCommand(stage, BadCommandCause::Overlong), false));
    }
    said.push((Reply::BadCommand(ReplyStage::Idle, BadCommandCause::TooManyConnections), false));
    said.push((Reply::BadCommand(ReplyStage::UserValidated, BadCommandCause::TooManySessions), false));
    said
}

fn pdu(reply: Reply, recover: bool) -> String {
    let mut out = b"before".to_vec();
    reply.write(recover, &mut out);
    let line = out.strip_prefix(b"before").and_then(|l| l.strip_suffix(b"\r\n")).expect("appended, with CRLF");
    String::from_utf8(line.to_vec()).expect("ASCII")
}

#[test]
fn each_is_one_short_line_that_begins_as_the_contract_has_it() {
    for (reply, recover) in said() {
        let line = pdu(reply, recover);
        assert!(line.starts_with(reply.heading()), "{line}");
        assert!(ALL.iter().any(|known| known.heading() == reply.heading()), "{line}");
        assert!(line.len() <= TEXT_MAX_BYTES && line.bytes().all(|b| (0x20..0x7f).contains(&b)), "{line}");
        assert!(!line.ends_with([' ', ';', ':']) && !line.contains("; ;") && !line.contains(": ;"), "{line}");
        // Exactly the clients that have to recover get the hint; in the classic dialect there are none.
        assert_eq!(line.contains("; send 201") && reply.is_failure(), recover, "{line}");
    }
}

#[test]
fn each_cause_in_each_state_has_a_text_of_its_own() {
    let mut texts: BTreeMap<String, Reply> = BTreeMap::new();
    for (reply, recover) in said() {
        let known = texts.entry(pdu(reply, recover)).or_insert(reply);
        // A reply before the connection closes does not depend on the state, because nothing can be sent next.
        let closes = |reply| matches!(reply, Reply::BadCommand(_, BadCommandCause::Overlong | BadCommandCause::Http));
        assert!(*known == reply || closes(*known) && closes(reply), "one text for {known:?} and {reply:?}");
    }
    let of = |code: &str| texts.keys().filter(|text| text.starts_with(code)).count();
    assert_eq!((of("214"), of("560"), of("565"), of("545"), of("546")), (5, 1, 1, 2, 2), "{texts:#?}");
    assert_eq!((of("540"), of("550")), (24, 4), "each with and without a way to recover: {texts:#?}");
    assert!(of("500") >= 25, "{texts:#?}");
}

#[test]
fn texts_say_how_to_continue() {
    for (reply, recover, text) in [
        (
            Reply::BadCommand(ReplyStage::Idle, BadCommandCause::OutOfOrder),
            false,
            "500 bad command: log in with USER first",
        ),
        (
            Reply::BadCommand(ReplyStage::UserValidated, BadCommandCause::OutOfOrder),
            false,
            "500 bad command: send PASS first",
        ),
        (
            Reply::BadCommand(ReplyStage::ErrorProcessing, BadCommandCause::OutOfOrder),
            false,
            "500 bad command: send 201 first",
        ),
        (
            Reply::BadCommand(ReplyStage::ProcessCommand, BadCommandCause::Window),
            false,
            "500 bad command: RMSG takes a number from 1 to 256",
        ),
        (
            Reply::BadCommand(ReplyStage::Idle, BadCommandCause::UnknownVerb),
            false,
            "500 bad command: unknown verb; log in with USER first",
        ),
        (
            Reply::SendError(SendFailure::SenderFull),
            true,
            "540 error sending message: your share of that queue is used up; send 201",
        ),
        (
            Reply::SendError(SendFailure::Stalled),
            true,
            "540 error sending message: not stored, the disk does not answer; send 201",
        ),
        (
            Reply::SendError(SendFailure::OutcomeUnknown),
            true,
            "540 error sending message: not known to be stored, retry may double; send 201",
        ),
        (
            Reply::SendError(SendFailure::NoRoom),
            true,
            "540 error sending message: no room; send 201 to go on, TERM to end",
        ),
        (Reply::SendError(SendFailure::NoRoom), false, "540 error sending message: no room"),
        (Reply::TooManyColons, true, "546 too many : characters found in PDU: this server takes one colon; send 201"),
        (Reply::NoSuchUser, true, "545 receiver user does not exist; send 201 to go on, TERM to end"),
        (Reply::UserError, false, "560 error sending username"),
        (Reply::AuthError, false, "565 error authenticating user"),
    ] {
        assert_eq!(pdu(reply, recover), text);
    }
}

/// Compares the text of 214 with the verbs that the state table accepts.
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
                let here = cell.situation.stage() == stage && cell.situation.answers_pdus();
                here && cell.kind.name() == verb
                    && !matches!(cell.response, Response::Reply(Reply::BadCommand(..)))
                    && !cell.is_ignored()
            });
            assert_eq!(text.contains(verb), taken, "{verb} in {text}");
        }
    }
}
