//! What must hold at every moment, seen at the server's sockets.

use cpd_core::engine::port::{RequestId, SessionId};
use cpd_core::engine::requests::{AdminResult, Request};
use cpd_core::mailboxes::local::batcher::BATCHES_UNDER_WAY_MAX;
use cpd_core::session::Closing;
use cpd_core::time::Millis;

use super::clocks::{Busy, is_one_too_many};
use super::network::Conn;
use super::plan::USERS;
use super::problem::{Problem, Sort};
use super::server::{Phase, Process};
use super::trace::SERVER;
use super::world::World;
use crate::ledger::{Kind, Violation};

/// After a hand-over, timers that ran out in it come with the wheel's next ticks.
const AFTER_THAW_MS: Millis = 40;

impl World {
    pub fn report(&mut self, problem: Option<Problem>) {
        if self.problem.is_none() {
            self.problem = problem;
        }
    }

    /// Whether the store explains that a right password is refused on this connection: it could not read the record now, or
    /// so often before, for the same user or at the same address, that logins are throttled. A login that fails for
    /// want of the record counts as any other: whoever guesses must not see a difference.
    pub fn login_may_fail(&self, conn: usize) -> bool {
        let conn = &self.conns[conn];
        if conn.clocks.failed || !self.plan.throttles() || conn.clocks.failures == 0 {
            return conn.clocks.failed;
        }
        let limits = &self.plan.settings.limits;
        let failures = |alike: &dyn Fn(&Conn) -> bool| -> u32 {
            self.conns.iter().filter(|other| other.clocks.failed && alike(other)).map(|one| one.clocks.failures).sum()
        };
        let user = |conn: &Conn| self.plan.user_of(conn.client);
        // One address can fill no more than half of the bucket of a name.
        failures(&|other| user(other) == user(conn)) >= limits.failures_per_user / 2
            || failures(&|other| other.from == conn.from) >= limits.failures_per_address
    }

    /// What the ledger has found. It cannot know for how long the server held a queue for one who was too late; that only
    /// one downloads is seen at the server instead.
    pub fn check(&mut self) {
        let counts = |violation: &&Violation| violation.kind != Kind::TwoDownloads;
        let found = self.ledger.violations().iter().find(counts);
        let problem = found.map(|found| Problem::new(Sort::Promise(found.kind), &found.text));
        self.report(problem);
        self.checks += 1;
        if self.checks.is_multiple_of(64) {
            self.check_everything();
        }
    }

    pub fn note(&mut self, what: &'static str, number: u64) {
        self.trace.note_number(self.now, SERVER, what, number);
    }

    /// A connection begins to be closed: was it time?
    pub fn check_end(&mut self, process: &Process, conn: usize) {
        let overdue = self.overdue(process, conn);
        self.report(overdue);
        let up = self.up();
        let one = &mut self.conns[conn];
        if one.honest {
            let problem = one.clocks.closed(up, &self.plan.settings.session.timeouts);
            let problem = problem.map(|problem| Problem::new(Sort::Early, format!("client {}: {problem}", one.client)));
            self.report(problem);
        }
    }

    /// A session that ended in order had told its client of every message that is stored, and of those that were still
    /// to be stored.
    pub fn check_told(&mut self, conn: usize) {
        let Conn { client, stored, confirmed, .. } = self.conns[conn];
        if stored > confirmed {
            let text = format!("client {client} was told of {confirmed} of its {stored} messages, and no more");
            self.report(Some(Problem::new(Sort::Unanswered, text)));
        }
    }

    /// What the server should have done to a client before now.
    pub fn overdue(&self, process: &Process, conn: usize) -> Option<Problem> {
        let one = &self.conns[conn];
        let timely = process.phase == Phase::Serving && self.up() > self.thawed_at + AFTER_THAW_MS;
        if !one.honest || !timely {
            return None;
        }
        let queued = process.under_way >= BATCHES_UNDER_WAY_MAX;
        let busy = Busy { paging: one.paging > 0 || queued, verifying: one.verifying > 0 || queued };
        let what = one.clocks.overdue(self.up(), &self.plan.settings.session.timeouts, busy)?;
        Some(Problem::new(Sort::Overdue, format!("client {}: {what} is overdue", one.client)))
    }

    /// The first message of a download leaves: nobody else may hold messages of the same queue.
    pub fn check_holder(&mut self, process: &Process, conn: usize) {
        let user = self.plan.user_of(self.conns[conn].client);
        let holds = |other: &&usize| {
            let one = &self.conns[**other];
            **other != conn
                && one.honest
                && !one.closing
                && !one.clocks.may_end
                && one.clocks.surely_holds_messages()
                && self.plan.user_of(one.client) == user
        };
        if let Some(other) = process.sessions.values().find(holds) {
            let (one, other) = (self.conns[conn].client, self.conns[*other].client);
            let text = format!("client {one} gets messages of {user} while client {other} holds some");
            self.report(Some(Problem::new(Sort::Promise(Kind::TwoDownloads), text)));
        }
    }

