//! cargo-fuzz's way into `crates/cpd-testing/src/fuzzing/thaw.rs`.
#![no_main]

use cpd_testing::fuzzing::{Twin, thaw};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(fault) = thaw::check(data, Twin::Honest) {
        panic!("{fault}");
    }
});
