//! Everything together on virtual time: clients, network, server, store, and what befalls them. One event after another;
//! after each of them the promises of docs/protocol.md are looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use cp_proto::values::Username;
use cpd_core::dfa::Dialect;
use cpd_core::engine::port::AddressKey;
use cpd_core::time::Millis;

use super::bodies::Bodies;
use super::client::{Act, Client, Leave, Shared};
use super::hostile::Hostile;
use super::network::{Conn, Parcel, Reading};
use super::plan::{HOSTILE, Plan, USERS, VICTIM};
use super::problem::{Problem, Sort};
use super::server::{Heritage, Process};
use super::store::Store;
use super::trace::Trace;
use crate::ledger::{Ledger, Parting};
use cpd_testing::random::Random;

/// How long everybody may take to go home, and a queue to be emptied.
const HOME_MS: Millis = 4 * 3_600_000;
/// Events of one run at most: beyond, something goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// So many clients are a crowd, if each of them does so much.
const CROWD: u64 = 100;
const CROWD_ACTS: u64 = 10;

/// Something that happens at its time. Numbers of connections, clients, lives of the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Event {
    Act {
        actor: usize,
        turn: u32,
    },
    /// A parcel arrives at the server, or at the client.
    Up(usize),
    Down(usize),
    /// A client reads.
    Read(usize),
    Wake(u32),
    /// The loop looks at what has arrived.
    Poll(u32),
    /// The store's round is over; it has something to say; it tries deletes again.
    Cycle(u32),
    Result(u32),
    Retry(u32),
    Verified {
        life: u32,
        number: u64,
    },
    Crash,
    CrashNow(u32),
    Handover,
    Stop,
    Start,
    Order,
    GoHome,
}

pub enum Who {
    Honest(Client),
    Hostile(Hostile),
}

pub struct Actor {
    pub who: Who,
    pub conn: Option<usize>,
    /// It does nothing before.
    asleep_until: Millis,
    next_act: Millis,
    turn: u32,
    connections: u64,
}

/// What to crash in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    Commit,
    Answer,
    Reply,
}

#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub connections: u64,
    pub crashes: u64,
    pub lost_transactions: u64,
    pub handovers: u64,
    pub handed_over: u64,
    pub stops: u64,
    /// Right passwords of users who had all the sessions that they may have.
    pub sessions_refused: u64,
    /// Worlds in which hundreds of clients did more than a little.
    pub crowds: u64,
}

pub struct World {
    pub plan: Plan,
    pub now: Millis,
    numbers: u64,
    events: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    pub trace: Trace,
    pub ledger: Ledger,
    pub bodies: Bodies,
    pub store: Store,
    pub random: Random,
    pub conns: Vec<Conn>,
    pub actors: Vec<Actor>,
    /// In a box: it is taken out and put back at every event.
    pub process: Option<Box<Process>>,
    pub heritage: Option<Heritage>,
    pub lives: u32,
    /// Time in which connections had no server that looks after them.
    pub down: Millis,
    pub thawed_at: Millis,
    pub crash_in: Option<Moment>,
    pub calm: bool,
    /// A promise that was broken.
    pub problem: Option<Problem>,
    pub happened: Counts,
    /// Of all clients.
    acts: u64,
    pub checks: u32,
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

impl World {
    pub fn new(plan: Plan, words: bool) -> World {
        let stream = |number| Random::new(plan.seed, number);
        let mut store = Store::new(plan.twin, plan.store, stream(1));
        for user in USERS.iter().take(plan.users).chain(&HOSTILE).chain([&VICTIM]) {
            store.add_user(name(user), format!("pw-{user}"));
        }
        let mut world = World {
            now: 0,
            numbers: 0,
            events: BinaryHeap::new(),
            trace: Trace::new(words),
            ledger: Ledger::default(),
            bodies: Bodies::default(),
            store,
            random: stream(2),
            conns: Vec::new(),
            actors: Vec::new(),
            process: None,
            heritage: None,
            lives: 0,
            down: 0,
            thawed_at: 0,
            crash_in: None,
            calm: false,
            problem: None,
            happened: Counts::default(),
            acts: 0,
            checks: 0,
            plan,
        };
        let of = |times: &[Millis], event: Event| times.iter().map(|at| (*at, event)).collect::<Vec<_>>();
        let mut events = vec![(0, Event::Start), (world.plan.until, Event::GoHome)];
        events.extend(of(&world.plan.crashes, Event::Crash));
        events.extend(of(&world.plan.handovers, Event::Handover));
        events.extend(of(&world.plan.stops, Event::Stop));
        events.extend(of(&world.plan.orders, Event::Order));
        events.into_iter().for_each(|(at, event)| world.at(at, event));
        for number in world.plan.clients.clone() {
            world.add_actor(number, false);
        }
        world
    }

