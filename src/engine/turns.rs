//! Whose password is verified next. Verifying is slow on purpose, and who floods cpd with passwords must not make others
//! wait for all of them: addresses take turns. Those from which somebody has logged in before have a lane of their own,
//! and half of the turns when both lanes want them. Which lane it is says nothing of the name that is tried: an attempt
//! waits like any other from there, whether there is such a user or not.
//!
//! Within a lane the network comes next whose last turn is longest ago, before all others those that had none, in the
//! order in which they came; within an IPv6 /48 each /64; within an address the logins in their order.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;

use super::port::{AddressKey, KNOWN_ADDRESSES_MAX, SessionId};
use crate::sabotage;

/// Networks of which it is known when they had their last turn.
const SERVED_MAX: usize = 65_536;
/// Logins that are looked at in a lane for one that can be verified, and of them those of one address.
const LOOKED_AT_MAX: usize = 256;
const OF_AN_ADDRESS_MAX: usize = 8;
/// Bits of an IPv6 /64 that are of its /48 no more.
const SUBNET_BITS: u32 = 16;

/// What takes turns with others of its kind: an IPv4 address, an IPv6 /48, a local user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Network(AddressKey);

impl Network {
    fn of(address: AddressKey) -> Network {
        if sabotage::is(sabotage::Fault::OneQueue) {
            return Network(AddressKey::V4(0));
        }
        Network(match address {
            AddressKey::V6(prefix) => AddressKey::V6(prefix >> SUBNET_BITS << SUBNET_BITS),
            AddressKey::V4(_) | AddressKey::Local(_) => address,
        })
    }
}

/// When a network's next turn comes: after its last one, then as it came.
type Rank = (u64, u64);

/// The logins that wait.
#[derive(Debug, Default)]
pub struct Turns {
    strangers: Lane,
    /// Those from addresses from which somebody has logged in before.
    known: Lane,
    /// The last turn was the known lane's.
    known_was_last: bool,
    addresses: Remembered<AddressKey>,
    served: Served,
    count: u64,
}

impl Turns {
    /// Somebody has logged in from there.
    pub fn know(&mut self, address: AddressKey) {
        self.addresses.insert(address);
    }

    /// Whether somebody has.
    pub fn knows(&self, address: AddressKey) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        [&self.known, &self.strangers].iter().all(|lane| lane.order.is_empty() && lane.networks.is_empty())
    }

    /// A login waits from now on.
    pub fn push(&mut self, session: SessionId, from: AddressKey) {
        let network = Network::of(from);
        self.count += 1;
        let rank = (self.served.last(network), self.count);
        let known = self.addresses.contains(&from) && !sabotage::is(sabotage::Fault::OneQueue);
        let lane = if known { &mut self.known } else { &mut self.strangers };
        lane.push(session, from, network, rank);
    }

    /// It waits no longer.
    pub fn remove(&mut self, session: SessionId, from: AddressKey) {
        for lane in [&mut self.known, &mut self.strangers] {
            lane.remove(session, from);
        }
    }

    /// Takes out the first login that `judge` has a use for. Those of one address that wait for the outcome of another keep
    /// nobody elsewhere waiting.
    pub fn take<T>(&mut self, mut judge: impl FnMut(SessionId) -> Option<T>) -> Option<T> {
        for known in [!self.known_was_last, self.known_was_last] {
            let lane = if known { &mut self.known } else { &mut self.strangers };
            let Some((network, address, session, found)) = lane.first(&mut judge) else { continue };
            self.count += 1;
            self.served.note(network, self.count);
            let lane = if known { &mut self.known } else { &mut self.strangers };
            lane.had_a_turn(network, address, session, (self.count, self.count));
            self.known_was_last = known;
            return Some(found);
        }
        None
    }
}

#[derive(Debug, Default)]
struct Lane {
    order: BTreeMap<Rank, Network>,
    networks: HashMap<Network, Waiting>,
}

/// The logins of a network that wait, by address; never empty, and no address is without one.
#[derive(Debug)]
struct Waiting {
    rank: Rank,
    /// In the order of their turns.
    addresses: VecDeque<AddressKey>,
    logins: HashMap<AddressKey, VecDeque<SessionId>>,
}

