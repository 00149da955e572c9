//! A hierarchical timer wheel: insert, cancel, re-arm and expire in O(1), whatever the number of timers.
//!
//! Time is counted in ticks, and a tick is read as a number in base 64. A timer is kept in the level of the highest
//! digit in which its tick differs from the wheel's, in the slot of that digit. When the wheel's tick reaches the start
//! of a slot, that slot's timers differ in a lower digit only and move down, at last into the list of those that are
//! due. It follows that every timer of a level expires before any of the level above, that slots need not wrap around,
//! and that a timer's list can be computed, so that no entry stores it. The levels cover every tick that a `u64` of
//! milliseconds can express, so there is no horizon, and they take less than 3 KiB.
//!
//! The lists are rings of entries in one slab, 24 bytes each with a `u32` for payload. Timers never fire early and are
//! at most one tick late; they fire in the order of their ticks and, within one tick, in the order in which they were
//! set. The cost of a jump of the clock depends on the number of timers that move, not on the number of ticks. The
//! wheel reads no clock: the caller passes the time in.
#![allow(clippy::indexing_slicing, reason = "all indices are those of the wheel's own entries")]

use std::num::NonZeroU32;

use crate::sabotage::{self, Fault};
use crate::time::Millis;

/// The wheel's resolution in milliseconds.
pub const TICK_MS: Millis = 8;

const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;
/// The list of timers that are due, numbered behind the slots of all levels.
const DUE: usize = LEVELS * SLOTS;
/// No entry: the end of the free list, or the head of an empty list.
const NIL: u32 = u32::MAX;
/// The generation at which an entry of the slab is no longer reused, so that no key is ever made twice.
const GENERATION_LIMIT: u32 = u32::MAX - 1;

const _: () = assert!(size_of::<TimerEntry<u32>>() == 24 && size_of::<TimerEntry<u64>>() == 32);
const _: () = assert!(size_of::<Option<TimerKey>>() == 8);

/// Identifies one timer from `insert` until it fires or is cancelled, and no other timer afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerKey {
    index: u32,
    generation: NonZeroU32,
}

/// Timers that carry a `T` each.
#[derive(Debug)]
pub struct Wheel<T> {
    /// The last tick whose timers were handed to the due list.
    tick: u64,
    /// One bit for each slot that is not empty; the last word is the due list's.
    occupied: [u64; LEVELS + 1],
    /// The first entry of each list.
    heads: [u32; DUE + 1],
    entries: Vec<TimerEntry<T>>,
    first_free: u32,
}

/// A timer, or a free entry, whose `next` is the next free one. The generation is odd while the entry is in use.
#[derive(Debug)]
struct TimerEntry<T> {
    when: u64,
    payload: T,
    prev: u32,
    next: u32,
    generation: NonZeroU32,
}

impl<T: Copy> Wheel<T> {
    /// A wheel without timers, which takes the time to be `now`.
    pub fn new(now: Millis) -> Wheel<T> {
        Wheel {
            tick: now / TICK_MS,
            occupied: [0; LEVELS + 1],
            heads: [NIL; DUE + 1],
            entries: Vec::new(),
            first_free: NIL,
        }
    }

    /// Sets a timer. A deadline that has already passed expires with the next tick, not before, so that a handler that
    /// sets one cannot keep [`Wheel::expire`] busy without end.
    pub fn insert(&mut self, deadline: Millis, payload: T) -> TimerKey {
        let when = self.tick_of(deadline);
        let index = self.allocate(when, payload);
        self.link(index);
        TimerKey { index, generation: self.entries[index as usize].generation }
    }