    fn add_actor(&mut self, number: usize, drains: bool) {
        let mut random = Random::new(self.plan.seed, 1000 + number as u64);
        let begin = if drains { 0 } else { random.below(self.plan.pause.min(self.plan.until / 2) + 10) };
        let who = match self.plan.user(number) {
            _ if drains => Who::Honest(Client::new(number, USERS[number - DRAINS], random, true)),
            (user, true) => Who::Hostile(Hostile::new(number, user, random)),
            (user, false) => Who::Honest(Client::new(number, user, random, false)),
        };
        self.actors.push(Actor { who, conn: None, asleep_until: 0, next_act: Millis::MAX, turn: 0, connections: 0 });
        self.act_at(self.actors.len() - 1, self.now + begin);
    }

    pub fn at(&mut self, at: Millis, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at.max(self.now), self.numbers, event)));
    }

    /// Plays everything. `Err`: the promise that was broken.
    pub fn run(&mut self) -> Result<(), Problem> {
        self.run_until(self.plan.until + HOME_MS, |world| world.calm && world.is_empty())?;
        self.check_everything();
        self.count_queues();
        for place in 0..self.plan.users {
            self.add_actor(DRAINS + place, true);
        }
        let end = self.now + HOME_MS;
        self.run_until(end, |world| world.is_empty() && world.drained())?;
        self.ledger.drained();
        self.check();
        self.problem.take().map_or(Ok(()), Err)
    }

    pub fn counts(&self) -> Counts {
        let clients = self.plan.clients.len() as u64;
        let crowd = clients >= CROWD && self.acts >= CROWD_ACTS * clients;
        Counts { crowds: u64::from(crowd), ..self.happened }
    }

    fn run_until(&mut self, end: Millis, over: impl Fn(&World) -> bool) -> Result<(), Problem> {
        while !over(self) {
            let Some(Reverse((at, _, event))) = self.events.pop() else { return Err(self.stuck()) };
            if at > end || self.trace.events > EVENTS_MAX {
                return Err(self.stuck());
            }
            self.now = at;
            self.handle(event);
            self.check();
            if let Some(problem) = self.problem.take() {
                return Err(problem);
            }
        }
        Ok(())
    }

    fn stuck(&self) -> Problem {
        let waits = |actor: &Actor| match &actor.who {
            Who::Honest(client) => format!("{}: {:?}", client.user, client.waits_for()),
            Who::Hostile(hostile) => hostile.user.to_owned(),
        };
        let open: Vec<String> = self.actors.iter().filter(|actor| actor.conn.is_some()).map(waits).collect();
        let sessions = self.process.as_ref().map(|process| process.sessions.len());
        Problem::new(Sort::Stuck, format!("sessions {sessions:?}, clients {open:?}"))
    }

    fn is_empty(&self) -> bool {
        let quiet = self.process.as_ref().is_some_and(|process| process.is_quiet()) && !self.store.is_busy();
        quiet && !self.store.owes_deletes() && self.actors.iter().all(|actor| actor.conn.is_none())
    }

    fn drained(&self) -> bool {
        let mut drains = self.actors.iter().rev().take(self.plan.users);
        drains.all(|actor| matches!(&actor.who, Who::Honest(client) if client.done))
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Act { actor, turn } if self.actors[actor].turn == turn => self.act(actor),
            Event::Act { .. } => {}
            Event::Up(conn) => self.arrive(conn),
            Event::Down(conn) => self.come(conn),
            Event::Read(conn) => self.read(conn),
            Event::GoHome => self.go_home(),
            Event::Crash | Event::Handover | Event::Stop | Event::Order if self.calm => {}
            other => self.handle_server(other),
        }
    }

    fn go_home(&mut self) {
        self.calm = true;
        self.crash_in = None;
        self.store.faults = Default::default();
        for actor in 0..self.actors.len() {
            if matches!(self.actors[actor].who, Who::Hostile(_)) {
                self.leave(actor, Leave::Reset);
            }
            self.act_at(actor, self.now);
        }
        for conn in 0..self.conns.len() {
            self.conns[conn].deaf_until = 0;
            self.at(self.now, Event::Read(conn));
        }
    }

    // ---- clients ----

    fn act_at(&mut self, actor: usize, at: Millis) {
        let one = &mut self.actors[actor];
        one.turn += 1;
        one.next_act = at;
        let event = Event::Act { actor, turn: one.turn };
        self.at(at, event);
    }

    fn act(&mut self, actor: usize) {
        self.actors[actor].next_act = Millis::MAX;
        let Some(conn) = self.actors[actor].conn else { return self.connect(actor) };
        let World { plan, ledger, bodies, calm, .. } = self;
        let act = match &mut self.actors[actor].who {
            Who::Honest(client) => client.act(&mut Shared { plan, ledger, bodies, calm: *calm }),
            Who::Hostile(hostile) => hostile.act(plan.pause, bodies),
        };
        self.acts += 1;
        let Act { bytes, leave, stalls, deaf, pause } = act;
        if !bytes.is_empty() {
            self.trace.note(self.now, self.conns[conn].client, "sends", &bytes);
            for at in self.conns[conn].send(&bytes, self.now) {
                self.at(at, Event::Up(conn));
            }
        }
        self.conns[conn].clocks.stalling |= stalls;
        if deaf > 0 {
            self.conns[conn].deaf_until = self.now + deaf;
        }
        if pause > 0 && !self.calm {
            self.actors[actor].asleep_until = if pause > 100 { self.now + pause } else { 0 };
        }
        if pause > 0 {
            self.act_at(actor, self.now + pause);
        }
        if let Some(leave) = leave {
            self.leave(actor, leave);
        }
    }

    fn connect(&mut self, actor: usize) {
        let drains = matches!(&self.actors[actor].who, Who::Honest(client) if client.is_draining());
        if (self.calm && !drains) || matches!(&self.actors[actor].who, Who::Honest(client) if client.done) {
            return;
        }
        if !self.process.as_ref().is_some_and(|process| process.is_serving()) {
            let wait = self.random.between(20, 1000);
            return self.act_at(actor, self.now + wait);
        }
        let one = &mut self.actors[actor];
        one.connections += 1;
        self.happened.connections += 1;
        let place = self.conns.len();
        let (number, honest, dialect, random) = match &mut one.who {
            Who::Honest(client) => (client.number(), true, Dialect::Cp, &mut client.random),
            Who::Hostile(hostile) if hostile.classic => {
                (hostile.number(), false, Dialect::Classic, &mut hostile.random)
            }
            Who::Hostile(hostile) => (hostile.number(), false, Dialect::Cp, &mut hostile.random),
        };
        let from = match (honest, random.below(3)) {
            (true, 0) => AddressKey::V6(number as u64),
            (true, _) => AddressKey::V4(1000 + number as u32),
            (false, 0) => AddressKey::Local(7),
            (false, _) => AddressKey::V4(1),
        };
        let own = Random::new(self.plan.seed ^ one.connections << 40, 1_000_000 + number as u64);
        let mut conn = Conn::new(number, from, dialect, self.plan.weather, own);
        conn.honest = honest;
        if !drains && random.one_in(self.plan.slow_one_in) {
            let (room, bytes) = (random.between(1, 4000) as usize, random.between(1, 2000) as usize);
            conn.narrow(room, Reading::Slowly { bytes, every: random.between(1, 500) });
        }
        match &mut one.who {
            Who::Honest(client) => client.connected(&mut self.ledger),
            Who::Hostile(hostile) => hostile.connected(),
        }
        one.conn = Some(place);
        self.trace.note_number(self.now, number, "connects as connection", place as u64);
        self.conns.push(conn);
        self.accept(place);
        self.act_at(actor, self.now + 1);
    }

    fn leave(&mut self, actor: usize, leave: Leave) {
        let Some(conn) = self.actors[actor].conn else { return };
        self.trace.note(self.now, self.conns[conn].client, "leaves", format!("{leave:?}").as_bytes());
        match leave {
            Leave::End => {
                let at = self.conns[conn].send_parcel(Parcel::End { orderly: true }, self.now);
                self.at(at, Event::Up(conn));
                return;
            }
            Leave::Reset => {
                let at = self.conns[conn].send_parcel(Parcel::Reset, self.now);
                self.at(at, Event::Up(conn));
            }
            Leave::Vanish => {}
        }
        self.conns[conn].vanished = true;
        self.over(actor, Parting::Torn, false);
    }

    /// The actor's connection is over for it.
    pub fn over(&mut self, actor: usize, parting: Parting, stopped: bool) {
        let Some(conn) = self.actors[actor].conn.take() else { return };
        let heard_out = self.conns[conn].clocks.was_heard_out();
        if let Who::Honest(client) = &mut self.actors[actor].who {
            let problem = client.closed(parting, stopped, heard_out, &mut self.ledger);
            self.report(problem);
        }
        let wait = self.random.between(1, 2 * self.plan.pause);
        self.act_at(actor, self.now + wait);
    }

    /// The one whose connection this is, if it still is.
    pub fn actor_of(&self, conn: usize) -> Option<usize> {
        let number = self.conns[conn].client;
        let place = match number.checked_sub(DRAINS) {
            Some(drain) => Some(self.plan.clients.len() + drain),
            None => self.plan.clients.binary_search(&number).ok(),
        };
        place.filter(|place| self.actors.get(*place).is_some_and(|actor| actor.conn == Some(conn)))
    }

    /// Something arrives at the client's kernel.
    fn come(&mut self, conn: usize) {
        match self.conns[conn].came() {
            Some(Parcel::Bytes(bytes)) => self.conns[conn].unread.extend(bytes),
            Some(Parcel::End { orderly }) => self.conns[conn].finished = Some(orderly),
            Some(Parcel::Reset) => self.conns[conn].finished = Some(false),
            None => return,
        }
        match self.conns[conn].reading {
            Reading::AtOnce => self.read(conn),
            Reading::Slowly { every, .. } => self.at(self.now + every, Event::Read(conn)),
        }
    }

    /// The client reads what it wants to.
    fn read(&mut self, conn: usize) {
        if self.conns[conn].vanished {
            return;
        }
        if self.conns[conn].deaf_until > self.now {
            let until = self.conns[conn].deaf_until;
            return self.at(until, Event::Read(conn));
        }
        let Some(actor) = self.actor_of(conn) else { return };
        let most = match self.conns[conn].reading {
            Reading::Slowly { bytes, every } if !self.calm => {
                if self.conns[conn].unread.len() > bytes {
                    self.at(self.now + every, Event::Read(conn));
                }
                bytes
            }
            Reading::AtOnce | Reading::Slowly { .. } => usize::MAX,
        };
        let bytes = self.conns[conn].read(most);
        if !bytes.is_empty() {
            self.hear(actor, conn, &bytes);
            self.writable(conn);
        }
        if self.conns[conn].unread.is_empty()
            && let Some(orderly) = self.conns[conn].finished
        {
            self.conns[conn].vanished = true;
            self.check_all_was_read(conn, orderly);
            self.trace.note_number(self.now, self.conns[conn].client, "reads the end", u64::from(orderly));
            self.over(actor, if orderly { Parting::Orderly } else { Parting::Torn }, self.is_stopping());
        }
    }

    pub fn hear(&mut self, actor: usize, conn: usize, bytes: &[u8]) {
        self.trace.note(self.now, self.conns[conn].client, "reads", bytes);
        if let Some(text) = self.conns[conn].compare(bytes) {
            return self.report(Some(Problem::new(Sort::Altered, text)));
        }
        let login_may_fail = self.login_may_fail(conn);
        let World { plan, ledger, bodies, calm, .. } = self;
        let heard = match &mut self.actors[actor].who {
            Who::Honest(client) => {
                client.hear(bytes, login_may_fail, &mut Shared { plan, ledger, bodies, calm: *calm })
            }
            Who::Hostile(hostile) => hostile.hear(bytes),
        };
        self.report(heard.err().map(|text| Problem::new(Sort::Reply, text)));
        let at = self.actors[actor].asleep_until.max(self.now + self.random.between(1, 40));
        if self.actors[actor].next_act > at {
            self.act_at(actor, at);
        }
    }
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.connections += other.connections;
        self.crashes += other.crashes;
        self.lost_transactions += other.lost_transactions;
        self.handovers += other.handovers;
        self.handed_over += other.handed_over;
        self.stops += other.stops;
        self.sessions_refused += other.sessions_refused;
        self.crowds += other.crowds;
    }
}

/// Numbers of the clients that empty the queues in the end.
pub const DRAINS: usize = 1_000_000;
