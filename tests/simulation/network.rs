//! One connection: what is on its way in either direction, what lies in the two kernels, and what has become of the ends.

use std::collections::VecDeque;

use cpd_core::dfa::Dialect;
use cpd_core::engine::port::{AddressKey, SessionId};
use cpd_core::time::Millis;

use super::clocks::Clocks;
use cpd_testing::random::Random;

/// What a kernel takes for a peer that does not read.
const ROOM_BYTES: usize = 48 * 1024;

/// One piece of a stream.
pub enum Parcel {
    Bytes(Vec<u8>),
    /// The end. From the server: after all that it had to say, or not.
    End {
        orderly: bool,
    },
    Reset,
}

/// How the network treats a connection.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub delay: Millis,
    /// Once in so many parcels it takes much longer; 0 is never.
    pub hiccup: u64,
    /// Once in so many writes it is cut into pieces; 0 is never.
    pub cut: u64,
}

/// How a client reads: everything at once, or so many bytes every so many milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    AtOnce,
    Slowly { bytes: usize, every: Millis },
}

pub struct Conn {
    pub client: usize,
    /// While the server has it.
    pub id: Option<SessionId>,
    pub from: AddressKey,
    pub dialect: Dialect,
    weather: Weather,
    random: Random,
    up: VecDeque<Parcel>,
    up_last: Millis,
    down: VecDeque<Parcel>,
    down_last: Millis,
    /// In the server's kernel, not read.
    pub inbox: Vec<u8>,
    /// The client's end has come.
    pub ended: bool,
    /// The server's engine knows it.
    pub end_told: bool,
    /// In the client's kernel, not read.
    pub unread: VecDeque<u8>,
    pub reading: Reading,
    /// The client reads nothing before.
    pub deaf_until: Millis,
    room: usize,
    /// Bytes from the server that the client has not read.
    occupied: usize,
    /// The client is gone without a word, or has closed: nothing that comes is read.
    pub vanished: bool,
    /// What its sessions have said and it has not read: not a byte of it may change, wherever it lies meanwhile.
    pub told: VecDeque<u8>,
    /// Bytes of the session's output that were looked at.
    pub seen: usize,
    /// The engine has begun to close it.
    pub closing: bool,
    /// The client has seen the end; `true`: an orderly one.
    pub finished: Option<bool>,
    /// A reset has come while no server was there to see it.
    pub broken: bool,
    /// Pages that the store has to read for it.
    pub paging: u32,
    /// Logins of it that the store or the verifiers have.
    pub verifying: u32,
    /// Messages of it that the store has, and those that it was told of.
    pub stored: u32,
    pub confirmed: u32,
    /// Its user is logged in.
    pub logged_in: bool,
    /// When its password was verified: the other sessions of its user, first those that were to go on.
    pub others: (usize, usize),
    /// Whether its clocks are looked at.
    pub honest: bool,
    pub clocks: Clocks,
}

impl Conn {
    pub fn new(client: usize, from: AddressKey, dialect: Dialect, weather: Weather, random: Random) -> Conn {
        Conn {
            client,
            id: None,
            from,
            dialect,
            weather,
            random,
            up: VecDeque::new(),
            up_last: 0,
            down: VecDeque::new(),
            down_last: 0,
            inbox: Vec::new(),
            ended: false,
            end_told: false,
            unread: VecDeque::new(),
            reading: Reading::AtOnce,
            deaf_until: 0,
            room: ROOM_BYTES,
            occupied: 0,
            vanished: false,
            told: VecDeque::new(),
            seen: 0,
            closing: false,
            finished: None,
            broken: false,
            paging: 0,
            verifying: 0,
            stored: 0,
            confirmed: 0,
            logged_in: false,
            others: (0, 0),
            honest: false,
            clocks: Clocks::default(),
        }
    }

    pub fn narrow(&mut self, room: usize, reading: Reading) {
        (self.room, self.reading) = (room, reading);
    }

