//! cargo-fuzz's way into `crates/cpd-testing/src/fuzzing/control.rs`.
#![no_main]

use cpd_testing::fuzzing::{Twin, control};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(fault) = control::check(data, Twin::Honest) {
        panic!("{fault}");
    }
});
