//! cargo-fuzz's way into `bodies/control.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
#[allow(dead_code, reason = "each target uses its own body")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(fault) = bodies::control::check(data, bodies::Twin::Honest) {
        panic!("{fault}");
    }
});