impl Lane {
    fn push(&mut self, session: SessionId, from: AddressKey, network: Network, rank: Rank) {
        let waiting = match self.networks.entry(network) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                self.order.insert(rank, network);
                place.insert(Waiting { rank, addresses: VecDeque::new(), logins: HashMap::new() })
            }
        };
        match waiting.logins.entry(from) {
            Entry::Occupied(mut found) => found.get_mut().push_back(session),
            Entry::Vacant(place) => {
                place.insert(VecDeque::from([session]));
                waiting.addresses.push_back(from);
            }
        }
    }

    fn remove(&mut self, session: SessionId, from: AddressKey) {
        let network = Network::of(from);
        let Some(waiting) = self.networks.get_mut(&network) else { return };
        let Some(logins) = waiting.logins.get_mut(&from) else { return };
        logins.retain(|one| *one != session);
        self.tidy(network, from);
    }

    /// The first login for which `judge` says something, and where it waits.
    fn first<T>(&self, judge: &mut impl FnMut(SessionId) -> Option<T>) -> Option<(Network, AddressKey, SessionId, T)> {
        let waiting = self.order.values().filter_map(|network| Some((network, self.networks.get(network)?)));
        let addresses = waiting.flat_map(|(network, waiting)| {
            waiting.addresses.iter().filter_map(move |address| Some((network, address, waiting.logins.get(address)?)))
        });
        let logins = addresses.flat_map(|(network, address, logins)| {
            logins.iter().take(OF_AN_ADDRESS_MAX).map(move |session| (*network, *address, *session))
        });
        logins
            .take(LOOKED_AT_MAX)
            .find_map(|(network, address, session)| judge(session).map(|found| (network, address, session, found)))
    }

    /// A login of that address is taken.
    fn had_a_turn(&mut self, network: Network, address: AddressKey, session: SessionId, rank: Rank) {
        let Some(waiting) = self.networks.get_mut(&network) else { return };
        if let Some(logins) = waiting.logins.get_mut(&address) {
            logins.retain(|one| *one != session);
        }
        waiting.addresses.retain(|one| *one != address);
        waiting.addresses.push_back(address);
        self.order.remove(&waiting.rank);
        waiting.rank = rank;
        self.order.insert(rank, network);
        self.tidy(network, address);
    }

    /// Forgets an address, and a network, of which nothing waits.
    fn tidy(&mut self, network: Network, address: AddressKey) {
        let Some(waiting) = self.networks.get_mut(&network) else { return };
        if waiting.logins.get(&address).is_some_and(VecDeque::is_empty) {
            waiting.logins.remove(&address);
            waiting.addresses.retain(|one| *one != address);
        }
        if waiting.addresses.is_empty() {
            self.order.remove(&waiting.rank);
            self.networks.remove(&network);
        }
    }
}

/// When networks had their last turn, of the latest ones.
#[derive(Debug, Default)]
struct Served {
    last: HashMap<Network, u64>,
    order: BTreeMap<u64, Network>,
}

impl Served {
    /// 0: never, or so long ago that nobody knows.
    fn last(&self, network: Network) -> u64 {
        self.last.get(&network).copied().unwrap_or(0)
    }

    fn note(&mut self, network: Network, turn: u64) {
        if let Some(before) = self.last.insert(network, turn) {
            self.order.remove(&before);
        }
        self.order.insert(turn, network);
        if self.last.len() > SERVED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.last.remove(&oldest);
        }
    }
}

/// Addresses and the like, the newest ones.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    set: HashSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Remembered<T> {
        Remembered { set: HashSet::new(), order: VecDeque::new() }
    }
}

impl<T: Copy + Eq + Hash> Remembered<T> {
    pub fn contains(&self, address: &T) -> bool {
        self.set.contains(address)
    }

    pub fn retain(&mut self, which: impl Fn(&T) -> bool) {
        self.set.retain(&which);
        self.order.retain(which);
    }

    pub fn insert(&mut self, address: T) {
        if !self.set.insert(address) {
            return;
        }
        self.order.push_back(address);
        if self.order.len() > KNOWN_ADDRESSES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
