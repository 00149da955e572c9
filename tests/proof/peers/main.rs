//! Peers that mean harm, as far as it takes root, minutes or a cpd that was broken on purpose. The rest is in
//! tests/server/peers.
//!
//! `cargo test --test proof_peers -- --nocapture`; it builds the sabotaged cpd, unless CPD_SABOTAGED names one.
//! `CONNECTIONS=1000000` opens and closes that many.

mod churn;
mod half_open;
mod unknown;

use std::time::Duration;

use cpd_core::sabotage::Fault;
use cpd_testing::environment::number;
use cpd_testing::{findings, ledger, resets, rounds, running, slow, stand_in, wire};
use findings::{Wrong, caught};
use ledger::Kind;
use running::{Daemon, PATIENCE, Setup, need};
use stand_in::StandIn;

/// How long a twin's checker waits for what a stand-in does not do.
const TWIN_PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn a_reset_that_forgets_a_lease_is_noticed() {
    let twin = resets::everywhere(&Setup::new("").sabotaged(Fault::ForgottenLease).start());
    let twin = caught(twin, &[Wrong::Messages(Kind::Lost)]);
    println!("proof: resets: twin forgotten-lease: {twin}");
}

#[test]
fn a_timer_that_fires_early_is_noticed() {
    let settings = "limits.connections_per_address = 10000\ntimeouts = { pdu = \"500ms\", login = \"3s\" }\n";
    let cpd = Setup::new(settings).sabotaged(Fault::EarlyTimer).start();
    let twin = slow::writers(&cpd, 100, Duration::from_secs(3), PATIENCE);
    // Of few logins one that had to wait is more than a hundredth.
    let twin = caught(twin, &[Wrong::Early, Wrong::Slow]);
    println!("proof: a byte now and then: twin early-timer: {twin}");
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let count = number("CONNECTIONS").unwrap_or(50_000);
    let daemon = Daemon::start("");
    let figures = churn::flat(daemon.id(), daemon.address(), count, PATIENCE).expect("flat");
    daemon.add_user("bob", "bob");
    daemon.connect().logs_in("bob", "bob");
    let leaky = StandIn::start(stand_in::LEAKS_MEMORY);
    let memory = caught(churn::flat(leaky.pid(), leaky.address, 50_000, TWIN_PATIENCE), &[Wrong::Memory]);
    let leaky = StandIn::start(stand_in::LEAKS_DESCRIPTORS);
    let files = caught(churn::flat(leaky.pid(), leaky.address, 160, TWIN_PATIENCE), &[Wrong::Descriptors]);
    println!("proof: opened and closed: {figures}; twins: leaked memory: {memory}; leaked descriptors: {files}");
}

#[test]
fn peers_that_vanish_are_ended() {
    need("ip", "iproute2");
    need("unshare", "util-linux");
    half_open::in_a_namespace("peers_that_vanish_are_ended", || {
        let figures = half_open::vanish(Duration::from_secs(3), PATIENCE).expect("all are ended");
        let day = Duration::from_secs(24 * 3600);
        let twin = caught(half_open::vanish(day, Duration::from_secs(8)), &[Wrong::NotEnded]);
        println!("proof: half-open peers: {figures}; twin without timers: {twin}");
    });
}

#[test]
fn who_is_not_known_is_not_read() {
    need("strace", "strace");
    let figures = unknown::asks(true).expect("dropped unread");
    let twin = caught(unknown::asks(false), &[Wrong::Read, Wrong::NotRefused, Wrong::Answer]);
    println!("proof: control socket, no credentials: {figures}; twin whose kernel says who it is: {twin}");
}
