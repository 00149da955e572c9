//! How sure it is that two groups of times differ by no more than so much: bootstrap intervals for differences of
//! medians or of other quantiles. Trials come in blocks of one trial for each group, so that whatever slows a machine down slows all groups.

use crate::random::Random;

/// Resamples.
const RESAMPLES: usize = 1000;
/// One interval in a hundred misses the truth.
const CONFIDENCE: f64 = 0.99;

/// The quantile below which the quickest quarter of the times lies. Of times on a machine that is busy all of these
/// trials it says more than the median: what else goes on there only ever adds time.
pub const FIRST_QUARTILE: f64 = 0.25;
const MEDIAN: f64 = 0.5;

/// Of the difference of two medians, or other quantiles, in microseconds.
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

/// The interval of each pair of groups for their medians. `groups[g][b]`: the time of group `g` in block `b`, in
/// nanoseconds.
pub fn intervals(groups: &[Vec<u64>], seed: u64) -> Vec<(usize, usize, Interval)> {
    intervals_at(MEDIAN, groups, seed)
}

/// The same for another quantile, from 0 to 1.
pub fn intervals_at(share: f64, groups: &[Vec<u64>], seed: u64) -> Vec<(usize, usize, Interval)> {
    let blocks = groups.first().map_or(0, Vec::len);
    assert!(blocks > 0 && groups.iter().all(|group| group.len() == blocks), "blocks are whole");
    let mut random = Random::new(seed, 0);
    let mut found: Vec<Vec<f64>> = vec![Vec::with_capacity(RESAMPLES); groups.len()];
    let mut chosen = vec![0; blocks];
    let mut times = vec![0; blocks];
    for _ in 0..RESAMPLES {
        chosen.iter_mut().for_each(|block| *block = (random.number() % blocks as u64) as usize);
        for (group, found) in groups.iter().zip(&mut found) {
            times.iter_mut().zip(&chosen).for_each(|(time, block)| *time = group[*block]);
            found.push(quantile(&mut times, share));
        }
    }
    let mut all = Vec::new();
    for a in 0..groups.len() {
        for b in a + 1..groups.len() {
            let mut differences: Vec<f64> = found[a].iter().zip(&found[b]).map(|(a, b)| (a - b) / 1000.0).collect();
            differences.sort_by(f64::total_cmp);
            let outside = ((1.0 - CONFIDENCE) / 2.0 * RESAMPLES as f64) as usize;
            all.push((a, b, Interval { low: differences[outside], high: differences[RESAMPLES - 1 - outside] }));
        }
    }
    all
}

/// In nanoseconds.
pub fn median(times: &mut [u64]) -> f64 {
    quantile(times, MEDIAN)
}

fn quantile(times: &mut [u64], share: f64) -> f64 {
    let place = (times.len() as f64 * share) as usize;
    let (_, found, _) = times.select_nth_unstable(place);
    *found as f64
}
