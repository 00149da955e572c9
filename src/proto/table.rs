//! The state table as the code has it: every state with every event, taken from [`transition`] itself, so that the table
//! of docs/protocol.md section 5 and its picture cannot say anything else than what runs.

mod samples;

use std::collections::BTreeMap;
use std::fmt::Write;

pub use self::samples::{KINDS, Kind, SITUATIONS, Situation};
use super::command::Verb;
use super::dfa::{Action, Dialect, Say, State, Step, transition};
use super::reply::Reply;

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub situation: Situation,
    pub kind: Kind,
    /// The name of the state that follows.
    pub next: &'static str,
    pub say: Say,
    /// The session ends.
    pub closes: bool,
}

/// One row of the contract's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub state: String,
    pub on: String,
    pub next: String,
    pub reply: String,
    /// The cells that the row speaks of.
    pub cells: Vec<(Situation, Kind)>,
}

/// Every situation with every kind of event.
pub fn matrix(dialect: Dialect) -> Vec<Cell> {
    let every = SITUATIONS.into_iter().flat_map(|situation| KINDS.into_iter().map(move |kind| (situation, kind)));
    every.map(|(situation, kind)| cell(situation, kind, dialect)).collect()
}

/// The table of docs/protocol.md section 5. What a row is called is written here; where it leads and what is said comes
/// from [`transition`].
pub fn contract_rows() -> Vec<Row> {
    use {Kind as K, Situation as S};
    let refused = KINDS.into_iter().filter_map(|kind| match kind {
        K::Refused(_) => Some((S::SendingMessage, kind)),
        // What the bytes alone tell: Sending Message is passed through at once.
        K::BadSend(_) | K::Late(Verb::Smsg) => Some((S::ProcessCommand, kind)),
        _ => None,
    });
    let refused: Vec<(Situation, Kind)> = refused.collect();
    let receiving = [S::Waiting, S::Reading, S::MoreToCome, S::LastSent];
    let with = |situations: &[Situation], kinds: &[Kind]| -> Vec<(Situation, Kind)> {
        situations.iter().flat_map(|s| kinds.iter().map(|k| (*s, *k))).collect()
    };
    let mut rows = vec![
        row("USER, well formed", &[(S::Idle, K::User)]),
        row("USER, malformed, or its timeout", &with(&[S::Idle], &[K::BadUser, K::Late(Verb::User)])),
        row("PASS", &[(S::UserValidated, K::Pass)]),
        row("PASS malformed, or its timeout", &with(&[S::UserValidated], &[K::BadPass, K::Late(Verb::Pass)])),
        row("credentials correct", &[(S::AuthenticationValidated, K::Verified(true))]),
        row("anything else", &[(S::AuthenticationValidated, K::Verified(false))]),
        row("SMSG", &[(S::ProcessCommand, K::Send)]),
        row("stored", &[(S::SendingMessage, K::Stored)]),
        row_of_codes(&refused),
        row("RMSG, WMSG", &with(&[S::ProcessCommand], &[K::Receive, K::Wait])),
        row("250, more to come", &[(S::MoreToCome, K::Acknowledge)]),
        last_acknowledged(),
        row("nothing there", &[with(&receiving, &[K::Nothing]), with(&receiving[..2], &[K::Finished])].concat()),
        row("550 from the client", &with(&[S::MoreToCome, S::LastSent], &[K::Reject])),
        row("no 250 in time, or a failing store", &with(&receiving, &[K::AckTimeout, K::StoreFailed])),
        row("201", &[(S::ErrorProcessing, K::Recover)]),
    ];
    rows.push(every_state("TERM", |kind| kind == K::Terminate, &rows));
    rows.push(every_state("any other PDU", Kind::is_other_pdu, &rows));
    rows
}

/// The picture of the table in the language of Graphviz. What only gets 500 is left out, and HELP, which leads nowhere.
pub fn dot(dialect: Dialect) -> String {
    let cells: Vec<Cell> = matrix(dialect).into_iter().filter(|cell| cell.is_drawn(dialect)).collect();
    let mut edges: BTreeMap<(usize, usize), BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for cell in &cells {
        let place = |name| SITUATIONS.iter().position(|s| s.state_name() == name).unwrap_or_default();
        let labels = edges.entry((place(cell.situation.state_name()), place(cell.next))).or_default();
        let kinds = labels.entry(cell.drawn()).or_default();
        if !kinds.contains(&cell.kind.name()) {
            kinds.push(cell.kind.name());
        }
    }
    let mut picture = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box, style=rounded];\n", dialect.name());
    for state in reachable(dialect) {
        _ = writeln!(picture, "  \"{state}\";");
    }
    for ((from, to), labels) in edges {
        let lines: Vec<String> = labels.iter().map(|(said, kinds)| format!("{} / {said}", kinds.join("; "))).collect();
        let name = |place: usize| SITUATIONS.get(place).map_or("", |s| s.state_name());
        _ = writeln!(picture, "  \"{}\" -> \"{}\" [label=\"{}\"];", name(from), name(to), lines.join("\\n"));
    }
    picture.push_str("}\n");
    picture
}

/// The states that a session of this dialect can be in.
pub fn reachable(dialect: Dialect) -> Vec<&'static str> {
    let cells = matrix(dialect);
    let mut found = vec![State::Idle.name()];
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

