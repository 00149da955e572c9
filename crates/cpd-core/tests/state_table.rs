//! The state table of docs/protocol.md section 5 against the code: the same rows, no cell missing, nothing that happens
//! and is not in the table; and the picture of it.

use std::collections::BTreeSet;
use std::fs;

use cp_proto::reply::Reply;
use cpd_core::dfa::{Dialect, Response, StateName};
use cpd_core::table::{Cell, EVENT_KINDS, EventKind, SITUATIONS, Situation, contract_rows, dot, matrix, reachable};

const STATES: [&str; 7] = [
    "Idle",
    "User Validated",
    "Authentication Validated",
    "Process Command",
    "Sending Message",
    "Receiving Message",
    "Error Processing",
];
const DIALECTS: [Dialect; 2] = [Dialect::Cp, Dialect::Classic];

/// The four columns of the table of section 5.
fn contract() -> Vec<[String; 4]> {
    let text = fs::read_to_string("../../docs/protocol.md").expect("the contract");
    let section = text.split("\n## ").find(|section| section.starts_with("5. ")).expect("section 5");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| {
        let columns: Vec<String> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        columns.try_into().expect("four columns")
    })
    .collect()
}

#[test]
fn the_contract_and_the_code_have_the_same_table() {
    let code: Vec<[String; 4]> = contract_rows().into_iter().map(|r| [r.state, r.on, r.next, r.reply]).collect();
    let contract = contract();
    assert!(contract.len() >= 18, "the table was not found");
    for row in &contract {
        assert!(code.contains(row), "in the contract, not in the code: {row:?}");
    }
    for row in &code {
        assert!(contract.contains(row), "in the code, not in the contract: {row:?}");
    }
    assert_eq!(code.len(), contract.len());
}

#[test]
fn every_state_has_an_entry_for_every_event() {
    let states: BTreeSet<&str> = SITUATIONS.iter().map(|s| s.state_name()).collect();
    assert_eq!(states, BTreeSet::from(STATES));
    for dialect in DIALECTS {
        let cells = matrix(dialect);
        assert_eq!(cells.len(), SITUATIONS.len() * EVENT_KINDS.len());
        for situation in SITUATIONS {
            for kind in EVENT_KINDS {
                let found = cells.iter().filter(|cell| cell.situation == situation && cell.kind == kind).count();
                assert_eq!(found, 1, "{situation:?} {kind:?}");
            }
        }
    }
}

/// The variants of an enum, read from its source.
fn variants(file: &str, name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(file).expect("a source");
    let body = text.split_once(&format!("pub enum {name} {{\n")).expect("an enum").1;
    let lines = body.lines().take_while(|line| *line != "}");
    let variants = lines.filter(|line| line.starts_with("    ") && line.as_bytes()[4].is_ascii_uppercase());
    variants.map(|line| line.trim().chars().take_while(|c| c.is_alphanumeric()).collect()).collect()
}

#[test]
fn no_kind_of_event_is_forgotten() {
    let head = |text: String| text.split('(').next().unwrap_or_default().to_owned();
    let inner = |of: &str| -> BTreeSet<String> {
        let all = EVENT_KINDS.iter().map(|kind| format!("{kind:?}"));
        all.filter_map(|text| Some(text.strip_prefix(of)?.strip_prefix('(')?.trim_end_matches(')').to_owned()))
            .collect()
    };
    let kinds: BTreeSet<String> = EVENT_KINDS.iter().map(|kind| head(format!("{kind:?}"))).collect();
    assert_eq!(kinds, variants("src/dfa.rs", "Event"));
    assert_eq!(inner("Bad"), variants("../cp-proto/src/command.rs", "PduFault"));
    assert_eq!(inner("BadSend"), variants("../cp-proto/src/command.rs", "SendFault"));
    assert_eq!(inner("TimedOut"), variants("../cp-proto/src/command.rs", "Verb"));
    assert_eq!(inner("Refused"), variants("src/dfa.rs", "Refusal"));
    assert_eq!(inner("Verified"), BTreeSet::from(["false".to_owned(), "true".to_owned()]));
    assert_eq!(StateName::ALL.map(StateName::as_str), STATES);
}

