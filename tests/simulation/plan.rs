//! What a seed decides before anything happens: how many clients, how long, which faults, which settings.

use cpd_core::engine::settings::Settings;
use cpd_core::session::settings::Timeouts;
use cpd_core::time::Millis;

use super::network::Weather;
use super::store::Faults;
use cpd_testing::random::Random;

/// Acts of all clients together, about.
const ACTS: u64 = 600;
/// One seed in so many has hundreds of clients of which each acts about so often.
const CROWDED_ONE_IN: u64 = 50;
const CROWDED_ACTS: u64 = 20;
/// Users whose every message is in the ledger.
pub const USERS: [&str; 6] = ["u0", "u1", "u.2", "U1", "a", "ten_bytes1"];
/// Users whose clients send whatever comes to their mind.
pub const HOSTILE: [&str; 2] = ["g0", "g1"];
/// The one whom administrators lock, purge and remove; its clients are hostile too.
pub const VICTIM: &str = "vic";
/// Of one user; more than there are clients.
const SESSIONS_WITHOUT_A_LIMIT: u32 = 100_000;

/// What is wrong on purpose around the engine, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Twin {
    None,
    /// The store answers a commit before its sync.
    Unsynced,
    /// A crash takes a row that was synced.
    Forgetful,
    /// Now and then a page has another message's body.
    Mixing,
    /// The loop sleeps for a tenth of a second too long.
    Sleepy,
    /// Now and then a byte is another one when it arrives at its client.
    Flipping,
    /// Now and then a piece of output is taken twice.
    Stuttering,
    /// A session that is to end does so before it has said everything.
    Hasty,
    /// A hand-over forgets a connection's record, and keeps the connection.
    Careless,
    /// The server knows no limit of a user's sessions.
    Crowding,
    /// How long things take does not depend on the seed alone.
    Wandering,
}

/// What a run leaves out, to find out what a failure needs.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Only these clients; `None`: all.
    pub clients: Option<Vec<usize>>,
    /// Everybody goes home then.
    pub until: Option<Millis>,
    pub no_crashes: bool,
    pub no_store_faults: bool,
    pub good_weather: bool,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub twin: Twin,
    pub clients: Vec<usize>,
    pub users: usize,
    pub until: Millis,
    /// Between two tasks of a client, about.
    pub pause: Millis,
    pub settings: Settings,
    pub weather: Weather,
    pub store: Faults,
    pub crashes: Vec<Millis>,
    pub handovers: Vec<Millis>,
    pub stops: Vec<Millis>,
    /// Acts of administrators.
    pub orders: Vec<Millis>,
    /// Clients stop in the middle of what they do for longer than the timers allow.
    pub stalls: bool,
    pub hostile_one_in: u64,
    pub slow_one_in: u64,
}

impl Plan {
    pub fn new(seed: u64, twin: Twin, cut: &Cut) -> Plan {
        let mut random = Random::new(seed, u64::MAX);
        let crowded = seed % CROWDED_ONE_IN == 7;
        let count = match random.below(40) {
            _ if crowded => random.between(100, 400),
            0 => random.between(100, 400),
            1..6 => random.between(30, 100),
            _ => random.between(3, 30),
        };
        let until = match random.below(4) {
            0 => random.between(2_000, 20_000),
            1 => random.between(600_000, 4_000_000),
            _ => random.between(20_000, 600_000),
        };
        let mut times = |most: u64| {
            let number = random.below(most + 1);
            let mut times: Vec<Millis> = (0..number).map(|_| random.below(until)).collect();
            times.sort_unstable();
            times
        };
        let (crashes, handovers, stops, orders) = (times(3), times(2), times(1), times(12));
        let mut faults = Faults::default();
        if random.one_in(2) {
            faults.commit = *random.pick(&[10, 50, 200]);
            faults.read = *random.pick(&[0, 40, 200]);
            faults.broken = *random.pick(&[0, 0, 500]);
        }
        faults.slow = *random.pick(&[0, 20, 300]);
        let weather = Weather {
            delay: *random.pick(&[0, 1, 4, 40, 200]),
            hiccup: *random.pick(&[0, 20, 200]),
            cut: *random.pick(&[0, 2, 3, 20]),
        };
        let mut plan = Plan {
            seed,
            twin,
            clients: (0..count as usize).collect(),
            users: random.between(2, USERS.len() as u64) as usize,
            until,
            pause: (until * count / if crowded { CROWDED_ACTS * count } else { ACTS }).clamp(5, 300_000),
            settings: settings(&mut random),
            weather,
            store: faults,
            crashes,
            handovers,
            stops,
            orders,
            stalls: random.one_in(2),
            hostile_one_in: *random.pick(&[0, 3, 6]),
            slow_one_in: *random.pick(&[0, 4, 12]),
        };
        plan.cut(cut);
        plan
    }

