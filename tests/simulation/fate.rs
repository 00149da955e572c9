//! What befalls the server: the store's answers, crashes at any moment, stops, successors, administrators.

use cp_proto::values::Username;
use cpd_core::engine::Engine;
use cpd_core::engine::port::{Answer, FromStore, Op, Outcome, RequestId};
use cpd_core::engine::requests::{PurgeFilter, Request};
use cpd_core::engine::settings::Settings;
use cpd_core::session::Closing;
use cpd_core::time::Millis;

use super::plan::{Twin, VICTIM};
use super::problem::{Problem, Sort};
use super::server::{Heritage, Phase, Process};
use super::trace::STORE;
use super::world::{Event, Moment, World};
use crate::ledger::Parting;

/// How long a stop or a hand-over waits for what is under way.
const STOP_MS: Millis = 2000;

impl World {
    pub fn handle_server(&mut self, event: Event) {
        let life = self.process.as_ref().map(|process| process.life);
        match event {
            Event::Start => self.start(),
            Event::Wake(of) | Event::Poll(of) if life == Some(of) => self.pump(),
            Event::Cycle(of) if life == Some(of) => self.finish_cycle(of),
            Event::Retry(of) if life == Some(of) => self.begin_cycle(of),
            Event::Result(of) if life == Some(of) => self.take_result(),
            Event::Verified { life: of, number } if life == Some(of) => self.verified(number),
            Event::CrashNow(of) if life == Some(of) => self.crash(),
            Event::Crash if life.is_some() => match self.random.below(5) {
                0 => self.crash(),
                1 | 2 => self.crash_in = Some(Moment::Commit),
                3 => self.crash_in = Some(Moment::Answer),
                _ => self.crash_in = Some(Moment::Reply),
            },
            Event::Handover | Event::Stop => self.begin_end(event == Event::Stop),
            Event::Order => self.administer(),
            _ => {}
        }
    }

    // ---- the store ----

    pub fn begin_cycle(&mut self, life: u32) {
        if let Some(end) = self.store.begin(self.now) {
            self.trace.note_number(self.now, STORE, "begins a round until", end);
            self.at(end, Event::Cycle(life));
            if self.crash_in == Some(Moment::Commit) && end > self.now {
                self.crash_in = None;
                let at = self.random.between(self.now, end);
                self.at(at, Event::CrashNow(life));
            }
        }
        self.announce(life);
    }

    fn finish_cycle(&mut self, life: u32) {
        if !self.store.finish(self.now) {
            self.note("finds its store broken in life", u64::from(life));
            return self.crash();
        }
        self.trace.note_number(self.now, STORE, "ends a round in epoch", u64::from(self.store.epoch()));
        self.announce(life);
        if let Some(at) = self.store.retry_at(self.now) {
            self.at(at, Event::Retry(life));
        }
        self.begin_cycle(life);
    }

    /// Whatever the store has to say gets its event.
    fn announce(&mut self, life: u32) {
        while let Some(at) = self.store.next_announcement() {
            self.at(at, Event::Result(life));
        }
        for session in std::mem::take(&mut self.store.failed) {
            if let Some(conn) = self.process_conn(session) {
                self.conns[conn].clocks.failed = true;
            }
        }
    }

    fn process_conn(&self, session: cpd_core::engine::port::SessionId) -> Option<usize> {
        self.conns.iter().rposition(|conn| conn.id == Some(session))
    }

    fn take_result(&mut self) {
        if self.crash_in == Some(Moment::Answer) {
            self.crash_in = None;
            return self.crash();
        }
        let Some(result) = self.store.take_result() else { return };
        let Some(mut process) = self.process.take() else { return };
        let now = self.engine_now(&process);
        let done = matches!(result, FromStore::Done(..));
        process.under_way -= usize::from(done);
        let mut paged = Vec::new();
        if let FromStore::Answers(answers) = &result {
            let session = |answer: &Answer| match answer {
                Answer::Page { session, .. } => process.sessions.get(session).copied(),
                _ => None,
            };
            paged.extend(answers.iter().filter_map(session));
        }
        if let FromStore::Done(batch, Outcome { inserts: true, .. }) = &result {
            for op in &batch.ops {
                let Op::Insert { session, .. } = op else { continue };
                if let Some(conn) = process.sessions.get(session) {
                    self.conns[*conn].stored += 1;
                } else if let Some(conn) = process.ended.get(session) {
                    self.conns[*conn].stored += 1;
                    self.check_told(*conn);
                }
            }
        }
        process.engine.from_store(result, now);
        self.process = Some(process);
        self.pump();
        // What comes of it has come when it was looked at.
        for conn in paged {
            self.conns[conn].paging = self.conns[conn].paging.saturating_sub(1);
        }
        if done && self.crash_in == Some(Moment::Reply) {
            self.crash_in = None;
            self.crash();
        }
    }

