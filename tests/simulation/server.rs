//! The server's process: the production engine in a shell that does with it what `src/daemon/reactor.rs` does, on virtual
//! time. Bytes go in by turns, output goes out as far as there is room, batches go to the store, timers run out when the
//! engine said they would.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use cp_proto::limits::PDU_MAX_BYTES;
use cpd_core::engine::port::{Op, RequestId, SessionId};
use cpd_core::engine::requests::AdminResult;
use cpd_core::engine::{Engine, Verification};
use cpd_core::limits::{OUTPUT_HIGH_WATER_BYTES, PIPELINE_MAX_STORES};
use cpd_core::session::Closing;
use cpd_core::time::{Millis, NEVER};

use super::network::Parcel;
use super::plan::Twin;
use super::problem::{Problem, Sort};
use super::world::{Event, Who, World};

/// Bytes read of one connection in one turn.
const TURN_BYTES: usize = 8 * 1024;
/// Passwords that are verified at once.
const VERIFIERS: usize = 4;
/// Replies to what the store has of a session, on top of the water mark and one message.
const OUTPUT_MAX_BYTES: usize = OUTPUT_HIGH_WATER_BYTES + PDU_MAX_BYTES + 2 + 80 * (PIPELINE_MAX_STORES as usize + 4);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Serving,
    /// Nothing is read; when all is written, or then, the connections go to a successor.
    Pausing {
        until: Millis,
    },
    /// Nothing is read; when all is written and said, or then, it is over.
    Stopping {
        until: Millis,
    },
}

pub struct Process {
    pub engine: Engine,
    pub life: u32,
    pub phase: Phase,
    /// The engine's time at the start of everything.
    pub base: Millis,
    pub sessions: BTreeMap<SessionId, usize>,
    /// Those that ended in order.
    pub ended: BTreeMap<SessionId, usize>,
    pub ready: VecDeque<usize>,
    pub verifying: BTreeMap<u64, Verification>,
    pub numbers: u64,
    pub requests: BTreeMap<u64, &'static str>,
    /// Messages whose delete went to the store.
    pub deletes: BTreeSet<u64>,
    /// Batches that the store has.
    pub under_way: usize,
    wake_at: Millis,
}

/// What a process leaves to its successor.
pub struct Heritage {
    pub common: Vec<u8>,
    pub sessions: Vec<(usize, Vec<u8>)>,
    pub left_at: Millis,
}

impl Process {
    pub fn new(engine: Engine, life: u32, base: Millis) -> Process {
        Process {
            engine,
            life,
            phase: Phase::Serving,
            base,
            sessions: BTreeMap::new(),
            ended: BTreeMap::new(),
            ready: VecDeque::new(),
            verifying: BTreeMap::new(),
            numbers: 0,
            requests: BTreeMap::new(),
            deletes: BTreeSet::new(),
            under_way: 0,
            wake_at: NEVER,
        }
    }

    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// Nobody is connected, nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.sessions.is_empty() && self.engine.is_idle()
    }
}

impl World {
    /// The time that connections have spent with a server.
    pub fn up(&self) -> Millis {
        self.now - self.down
    }

    pub fn engine_now(&self, process: &Process) -> Millis {
        process.base + self.up()
    }

    pub fn is_stopping(&self) -> bool {
        self.process.as_ref().is_some_and(|process| matches!(process.phase, Phase::Stopping { .. }))
    }

    /// A client has connected.
    pub fn accept(&mut self, conn: usize) {
        let Some(mut process) = self.process.take() else { return };
        let now = self.engine_now(&process);
        let (from, dialect, up) = (self.conns[conn].from, self.conns[conn].dialect, self.up());
        match process.engine.open(from, dialect, now) {
            Ok(id) => {
                self.conns[conn].id = Some(id);
                self.conns[conn].clocks.opened = up;
                process.sessions.insert(id, conn);
            }
            Err(limit) => {
                let text = format!("{limit:?} is reached by {} clients", process.sessions.len());
                self.report(Some(Problem::new(Sort::Bound, text)));
            }
        }
        self.process = Some(process);
        self.pump();
    }