    fn cut(&mut self, cut: &Cut) {
        if let Some(clients) = &cut.clients {
            self.clients.clone_from(clients);
        }
        self.until = cut.until.map_or(self.until, |until| until.min(self.until));
        if cut.no_crashes {
            (self.crashes, self.handovers, self.stops) = (Vec::new(), Vec::new(), Vec::new());
        }
        if cut.no_store_faults {
            self.store = Faults::default();
        }
        if cut.good_weather {
            self.weather = Weather { delay: 1, hiccup: 0, cut: 0 };
        }
    }

    /// Who is client `number`, and whether it is hostile.
    pub fn user(&self, number: usize) -> (&'static str, bool) {
        let mut random = Random::new(self.seed, 0x0055_5e72 + number as u64);
        if random.one_in(self.hostile_one_in) {
            let user = if random.one_in(3) { VICTIM } else { *random.pick(&HOSTILE) };
            return (user, true);
        }
        (*random.pick(&USERS[..self.users]), false)
    }

    /// The user of client `number`, also of one that empties a queue in the end.
    pub fn user_of(&self, number: usize) -> &'static str {
        number.checked_sub(super::world::DRAINS).map_or_else(|| self.user(number).0, |place| USERS[place])
    }

    /// Whether somebody with a wrong password can lock out others who are in the ledger.
    pub fn throttles(&self) -> bool {
        self.settings.limits.failures_per_user < 50_000
    }

    /// Whether a right password can be one session too many.
    pub fn limits_sessions(&self) -> bool {
        self.settings.limits.sessions_per_user < SESSIONS_WITHOUT_A_LIMIT
    }

    /// Whether a message can be refused: by a full queue or a failing store.
    pub fn stores_can_fail(&self) -> bool {
        self.store.commit > 0 || self.store.broken > 0 || self.settings.limits.queue_messages < 1000
    }
}

fn settings(random: &mut Random) -> Settings {
    let mut settings = Settings::default();
    if random.one_in(3) {
        (settings.limits.queue_messages, settings.limits.queue_messages_per_sender) = (40, 15);
    } else {
        (settings.limits.queue_messages, settings.limits.queue_messages_per_sender) = (100_000, 100_000);
    }
    if !random.one_in(3) {
        (settings.limits.failures_per_address, settings.limits.failures_per_user) = (50_000, 50_000);
        settings.limits.failures_per_user_day = 1_000_000;
    }
    // Crowds of hundreds share a few names.
    settings.limits.sessions_per_user =
        if random.one_in(4) { random.between(1, 4) as u32 } else { SESSIONS_WITHOUT_A_LIMIT };
    if random.one_in(2) {
        settings.session.timeouts = Timeouts {
            // Beyond every hiccup of the network: no line is late that its client did not leave unfinished.
            pdu: random.between(4_000, 40_000),
            login: random.between(20_000, 90_000),
            ack: random.between(2_000, 40_000),
            recover: random.between(2_000, 90_000),
            idle: random.between(20_000, 1_800_000),
            write: random.between(5_000, 40_000),
        };
    }
    settings
}