    // ---- start and end ----

    fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.lives += 1;
        let base = self.random.between(0, 1 << 20);
        if let Some(heritage) = &self.heritage {
            self.down += self.now - heritage.left_at;
        }
        let mut process = Box::new(Process::new(Engine::new(self.settings(), 1, base + self.up()), self.lives, base));
        self.store.load(&mut process.engine);
        self.note("starts life", u64::from(self.lives));
        if let Some(heritage) = self.heritage.take() {
            self.take_up(&mut process, heritage);
        }
        self.process = Some(process);
        self.pump();
    }

    fn settings(&self) -> Settings {
        let mut settings = self.plan.settings;
        if self.plan.twin == Twin::Crowding {
            settings.limits.sessions_per_user = u32::MAX;
        }
        settings
    }

    fn take_up(&mut self, process: &mut Process, heritage: Heritage) {
        let now = self.engine_now(process);
        self.thawed_at = self.up();
        if process.engine.thaw_common(&heritage.common, now).is_none() {
            self.report(Some(Problem::new(
                Sort::Handover,
                "the record of what is not any connection's cannot be read",
            )));
        }
        for (conn, record) in heritage.sessions {
            let (client, honest) = (self.conns[conn].client, self.conns[conn].honest);
            if self.plan.twin == Twin::Careless && self.random.one_in(4) {
                continue;
            }
            self.trace.note(self.now, client, "is taken up", &record);
            match process.engine.thaw(&record, self.conns[conn].from, now) {
                Some(id) => {
                    self.conns[conn].id = Some(id);
                    process.sessions.insert(id, conn);
                    process.ready.push_back(conn);
                    self.happened.handed_over += 1;
                }
                None => {
                    let text = || format!("client {client}: its session is not taken up");
                    self.report(honest.then(|| Problem::new(Sort::Handover, text())));
                    let parcel = super::network::Parcel::End { orderly: false };
                    let at = self.conns[conn].say_parcel(parcel, self.now);
                    self.at(at, Event::Down(conn));
                }
            }
        }
        process.engine.finish_handover(now);
    }

    fn begin_end(&mut self, stop: bool) {
        let until = self.now + STOP_MS;
        let Some(process) = self.process.as_mut().filter(|process| process.is_serving()) else { return };
        if stop {
            process.phase = Phase::Stopping { until };
            process.engine.stop();
            self.ledger.ending();
        } else {
            process.phase = Phase::Pausing { until };
            process.engine.pause();
        }
        self.note(if stop { "stops" } else { "pauses" }, 0);
        self.pump();
    }

    /// Ends what was begun above, if it is time.
    pub fn end_of_phase(&mut self) {
        let Some(process) = &self.process else { return };
        let idle = process.engine.is_idle() && !self.store.is_busy();
        match process.phase {
            Phase::Serving => {}
            Phase::Pausing { until } if idle || self.now >= until => self.hand_over(idle),
            Phase::Stopping { until } if idle && process.sessions.is_empty() || self.now >= until => self.stopped(),
            Phase::Pausing { .. } | Phase::Stopping { .. } => {}
        }
    }

    fn hand_over(&mut self, idle: bool) {
        let Some(mut process) = self.process.take() else { return };
        let (now, up) = (self.engine_now(&process), self.up());
        self.happened.handovers += 1;
        self.crash_in = None;
        let mut sessions = Vec::new();
        for id in process.engine.handover_order() {
            let closing = process.engine.next_close_step(id);
            let unsent = process.engine.output(id).len();
            let frozen = process.engine.freeze(id, now);
            match (frozen, process.sessions.get(&id).copied()) {
                (Some(record), Some(conn)) => {
                    let one = &mut self.conns[conn];
                    (one.id, one.seen) = (None, unsent);
                    (one.paging, one.verifying) = (0, 0);
                    one.clocks.login_goes_on(up);
                    one.clocks.handed_over |= unsent > 0;
                    sessions.push((conn, record.to_vec()));
                    process.sessions.remove(&id);
                }
                (_, Some(conn)) => {
                    let wrong = idle && closing == Closing::Paused;
                    let text = || {
                        format!("client {} is not handed over, though nothing is under way", self.conns[conn].client)
                    };
                    let problem = wrong.then(|| Problem::new(Sort::Handover, text()));
                    self.report(problem);
                    self.drop_session(&mut process, id, false);
                }
                (_, None) => {
                    self.report(Some(Problem::new(Sort::Bookkeeping, "a session without a connection")));
                }
            }
        }
        let common = process.engine.freeze_common(now);
        self.store.close(self.now);
        if !idle {
            for body in self.store.bodies_without_delete(&process.deletes) {
                self.ledger.lost_delete(body);
            }
        }
        self.note("hands over", sessions.len() as u64);
        self.heritage = Some(Heritage { common: common.to_vec(), sessions, left_at: self.now });
        let wait = self.random.between(5, 1500);
        self.at(self.now + wait, Event::Start);
    }

    fn stopped(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.happened.stops += 1;
        let written = process.engine.is_idle() && !self.store.is_busy();
        let clean = written && process.sessions.is_empty();
        let silent = process.sessions.iter().find(|(id, _)| written && process.engine.output(**id).is_empty());
        let text = |conn: usize| format!("client {} is still there after a stop", self.conns[conn].client);
        let problem = silent.map(|(_, conn)| Problem::new(Sort::Unanswered, text(*conn)));
        self.report(problem);
        self.note("has stopped", u64::from(clean));
        self.store.close(self.now);
        self.part(true);
        self.ledger.next_life(if clean { Parting::Orderly } else { Parting::Torn });
        self.start_again();
    }

    fn crash(&mut self) {
        if self.process.take().is_none() {
            return;
        }
        self.happened.crashes += 1;
        self.crash_in = None;
        self.ledger.ending();
        let lost = self.store.crash();
        self.happened.lost_transactions += lost as u64;
        self.note("crashes; transactions lost", lost as u64);
        self.part(false);
        self.ledger.next_life(Parting::Torn);
        self.start_again();
    }

    /// Every connection is over; of what was on its way to clients some comes.
    fn part(&mut self, stopped: bool) {
        for actor in 0..self.actors.len() {
            let Some(conn) = self.actors[actor].conn else { continue };
            let orderly = stopped && self.conns[conn].id.is_none();
            self.conns[conn].spill(orderly);
            let bytes = self.conns[conn].read(usize::MAX);
            if !bytes.is_empty() {
                self.hear(actor, conn, &bytes);
            }
            let parting =
                if orderly && self.conns[conn].finished == Some(true) { Parting::Orderly } else { Parting::Torn };
            self.over(actor, parting, stopped);
        }
        self.conns.iter_mut().for_each(|conn| (conn.id, conn.vanished) = (None, true));
    }

    fn start_again(&mut self) {
        let wait = self.random.between(0, 2000);
        self.at(self.now + wait, Event::Start);
    }

    // ---- administrators ----

    fn administer(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let victim = Username::parse(VICTIM.as_bytes()).expect("a name");
        let hash = format!("pw-{VICTIM}");
        let (what, request) = match self.random.below(13) {
            0 => ("lock", Request::UserLock { name: victim }),
            1 | 2 => ("unlock", Request::UserUnlock { name: victim }),
            3 => ("purge", Request::QueuePurge { user: victim, which: PurgeFilter::default() }),
            4 | 5 => ("remove", Request::UserRemove { name: victim }),
            6 | 7 => ("add", Request::UserAdd { name: victim, password: hash }),
            8 => {
                let keep_sessions = self.random.one_in(2);
                ("passwd", Request::UserPasswd { name: victim, password: hash, keep_sessions })
            }
            9 => {
                let place = self.random.below(process.sessions.len() as u64) as usize;
                let Some((id, conn)) = process.sessions.iter().nth(place) else {
                    self.process = Some(process);
                    return;
                };
                self.conns[*conn].clocks.may_end = true;
                ("close", Request::SessionClose { id: id.serial })
            }
            10 => {
                let body = self.random.one_in(2);
                ("show", Request::QueueShow { user: victim, after: 0, limit: 5, body })
            }
            11 => ("list", Request::SessionList { after: 0, limit: 10 }),
            _ => ("status", Request::Status { details: false }),
        };
        process.numbers += 1;
        process.requests.insert(process.numbers, what);
        self.trace.note(self.now, super::trace::SERVER, "is ordered", what.as_bytes());
        let now = self.engine_now(&process);
        process.engine.admin(RequestId(process.numbers), request, now);
        self.process = Some(process);
        self.pump();
    }
}
