use super::*;

fn session(number: u64) -> SessionId {
    SessionId { serial: number, slot: number as u32 }
}

/// An address in a network of its own.
const fn v4(number: u32) -> AddressKey {
    AddressKey::V4(number << V4_SUBNET_BITS)
}

/// The address `host` of the /24 `subnet`.
const fn v4_host(subnet: u32, host: u32) -> AddressKey {
    AddressKey::V4(subnet << V4_SUBNET_BITS | host)
}

/// The /64 `subnet` of the /48 `site`.
const fn v6(site: u64, subnet: u64) -> AddressKey {
    AddressKey::V6(site << V6_SUBNET_BITS | subnet)
}

fn pushed(logins: &[(u64, AddressKey)]) -> LoginQueue {
    let mut turns = LoginQueue::default();
    logins.iter().for_each(|(number, from)| turns.push(session(*number), *from));
    turns
}

/// All that wait, in the order of their turns.
fn drained(turns: &mut LoginQueue) -> Vec<u64> {
    std::iter::from_fn(|| turns.take(|session| Some(session.serial))).collect()
}

#[test]
fn one_address_is_served_in_order_and_several_take_turns() {
    assert_eq!(drained(&mut pushed(&[(1, v4(1)), (2, v4(1)), (3, v4(1))])), [1, 2, 3]);
    let mut turns = pushed(&[(1, v4(1)), (2, v4(1)), (3, v4(1)), (4, v4(2)), (5, v4(3)), (6, v4(2))]);
    assert_eq!(drained(&mut turns), [1, 4, 5, 2, 6, 3]);
    assert!(turns.is_empty());
}

#[test]
fn networks_without_a_turn_come_first() {
    let mut turns = pushed(&[(1, v4(1)), (2, v4(2))]);
    assert_eq!(drained(&mut turns), [1, 2]);
    for (number, from) in [(3, v4(2)), (4, v4(1)), (5, v4(3)), (6, v4(4))] {
        turns.push(session(number), from);
    }
    assert_eq!(drained(&mut turns), [5, 6, 4, 3], "then the one whose turn is longest ago");
}

#[test]
fn a_48_is_one_network_and_its_64s_take_turns_within() {
    let mut turns = pushed(&[(1, v6(1, 1)), (2, v6(1, 1)), (3, v6(1, 2)), (4, v6(1, 3)), (5, v6(2, 1)), (6, v4(1))]);
    assert_eq!(drained(&mut turns), [1, 5, 6, 3, 4, 2]);
}

#[test]
fn a_24_is_one_network_and_its_addresses_take_turns_within() {
    let logins = [(1, v4_host(1, 1)), (2, v4_host(1, 1)), (3, v4_host(1, 2)), (4, v4_host(1, 3)), (5, v4_host(2, 1))];
    assert_eq!(drained(&mut pushed(&logins)), [1, 5, 3, 4, 2]);
    // Who has had no turn is before its neighbours who have.
    let mut turns = pushed(&[(1, v4_host(1, 1)), (2, v4_host(1, 2))]);
    assert_eq!(drained(&mut turns), [1, 2]);
    for (number, from) in [(3, v4_host(1, 2)), (4, v4_host(1, 1)), (5, v4_host(1, 3))] {
        turns.push(session(number), from);
    }
    assert_eq!(drained(&mut turns), [5, 4, 3], "then the one whose turn is longest ago");
}

#[test]
fn of_a_crowd_without_a_turn_every_other_one_is_the_newest() {
    let logins: Vec<_> = (1..=CROWD as u64 + 4).map(|number| (number, v4(number as u32))).collect();
    let order = drained(&mut pushed(&logins));
    // Twenty wait; when there are fewer than a crowd, they have their turns in the order of their arrival.
    assert_eq!(order[..6], [20, 1, 19, 2, 18, 3]);
    assert_eq!(order[6..], (4..=17).collect::<Vec<_>>());
    // Who has had a turn is not new, and who leaves and comes back is as new as before.
    let mut turns = LoginQueue::default();
    turns.push(session(1), v4(1));
    assert_eq!(drained(&mut turns), [1]);
    logins.iter().for_each(|(number, from)| turns.push(session(*number), *from));
    turns.remove(session(5), v4(5));
    turns.push(session(21), v4(5));
    assert_eq!(drained(&mut turns)[..6], [20, 2, 19, 3, 4, 21], "three turns are left before it is no crowd");
}

