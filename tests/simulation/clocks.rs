//! The timers of docs/protocol.md section 6 as a client could see them that stood beside the server: when what it did had
//! arrived, when what it was told had left. Nothing may happen before its time; nothing may wait for longer than its time
//! and one tick of the wheel. It knows of nothing but bytes and the contract.

use cpd_core::limits::{OUTPUT_HIGH_WATER_BYTES, WRITE_PROGRESS_MIN_BYTES};
use cpd_core::session::settings::Timeouts;
use cpd_core::time::Millis;
use cpd_core::timer::TICK_MS;

use super::problem::{Problem, Sort};

/// Bytes of a line that are needed to know it.
const HEAD_BYTES: usize = 8;
/// What the store and the verifiers take at most for one thing, and more than that; while they have it.
const STORE_MS: Millis = 15_000;

/// In the 500 to a right password of a user who has all the sessions that one may have.
const TOO_MANY: &[u8] = b"too many sessions of this user";

/// What is under way for a connection, and can be answered when that is done only.
#[derive(Clone, Copy)]
pub struct Busy {
    pub paging: bool,
    pub verifying: bool,
}

#[derive(Default)]
pub struct Clocks {
    pub opened: Millis,
    logged_in: bool,
    pub failures: u32,
    head: Vec<u8>,
    /// The first byte of a line that has no end yet.
    begun: Option<Millis>,
    /// The rest of a line that was answered for being late.
    skipping: bool,
    /// The client has stopped in the middle of a line, with nothing else unanswered.
    pub stalling: bool,
    last_pdu: Millis,
    last_said: Millis,
    /// Since when in Error Processing; `None` while not, or not exactly known.
    in_error: Option<Millis>,
    /// The client has rejected a message: it is in Error Processing from then on, at the earliest.
    rejected: Option<Millis>,
    unacknowledged: u32,
    acknowledged: Millis,
    /// A WMSG: when it came, and for how long it waits.
    wait: Option<(Millis, Millis)>,
    pdus_behind_wait: u32,
    /// Since when there is output that the client neither took all of nor 16 KiB, and what it took since.
    output_since: Option<Millis>,
    taken: usize,
    /// Since when a password of it is with the store or the verifiers, and for how long some were.
    waits: Option<Millis>,
    waited: Millis,
    /// So much was unsent that PDUs were not taken.
    was_full: bool,
    /// It has said TERM, shut down its side, or was thrown out.
    pub may_end: bool,
    /// A timer may have ended it.
    ran_out: bool,
    /// The store has failed it.
    pub failed: bool,
    /// It has come from another process with output unsent.
    pub handed_over: bool,
}

impl Clocks {
    /// Bytes were handed to the server.
    pub fn received(&mut self, bytes: &[u8], now: Millis) {
        for byte in bytes {
            if *byte != b'\n' {
                if !self.skipping {
                    self.begun.get_or_insert(now);
                }
                if self.head.len() < HEAD_BYTES {
                    self.head.push(*byte);
                }
                continue;
            }
            self.begun = None;
            let head = std::mem::take(&mut self.head);
            if !std::mem::take(&mut self.skipping) {
                self.last_pdu = now;
                self.take(&head, now);
            }
        }
    }

    fn take(&mut self, head: &[u8], now: Millis) {
        if self.wait.is_some() {
            self.pdus_behind_wait += 1;
        }
        match head.get(..3) {
            Some(b"250") if self.unacknowledged > 0 => {
                self.unacknowledged -= 1;
                self.acknowledged = now;
            }
            Some(b"550") => (self.unacknowledged, self.rejected) = (0, Some(now)),
            Some(b"TER") => self.may_end = true,
            Some(b"WMS") => {
                let text = String::from_utf8_lossy(&head[4..]).trim().to_owned();
                self.wait = text.parse().ok().map(|seconds: Millis| (now, 1000 * seconds));
                self.pdus_behind_wait = 0;
            }
            _ => {}
        }
    }

    /// The server says a line. What is wrong with its time.
    pub fn said(&mut self, line: &[u8], now: Millis, timeouts: &Timeouts) -> Option<Problem> {
        self.last_said = now;
        let early = |what: &str, time: Millis| {
            (now < time).then(|| Problem::new(Sort::Early, format!("{what} {} ms too early", time - now)))
        };
        if line.starts_with(b"RMSG") {
            self.wait = None;
            if self.unacknowledged == 0 {
                self.acknowledged = now;
            }
            self.unacknowledged += 1;
            return None;
        }
        if self.stalling
            && let Some(begun) = self.begun.take()
        {
            (self.stalling, self.skipping) = (false, true);
            if line.starts_with(b"540") {
                self.in_error = Some(now);
            }
            return early("the end of an unfinished line is", begun + timeouts.pdu);
        }
        match line.get(..3) {
            Some(b"230") => self.logged_in = true,
            Some(b"565") => self.failures += 1,
            Some(b"500") => self.may_end |= is_one_too_many(line),
            Some(b"540" | b"545" | b"546") => self.in_error = Some(now),
            // Behind output that is not read, a 550 can wait while messages go on leaving: this says that it was taken.
            Some(b"201") => (self.in_error, self.rejected, self.unacknowledged) = (None, None, 0),
            Some(b"550") => {
                let sure = !self.failed && !self.was_full && self.unacknowledged > 0;
                (self.in_error, self.unacknowledged, self.wait) = (Some(now), 0, None);
                if sure {
                    return early("550 is", self.acknowledged + timeouts.ack);
                }
                if !self.failed && !self.was_full {
                    return Some(Problem::new(Sort::Reply, "550 without a message to acknowledge"));
                }
            }
            Some(b"256") => {
                let wait = self.wait.take();
                if self.pdus_behind_wait == 0
                    && let Some((came, length)) = wait
                {
                    return early("the end of WMSG is", came + length);
                }
            }
            _ => {}
        }
        None
    }

