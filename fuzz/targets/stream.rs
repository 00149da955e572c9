//! cargo-fuzz's way into `crates/cpd-testing/src/fuzzing/stream.rs`.
#![no_main]

use cpd_testing::fuzzing::{Twin, stream};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(fault) = stream::check(data, Twin::Honest) {
        panic!("{fault}");
    }
});