    /// The client sends; when each piece will arrive.
    pub fn send(&mut self, bytes: &[u8], now: Millis) -> Vec<Millis> {
        let mut arrivals = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = rest.len() > 1 && self.random.one_in(self.weather.cut);
            let length = if cut { self.random.between(1, rest.len() as u64 - 1) as usize } else { rest.len() };
            let (piece, others) = rest.split_at(length);
            arrivals.push(self.send_parcel(Parcel::Bytes(piece.to_vec()), now));
            rest = others;
        }
        arrivals
    }

    /// The client's end, or its reset; when it arrives.
    pub fn send_parcel(&mut self, parcel: Parcel, now: Millis) -> Millis {
        self.up_last = self.arrival(now).max(self.up_last);
        self.up.push_back(parcel);
        self.up_last
    }

    /// What has arrived at the server.
    pub fn arrived(&mut self) -> Option<Parcel> {
        self.up.pop_front()
    }

    /// How many bytes go in or out in one call at most: often all, now and then a few.
    pub fn mouthful(&mut self, most: usize) -> usize {
        match self.random.below(6) {
            0 => self.random.between(1, 16) as usize,
            1 => self.random.between(1, 1024) as usize,
            _ => most,
        }
    }

    /// Bytes that the kernel takes from the server now.
    pub fn room(&self) -> usize {
        self.room.saturating_sub(self.occupied)
    }

    /// The server sends what there is room for; when it arrives.
    pub fn say(&mut self, bytes: &[u8], now: Millis) -> Millis {
        self.occupied += bytes.len();
        self.say_parcel(Parcel::Bytes(bytes.to_vec()), now)
    }

    pub fn say_parcel(&mut self, parcel: Parcel, now: Millis) -> Millis {
        self.down_last = self.arrival(now).max(self.down_last);
        self.down.push_back(parcel);
        self.down_last
    }

    /// What has arrived at the client.
    pub fn came(&mut self) -> Option<Parcel> {
        self.down.pop_front()
    }

    /// The client reads up to `most` bytes.
    pub fn read(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.unread.len());
        self.occupied -= count;
        self.unread.drain(..count).collect()
    }

    /// The client has read `bytes`. What is wrong with them.
    pub fn compare(&mut self, bytes: &[u8]) -> Option<String> {
        let same = |(read, said): &(&u8, &u8)| read == said;
        let matching = bytes.iter().zip(&self.told).take_while(same).count();
        if matching == bytes.len() {
            self.told.drain(..matching);
            return None;
        }
        let said: Vec<u8> = self.told.range(matching..).take(40).copied().collect();
        let read = &bytes[matching..bytes.len().min(matching + 40)];
        Some(format!("client {} was told {} and reads {}", self.client, said.escape_ascii(), read.escape_ascii()))
    }

    /// The end is on its way to the client, or there.
    pub fn is_ending(&self) -> bool {
        self.finished.is_some() || self.down.iter().any(|parcel| !matches!(parcel, Parcel::Bytes(_)))
    }

    /// The server is gone. What was under way to the client comes, if it must, or is lost.
    pub fn spill(&mut self, must: bool) {
        if must || self.random.one_in(2) {
            while let Some(parcel) = self.down.pop_front() {
                match parcel {
                    Parcel::Bytes(bytes) => self.unread.extend(bytes),
                    Parcel::End { orderly } => self.finished = Some(orderly),
                    Parcel::Reset => {}
                }
            }
        }
        self.up.clear();
        self.down.clear();
    }

    fn arrival(&mut self, now: Millis) -> Millis {
        let hiccup = if self.random.one_in(self.weather.hiccup) { self.random.between(50, 3000) } else { 0 };
        now + if self.weather.delay > 0 { self.random.between(self.weather.delay / 2, self.weather.delay) } else { 0 }
            + hiccup
    }
}
