//! The production engine with its sessions, and around it a store in memory, clients and the time, all doing what a
//! program says. One run can stop for a successor at every chance where another run only comes to rest.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use cp_proto::limits::PDU_MAX_BYTES;
use cp_proto::reply::{BadCommandCause, Reply, ReplyStage};
use cp_proto::values::Username;
use cpd_core::engine::port::{AddressKey, Batch, FromStore, Op, Outcome, RequestId, SessionId};
use cpd_core::engine::requests::{PurgeFilter, Request};
use cpd_core::engine::{Engine, Verification};
use cpd_core::limits::OUTPUT_HIGH_WATER_BYTES;
use cpd_core::mailboxes::local::batcher::DELETE_DELAY_MS;
use cpd_core::session::Closing;
use cpd_core::time::{Millis, NEVER};
use cpd_core::timer::TICK_MS;

use super::Twin;
use super::framing;
use super::output::{self, Item};
use super::program::{CLIENTS, Program, Step};
use crate::memory_store::MemoryStore;

/// Those who can log in, with their passwords.
pub const USERS: [(&str, &str); 3] = [("bob", "secret"), ("alice", "wonder"), ("carol", "garden")];
const WALL: u64 = 1_700_000_000;
/// As much as one read of the daemon takes.
const READ_MAX_BYTES: usize = 8 * 1024;
/// What a session may owe a client that takes nothing: the high-water mark, what the PDU that reached it still brings, and
/// the replies of stores that were under way.
const OUTPUT_MAX_BYTES: usize = 2 * OUTPUT_HIGH_WATER_BYTES + 2 * PDU_MAX_BYTES;
/// After this long the store has written what nobody waited for.
const LAZY: Millis = DELETE_DELAY_MS.next_multiple_of(TICK_MS);
/// The longest record of a session: its input, its output, a window of ids, one line.
const RECORD_MAX_BYTES: usize = 64 * 1024 + OUTPUT_MAX_BYTES + 8 * 256 + 2 * PDU_MAX_BYTES;

/// How a program is played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Play {
    /// Where a successor may take over the engine only comes to rest.
    Resting,
    /// A successor takes over.
    Restarting,
    /// As `Resting`, with every byte a segment of its own.
    ByteByByte,
}

/// One connection from its beginning to its end.
#[derive(Default, Debug)]
pub struct Life {
    id: Option<SessionId>,
    /// On the way to the server, and what the server took of it.
    input: Vec<u8>,
    pub taken: Vec<u8>,
    fin: bool,
    pub fin_taken: bool,
    pub output: Vec<u8>,
    /// The server closed the connection.
    pub closed: bool,
    /// The limit of connections was reached.
    pub refused: bool,
    /// The client gave the connection up.
    pub cut: bool,
    deaf: bool,
    /// It did not take everything at once.
    pub dawdled: bool,
    lose_next: bool,
    /// Its session, which may be over.
    session: Option<SessionId>,
    /// The session has ended in order.
    ended: bool,
    /// What the store has of it.
    stored: usize,
}

pub struct World<'p> {
    program: &'p Program,
    play: Play,
    twin: Twin,
    engine: Engine,
    store: MemoryStore,
    pub now: Millis,
    pub lives: Vec<Life>,
    current: [Option<usize>; CLIENTS],
    failing: bool,
    /// Each batch with the lives whose messages it inserts.
    submitted: VecDeque<(Batch, Vec<usize>)>,
    store_answers: bool,
    logins_answer: bool,
    requests: u64,
    restarts: u64,
}