    /// Removes a timer and returns its payload. `None`: it has fired or was cancelled before.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let index = self.find(key)?;
        Some(self.remove(index))
    }

    /// Gives a timer another deadline, under the same key. `false`: it has fired or was cancelled before.
    pub fn rearm(&mut self, key: TimerKey, deadline: Millis) -> bool {
        let Some(index) = self.find(key) else { return false };
        self.unlink(index);
        self.entries[index as usize].when = self.tick_of(deadline);
        self.link(index);
        true
    }

    /// Removes one timer that is due at `now` and returns its payload. `None`: no more are due. Between two calls
    /// timers may be set, re-armed and cancelled, including those that are due. Time never runs backwards here: if an
    /// earlier call had a later `now`, that one counts.
    pub fn expire(&mut self, now: Millis) -> Option<T> {
        self.advance_to(now / TICK_MS);
        match self.heads[DUE] {
            NIL => None,
            index => Some(self.remove(index)),
        }
    }

    /// Removes every timer that is due at `now`, and passes its payload to `fire`.
    pub fn advance(&mut self, now: Millis, mut fire: impl FnMut(T)) {
        while let Some(payload) = self.expire(now) {
            fire(payload);
        }
    }

    /// When [`Wheel::expire`] should be called again: at most a tick after the earliest deadline. `None`: there are no
    /// timers. It can be before that deadline, when timers have to move down a level; this happens at most once for
    /// each level.
    pub fn next_expiry(&self) -> Option<Millis> {
        let tick = if self.heads[DUE] != NIL { self.tick } else { self.first_slot()?.1 };
        Some(tick.saturating_mul(TICK_MS))
    }

    /// The first tick that is not before `deadline` and is still to come.
    fn tick_of(&self, deadline: Millis) -> u64 {
        let first = self.tick + 1;
        let tick = deadline.div_ceil(TICK_MS).max(first);
        if sabotage::is_ordered(Fault::EarlyTimer) { tick.midpoint(first) } else { tick }
    }

    fn find(&self, key: TimerKey) -> Option<u32> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation).then_some(key.index)
    }

    /// Moves every timer up to and including `target` into the due list.
    fn advance_to(&mut self, target: u64) {
        while let Some((list, start)) = self.first_slot()
            && start <= target
        {
            self.tick = start;
            self.move_down(list);
        }
        self.tick = self.tick.max(target);
    }

    /// The occupied slot that comes first, and the tick at which it starts.
    fn first_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied[..LEVELS].iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = level as u32 * DIGIT_BITS;
        let above = self.tick & u64::MAX.unbounded_shl(shift + DIGIT_BITS);
        Some((level * SLOTS + slot as usize, above | u64::from(slot) << shift))
    }

    /// Moves the timers of a slot, whose start is the wheel's tick, into the lists where they belong now. They move
    /// front to back into slots that were empty, so that equal ticks stay in order.
    fn move_down(&mut self, list: usize) {
        let first = self.heads[list];
        self.set_head(list, NIL);
        let mut index = first;
        loop {
            let next = self.entries[index as usize].next;
            self.link(index);
            index = next;
            if index == first {
                break;
            }
        }
    }

    /// The list to which a timer for the tick `when` belongs.
    fn list_of(&self, when: u64) -> usize {
        if when <= self.tick {
            return DUE;
        }
        let level = (when ^ self.tick).ilog2() / DIGIT_BITS;
        let slot = (when >> (level * DIGIT_BITS)) as usize % SLOTS;
        level as usize * SLOTS + slot
    }

    fn set_head(&mut self, list: usize, index: u32) {
        self.heads[list] = index;
        let bit = 1 << (list % SLOTS);
        let slots = &mut self.occupied[list / SLOTS];
        *slots = if index == NIL { *slots & !bit } else { *slots | bit };
    }

    /// Appends the entry to its list.
    fn link(&mut self, index: u32) {
        let list = self.list_of(self.entries[index as usize].when);
        let head = self.heads[list];
        let (prev, next) = if head == NIL {
            self.set_head(list, index);
            (index, index)
        } else {
            (self.entries[head as usize].prev, head)
        };
        self.entries[index as usize].prev = prev;
        self.entries[index as usize].next = next;
        self.entries[prev as usize].next = index;
        self.entries[next as usize].prev = index;
    }

    fn unlink(&mut self, index: u32) {
        let TimerEntry { when, prev, next, .. } = self.entries[index as usize];
        let list = self.list_of(when);
        if self.heads[list] == index {
            self.set_head(list, if next == index { NIL } else { next });
        }
        self.entries[prev as usize].next = next;
        self.entries[next as usize].prev = prev;
    }

    /// Puts a timer that is in no list yet into a free or a new entry of the slab, and returns its index.
    fn allocate(&mut self, when: u64, payload: T) -> u32 {
        if self.first_free == NIL {
            // There are about as many entries as connections, whose number stays far below NIL.
            let index = self.entries.len() as u32;
            debug_assert!(index < NIL);
            self.entries.push(TimerEntry { when, payload, prev: index, next: index, generation: NonZeroU32::MIN });
            return index;
        }
        let index = self.first_free;
        let entry = &mut self.entries[index as usize];
        self.first_free = entry.next;
        entry.when = when;
        entry.payload = payload;
        entry.generation = entry.generation.saturating_add(1);
        index
    }

    /// Unlinks the entry and frees it.
    fn remove(&mut self, index: u32) -> T {
        self.unlink(index);
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.saturating_add(1);
        if entry.generation.get() != GENERATION_LIMIT {
            entry.next = self.first_free;
            self.first_free = index;
        }
        entry.payload
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    const DAY: Millis = 24 * 3_600_000;

    /// SplitMix64: small, seeded, the same on every machine.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: u64) -> u64 {
            self.next() % bound
        }

        /// A length of time from zero to many days, every order of magnitude equally often.
        fn span(&mut self) -> Millis {
            let bits = self.below(33);
            self.below(1 << bits)
        }
    }

    /// A slow and simple model of the wheel: the live timers by the tick in which they have to fire and the order in
    /// which they were set.
    struct Model {
        wheel: Wheel<u32>,
        now: Millis,
        order: u64,
        keys: Vec<(u32, TimerKey)>,
        places: HashMap<u32, usize>,
        due: BTreeMap<(u64, u64), (u32, Millis)>,
        set: HashMap<u32, (u64, u64)>,
        dead: Vec<TimerKey>,
        names: u32,
    }

    impl Model {
        fn new(now: Millis) -> Model {
            Model {
                wheel: Wheel::new(now),
                now,
                order: 0,
                keys: Vec::new(),
                places: HashMap::new(),
                due: BTreeMap::new(),
                set: HashMap::new(),
                dead: Vec::new(),
                names: 0,
            }
        }

        fn note(&mut self, name: u32, deadline: Millis) {
            let at = deadline.max(self.now);
            let tick = at.div_ceil(TICK_MS).max(self.now / TICK_MS + 1);
            self.order += 1;
            self.due.insert((tick, self.order), (name, at));
            self.set.insert(name, (tick, self.order));
        }

        fn insert(&mut self, deadline: Millis) {
            self.names += 1;
            let key = self.wheel.insert(deadline, self.names);
            self.places.insert(self.names, self.keys.len());
            self.keys.push((self.names, key));
            self.note(self.names, deadline);
        }

        fn forget(&mut self, name: u32) {
            let place = self.places.remove(&name).expect("a live timer");
            let (_, key) = self.keys.swap_remove(place);
            if let Some((moved, _)) = self.keys.get(place) {
                self.places.insert(*moved, place);
            }
            let at = self.set.remove(&name).expect("a live timer");
            self.due.remove(&at).expect("a live timer");
            if self.dead.len() > 4096 {
                self.dead.clear();
            }
            self.dead.push(key);
        }

        fn cancel(&mut self, place: usize) {
            let (name, key) = self.keys[place];
            assert_eq!(self.wheel.cancel(key), Some(name));
            assert_eq!(self.wheel.cancel(key), None, "cancelled twice");
            self.forget(name);
        }

        fn rearm(&mut self, place: usize, deadline: Millis) {
            let (name, key) = self.keys[place];
            assert!(self.wheel.rearm(key, deadline));
            let at = self.set[&name];
            self.due.remove(&at).expect("a live timer");
            self.note(name, deadline);
        }

        /// Advances, and returns the number of timers that fired. `handle` may set timers between two of them.
        fn advance(&mut self, now: Millis, mut handle: impl FnMut(&mut Model)) -> usize {
            self.now = now;
            let mut fired = 0;
            while let Some(name) = self.wheel.expire(now) {
                let (first, (expected, at)) = self.due.first_key_value().expect("a live timer");
                assert_eq!(name, *expected, "out of order, or fired twice");
                assert!(*at <= now, "timer for {at} fired early, at {now}");
                assert!(first.0 <= now / TICK_MS);
                self.forget(name);
                fired += 1;
                handle(self);
            }
            if let Some((_, (_, at))) = self.due.first_key_value() {
                assert!(*at + TICK_MS > now, "timer for {at} is late at {now}");
            }
            self.check_next();
            fired
        }

        fn check_next(&self) {
            let first = self.due.values().map(|(_, at)| *at).next();
            let next = self.wheel.next_expiry();
            assert_eq!(first.is_some(), next.is_some());
            if let (Some(first), Some(next)) = (first, next) {
                assert!(next <= first + TICK_MS, "would wake at {next} for {first}");
                assert!(next > self.now, "would wake at once without anything to do");
            }
        }

        /// Advances by `next_expiry` alone: something must fire after at most one wake-up for each level.
        fn follow_next(&mut self) {
            for _ in 0..=LEVELS {
                let Some(next) = self.wheel.next_expiry() else { return };
                if self.advance(next, |_| ()) > 0 {
                    return;
                }
            }
            panic!("next_expiry makes no progress at {}", self.now);
        }
    }

    fn play(seed: u64, steps: u32, live: usize) {
        let mut random = Random(seed);
        let start = random.span();
        let mut model = Model::new(start);
        for _ in 0..steps {
            let place = random.below(model.keys.len().max(1) as u64) as usize;
            match random.below(100) {
                0..45 if model.keys.len() < live => model.insert(model.now + random.span()),
                45..48 => model.insert(model.now.saturating_sub(random.span())),
                48..65 if !model.keys.is_empty() => model.cancel(place),
                65..80 if !model.keys.is_empty() => model.rearm(place, model.now + random.span()),
                80..84 => {
                    let stale = model.dead.get(random.below(4096) as usize).copied();
                    assert!(stale.is_none_or(|key| model.wheel.cancel(key).is_none()));
                    assert!(stale.is_none_or(|key| !model.wheel.rearm(key, model.now + 1)));
                }
                84..86 => model.follow_next(),
                86..99 => {
                    let step = random.below(3 * TICK_MS);
                    let again = random.below(4) == 0;
                    let later = random.span();
                    model.advance(model.now + step, |model| {
                        if again {
                            model.insert(model.now.saturating_sub(5) + later % 7);
                        }
                    });
                }
                99 if random.below(20) == 0 => _ = model.advance(model.now + random.span(), |_| ()),
                _ => model.check_next(),
            }
        }
        model.advance(model.now + (1 << 33), |_| ());
        assert!(model.due.is_empty() && model.wheel.next_expiry().is_none());
        assert!(model.wheel.occupied.iter().all(|slots| *slots == 0));
    }

    #[test]
    fn a_million_random_steps_agree_with_a_sorted_map() {
        play(1, 600_000, 2000);
        play(2, 300_000, 20);
        for seed in 3..103 {
            play(seed, 3000, 300);
        }
    }

    fn fired(wheel: &mut Wheel<u64>, now: Millis) -> Vec<u64> {
        let mut all = Vec::new();
        wheel.advance(now, |payload| all.push(payload));
        all
    }

    #[test]
    fn deadlines_around_slot_and_level_boundaries() {
        for level in 0..LEVELS as u32 - 2 {
            let span = 1u64 << (level * DIGIT_BITS);
            for start in [0, span - 1, span, 63 * span, 64 * span - 1, 64 * span + 1] {
                for ahead in [1, 2, (span - 1).max(1), span, span + 1, 63 * span, 64 * span - 1, 64 * span, 65 * span] {
                    let (start, deadline) = (start * TICK_MS, (start + ahead) * TICK_MS);
                    let mut wheel = Wheel::new(start);
                    wheel.insert(deadline, deadline);
                    wheel.insert(deadline - 1, deadline - 1);
                    assert_eq!(fired(&mut wheel, deadline - TICK_MS), [0u64; 0]);
                    assert_eq!(fired(&mut wheel, deadline - 1), [0u64; 0]);
                    assert_eq!(fired(&mut wheel, deadline), [deadline, deadline - 1]);
                    assert_eq!(wheel.next_expiry(), None);
                }
            }
        }
    }

    #[test]
    fn a_deadline_that_has_passed_fires_with_the_next_tick() {
        let mut wheel = Wheel::new(800);
        for deadline in [0, 799, 800, 801, 808] {
            wheel.insert(deadline, deadline);
        }
        assert_eq!(wheel.next_expiry(), Some(808));
        assert_eq!(fired(&mut wheel, 807), [0u64; 0]);
        assert_eq!(fired(&mut wheel, 808), [0, 799, 800, 801, 808]);
    }

    #[test]
    fn a_handler_that_sets_a_passed_deadline_does_not_hold_the_loop() {
        let mut wheel = Wheel::new(0);
        wheel.insert(5, 0u32);
        let mut rounds = 0;
        while let Some(payload) = wheel.expire(30 * DAY) {
            rounds += 1;
            wheel.insert(5, payload);
        }
        assert_eq!(rounds, 1);
    }

    #[test]
    fn the_end_of_time_is_no_special_case() {
        let mut wheel = Wheel::new(0);
        wheel.insert(Millis::MAX, 1);
        let key = wheel.insert(Millis::MAX - 2 * TICK_MS, 2);
        assert!(wheel.next_expiry().is_some());
        assert_eq!(fired(&mut wheel, Millis::MAX), [2]);
        assert_eq!(wheel.cancel(key), None);
        assert_eq!(fired(&mut wheel, Millis::MAX), [0u64; 0]);
        assert_eq!(wheel.next_expiry(), Some(Millis::MAX));
    }

    #[test]
    fn a_timer_that_is_due_can_still_be_cancelled_and_moved() {
        let mut wheel = Wheel::new(0);
        let keys: Vec<TimerKey> = (1..=4u64).map(|n| wheel.insert(n * TICK_MS, n)).collect();
        assert_eq!(wheel.expire(DAY), Some(1));
        assert_eq!(wheel.next_expiry(), Some(DAY), "the rest is due now");
        assert_eq!(wheel.cancel(keys[1]), Some(2));
        assert!(wheel.rearm(keys[2], DAY + 1));
        assert_eq!(fired(&mut wheel, DAY), [4]);
        assert_eq!(fired(&mut wheel, DAY + TICK_MS), [3]);
    }

    #[test]
    fn time_does_not_run_backwards() {
        let mut wheel = Wheel::new(DAY);
        wheel.insert(DAY + 100, 1);
        assert_eq!(fired(&mut wheel, 0), [0u64; 0]);
        assert_eq!(wheel.tick, DAY / TICK_MS);
        assert_eq!(fired(&mut wheel, DAY + 100 + TICK_MS), [1]);
    }

    #[test]
    fn equal_deadlines_fire_in_the_order_they_were_set_whatever_the_level() {
        let mut wheel = Wheel::new(0);
        let deadline = 5 * SLOTS as u64 * TICK_MS + 3 * TICK_MS;
        wheel.insert(deadline, 1);
        fired(&mut wheel, 2 * SLOTS as u64 * TICK_MS);
        wheel.insert(deadline, 2);
        fired(&mut wheel, 5 * SLOTS as u64 * TICK_MS);
        wheel.insert(deadline, 3);
        assert_eq!(fired(&mut wheel, deadline), [1, 2, 3]);
    }

    #[test]
    fn an_exhausted_entry_is_retired_and_no_key_is_reused() {
        let mut wheel = Wheel::new(0);
        let first = wheel.insert(10, 1u32);
        wheel.entries[0].generation = NonZeroU32::new(u32::MAX - 2).expect("not zero");
        let last = TimerKey { generation: wheel.entries[0].generation, ..first };
        assert_eq!(wheel.cancel(last), Some(1));
        let fresh = wheel.insert(10, 2);
        assert_ne!(fresh.index, last.index);
        assert_eq!((wheel.cancel(first), wheel.cancel(last)), (None, None));
        assert_eq!(wheel.cancel(fresh), Some(2));
    }

    #[test]
    fn ten_thousand_timers_and_a_suspended_machine() {
        let mut wheel = Wheel::new(0);
        for n in 0..10_000 {
            wheel.insert(n * 500, n);
        }
        let all = fired(&mut wheel, 3650 * DAY);
        assert!(all.iter().copied().eq(0..10_000));
    }
}