    /// The other sessions of its user: those that go on, and all that have not been closed.
    pub fn others(&self, process: &Process, conn: usize) -> (usize, usize) {
        let user = self.plan.user_of(self.conns[conn].client);
        let all = process.sessions.iter().filter(|(_, other)| {
            let one = &self.conns[**other];
            **other != conn && one.logged_in && self.plan.user_of(one.client) == user
        });
        let goes_on = |id: &SessionId| matches!(process.engine.next_close_step(*id), Closing::Open | Closing::Paused);
        all.fold((0, 0), |(open, all), (id, _)| (open + usize::from(goes_on(id)), all + 1))
    }

    /// No user has more sessions than the limit allows, and nobody is refused before.
    pub fn check_sessions(&mut self, conn: usize, line: &[u8]) {
        let most = self.plan.settings.limits.sessions_per_user as usize;
        let one = &mut self.conns[conn];
        let (going_on, all) = one.others;
        let refused = is_one_too_many(line);
        one.logged_in |= line.starts_with(b"230 ");
        self.happened.sessions_refused += u64::from(refused);
        let wrong = if refused { all < most } else { line.starts_with(b"230 ") && going_on >= most };
        if wrong {
            let what = if refused { "is refused" } else { "is let in" };
            let text = format!("client {} {what} beside {going_on} to {all} sessions of {most}", one.client);
            self.report(Some(Problem::new(Sort::Bound, text)));
        }
    }

    /// Nobody is connected: administrators have their answers, and as many messages are queued as there can be.
    pub fn count_queues(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let now = self.engine_now(&process);
        process.numbers += 1;
        let request = Request::QueueList { after: None, limit: u32::MAX };
        process.engine.admin(RequestId(process.numbers), request, now);
        let result = process.engine.next_result();
        self.process = Some(process);
        if let Some(process) = &self.process
            && let Some(what) = process.requests.values().next()
        {
            let text = format!("an administrator waits for {what}");
            return self.report(Some(Problem::new(Sort::Administration, text)));
        }
        let Some((_, AdminResult::Queues { rows, .. })) = result else {
            let text = format!("{result:?} instead of the queues");
            return self.report(Some(Problem::new(Sort::Administration, text)));
        };
        for user in USERS.iter().take(self.plan.users) {
            let queued = rows.iter().find(|row| row.user.as_str() == *user).map_or(0, |row| row.messages);
            self.ledger.counted(user, queued);
        }
    }

    /// A connection that is open for its client, and for nobody else.
    fn orphan(&self, process: &Process) -> Option<Problem> {
        let open = self.actors.iter().filter_map(|actor| actor.conn).map(|conn| &self.conns[conn]);
        let forgotten = |conn: &&Conn| conn.id.is_none() && !conn.is_ending();
        let orphan = open.into_iter().find(forgotten).filter(|_| process.is_serving())?;
        Some(Problem::new(Sort::Orphan, format!("nobody serves client {}, nor ends its connection", orphan.client)))
    }

    /// The client sees the end: after an orderly one nothing is missing of what it was told.
    pub fn check_all_was_read(&mut self, conn: usize, orderly: bool) {
        let Conn { told, client, .. } = &self.conns[conn];
        let missing = orderly && !told.is_empty();
        let text = || format!("client {client} was not given the last {} bytes that it was told", told.len());
        let problem = missing.then(|| Problem::new(Sort::Altered, text()));
        self.report(problem);
    }

    /// Nothing is late, nothing is forgotten.
    pub fn check_everything(&mut self) {
        let Some(process) = &self.process else { return };
        if process.engine.connections() as usize != process.sessions.len() {
            let text = format!("{} sessions for {} connections", process.engine.connections(), process.sessions.len());
            return self.report(Some(Problem::new(Sort::Bookkeeping, text)));
        }
        if let Some(orphan) = self.orphan(process) {
            return self.report(Some(orphan));
        }
        for (id, conn) in &process.sessions {
            let mut problem = None;
            let one = &self.conns[*conn];
            if process.engine.output(*id).len() != one.seen {
                problem = Some("output that nobody was told of");
            }
            let closing = process.engine.next_close_step(*id);
            if matches!(closing, Closing::Now | Closing::Flush) {
                problem = Some("an end that nobody was told of");
            }
            let text = |problem| format!("client {}: {problem}", one.client);
            let problem = problem.map(|problem| Problem::new(Sort::Bookkeeping, text(problem)));
            let overdue = (closing == Closing::Open).then(|| self.overdue(process, *conn)).flatten();
            if let Some(problem) = problem.or(overdue) {
                return self.report(Some(problem));
            }
        }
    }
}
