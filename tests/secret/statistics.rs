//! How sure it is that two groups of times differ by no more than so much: bootstrap intervals for differences of
//! medians. Trials come in blocks of one trial for each group, so that whatever slows a machine down slows all groups.

use crate::random::Random;

/// Resamples.
const RESAMPLES: usize = 1000;
/// One interval in a hundred misses the truth.
const CONFIDENCE: f64 = 0.99;

/// Of the difference of two medians, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    /// Certainly within `bound` of nothing.
    pub fn within(self, bound: f64) -> bool {
        -bound <= self.low && self.high <= bound
    }

    /// Certainly further than `bound` from nothing.
    pub fn beyond(self, bound: f64) -> bool {
        self.low > bound || self.high < -bound
    }

    /// How far the difference may be from nothing.
    pub fn worst(self) -> f64 {
        self.high.abs().max(self.low.abs())
    }
}

/// The interval of each pair of groups. `groups[g][b]`: the time of group `g` in block `b`, in nanoseconds.
pub fn intervals(groups: &[Vec<u64>], seed: u64) -> Vec<(usize, usize, Interval)> {
    let blocks = groups.first().map_or(0, Vec::len);
    assert!(blocks > 0 && groups.iter().all(|group| group.len() == blocks), "blocks are whole");
    let mut random = Random::new(seed, 0);
    let mut medians: Vec<Vec<f64>> = vec![Vec::with_capacity(RESAMPLES); groups.len()];
    let mut chosen = vec![0; blocks];
    let mut times = vec![0; blocks];
    for _ in 0..RESAMPLES {
        chosen.iter_mut().for_each(|block| *block = (random.next() % blocks as u64) as usize);
        for (group, medians) in groups.iter().zip(&mut medians) {
            times.iter_mut().zip(&chosen).for_each(|(time, block)| *time = group[*block]);
            medians.push(median(&mut times));
        }
    }
    let mut all = Vec::new();
    for a in 0..groups.len() {
        for b in a + 1..groups.len() {
            let mut differences: Vec<f64> = medians[a].iter().zip(&medians[b]).map(|(a, b)| (a - b) / 1000.0).collect();
            differences.sort_by(f64::total_cmp);
            let outside = ((1.0 - CONFIDENCE) / 2.0 * RESAMPLES as f64) as usize;
            all.push((a, b, Interval { low: differences[outside], high: differences[RESAMPLES - 1 - outside] }));
        }
    }
    all
}

/// In nanoseconds.
pub fn median(times: &mut [u64]) -> f64 {
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    *median as f64
}