#[test]
fn the_newest_of_a_crowd_does_not_hold_up_others_if_it_must_wait() {
    let logins: Vec<_> = (1..=CROWD as u64).map(|number| (number, v4(number as u32))).collect();
    let mut turns = pushed(&logins);
    let newest = CROWD as u64;
    let but_newest = |session: SessionId| Some(session.serial).filter(|number| *number != newest);
    assert_eq!([turns.take(but_newest), turns.take(but_newest)], [Some(newest - 1), Some(1)]);
    assert_eq!(turns.take(|_| None::<()>), None);
}

#[test]
fn known_addresses_have_half_of_the_turns_and_all_when_nobody_else_wants_them() {
    let mut turns = LoginQueue::default();
    turns.add_known_address(v4(1));
    for (number, from) in [(1, v4(2)), (2, v4(3)), (3, v4(4)), (4, v4(1)), (5, v4(1)), (6, v4(1)), (7, v4(1))] {
        turns.push(session(number), from);
    }
    assert_eq!(drained(&mut turns), [4, 1, 5, 2, 6, 3, 7]);
}

#[test]
fn a_login_that_must_wait_keeps_its_place_and_holds_up_no_other() {
    let mut turns = pushed(&[(1, v4(1)), (2, v4(1)), (3, v4(2)), (4, v4(3))]);
    let but_first = |session: SessionId| Some(session.serial).filter(|number| *number != 1);
    assert_eq!([turns.take(but_first), turns.take(but_first), turns.take(but_first)], [Some(2), Some(3), Some(4)]);
    assert_eq!(turns.take(but_first), None);
    assert_eq!(drained(&mut turns), [1]);
    // However many of one address must wait.
    let mut turns = LoginQueue::default();
    (0..1000).for_each(|number| turns.push(session(number), v4(1)));
    turns.push(session(1000), v4(2));
    assert_eq!(turns.take(|session| Some(session.serial).filter(|number| *number >= 1000)), Some(1000));
}

#[test]
fn sessions_that_have_left_are_skipped() {
    let mut turns = pushed(&[(1, v4(1)), (2, v4(1)), (3, v4(2)), (4, v6(1, 1)), (5, v6(1, 2))]);
    for (number, from) in [(1, v4(1)), (3, v4(2)), (4, v6(1, 1)), (9, v4(9)), (9, v4(1))] {
        turns.remove(session(number), from);
    }
    assert_eq!(drained(&mut turns), [2, 5]);
    assert!(turns.is_empty());
    // This also holds for an address that became known only after its login began to wait.
    let mut turns = pushed(&[(1, v4(1))]);
    turns.add_known_address(v4(1));
    turns.remove(session(1), v4(1));
    assert!(turns.is_empty());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut turns = LoginQueue::default();
    for number in 0..RANKS_MAX as u32 + 100 {
        turns.add_known_address(v4(number));
        turns.push(session(1), v4(number));
        // Also those that leave without a turn.
        match number % 2 {
            0 => assert!(turns.take(|_| Some(())).is_some()),
            _ => turns.remove(session(1), v4(number)),
        }
    }
    assert_eq!((turns.network_ranks.ranks.len(), turns.network_ranks.order.len()), (RANKS_MAX, RANKS_MAX));
    assert_eq!((turns.address_ranks.ranks.len(), turns.address_ranks.order.len()), (RANKS_MAX, RANKS_MAX));
    assert_eq!(
        (turns.known_addresses.set.len(), turns.known_addresses.order.len()),
        (KNOWN_ADDRESSES_MAX, KNOWN_ADDRESSES_MAX)
    );
    assert!(!turns.known_addresses.set.contains(&v4(99)) && turns.known_addresses.set.contains(&v4(100)));
    for (number, remembered) in [(98, false), (99, false), (100, true), (101, true)] {
        assert_eq!(turns.network_ranks.ranks.contains_key(&Network::of(v4(number))), remembered, "{number}");
    }
    assert!(turns.is_empty());
}
