//! The order in which passwords are verified. Verifying is slow on purpose, and clients that flood cpd with passwords
//! must not make others wait for all of them, so addresses take turns. Known addresses have a lane of their own, which
//! gets half of the turns while logins wait in both lanes. The lane says nothing about the name that is tried: an
//! attempt waits like any other from its address, whether there is such a user or not.
//!
//! Within a lane, the network whose last turn is longest ago comes next; networks that have had none come first, in the
//! order of their first arrival. Within a network, its addresses take turns in the same way; within an address, the
//! logins keep their order. While many networks have had no turn yet, half of the strangers' turns go to the one that
//! arrived last: whoever comes after a flood's first wave need not wait until all of it has had a turn.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;

use super::port::{AddressKey, KNOWN_ADDRESSES_MAX, SessionId};
use crate::sabotage;

/// Networks, and addresses, whose last turn is remembered, at most.
const RANKS_MAX: usize = 65_536;
/// Logins of a lane, and among them logins of one address, that a search for one that can be verified examines at most.
const LANE_SCAN_MAX: usize = 256;
const ADDRESS_SCAN_MAX: usize = 8;
/// From so many networks without a turn on, some turns go to the newest of them. With fewer, all of them are served soon.
const CROWD: usize = 16;
/// The number of bits by which an IPv6 /64 is longer than a /48.
const V6_SUBNET_BITS: u32 = 16;
/// The number of bits by which an IPv4 address is longer than a /24.
const V4_SUBNET_BITS: u32 = 8;

/// The unit that takes turns: an IPv4 /24, an IPv6 /48, or a local user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Network(AddressKey);

impl Network {
    fn of(address: AddressKey) -> Network {
        if sabotage::is_ordered(sabotage::Fault::OneQueue) {
            return Network(AddressKey::V4(0));
        }
        Network(match address {
            AddressKey::V4(address) => AddressKey::V4(address >> V4_SUBNET_BITS << V4_SUBNET_BITS),
            AddressKey::V6(prefix) => AddressKey::V6(prefix >> V6_SUBNET_BITS << V6_SUBNET_BITS),
            AddressKey::Local(_) => address,
        })
    }
}

/// The place of a network in its lane, or of an address in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// 0: it has had no turn.
    last_turn: u64,
    first_arrival: u64,
}

impl Rank {
    /// Above all ranks without a turn.
    const FIRST_WITH_A_TURN: Rank = Rank { last_turn: 1, first_arrival: 0 };

    fn after_turn(turn: u64) -> Rank {
        Rank { last_turn: turn, first_arrival: turn }
    }
}

/// The logins that wait for their verification.
#[derive(Debug, Default)]
pub struct LoginQueue {
    strangers: Lane,
    /// Logins from known addresses.
    known: Lane,
    /// The last turn went to the known lane.
    known_was_last: bool,
    /// The strangers' last turn went to the network that had arrived last.
    newest_was_last: bool,
    known_addresses: RecentSet<AddressKey>,
    network_ranks: Ranks<Network>,
    address_ranks: Ranks<AddressKey>,
    /// Numbers arrivals and turns, from 1.
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
        let network_rank = self.network_ranks.of_arrival(network, self.sequence);
        let address_rank = self.address_ranks.of_arrival(from, self.sequence);
        let known = self.known_addresses.contains(&from) && !sabotage::is_ordered(sabotage::Fault::OneQueue);
        let lane = if known { &mut self.known } else { &mut self.strangers };
        lane.push(session, (network, network_rank), (from, address_rank));
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
            let newest = !known && !self.newest_was_last && self.strangers.is_crowded();
            let lane = if known { &mut self.known } else { &mut self.strangers };
            let found = if newest { lane.newest(&mut judge) } else { None };
            let Some(FoundLogin { network, address, session, result }) = found.or_else(|| lane.first(&mut judge))
            else {
                continue;
            };
            self.sequence += 1;
            let rank = Rank::after_turn(self.sequence);
            self.network_ranks.note(network, rank);
            self.address_ranks.note(address, rank);
            lane.move_to_back(network, address, session, rank);
            self.known_was_last = known;
            if !known {
                self.newest_was_last = newest;
            }
            return Some(result);
        }
        None
    }
}

#[derive(Debug, Default)]
struct Lane {
    order: BTreeMap<Rank, Network>,
    networks: HashMap<Network, NetworkQueue>,
}

/// The waiting logins of a network. There is at least one address.
#[derive(Debug)]
struct NetworkQueue {
    rank: Rank,
    order: BTreeMap<Rank, AddressKey>,
    addresses: HashMap<AddressKey, AddressQueue>,
}

/// The waiting logins of an address, of which there is at least one.
#[derive(Debug)]
struct AddressQueue {
    rank: Rank,
    logins: VecDeque<SessionId>,
}

/// A login that can be verified, and what was said of it.
struct FoundLogin<T> {
    network: Network,
    address: AddressKey,
    session: SessionId,
    result: T,
}

