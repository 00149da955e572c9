//! The state table in a printable form: every state with every event, obtained by calling [`transition`] itself. Tests
//! compare it with the table of docs/protocol.md section 5, and its picture is made from it.

#[cfg(test)]
mod reply_texts;
mod samples;

use std::collections::BTreeMap;
use std::fmt::Write;

pub use self::samples::{EVENT_KINDS, EventKind, SITUATIONS, Situation};
use cp_proto::command::Verb;
use cp_proto::reply::Reply;

use super::dfa::{Action, Dialect, Response, State, Transition, transition};

/// One cell of the matrix of situations and kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub situation: Situation,
    pub kind: EventKind,
    /// The name of the next state.
    pub next: &'static str,
    pub response: Response,
    /// Whether the session is closed.
    pub closes: bool,
}

/// One row of the table of section 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub state: String,
    pub on: String,
    pub next: String,
    pub reply: String,
    /// The cells of the matrix that the row describes.
    pub cells: Vec<(Situation, EventKind)>,
}

/// The whole matrix: every situation with every kind of event.
pub fn matrix(dialect: Dialect) -> Vec<Cell> {
    let every = SITUATIONS.into_iter().flat_map(|situation| EVENT_KINDS.into_iter().map(move |kind| (situation, kind)));
    every.map(|(situation, kind)| cell(situation, kind, dialect)).collect()
}

/// The table of docs/protocol.md section 5. The wording of each row's event is written here; its next state and its
/// reply come from [`transition`].
pub fn contract_rows() -> Vec<Row> {
    use {EventKind as K, Situation as S};
    let refused = EVENT_KINDS.into_iter().filter_map(|kind| match kind {
        K::Refused(_) => Some((S::SendingMessage, kind)),
        // Errors in the form of an SMSG are found in Process Command, without entering Sending Message.
        K::BadSend(_) | K::TimedOut(Verb::Smsg) => Some((S::ProcessCommand, kind)),
        _ => None,
    });
    let refused: Vec<(Situation, EventKind)> = refused.collect();
    let receiving = [S::Waiting, S::Reading, S::MoreToCome, S::LastSent];
    let with = |situations: &[Situation], kinds: &[EventKind]| -> Vec<(Situation, EventKind)> {
        situations.iter().flat_map(|s| kinds.iter().map(|k| (*s, *k))).collect()
    };
    let mut rows = vec![
        row("USER, well formed", &[(S::Idle, K::User)]),
        row("USER, malformed, or its timeout", &with(&[S::Idle], &[K::BadUser, K::TimedOut(Verb::User)])),
        row("PASS", &[(S::UserValidated, K::Pass)]),
        malformed_password_row(&with(&[S::UserValidated], &[K::BadPass, K::TimedOut(Verb::Pass)])),
        row("credentials correct", &[(S::AuthenticationValidated, K::Verified(true))]),
        row("anything else", &[(S::AuthenticationValidated, K::Verified(false))]),
        row("SMSG", &[(S::ProcessCommand, K::Send)]),
        row("stored", &[(S::SendingMessage, K::Stored)]),
        failed_send_row(&refused),
        row("RMSG, WMSG", &with(&[S::ProcessCommand], &[K::Receive, K::Wait])),
        row("250, more to come", &[(S::MoreToCome, K::Acknowledge)]),
        last_acknowledgement_row(),
        row("nothing there", &[with(&receiving, &[K::Nothing]), with(&receiving[..2], &[K::Finished])].concat()),
        row("550 from the client", &with(&[S::MoreToCome, S::LastSent], &[K::Reject])),
        row("no 250 in time, or a failing store", &with(&receiving, &[K::AckTimeout, K::StoreFailed])),
        row("201", &[(S::ErrorProcessing, K::Recover)]),
    ];
    rows.push(every_state_row("TERM", |kind| kind == K::Terminate, &rows));
    rows.push(every_state_row("any other PDU", EventKind::is_other_pdu, &rows));
    rows
}

