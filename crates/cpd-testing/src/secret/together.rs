//! Failed logins that come together, from an address that has failed almost too often: the one that could be too many has
//! to wait for the others, whoever it is for. One block has a group of attempts for each [`Whom`], each group from a new
//! address.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::statistics::{FIRST_QUARTILE, Interval, intervals, intervals_at};
use super::{House, PASSWORD, connect_from, line};
use crate::random::Random;

/// Few, so that a block takes few logins, and half of it, which an address has of a name's, is still three.
pub const FAILURES_MAX: u32 = 6;

/// Whose name is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whom {
    /// A user who has logged in from this address.
    AtHome,
    /// One who has not.
    Elsewhere,
    Nobody,
}

impl Whom {
    pub const ALL: [Whom; 3] = [Whom::AtHome, Whom::Elsewhere, Whom::Nobody];
}

const WARM_UP_BLOCKS: usize = 10;
/// Blocks that are prepared before the first of them is measured.
const AT_A_TIME: usize = 25;

/// What a pair of [`Whom`] came to, by their indices.
#[derive(Debug)]
pub struct Compared {
    pub pair: (usize, usize),
    pub first_quartile: Interval,
    pub median: Interval,
}

/// Compares the times until the first attempt of a group is answered, and those until all of its `size` attempts are.
#[track_caller]
pub fn measure(house: &mut House, size: usize, blocks: usize, seed: u64) -> Vec<Compared> {
    let mut random = Random::new(seed, 1);
    let mut times = [(); 2].map(|()| vec![Vec::with_capacity(blocks); Whom::ALL.len()]);
    let mut order = [0, 1, 2];
    let mut prepared = Vec::new();
    for block in 0..blocks + WARM_UP_BLOCKS {
        if prepared.is_empty() {
            // So many, that the store has the logins when the first of them is wanted.
            prepared = (0..AT_A_TIME).map(|_| Whom::ALL.map(|whom| prepare(house, whom))).collect();
            prepared.reverse();
        }
        let places = prepared.pop().expect("one is left");
        for place in (1..order.len()).rev() {
            order.swap(place, random.between(0, place as u64) as usize);
        }
        for group in order {
            let (from, tried) = &places[group];
            for _ in 0..FAILURES_MAX as usize - size + 1 {
                let nobody = house.fresh_name();
                assert!(house.attempt(*from, &nobody, "wrong12").starts_with("565 "));
            }
            let taken = together(house, *from, tried, size);
            if block >= WARM_UP_BLOCKS {
                for (times, taken) in times.iter_mut().zip(taken) {
                    times[group].push(taken);
                }
            }
        }
    }
    let compare = |times: &Vec<Vec<u64>>| {
        let medians = intervals(times, seed).into_iter();
        let quartiles = intervals_at(FIRST_QUARTILE, times, seed).into_iter();
        let compared = medians.zip(quartiles).map(|((a, b, median), (_, _, first_quartile))| Compared {
            pair: (a, b),
            first_quartile,
            median,
        });
        compared.collect::<Vec<_>>()
    };
    times.iter().flat_map(compare).collect()
}

/// An address from which somebody has logged in, and the name to try there.
#[track_caller]
fn prepare(house: &mut House, whom: Whom) -> (Ipv4Addr, String) {
    let (from, user) = (house.fresh_address(), house.fresh_user());
    assert!(house.attempt(from, &user, PASSWORD).starts_with("230 "));
    let tried = match whom {
        Whom::AtHome => user,
        Whom::Elsewhere => house.fresh_user(),
        Whom::Nobody => house.fresh_name(),
    };
    (from, tried)
}

/// So many attempts at the same time; nanoseconds until the first was answered, and until all were.
#[track_caller]
fn together(house: &House, from: Ipv4Addr, name: &str, size: usize) -> [u64; 2] {
    let mut streams: Vec<_> = (0..size).map(|_| connect_from(from, house.daemon.address())).collect();
    for stream in &mut streams {
        stream.write_all(format!("USER {name}\r\n").as_bytes()).expect("sent");
        assert!(line(stream).starts_with("220 "));
    }
    let begun = Instant::now();
    streams.iter_mut().for_each(|stream| stream.write_all(b"PASS wrong12\r\n").expect("sent"));
    let mut taken = Vec::with_capacity(size);
    for stream in &mut streams {
        let mut answer = [0; 64];
        let count = stream.read(&mut answer).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer[..count]), "565 error authenticating user\r\n");
        taken.push(u64::try_from(begun.elapsed().as_nanos()).expect("short"));
    }
    [taken[0], taken[size - 1]]
}