    /// A parcel arrives at the server's kernel.
    pub fn arrive(&mut self, conn: usize) {
        match self.conns[conn].arrived() {
            Some(Parcel::Bytes(bytes)) => self.conns[conn].inbox.extend_from_slice(&bytes),
            Some(Parcel::End { .. }) => self.conns[conn].ended = true,
            Some(Parcel::Reset) => self.conns[conn].broken = true,
            None => return,
        }
        if let Some(process) = &mut self.process
            && self.conns[conn].id.is_some()
        {
            process.ready.push_back(conn);
            // The loop may be busy: what comes until it looks is read with this.
            let life = process.life;
            if self.random.one_in(2) {
                self.pump();
            } else {
                let wait = self.random.below(4);
                self.at(self.now + wait, Event::Poll(life));
            }
        }
    }

    /// The client has read, so that there is room.
    pub fn writable(&mut self, conn: usize) {
        if let Some(mut process) = self.process.take() {
            if let Some(id) = self.conns[conn].id {
                self.flush(&mut process, id);
            }
            self.process = Some(process);
            self.pump();
        }
    }

    /// Rounds of the loop until nothing is left that needs no time.
    pub fn pump(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let now = self.engine_now(&process);
        process.engine.set_wall_clock(1_700_000_000 + self.now / 1000);
        loop {
            let turns = process.ready.len();
            let pausing = matches!(process.phase, Phase::Pausing { .. });
            for conn in process.ready.drain(..turns).collect::<Vec<_>>() {
                if !pausing {
                    self.turn(&mut process, conn, now);
                }
            }
            self.submit(&mut process, now);
            if !pausing {
                process.engine.expire(now);
            }
            self.look(&mut process);
            self.submit(&mut process, now);
            self.verify(&mut process, now);
            if process.ready.is_empty() || self.problem.is_some() {
                break;
            }
        }
        let due = match process.phase {
            Phase::Serving => process.engine.next_deadline(),
            Phase::Pausing { until } => process.base + until - self.down,
            Phase::Stopping { until } => process.engine.next_deadline().min(process.base + until - self.down),
        };
        if due != NEVER && due != process.wake_at {
            process.wake_at = due;
            let late = if self.plan.twin == Twin::Sleepy { 100 } else { 0 };
            let at = (due.saturating_sub(process.base) + self.down).max(self.now + 1);
            self.at(at + late, Event::Wake(process.life));
        }
        self.process = Some(process);
        self.end_of_phase();
    }

    /// One read of one connection.
    fn turn(&mut self, process: &mut Process, conn: usize, now: Millis) {
        let up = self.up();
        let one = &mut self.conns[conn];
        let Some(id) = one.id else { return };
        if one.broken {
            return self.drop_session(process, id, false);
        }
        if !process.engine.wants_input(id) {
            return;
        }
        if one.inbox.is_empty() {
            if one.ended && !one.end_told {
                (one.end_told, one.clocks.may_end) = (true, true);
                process.engine.end_of_input(id, now);
            }
            return;
        }
        let count = one.inbox.len().min(one.mouthful(TURN_BYTES));
        let bytes: Vec<u8> = one.inbox.drain(..count).collect();
        if one.honest {
            one.clocks.received(&bytes, up);
        }
        process.engine.receive(id, &bytes, now);
        if !self.conns[conn].inbox.is_empty() || self.conns[conn].ended {
            process.ready.push_back(conn);
        }
    }

    fn submit(&mut self, process: &mut Process, now: Millis) {
        while let Some(batch) = process.engine.next_batch(now) {
            for op in &batch.ops {
                if let Op::Delete { id, .. } | Op::DeleteExpired { id } = op {
                    process.deletes.insert(id.0);
                }
                self.note_work(process, op);
            }
            process.under_way += 1;
            self.store.submit(batch);
        }
        self.begin_cycle(process.life);
    }