/// The picture of the table in the language of Graphviz. Events that only get 500 are left out, and so is HELP, which
/// changes no state.
pub fn dot(dialect: Dialect) -> String {
    let cells: Vec<Cell> = matrix(dialect).into_iter().filter(|cell| cell.is_in_picture(dialect)).collect();
    let mut edges: BTreeMap<(usize, usize), BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for cell in &cells {
        let index = |name| SITUATIONS.iter().position(|s| s.state_name() == name).unwrap_or_default();
        let labels = edges.entry((index(cell.situation.state_name()), index(cell.next))).or_default();
        let kinds = labels.entry(cell.edge_label()).or_default();
        if !kinds.contains(&cell.kind.name()) {
            kinds.push(cell.kind.name());
        }
    }
    let name = match dialect {
        Dialect::Cp => "cp",
        Dialect::Classic => "classic",
    };
    let mut picture = format!("digraph {name} {{\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
    for state in reachable(dialect) {
        _ = writeln!(picture, "  \"{state}\";");
    }
    for ((from, to), labels) in edges {
        let lines: Vec<String> = labels.iter().map(|(said, kinds)| format!("{} / {said}", kinds.join("; "))).collect();
        let name = |index: usize| SITUATIONS.get(index).map_or("", |s| s.state_name());
        _ = writeln!(picture, "  \"{}\" -> \"{}\" [label=\"{}\"];", name(from), name(to), lines.join("\\n"));
    }
    picture.push_str("}\n");
    picture
}

/// The names of the states that a session of this dialect can be in.
pub fn reachable(dialect: Dialect) -> Vec<&'static str> {
    let cells = matrix(dialect);
    let mut found = vec![State::Idle.name().as_str()];
    let mut seen = 0;
    while let Some(state) = found.get(seen).copied() {
        seen += 1;
        for cell in cells.iter().filter(|cell| cell.situation.state_name() == state) {
            if !found.contains(&cell.next) {
                found.push(cell.next);
            }
        }
    }
    found
}

fn cell(situation: Situation, kind: EventKind, dialect: Dialect) -> Cell {
    let Transition { state, response, action } = transition(situation.state(), kind.event(), dialect);
    Cell { situation, kind, next: state.name().as_str(), response, closes: matches!(action, Action::Close) }
}

/// A row for cells that all should agree. If they do not, the row contains everything that they have.
fn row(on: &str, cells: &[(Situation, EventKind)]) -> Row {
    let steps: Vec<Cell> = cells.iter().map(|(situation, kind)| cell(*situation, *kind, Dialect::Cp)).collect();
    Row {
        state: join_distinct(steps.iter().map(|c| c.situation.state_name().to_owned())),
        on: on.to_owned(),
        next: join_distinct(steps.iter().map(|c| c.next.to_owned())),
        reply: join_distinct(steps.iter().map(Cell::said)),
        cells: cells.to_vec(),
    }
}

/// The row for an SMSG that is not stored. Its event is the list of the reply codes.
fn failed_send_row(cells: &[(Situation, EventKind)]) -> Row {
    let mut codes: Vec<String> = cells.iter().map(|(s, k)| cell(*s, *k, Dialect::Cp).said()).collect();
    codes.sort();
    codes.dedup();
    let last = codes.pop().unwrap_or_default();
    let on = format!("{} or {last}", codes.join(", "));
    let state = Situation::SendingMessage.state_name().to_owned();
    Row { state, reply: "that code".to_owned(), ..row(&on, cells) }
}

/// The row for a malformed PASS. It combines two events: the PASS, and the end of the dummy verification.
fn malformed_password_row(passwords: &[(Situation, EventKind)]) -> Row {
    let both = |(situation, kind): &(Situation, EventKind), ok| {
        let first = transition(situation.state(), kind.event(), Dialect::Cp);
        transition(first.state, EventKind::Verified(ok).event(), Dialect::Cp)
    };
    let ends: Vec<Transition> = passwords.iter().flat_map(|cell| [true, false].map(|ok| both(cell, ok))).collect();
    let verified = [true, false].map(|ok| (Situation::MalformedPassword, EventKind::Verified(ok)));
    Row {
        next: join_distinct(ends.iter().map(|end| end.state.name().as_str().to_owned())),
        reply: join_distinct(ends.iter().map(|end| said(end.response, false))),
        cells: [passwords, &verified].concat(),
        ..row("PASS malformed, or its timeout", passwords)
    }
}