#[test]
fn nothing_happens_that_is_not_in_the_table() {
    let rows = contract_rows();
    let in_table = |cell: &Cell| rows.iter().any(|row| row.cells.contains(&(cell.situation, cell.kind)));
    for cell in matrix(Dialect::Cp) {
        let receiving = cell.situation.state_name() == "Receiving Message";
        // The messages of an RMSG that was taken before.
        let goes_on = receiving && cell.next == "Receiving Message" && cell.response == Response::Messages;
        let waits = cell.response == Response::Deferred && !cell.situation.answers_pdus();
        // TERM where PDUs wait is the end that a timer brings.
        let is_end = cell.closes && !cell.situation.answers_pdus();
        let explained = in_table(&cell) || cell.is_ignored() || goes_on || waits || is_end || cell.is_help();
        assert!(explained, "not in the contract: {cell:?}");
    }
}

#[test]
fn help_is_answered_where_pdus_are_and_changes_nothing() {
    for cell in matrix(Dialect::Cp).iter().filter(|cell| cell.kind == EventKind::Help) {
        let waits = cell.response == Response::Deferred && cell.next == cell.situation.state_name();
        assert!(if cell.situation.answers_pdus() { cell.is_help() } else { waits }, "{cell:?}");
    }
    let text = fs::read_to_string("../../docs/protocol.md").expect("the contract");
    assert!(text.contains("HELP changes no state"));
}

#[test]
fn acknowledgements_are_ignored_from_process_command_on() {
    for cell in matrix(Dialect::Cp).iter().filter(|cell| cell.is_ignored_acknowledgement()) {
        let ignores = [Situation::ProcessCommand, Situation::Waiting, Situation::ErrorProcessing];
        assert!(ignores.contains(&cell.situation), "{cell:?}");
    }
    let code = [EventKind::Acknowledge, EventKind::Reject];
    let waiting = |cell: &&Cell| cell.situation == Situation::Waiting && code.contains(&cell.kind);
    let cells = matrix(Dialect::Cp);
    assert!(cells.iter().filter(waiting).all(Cell::is_ignored_acknowledgement), "while WMSG waits");
}

#[test]
fn what_is_printed_tells_everything_apart() {
    let names: BTreeSet<String> = EVENT_KINDS.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), EVENT_KINDS.len());
    let situations: BTreeSet<_> = SITUATIONS.iter().map(|s| (s.state_name(), s.detail())).collect();
    assert_eq!(situations.len(), SITUATIONS.len());
    for situation in SITUATIONS {
        let alone = SITUATIONS.iter().filter(|s| s.state_name() == situation.state_name()).count() == 1;
        assert_eq!(situation.detail().is_empty(), alone, "{situation:?}");
    }
}

#[test]
fn the_dialects_differ_by_error_processing_alone() {
    for (cp, classic) in matrix(Dialect::Cp).into_iter().zip(matrix(Dialect::Classic)) {
        let next = match cp.next {
            "Error Processing" if cp.situation != Situation::ErrorProcessing => "Process Command",
            same => same,
        };
        assert_eq!(Cell { next, ..cp }, classic);
    }
    assert_eq!(reachable(Dialect::Cp).len(), 7);
    assert!(!reachable(Dialect::Classic).contains(&"Error Processing"));
}

#[test]
fn the_picture_shows_every_state_and_every_edge() {
    for dialect in DIALECTS {
        let picture = dot(dialect);
        let reachable = reachable(dialect);
        for state in STATES {
            let named = picture.lines().any(|line| line == format!("  \"{state}\";"));
            assert_eq!(named, reachable.contains(&state), "{state}\n{picture}");
        }
        for cell in matrix(dialect).iter().filter(|cell| reachable.contains(&cell.situation.state_name())) {
            let from = cell.situation.state_name();
            let edge = format!("  \"{from}\" -> \"{}\" [", cell.next);
            let said = !matches!(
                cell.response,
                Response::Nothing | Response::Deferred | Response::Reply(Reply::BadCommand(..) | Reply::Help(_))
            );
            if cell.next != from || said {
                let line = picture.lines().find(|line| line.starts_with(&edge));
                let line = line.unwrap_or_else(|| panic!("no edge for {cell:?}\n{picture}"));
                assert!(line.contains(&cell.kind.name()) && line.contains(&cell.edge_label()), "{cell:?}\n{line}");
            }
        }
        let logs_out = picture.lines().find(|line| line.starts_with("  \"Process Command\" -> \"Idle\""));
        assert_eq!(logs_out, Some("  \"Process Command\" -> \"Idle\" [label=\"TERM / closes\"];"));
        // A 500 that leads nowhere would be in every state.
        assert!(!picture.contains("500"), "{picture}");
        assert!(!picture.contains("\"Idle\" -> \"Process Command\""), "{picture}");
        assert_eq!(picture.matches('{').count(), picture.matches('}').count());
    }
}