    /// What takes time for a connection is under way from now on.
    fn note_work(&mut self, process: &Process, op: &Op) {
        let (Op::Fetch { session, .. } | Op::Lookup { session, .. }) = op else { return };
        let Some(conn) = process.sessions.get(session) else { return };
        let (up, one) = (self.up(), &mut self.conns[*conn]);
        if matches!(op, Op::Fetch { .. }) {
            one.paging += 1;
        } else {
            one.verifying += 1;
            one.clocks.login_waits(up);
        }
    }

    /// Sends what sessions have to say, carries out their ends, takes administrators' answers.
    pub fn look(&mut self, process: &mut Process) {
        while let Some(id) = process.engine.next_dirty() {
            self.flush(process, id);
        }
        while let Some((RequestId(request), result)) = process.engine.next_result() {
            let what = process.requests.remove(&request).unwrap_or("nothing");
            self.trace.note(self.now, super::trace::SERVER, "answers an administrator", what.as_bytes());
            match result {
                AdminResult::Removed { .. } if what == "remove" => self.bodies.removed(super::plan::VICTIM),
                AdminResult::Failed(cause) if self.plan.store.commit == 0 => {
                    self.report(Some(Problem::new(Sort::Administration, format!("{what}: {cause}"))));
                }
                _ if what == "nothing" => {
                    self.report(Some(Problem::new(Sort::Administration, "an answer without a question")));
                }
                _ => {}
            }
        }
        while process.engine.next_event().is_some() {}
    }

    pub fn flush(&mut self, process: &mut Process, id: SessionId) {
        let now = self.engine_now(process);
        let Some(conn) = process.sessions.get(&id).copied() else {
            return process.engine.close(id, now);
        };
        loop {
            self.observe(process, id, conn);
            let (length, room) = (process.engine.output(id).len(), self.conns[conn].room());
            let count = length.min(room).min(self.conns[conn].mouthful(usize::MAX));
            let up = self.up();
            self.conns[conn].clocks.unsent(length - count, count, up);
            if count == 0 {
                break;
            }
            let mut bytes = process.engine.output(id)[..count].to_vec();
            if self.plan.twin == Twin::Flipping && self.random.one_in(100) {
                bytes[count / 2] ^= 1;
            }
            let at = self.conns[conn].say(&bytes, self.now);
            if !self.conns[conn].vanished {
                self.at(at, Event::Down(conn));
            }
            let stutters = self.plan.twin == Twin::Stuttering && self.random.one_in(100);
            let taken = count - usize::from(stutters);
            process.engine.sent(id, taken, now);
            self.conns[conn].seen -= taken;
        }
        let mut closing = process.engine.next_close_step(id);
        if self.plan.twin == Twin::Hasty && closing == Closing::Stopping && process.engine.output(id).is_empty() {
            closing = Closing::Flush;
        }
        let ends = !matches!(closing, Closing::Open | Closing::Paused);
        if ends && !std::mem::replace(&mut self.conns[conn].closing, true) && process.is_serving() {
            self.check_end(process, conn);
        }
        match closing {
            Closing::Now => self.drop_session(process, id, false),
            Closing::Flush => {
                process.ended.insert(id, conn);
                self.check_told(conn);
                self.drop_session(process, id, true);
            }
            Closing::Open | Closing::Stopping | Closing::Paused => {
                process.engine.arm(id);
                let one = &self.conns[conn];
                let more = !one.inbox.is_empty() || one.broken || (one.ended && !one.end_told);
                if more && process.engine.wants_input(id) {
                    process.ready.push_back(conn);
                }
            }
        }
    }

