//! The order in which passwords are verified. Verifying is slow on purpose, and clients that flood cpd with passwords
//! must not make others wait for all of them, so addresses take turns. Known addresses have a lane of their own, which
//! gets half of the turns while logins wait in both lanes. The lane says nothing about the name that is tried: an
//! attempt waits like any other from its address, whether there is such a user or not.
//!
//! Within a lane, the network whose last turn is longest ago comes next; networks that have had none come first, in the
//! order of their arrival. Within an IPv6 /48, its /64s take turns; within an address, the logins keep their order.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;

use super::port::{AddressKey, KNOWN_ADDRESSES_MAX, SessionId};
use crate::sabotage;

/// Networks whose last turn is remembered, at most.
const LAST_TURNS_MAX: usize = 65_536;
/// Logins of a lane, and among them logins of one address, that a search for one that can be verified examines at most.
const LANE_SCAN_MAX: usize = 256;
const ADDRESS_SCAN_MAX: usize = 8;
/// The number of bits by which an IPv6 /64 is longer than a /48.
const SUBNET_BITS: u32 = 16;

/// The unit that takes turns: an IPv4 address, an IPv6 /48, or a local user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Network(AddressKey);

impl Network {
    fn of(address: AddressKey) -> Network {
        if sabotage::is_ordered(sabotage::Fault::OneQueue) {
            return Network(AddressKey::V4(0));
        }
        Network(match address {
            AddressKey::V6(prefix) => AddressKey::V6(prefix >> SUBNET_BITS << SUBNET_BITS),
            AddressKey::V4(_) | AddressKey::Local(_) => address,
        })
    }
}

/// The order of the networks in a lane: by their last turn, then by their arrival.
type Rank = (u64, u64);

/// The logins that wait for their verification.
#[derive(Debug, Default)]
pub struct LoginQueue {
    strangers: Lane,
    /// Logins from known addresses.
    known: Lane,
    /// The last turn went to the known lane.
    known_was_last: bool,
    known_addresses: RecentSet<AddressKey>,
    last_turns: LastTurns,
    sequence: u64,
}

impl LoginQueue {
    /// Notes that somebody has logged in from `address`.
    pub fn add_known_address(&mut self, address: AddressKey) {
        self.known_addresses.insert(address);
    }

    /// Whether somebody is known to have logged in from `address`.
    pub fn is_known_address(&self, address: AddressKey) -> bool {
        self.known_addresses.contains(&address)
    }

    /// Whether no login waits.
    pub fn is_empty(&self) -> bool {
        [&self.known, &self.strangers].iter().all(|lane| lane.order.is_empty() && lane.networks.is_empty())
    }

    /// Adds a login that waits from now on.
    pub fn push(&mut self, session: SessionId, from: AddressKey) {
        let network = Network::of(from);
        self.sequence += 1;
        let rank = (self.last_turns.last(network), self.sequence);
        let known = self.known_addresses.contains(&from) && !sabotage::is_ordered(sabotage::Fault::OneQueue);
        let lane = if known { &mut self.known } else { &mut self.strangers };
        lane.push(session, from, network, rank);
    }

    /// Removes a login that no longer waits.
    pub fn remove(&mut self, session: SessionId, from: AddressKey) {
        for lane in [&mut self.known, &mut self.strangers] {
            lane.remove(session, from);
        }
    }

    /// Removes the first login for which `judge` returns something, and returns that. Logins for which it returns
    /// `None` keep their place; however many there are at one address, they do not hold up those at others.
    pub fn take<T>(&mut self, mut judge: impl FnMut(SessionId) -> Option<T>) -> Option<T> {
        for known in [!self.known_was_last, self.known_was_last] {
            let lane = if known { &mut self.known } else { &mut self.strangers };
            let Some((network, address, session, found)) = lane.first(&mut judge) else { continue };
            self.sequence += 1;
            self.last_turns.note(network, self.sequence);
            let lane = if known { &mut self.known } else { &mut self.strangers };
            lane.move_to_back(network, address, session, (self.sequence, self.sequence));
            self.known_was_last = known;
            return Some(found);
        }
        None
    }
}

#[derive(Debug, Default)]
struct Lane {
    order: BTreeMap<Rank, Network>,
    networks: HashMap<Network, NetworkQueue>,
}

/// The waiting logins of a network, by address. There is at least one address, and each has at least one login.
#[derive(Debug)]
struct NetworkQueue {
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
                place.insert(NetworkQueue { rank, addresses: VecDeque::new(), logins: HashMap::new() })
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
        self.remove_if_empty(network, from);
    }

    /// The first login for which `judge` returns something, with its network, its address and that result.
    fn first<T>(&self, judge: &mut impl FnMut(SessionId) -> Option<T>) -> Option<(Network, AddressKey, SessionId, T)> {
        let waiting = self.order.values().filter_map(|network| Some((network, self.networks.get(network)?)));
        let addresses = waiting.flat_map(|(network, waiting)| {
            waiting.addresses.iter().filter_map(move |address| Some((network, address, waiting.logins.get(address)?)))
        });
        let logins = addresses.flat_map(|(network, address, logins)| {
            logins.iter().take(ADDRESS_SCAN_MAX).map(move |session| (*network, *address, *session))
        });
        logins
            .take(LANE_SCAN_MAX)
            .find_map(|(network, address, session)| judge(session).map(|found| (network, address, session, found)))
    }

    /// Removes a login that had its turn, and moves its address and its network behind the others.
    fn move_to_back(&mut self, network: Network, address: AddressKey, session: SessionId, rank: Rank) {
        let Some(waiting) = self.networks.get_mut(&network) else { return };
        if let Some(logins) = waiting.logins.get_mut(&address) {
            logins.retain(|one| *one != session);
        }
        waiting.addresses.retain(|one| *one != address);
        waiting.addresses.push_back(address);
        self.order.remove(&waiting.rank);
        waiting.rank = rank;
        self.order.insert(rank, network);
        self.remove_if_empty(network, address);
    }

    /// Removes the address and the network if no login of theirs is left.
    fn remove_if_empty(&mut self, network: Network, address: AddressKey) {
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

/// The last turns of the networks that had theirs most recently.
#[derive(Debug, Default)]
struct LastTurns {
    last: HashMap<Network, u64>,
    order: BTreeMap<u64, Network>,
}

impl LastTurns {
    /// The network's last turn; 0: it had none, or that is forgotten.
    fn last(&self, network: Network) -> u64 {
        self.last.get(&network).copied().unwrap_or(0)
    }

    fn note(&mut self, network: Network, turn: u64) {
        if let Some(before) = self.last.insert(network, turn) {
            self.order.remove(&before);
        }
        self.order.insert(turn, network);
        if self.last.len() > LAST_TURNS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.last.remove(&oldest);
        }
    }
}

/// A set of at most [`KNOWN_ADDRESSES_MAX`] items, such as addresses; the oldest makes room for a new one.
#[derive(Debug)]
pub(super) struct RecentSet<T> {
    set: HashSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for RecentSet<T> {
    fn default() -> RecentSet<T> {
        RecentSet { set: HashSet::new(), order: VecDeque::new() }
    }
}

impl<T: Copy + Eq + Hash> RecentSet<T> {
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
