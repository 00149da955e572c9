//! The twin of tests/server/replaced.rs: a cpd that does not look at its files goes on with its 240s, and they are lost.
//!
//! `cargo test --test proof_replaced -- --nocapture`; it builds the sabotaged cpd, unless CPD_SABOTAGED names one.

use std::fs;

use cpd_core::sabotage::Fault;
use cpd_testing::{play, running};
use play::{SETTINGS, next_start, play, prepare};
use running::Setup;

/// Messages sent after the change, by each client.
const AFTER: usize = 50;

#[test]
fn a_cpd_that_does_not_look_at_its_files_is_caught() {
    // The users are in the store's file by then, and what is sent is in the log.
    let folder = prepare().stop();
    let mut daemon = Setup::new(SETTINGS).in_folder(folder).sabotaged(Fault::BlindStore).start();
    let told = play(&daemon, AFTER, |data| {
        fs::rename(data.join("cpd.db"), data.with_file_name("aside")).expect("moved");
    });
    assert!(told.late.len() > AFTER, "{} after the change: {}", told.late.len(), daemon.log());
    daemon.signal(rustix::process::Signal::KILL);
    daemon.ends();
    let folder = daemon.into_folder();
    fs::rename(folder.path().join("aside"), folder.path().join("data/cpd.db")).expect("moved back");
    fs::remove_file(folder.path().join("data/cpd.db-wal")).expect("removed");
    let there = next_start(folder);
    let lost = told.late.difference(&there).count();
    assert!(lost > 0, "all of {} are there", told.late.len());
    println!(
        "proof: replaced store: twin blind-store: {} got 240 after the store was moved away, caught at once: {lost} lost",
        told.late.len()
    );
}