impl<'p> World<'p> {
    /// Plays the whole program. `Err`: something happened that must never happen.
    pub fn play(program: &'p Program, play: Play, twin: Twin) -> Result<World<'p>, String> {
        let mut engine = Engine::new(program.settings, 1, 0);
        engine.set_wall_clock(WALL);
        let mut store = MemoryStore::default();
        for (user, password) in USERS {
            store.add_user(name(user), password.to_owned());
            engine.load_user(name(user));
        }
        let mut world = World {
            program,
            play,
            twin,
            engine,
            store,
            now: 0,
            lives: Vec::new(),
            current: [None; CLIENTS],
            failing: false,
            submitted: VecDeque::new(),
            store_answers: true,
            logins_answer: true,
            requests: 0,
            restarts: 0,
        };
        let everywhere = !program.has(|step| *step == Step::Restart);
        for step in &program.steps {
            if everywhere {
                world.step_aside()?;
            }
            world.step(step)?;
        }
        world.end()?;
        Ok(world)
    }

    /// Everybody gets what they are owed.
    fn end(&mut self) -> Result<(), String> {
        (self.store_answers, self.logins_answer) = (true, true);
        self.lives.iter_mut().for_each(|life| life.deaf = false);
        let ids: Vec<SessionId> = self.lives.iter().filter_map(|life| life.id).collect();
        ids.into_iter().try_for_each(|id| self.look_at(id))?;
        self.pump()?;
        self.pass(LAZY)?;
        for (number, life) in self.lives.iter().enumerate() {
            let Some(id) = life.id else { continue };
            // Whose end was taken, by telnet's EOF as by a FIN, is not read any more, and may still wait for a message.
            let end_taken = life.fin_taken || framing::ends(&life.taken);
            let goes_on = end_taken || (self.engine.wants_input(id) && life.input.is_empty());
            if !goes_on || !self.engine.output(id).is_empty() {
                return Err(format!("connection {number}: nothing is under way, and the server does not go on"));
            }
        }
        self.all_stores_are_told()
    }

    /// A session that goes on, or has ended in order, has told its client of every message that is stored.
    fn all_stores_are_told(&self) -> Result<(), String> {
        for (number, life) in self.lives.iter().enumerate().filter(|(_, life)| life.id.is_some() || life.ended) {
            let items = output::parse(&life.output, true).map_err(|fault| format!("connection {number}: {fault}"))?;
            let mut told = items.iter().filter(|item| **item == Item::Code(240)).count();
            if self.twin == Twin::UntoldStore {
                told = told.saturating_sub(1);
            }
            if told != life.stored {
                let stored = life.stored;
                return Err(format!("connection {number}: {stored} messages are stored, and it was told of {told}"));
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send(client, bytes) => {
                let life = self.life(*client);
                // Nothing comes behind a FIN.
                let bytes = if self.lives[life].fin || self.lives[life].fin_taken { &[][..] } else { bytes };
                if self.play == Play::ByteByByte {
                    for byte in bytes {
                        self.lives[life].input.push(*byte);
                        self.pump()?;
                    }
                } else {
                    self.lives[life].input.extend_from_slice(bytes);
                }
            }
            Step::Open(client) => {
                if let Some(life) = self.current[*client]
                    && let Some(id) = self.lives[life].id.take()
                {
                    self.lives[life].cut = true;
                    self.engine.close(id, self.now);
                }
                self.open(*client);
            }
            Step::Fin(client) => {
                let life = self.life(*client);
                self.lives[life].fin = true;
            }
            Step::Time(time) => self.pass(*time)?,
            Step::FailStore => self.failing = true,
            Step::Store(answers) => self.store_answers = *answers,
            Step::Logins(answer) => self.logins_answer = *answer,
            Step::Hears(client, hears) => {
                let life = self.life(*client);
                self.lives[life].deaf = !*hears;
                self.lives[life].dawdled = true;
                if let Some(id) = self.lives[life].id {
                    self.look_at(id)?;
                }
            }
            Step::Take(client, count) => {
                let life = self.life(*client);
                self.take(life, *count);
                // As the event loop does behind each write.
                if let Some(id) = self.lives[life].id {
                    self.look_at(id)?;
                }
            }
            Step::Purge(client) => {
                self.requests += 1;
                let request = Request::QueuePurge { user: name(USERS[*client].0), which: PurgeFilter::default() };
                self.engine.admin(RequestId(self.requests), request, self.now);
            }
            Step::Restart => self.step_aside()?,
        }
        self.pump()
    }

    fn life(&mut self, client: usize) -> usize {
        match self.current[client] {
            Some(life) => life,
            None => self.open(client),
        }
    }

    fn open(&mut self, client: usize) -> usize {
        let mut life = Life::default();
        match self.engine.open(from(), self.program.dialect, self.now) {
            Ok(id) => (life.id, life.session) = (Some(id), Some(id)),
            Err(_) => {
                (life.closed, life.refused) = (true, true);
                Reply::BadCommand(ReplyStage::Idle, BadCommandCause::TooManyConnections).write(false, &mut life.output);
            }
        }
        self.lives.push(life);
        self.current[client] = Some(self.lives.len() - 1);
        self.lives.len() - 1
    }

    /// Everything that is due until `time` has passed.
    fn pass(&mut self, time: Millis) -> Result<(), String> {
        let end = self.now + time;
        // Each turn is one deadline; a session has a handful of them, and re-arms lazily.
        for _ in 0..100_000 {
            let next = self.engine.next_deadline();
            if next == NEVER || next > end {
                self.now = end;
                return Ok(());
            }
            self.now = self.now.max(next);
            self.engine.expire(self.now);
            self.pump()?;
        }
        Err("time does not get on".into())
    }

    /// Does everything that can be done without time passing.
    fn pump(&mut self) -> Result<(), String> {
        loop {
            let mut moved = self.deliver_input();
            moved |= self.work_the_store();
            while self.logins_answer
                && let Some(login) = self.engine.next_verification(self.now)
            {
                moved = true;
                let Verification { session, password, hash } = login;
                let ok = hash.is_some_and(|hash| hash.as_bytes() == password.as_bytes());
                self.engine.verified(session, ok, None, self.now);
            }
            while let Some(id) = self.engine.next_dirty() {
                moved = true;
                self.look_at(id)?;
            }
            while self.engine.next_event().is_some() {}
            while self.engine.next_result().is_some() {}
            if !moved {
                return Ok(());
            }
        }
    }

    /// What the engine has for the store is taken at once, and done when the store answers.
    fn work_the_store(&mut self) -> bool {
        let mut moved = false;
        loop {
            if self.store_answers
                && let Some((batch, senders)) = self.submitted.pop_front()
            {
                if self.failing && batch.ops.iter().any(|op| matches!(op, Op::Insert { .. })) {
                    (self.store.fail_next, self.failing) = (true, false);
                }
                for result in self.store.execute(batch) {
                    if let FromStore::Done(_, Outcome { inserts: true, .. }) = result {
                        senders.iter().for_each(|life| self.lives[*life].stored += 1);
                    }
                    self.engine.from_store(result, self.now);
                }
            } else if let Some(batch) = self.engine.next_batch(self.now) {
                let senders: Vec<usize> = batch
                    .ops
                    .iter()
                    .filter_map(|op| match op {
                        Op::Insert { session, .. } => self.lives.iter().position(|life| life.session == Some(*session)),
                        _ => None,
                    })
                    .collect();
                self.submitted.push_back((batch, senders));
            } else {
                return moved;
            }
            moved = true;
        }
    }

    fn deliver_input(&mut self) -> bool {
        let mut moved = false;
        for life in &mut self.lives {
            let Some(id) = life.id else { continue };
            while !life.input.is_empty() && self.engine.wants_input(id) {
                let rest = life.input.split_off(life.input.len().min(READ_MAX_BYTES));
                let bytes = std::mem::replace(&mut life.input, rest);
                life.taken.extend_from_slice(&bytes);
                let lost = usize::from(std::mem::take(&mut life.lose_next));
                self.engine.receive(id, &bytes[lost..], self.now);
                moved = true;
            }
            if life.fin && life.input.is_empty() && self.engine.wants_input(id) {
                (life.fin, life.fin_taken) = (false, true);
                self.engine.end_of_input(id, self.now);
                moved = true;
            }
        }
        moved
    }

    fn look_at(&mut self, id: SessionId) -> Result<(), String> {
        let owed = self.engine.output(id).len();
        if owed > OUTPUT_MAX_BYTES {
            return Err(format!("a session owes its client {owed} bytes"));
        }
        let Some(life) = self.lives.iter().position(|life| life.id == Some(id)) else { return Ok(()) };
        while !self.lives[life].deaf && !self.engine.output(id).is_empty() {
            self.take(life, usize::MAX);
        }
        match self.engine.next_close_step(id) {
            closing @ (Closing::Now | Closing::Flush) => {
                self.lives[life].closed = true;
                self.lives[life].ended = closing == Closing::Flush;
                self.lives[life].id = None;
                self.engine.close(id, self.now);
            }
            Closing::Open | Closing::Stopping | Closing::Paused => self.engine.arm(id),
        }
        Ok(())
    }

    fn take(&mut self, life: usize, count: usize) {
        let Some(id) = self.lives[life].id else { return };
        let count = count.min(self.engine.output(id).len());
        let bytes = self.engine.output(id)[..count].to_vec();
        self.lives[life].output.extend_from_slice(&bytes);
        self.engine.sent(id, count, self.now);
    }

    /// Comes to rest, and goes on with another engine if that is how it is played.
    fn step_aside(&mut self) -> Result<(), String> {
        self.store_answers = true;
        self.pump()?;
        self.pass(LAZY)?;
        if self.play != Play::Restarting {
            return Ok(());
        }
        self.engine.pause();
        self.pump()?;
        if !self.engine.is_idle() {
            return Err("the engine does not come to rest".into());
        }
        self.restarts += 1;
        self.store.restarted();
        let mut next = Engine::new(self.program.settings, self.restarts << 20, self.now);
        next.set_wall_clock(WALL);
        self.store.load(&mut next);
        // The successor gives the same ids out again.
        let lives: HashMap<SessionId, usize> =
            self.lives.iter().enumerate().filter_map(|(at, life)| Some((life.id?, at))).collect();
        self.lives.iter_mut().for_each(|life| life.session = None);
        for id in self.engine.handover_order() {
            let life = *lives.get(&id).ok_or("a session of no connection")?;
            let record = self.engine.freeze(id, self.now).ok_or(format!("connection {life} could not be frozen"))?;
            if record.len() > RECORD_MAX_BYTES {
                return Err(format!("the record of connection {life} has {} bytes", record.len()));
            }
            let successor = next.thaw(&record, from(), self.now);
            let successor = successor.ok_or(format!("connection {life} could not be thawed"))?;
            (self.lives[life].id, self.lives[life].session) = (Some(successor), Some(successor));
            self.lives[life].lose_next = self.twin == Twin::LostByte;
        }
        let common = self.engine.freeze_common(self.now);
        next.thaw_common(&common, self.now).ok_or("what is not any connection's could not be thawed")?;
        next.finish_handover(self.now);
        self.engine = next;
        self.pump()
    }
}

fn from() -> AddressKey {
    AddressKey::of(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}
