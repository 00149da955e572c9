//! What a check found wrong, by name. A twin has to be caught by the complaint that it is made for: one that fails for
//! another reason, because its world was not set up for example, shows nothing about the check.

use std::fmt;

use crate::ledger::{Kind, Ledger};

/// Complaints that are shown of one kind, and characters of each.
const SHOWN_MAX: usize = 2;
const TEXT_MAX: usize = 200;

/// What may be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// What the ledger says of the messages.
    Messages(Kind),
    /// cpd is no longer there, or has panicked.
    Ended,
    /// Nothing put cpd under the pressure that the check is about.
    NoPressure,
    /// A client was ended before its time.
    Early,
    /// After it, by more than a busy machine explains.
    Late,
    /// Not at all.
    NotEnded,
    /// A client was not answered, or not with what it should have been.
    Answer,
    /// Somebody honest was not served.
    NotServed,
    /// Somebody honest was served, but had to wait.
    Slow,
    /// Somebody got more than their share.
    Share,
    /// Ready connections were not served equally.
    Unfair,
    /// Memory has grown.
    Memory,
    /// Descriptors are open that nobody needs.
    Descriptors,
    /// The processor is kept busy by waiting.
    Spins,
    /// What was refused, dropped or lost is not what was counted.
    Miscounted,
    /// What should have been refused was not.
    NotRefused,
    /// Bytes were read of somebody who should not be read.
    Read,
}

/// Everything that was found; a check has passed when that is nothing.
#[derive(Default)]
pub struct Findings(Vec<(Wrong, String)>);

/// The figures of a check that has passed, or what it found.
pub type Verdict = Result<String, Findings>;

impl Findings {
    pub fn unless(&mut self, right: bool, wrong: Wrong, what: impl FnOnce() -> String) {
        if !right {
            self.0.push((wrong, what()));
        }
    }

    /// What the ledger says.
    pub fn look_at(&mut self, ledger: &Ledger) {
        let violations = ledger.violations();
        self.0.extend(violations.iter().map(|found| (Wrong::Messages(found.kind), format!("{:.60}", found.text))));
    }

    pub fn or(self, figures: impl FnOnce() -> String) -> Verdict {
        if self.0.is_empty() { Ok(figures()) } else { Err(self) }
    }
}

/// One thing that is wrong.
pub fn found<T>(wrong: Wrong, what: impl Into<String>) -> Result<T, Findings> {
    Err(Findings(vec![(wrong, what.into())]))
}

/// The ledger's word on what became of the messages.
pub fn messages(ledger: &Ledger) -> Result<(), Findings> {
    let mut findings = Findings::default();
    findings.look_at(ledger);
    findings.or(String::new).map(drop)
}

impl fmt::Debug for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<Wrong> = Vec::new();
        for (wrong, _) in &self.0 {
            if !kinds.contains(wrong) {
                kinds.push(*wrong);
            }
        }
        for (place, kind) in kinds.into_iter().enumerate() {
            let texts: Vec<String> =
                self.0.iter().filter(|(wrong, _)| *wrong == kind).map(|(_, t)| t.clone()).collect();
            let shown: Vec<String> =
                texts.iter().take(SHOWN_MAX).map(|text| format!("{text:.TEXT_MAX$}").replace('\n', " ")).collect();
            let apart = if place > 0 { "; " } else { "" };
            write!(f, "{apart}{kind:?}, {} times: {}", texts.len(), shown.join(", "))?;
        }
        Ok(())
    }
}

/// That a twin was caught by the first of these, and found to do nothing wrong beside these.
#[track_caller]
pub fn caught(twin: Verdict, by: &[Wrong]) -> String {
    let found = match twin {
        Ok(figures) => panic!("the twin passes, {by:?} is not noticed: {figures}"),
        Err(found) => found,
    };
    let meant = by.first().is_some_and(|first| found.0.iter().any(|(wrong, _)| wrong == first));
    let others = found.0.iter().any(|(wrong, _)| !by.contains(wrong));
    assert!(meant && !others, "the twin is not caught by {by:?}: {found:?}");
    format!("{found:?}")
}
