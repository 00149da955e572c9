//! What a run can find wrong. The kind counts: a twin has to fail for what is wrong with it, and a failure that is made
//! small has to stay the failure that it was.

use std::fmt;

use crate::ledger::Kind;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sort {
    /// A rule of the ledger, by its own name.
    Promise(Kind),
    /// A client read other bytes than its session had said.
    Altered,
    /// A line that nothing asked for, or another than had to come.
    Reply,
    /// A client left in order, or the server did, and an answer is missing.
    Unanswered,
    /// Something happened before its time.
    Early,
    /// Something should have happened before now.
    Overdue,
    /// An administrator was told nothing, or what cannot be.
    Administration,
    /// A session did not come over to the successor, though it could.
    Handover,
    /// A connection that is open for its client and is no session's.
    Orphan,
    /// The engine and those around it do not agree.
    Bookkeeping,
    /// Memory or a limit.
    Bound,
    /// Nothing comes to an end.
    Stuck,
    Panic,
}

const SORTS: [Sort; 27] = [
    Sort::Promise(Kind::Invented),
    Sort::Promise(Kind::WrongSender),
    Sort::Promise(Kind::WrongRecipient),
    Sort::Promise(Kind::Refused),
    Sort::Promise(Kind::FromNowhere),
    Sort::Promise(Kind::Again),
    Sort::Promise(Kind::TwiceInDownload),
    Sort::Promise(Kind::Order),
    Sort::Promise(Kind::Lost),
    Sort::Promise(Kind::TooLate),
    Sort::Promise(Kind::TwoDownloads),
    Sort::Promise(Kind::Window),
    Sort::Promise(Kind::EarlyEnd),
    Sort::Promise(Kind::Unasked),
    Sort::Promise(Kind::Count),
    Sort::Altered,
    Sort::Reply,
    Sort::Unanswered,
    Sort::Early,
    Sort::Overdue,
    Sort::Administration,
    Sort::Handover,
    Sort::Orphan,
    Sort::Bookkeeping,
    Sort::Bound,
    Sort::Stuck,
    Sort::Panic,
];

impl Sort {
    pub fn named(name: &str) -> Option<Sort> {
        SORTS.into_iter().find(|sort| sort.to_string() == name)
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sort::Promise(kind) => write!(f, "{kind:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub sort: Sort,
    pub text: String,
}

impl Problem {
    pub fn new(sort: Sort, text: impl Into<String>) -> Problem {
        Problem { sort, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sort {
            // The ledger's own words begin with it.
            Sort::Promise(kind) if self.text.starts_with(&format!("{kind:?}")) => f.write_str(&self.text),
            sort => write!(f, "{sort}: {}", self.text),
        }
    }
}
