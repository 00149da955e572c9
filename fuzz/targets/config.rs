//! cargo-fuzz's way into `crates/cpd-testing/src/fuzzing/config.rs`.
#![no_main]

use cpd_testing::fuzzing::{Twin, config};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(fault) = config::check(data, Twin::Honest) {
        panic!("{fault}");
    }
});