/// The row for the 250 of the last message. It combines two events: the acknowledgement, and the end of the download
/// when its delete is on stable storage.
fn last_acknowledgement_row() -> Row {
    let first = transition(Situation::LastSent.state(), EventKind::Acknowledge.event(), Dialect::Cp);
    let over = matches!(&first.state, State::ReceivingMessage { download, .. } if download.exhausted());
    let second = transition(first.state, EventKind::Finished.event(), Dialect::Cp);
    let taken = Situation::LastSent.state_name();
    Row {
        state: taken.to_owned(),
        on: "250 for the last".to_owned(),
        next: if over { second.state.name().as_str() } else { taken }.to_owned(),
        reply: said(second.response, false),
        cells: [Situation::MoreToCome, Situation::LastSent]
            .into_iter()
            .flat_map(|s| [(s, EventKind::Finished), (s, EventKind::Acknowledge)])
            .collect(),
    }
}

/// A row for all states in which PDUs are answered, without the cells that have rows of their own.
fn every_state_row(on: &str, which: impl Fn(EventKind) -> bool, rows: &[Row]) -> Row {
    let known = |cell: &Cell| rows.iter().any(|row| row.cells.contains(&(cell.situation, cell.kind)));
    let cells: Vec<Cell> = matrix(Dialect::Cp)
        .into_iter()
        .filter(|cell| which(cell.kind) && cell.situation.answers_pdus() && !known(cell))
        .filter(|cell| !cell.is_ignored_acknowledgement())
        .collect();
    let stays = cells.iter().all(|cell| cell.next == cell.situation.state_name());
    let mut states: Vec<&str> = cells.iter().map(|cell| cell.situation.state_name()).collect();
    states.dedup();
    let taking = SITUATIONS.iter().filter(|s| s.answers_pdus()).map(|s| s.state_name());
    Row {
        state: if taking.clone().all(|s| states.contains(&s)) { "every state".to_owned() } else { states.join(", ") },
        on: on.to_owned(),
        next: if stays { "the same".to_owned() } else { join_distinct(cells.iter().map(|cell| cell.next.to_owned())) },
        reply: join_distinct(cells.iter().map(Cell::said)),
        cells: cells.iter().map(|cell| (cell.situation, cell.kind)).collect(),
    }
}

/// The word that all of `words` are, or a list of the different ones.
fn join_distinct(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    words.sort();
    words.dedup();
    words.join(" | ")
}

/// What the server sends, in the words of section 5.
fn said(response: Response, closes: bool) -> String {
    match response {
        Response::Nothing if closes => {
            "none: what was answered before is still sent, then the server closes".to_owned()
        }
        Response::Nothing => "-".to_owned(),
        Response::Reply(reply) => reply.code().to_owned(),
        Response::Messages => "RMSG…".to_owned(),
        Response::Deferred => "later".to_owned(),
    }
}

impl Cell {
    /// What the server sends, in the words of section 5.
    pub fn said(&self) -> String {
        said(self.response, self.closes)
    }

    /// Whether nothing happens at all.
    pub fn is_ignored(&self) -> bool {
        self.response == Response::Nothing && !self.closes && self.next == self.situation.state_name()
    }

    /// Whether this is a HELP that is answered and changes no state. Such a cell has no row of its own.
    pub fn is_help(&self) -> bool {
        self.kind == EventKind::Help
            && matches!(self.response, Response::Reply(Reply::Help(_)))
            && self.next == self.situation.state_name()
    }

    /// Whether this is a 250 or 550 that nothing waits for and that is ignored, as from Process Command on (section 5).
    pub fn is_ignored_acknowledgement(&self) -> bool {
        matches!(self.kind, EventKind::Acknowledge | EventKind::Reject) && self.is_ignored()
    }

    /// What the server does, in a word or two, for the picture.
    pub fn edge_label(&self) -> String {
        if self.closes { "closes".to_owned() } else { self.said() }
    }

    /// Whether the cell is in the picture.
    fn is_in_picture(&self, dialect: Dialect) -> bool {
        let states = reachable(dialect);
        let said = !matches!(
            self.response,
            Response::Nothing | Response::Deferred | Response::Reply(Reply::BadCommand(..) | Reply::Help(_))
        );
        states.contains(&self.situation.state_name()) && (said || self.next != self.situation.state_name())
    }
}