fn cell(situation: Situation, kind: Kind, dialect: Dialect) -> Cell {
    let Step { state, say, action } = transition(situation.state(), kind.event(), dialect);
    Cell { situation, kind, next: state.name(), say, closes: matches!(action, Action::Close) }
}

/// A row whose cells all have to agree; if they do not, all that they say is in it.
fn row(on: &str, cells: &[(Situation, Kind)]) -> Row {
    let steps: Vec<Cell> = cells.iter().map(|(situation, kind)| cell(*situation, *kind, Dialect::Cp)).collect();
    Row {
        state: all(steps.iter().map(|c| c.situation.state_name().to_owned())),
        on: on.to_owned(),
        next: all(steps.iter().map(|c| c.next.to_owned())),
        reply: all(steps.iter().map(Cell::said)),
        cells: cells.to_vec(),
    }
}

/// The row of what is wrong with an SMSG: named after the codes.
fn row_of_codes(cells: &[(Situation, Kind)]) -> Row {
    let mut codes: Vec<String> = cells.iter().map(|(s, k)| cell(*s, *k, Dialect::Cp).said()).collect();
    codes.sort();
    codes.dedup();
    let last = codes.pop().unwrap_or_default();
    let on = format!("{} or {last}", codes.join(", "));
    let state = Situation::SendingMessage.state_name().to_owned();
    Row { state, reply: "that code".to_owned(), ..row(&on, cells) }
}

/// The last 250 takes two steps: the acknowledgement, and the end when its delete is on stable storage.
fn last_acknowledged() -> Row {
    let first = transition(Situation::LastSent.state(), Kind::Acknowledge.event(), Dialect::Cp);
    let over = matches!(&first.state, State::ReceivingMessage { download, .. } if download.exhausted());
    let second = transition(first.state, Kind::Finished.event(), Dialect::Cp);
    let taken = Situation::LastSent.state_name();
    Row {
        state: taken.to_owned(),
        on: "250 for the last".to_owned(),
        next: if over { second.state.name() } else { taken }.to_owned(),
        reply: said(second.say, false),
        cells: [Situation::MoreToCome, Situation::LastSent]
            .into_iter()
            .flat_map(|s| [(s, Kind::Finished), (s, Kind::Acknowledge)])
            .collect(),
    }
}

/// A row for all states that take PDUs, but for the cells that have rows of their own.
fn every_state(on: &str, which: impl Fn(Kind) -> bool, rows: &[Row]) -> Row {
    let known = |cell: &Cell| rows.iter().any(|row| row.cells.contains(&(cell.situation, cell.kind)));
    let cells: Vec<Cell> = matrix(Dialect::Cp)
        .into_iter()
        .filter(|cell| which(cell.kind) && cell.situation.answers() && !known(cell))
        .filter(|cell| !cell.is_ignored_acknowledgement())
        .collect();
    let stays = cells.iter().all(|cell| cell.next == cell.situation.state_name());
    let mut states: Vec<&str> = cells.iter().map(|cell| cell.situation.state_name()).collect();
    states.dedup();
    let taking = SITUATIONS.iter().filter(|s| s.answers()).map(|s| s.state_name());
    Row {
        state: if taking.clone().all(|s| states.contains(&s)) { "every state".to_owned() } else { states.join(", ") },
        on: on.to_owned(),
        next: if stays { "the same".to_owned() } else { all(cells.iter().map(|cell| cell.next.to_owned())) },
        reply: all(cells.iter().map(Cell::said)),
        cells: cells.iter().map(|cell| (cell.situation, cell.kind)).collect(),
    }
}

/// What all of `words` are; each once, if they differ.
fn all(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    words.sort();
    words.dedup();
    words.join(" | ")
}

fn said(say: Say, closes: bool) -> String {
    match say {
        Say::Nothing if closes => "none: what was answered before is still sent, then the server closes".to_owned(),
        Say::Nothing => "-".to_owned(),
        Say::Reply(reply) => reply.code().to_owned(),
        Say::Messages => "RMSG…".to_owned(),
        Say::Later => "later".to_owned(),
    }
}

impl Cell {
    /// What the server says, as the contract writes it.
    pub fn said(&self) -> String {
        said(self.say, self.closes)
    }

    /// Whether nothing happens at all.
    pub fn is_silent(&self) -> bool {
        self.say == Say::Nothing && !self.closes && self.next == self.situation.state_name()
    }

    /// HELP changes no state, and has no row of its own.
    pub fn is_help(&self) -> bool {
        self.kind == Kind::Help
            && matches!(self.say, Say::Reply(Reply::Help(_)))
            && self.next == self.situation.state_name()
    }

    /// A 250 or 550 that nothing waits for is ignored from Process Command on.
    pub fn is_ignored_acknowledgement(&self) -> bool {
        matches!(self.kind, Kind::Acknowledge | Kind::Reject) && self.is_silent()
    }

    /// What the server does, in a word.
    pub fn drawn(&self) -> String {
        if self.closes { "closes".to_owned() } else { self.said() }
    }

    fn is_drawn(&self, dialect: Dialect) -> bool {
        let states = reachable(dialect);
        let said = !matches!(self.say, Say::Nothing | Say::Later | Say::Reply(Reply::BadCommand(..) | Reply::Help(_)));
        states.contains(&self.situation.state_name()) && (said || self.next != self.situation.state_name())
    }
}