    /// Looks at lines that the session has begun to say.
    fn observe(&mut self, process: &Process, id: SessionId, conn: usize) {
        let output = process.engine.output(id);
        let one = &mut self.conns[conn];
        let fresh = &output[one.seen.min(output.len())..];
        if fresh.is_empty() {
            return;
        }
        if output.len() > OUTPUT_MAX_BYTES {
            let text = format!("client {} has {} bytes of output", one.client, output.len());
            return self.report(Some(Problem::new(Sort::Bound, text)));
        }
        let fresh = fresh.to_vec();
        one.seen = output.len();
        one.told.extend(&fresh);
        let (client, honest, up) = (one.client, one.honest, self.up());
        self.trace.note(self.now, client, "is told", &fresh);
        let timeouts = self.plan.settings.session.timeouts;
        for mut line in fresh.split_inclusive(|byte| *byte == b'\n') {
            // Telnet's options are refused between lines.
            while let [255, 252 | 254, _, rest @ ..] = line {
                line = rest;
            }
            let message = line.strip_prefix(b"RMSG").and_then(|rest| rest.strip_suffix(b"\r\n"));
            self.conns[conn].confirmed += u32::from(line.starts_with(b"240 "));
            self.check_sessions(conn, line);
            if honest {
                let holds = message.is_some() && !self.conns[conn].clocks.holds_messages();
                let overdue = self.overdue(process, conn);
                self.report(overdue);
                let problem = self.conns[conn].clocks.said(line, up, &timeouts);
                self.report(problem.map(|Problem { sort, text }| {
                    Problem::new(sort, format!("client {client}: {text}: {}", line.escape_ascii()))
                }));
                if holds {
                    self.check_holder(process, conn);
                }
            }
            if let Some(message) = message {
                self.message_leaves(conn, message);
            }
        }
    }

    fn message_leaves(&mut self, conn: usize, message: &[u8]) {
        let Some(actor) = self.actor_of(conn) else { return };
        let problem = match &self.actors[actor].who {
            Who::Honest(client) => {
                client.is_sent(message, &mut self.ledger);
                None
            }
            Who::Hostile(hostile) => hostile.is_sent(message, &mut self.bodies),
        };
        self.report(problem);
    }

    /// The connection ends from the server's side.
    pub fn drop_session(&mut self, process: &mut Process, id: SessionId, orderly: bool) {
        let now = self.engine_now(process);
        process.engine.close(id, now);
        let Some(conn) = process.sessions.remove(&id) else { return };
        self.trace.note_number(self.now, self.conns[conn].client, "is dropped", u64::from(orderly));
        self.conns[conn].id = None;
        let at = self.conns[conn].say_parcel(Parcel::End { orderly }, self.now);
        self.at(at, Event::Down(conn));
    }

    fn verify(&mut self, process: &mut Process, now: Millis) {
        while process.verifying.len() < VERIFIERS {
            let Some(verification) = process.engine.next_verification(now) else { return };
            process.numbers += 1;
            process.verifying.insert(process.numbers, verification);
            let mut length = self.random.between(1, 60);
            if self.plan.twin == Twin::Wandering {
                length += RandomState::new().hash_one(()) % 2;
            }
            self.at(self.now + length, Event::Verified { life: process.life, number: process.numbers });
        }
    }

    pub fn verified(&mut self, number: u64) {
        let Some(mut process) = self.process.take() else { return };
        let now = self.engine_now(&process);
        let mut concerned = None;
        if let Some(Verification { session, password, hash }) = process.verifying.remove(&number) {
            let ok = hash.is_some_and(|hash| hash.as_bytes() == password.as_bytes());
            concerned = process.sessions.get(&session).copied();
            let others = concerned.map(|conn| self.others(&process, conn));
            process.engine.verified(session, ok, None, now);
            if let (Some(conn), Some(others)) = (concerned, others) {
                self.conns[conn].others = others;
                let up = self.up();
                self.conns[conn].clocks.login_goes_on(up);
            }
        }
        self.process = Some(process);
        self.pump();
        // What comes of it has come when it was looked at.
        if let Some(conn) = concerned {
            self.conns[conn].verifying = self.conns[conn].verifying.saturating_sub(1);
        }
    }
}
