//! What must hold at every moment, seen at the server's sockets.

use cpd::engine::events::{AdminRequest, AdminResult};
use cpd::engine::port::RequestId;
use cpd::proto::session::Closing;
use cpd::proto::types::Millis;

use super::plan::USERS;
use super::server::{Phase, Process};
use super::trace::SERVER;
use super::world::World;
use crate::ledger::{Kind, Violation};

/// After a hand-over, timers that ran out in it come with the wheel's next ticks.
const AFTER_THAW_MS: Millis = 40;

impl World {
    pub fn report(&mut self, problem: Option<String>) {
        if self.problem.is_none() {
            self.problem = problem;
        }
    }

    /// What the ledger has found. It cannot know for how long the server held a queue for one who was too late; that only
    /// one downloads is seen at the server instead.
    pub fn check(&mut self) {
        let counts = |violation: &&Violation| match violation.kind {
            Kind::TwoDownloads => false,
            // Known to be taken, but not known to be durable.
            Kind::Again if self.hasty => violation.text.contains("gone: true"),
            _ => true,
        };
        let found = self.ledger.violations().iter().find(counts);
        let problem = found.map(|violation| violation.text.clone());
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
            let problem = problem.map(|problem| format!("client {}: {problem}", one.client));
            self.report(problem);
        }
    }

    /// What the server should have done to a client before now.
    pub fn overdue(&self, process: &Process, conn: usize) -> Option<String> {
        let one = &self.conns[conn];
        let timely = process.phase == Phase::Serving && self.up() > self.thawed_at + AFTER_THAW_MS;
        if !one.honest || !timely {
            return None;
        }
        let what = one.clocks.overdue(self.up(), &self.plan.settings.session.timeouts)?;
        Some(format!("client {}: {what} is overdue", one.client))
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
                && one.clocks.holds_messages()
                && self.plan.user_of(one.client) == user
        };
        if let Some(other) = process.sessions.values().find(holds) {
            let (one, other) = (self.conns[conn].client, self.conns[*other].client);
            self.report(Some(format!("client {one} gets messages of {user} while client {other} holds some")));
        }
    }

    /// Nobody is connected: administrators have their answers, and as many messages are queued as there can be.
    pub fn count_queues(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let now = self.engine_now(&process);
        process.numbers += 1;
        let request = AdminRequest::QueueList { after: None, limit: u32::MAX };
        process.engine.admin(RequestId(process.numbers), request, now);
        let result = process.engine.next_result();
        self.process = Some(process);
        if let Some(process) = &self.process
            && let Some(what) = process.requests.values().next()
        {
            let text = format!("an administrator waits for {what}");
            return self.report(Some(text));
        }
        let Some((_, AdminResult::Queues { rows, .. })) = result else {
            return self.report(Some(format!("{result:?} instead of the queues")));
        };
        for user in USERS.iter().take(self.plan.users) {
            let queued = rows.iter().find(|row| row.user.as_str() == *user).map_or(0, |row| row.messages);
            self.ledger.counted(user, queued);
        }
    }

    /// Nothing is late, nothing is forgotten.
    pub fn check_everything(&mut self) {
        let Some(process) = &self.process else { return };
        if process.engine.connections() as usize != process.sessions.len() {
            let text = format!("{} sessions for {} connections", process.engine.connections(), process.sessions.len());
            return self.report(Some(text));
        }
        for (id, conn) in &process.sessions {
            let mut problem = None;
            let one = &self.conns[*conn];
            if process.engine.output(*id).len() != one.seen {
                problem = Some("output that nobody was told of");
            }
            let closing = process.engine.closing(*id);
            if matches!(closing, Closing::Now | Closing::Flush) {
                problem = Some("an end that nobody was told of");
            }
            let problem = problem.map(|problem| format!("client {}: {problem}", one.client));
            let overdue = (closing == Closing::Open).then(|| self.overdue(process, *conn)).flatten();
            if let Some(problem) = problem.or(overdue) {
                return self.report(Some(problem));
            }
        }
    }
}