    pub fn holds_messages(&self) -> bool {
        self.unacknowledged > 0
    }

    /// Where a 550 has come, what is said then may have been said before it was taken.
    pub fn surely_holds_messages(&self) -> bool {
        self.holds_messages() && self.rejected.is_none()
    }

    /// So much is unsent, after `taken` bytes were taken.
    pub fn unsent(&mut self, bytes: usize, taken: usize, now: Millis) {
        self.was_full |= bytes + taken >= OUTPUT_HIGH_WATER_BYTES;
        if bytes == 0 {
            (self.output_since, self.taken) = (None, 0);
            return;
        }
        self.output_since.get_or_insert(now);
        self.taken += taken;
        if self.taken >= usize::from(WRITE_PROGRESS_MIN_BYTES) {
            (self.output_since, self.taken) = (Some(now), 0);
        }
    }

    /// A password of it waits for cpd: the time for logging in stands still.
    pub fn login_waits(&mut self, now: Millis) {
        self.waits.get_or_insert(now);
    }

    /// It waits no longer.
    pub fn login_goes_on(&mut self, now: Millis) {
        self.waited += self.waits.take().map_or(0, |since| now - since);
    }

    /// When the client must have logged in, at the earliest.
    fn login_due(&self, timeouts: &Timeouts) -> Option<Millis> {
        (!self.logged_in && self.waits.is_none()).then_some(self.opened + timeouts.login + self.waited)
    }

    /// The server ends the connection. What is wrong with that.
    pub fn closed(&mut self, now: Millis, timeouts: &Timeouts) -> Option<String> {
        let in_error = self.in_error.into_iter().chain(self.rejected).min();
        let timers = [
            self.login_due(timeouts).is_some_and(|due| now >= due),
            self.logged_in && now >= self.last_pdu + timeouts.idle,
            in_error.is_some_and(|since| now >= since + timeouts.recover),
            self.output_since.is_some_and(|since| now >= since + timeouts.write),
        ];
        self.ran_out = timers.contains(&true);
        let may = self.ran_out || self.may_end || self.failures >= 3;
        (!may).then(|| "it is closed before any of its timers has run out".to_owned())
    }

    /// The server was told to end, and no timer was there to end anything that was under way.
    pub fn was_heard_out(&self) -> bool {
        self.may_end && !self.ran_out
    }

    /// What should have happened a tick before `now`.
    pub fn overdue(&self, now: Millis, timeouts: &Timeouts, busy: Busy) -> Option<&'static str> {
        let more = |busy: bool| if busy { STORE_MS } else { 0 };
        let quiet = self.wait.is_none() && self.last_said >= self.last_pdu;
        let due = [
            // It stands still from the PASS on, which is seen here when the store has it.
            ("the login", self.login_due(timeouts).map(|due| due + more(self.waited > 0))),
            ("the way out of Error Processing", self.in_error.map(|since| since + timeouts.recover)),
            (
                "the acknowledgement",
                (self.surely_holds_messages() && !self.was_full).then_some(self.acknowledged + timeouts.ack),
            ),
            (
                "the end of a line",
                self.begun
                    .filter(|_| self.stalling && !self.was_full)
                    .map(|begun| begun + timeouts.pdu + more(busy.verifying && self.is_password())),
            ),
            ("an idle client", (self.logged_in && quiet).then_some(self.last_pdu.max(self.last_said) + timeouts.idle)),
            (
                "a client that does not read",
                self.output_since.filter(|_| !self.handed_over).map(|since| since + timeouts.write),
            ),
            // It begins when what came before it is answered; and there may be a page on its way.
            (
                "the end of WMSG",
                self.wait
                    .filter(|_| self.pdus_behind_wait == 0 && !self.was_full)
                    .map(|(came, length)| came.max(self.last_said) + length + more(busy.paging)),
            ),
        ];
        let late = |time: Option<Millis>| time.is_some_and(|time| now > time + TICK_MS);
        due.into_iter().find(|(_, time)| late(*time)).map(|(what, _)| what)
    }

    /// A password that is late is answered when the work of a wrong one was done.
    fn is_password(&self) -> bool {
        self.head.starts_with(b"PASS")
    }
}

/// Whether a line says to a right password that its user has all the sessions that one may have.
pub fn is_one_too_many(line: &[u8]) -> bool {
    line.starts_with(b"500 ") && line.windows(TOO_MANY.len()).any(|part| part == TOO_MANY)
}
