//! Latencies in buckets whose width grows with the value: 32 to each power of two, so a quantile is off by 3 % at most.

use std::time::Duration;

const SUB_BITS: u32 = 5;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], total: 0 }
    }

    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The latency in seconds that `share` (0 to 1) of the values do not exceed; 0 when there are none.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.total as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return upper_bound(index) as f64 / 1e9;
            }
        }
        0.0
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < 1 << SUB_BITS {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - SUB_BITS;
    (((shift + 1) as usize) << SUB_BITS) + ((nanos >> shift) as usize & ((1 << SUB_BITS) - 1))
}

fn upper_bound(index: usize) -> u64 {
    let (group, sub) = (index >> SUB_BITS, (index & ((1 << SUB_BITS) - 1)) as u64);
    match group {
        0 => sub,
        _ => (((1 << SUB_BITS) + sub + 1) << (group - 1)).saturating_sub(1),
    }
}