impl Lane {
    fn push(&mut self, session: SessionId, network: (Network, Rank), address: (AddressKey, Rank)) {
        let queue = self.networks.entry(network.0).or_insert_with(|| {
            self.order.insert(network.1, network.0);
            NetworkQueue { rank: network.1, order: BTreeMap::new(), addresses: HashMap::new() }
        });
        let queue = queue.addresses.entry(address.0).or_insert_with(|| {
            queue.order.insert(address.1, address.0);
            AddressQueue { rank: address.1, logins: VecDeque::new() }
        });
        queue.logins.push_back(session);
    }

    fn remove(&mut self, session: SessionId, from: AddressKey) {
        let network = Network::of(from);
        let Some(queue) = self.networks.get_mut(&network) else { return };
        let Some(logins) = queue.addresses.get_mut(&from).map(|address| &mut address.logins) else { return };
        logins.retain(|one| *one != session);
        self.remove_if_empty(network, from);
    }

    /// Whether so many networks have had no turn that the newest of them would wait for long.
    fn is_crowded(&self) -> bool {
        self.order.range(..Rank::FIRST_WITH_A_TURN).nth(CROWD - 1).is_some()
    }

    /// The first login for which `judge` returns something.
    fn first<T>(&self, judge: &mut impl FnMut(SessionId) -> Option<T>) -> Option<FoundLogin<T>> {
        self.search(self.order.values(), judge)
    }

    /// The same, beginning with the network that arrived last of those that have had no turn.
    fn newest<T>(&self, judge: &mut impl FnMut(SessionId) -> Option<T>) -> Option<FoundLogin<T>> {
        self.search(self.order.range(..Rank::FIRST_WITH_A_TURN).rev().map(|(_, network)| network), judge)
    }

    fn search<'a, T>(
        &'a self,
        networks: impl Iterator<Item = &'a Network>,
        judge: &mut impl FnMut(SessionId) -> Option<T>,
    ) -> Option<FoundLogin<T>> {
        let waiting = networks.filter_map(|network| Some((network, self.networks.get(network)?)));
        let addresses = waiting.flat_map(|(network, queue)| {
            queue.order.values().filter_map(move |address| Some((network, address, queue.addresses.get(address)?)))
        });
        let logins = addresses.flat_map(|(network, address, queue)| {
            queue.logins.iter().take(ADDRESS_SCAN_MAX).map(move |session| (*network, *address, *session))
        });
        logins.take(LANE_SCAN_MAX).find_map(|(network, address, session)| {
            judge(session).map(|result| FoundLogin { network, address, session, result })
        })
    }

    /// Removes a login that had its turn, and moves its address and its network behind the others.
    fn move_to_back(&mut self, network: Network, from: AddressKey, session: SessionId, rank: Rank) {
        let Some(queue) = self.networks.get_mut(&network) else { return };
        if let Some(address) = queue.addresses.get_mut(&from) {
            address.logins.retain(|one| *one != session);
            queue.order.remove(&address.rank);
            address.rank = rank;
            queue.order.insert(rank, from);
        }
        self.order.remove(&queue.rank);
        queue.rank = rank;
        self.order.insert(rank, network);
        self.remove_if_empty(network, from);
    }

    /// Removes the address and the network if no login of theirs is left.
    fn remove_if_empty(&mut self, network: Network, from: AddressKey) {
        let Some(queue) = self.networks.get_mut(&network) else { return };
        if let Some(address) = queue.addresses.get(&from)
            && address.logins.is_empty()
        {
            queue.order.remove(&address.rank);
            queue.addresses.remove(&from);
        }
        if queue.addresses.is_empty() {
            self.order.remove(&queue.rank);
            self.networks.remove(&network);
        }
    }
}

/// The ranks of the networks, or addresses, that arrived or had a turn most recently, at most [`RANKS_MAX`]. One that
/// leaves and comes back has its old place: it is not new by that.
#[derive(Debug)]
struct Ranks<K> {
    ranks: HashMap<K, Rank>,
    /// By their last turn, or their first arrival if they have had none.
    order: BTreeMap<u64, K>,
}

impl<K> Default for Ranks<K> {
    fn default() -> Ranks<K> {
        Ranks { ranks: HashMap::new(), order: BTreeMap::new() }
    }
}

impl<K: Copy + Eq + Hash> Ranks<K> {
    /// The rank of one that arrives now.
    fn of_arrival(&mut self, key: K, now: u64) -> Rank {
        if let Some(rank) = self.ranks.get(&key) {
            return *rank;
        }
        let rank = Rank { last_turn: 0, first_arrival: now };
        self.note(key, rank);
        rank
    }

    fn note(&mut self, key: K, rank: Rank) {
        if let Some(before) = self.ranks.insert(key, rank) {
            self.order.remove(&before.first_arrival);
        }
        self.order.insert(rank.first_arrival, key);
        if self.ranks.len() > RANKS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.ranks.remove(&oldest);
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
