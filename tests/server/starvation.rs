//! A real cpd that lacks what it needs: descriptors, or time. Memory, a right clock, entropy and a log service are
//! taken away in tests/proof/starvation.

mod files;

use std::time::Duration;

use cpd_testing::{findings, running, stand_in, stopped, wire};
use findings::{Wrong, caught};
use running::{Daemon, PATIENCE, Setup, wait_for};
use stand_in::StandIn;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn without_descriptors_it_waits_and_does_not_spin() {
    let limited = format!("ulimit -n {} && exec \"$0\" \"$@\"", files::FILES);
    let mut daemon = Setup::new("").wrapped(&["sh", "-c", &limited]).start();
    daemon.add_user("bob", "bob");
    let mut inside = daemon.connect();
    inside.logs_in("bob", "bob");
    let crowd = files::crowd(daemon.address());
    daemon.waits_for_log(" warn accepting paused cause=");
    let figures = files::idles(daemon.id()).expect("it waits");
    inside.asks("SMSG bob:still here", "240 ");
    drop(crowd);
    let recovered = files::recovers(daemon.id(), daemon.address()).expect("it goes on");
    inside.asks("RMSG", "RMSGbob:still here");
    assert!(daemon.runs());

    let spins = StandIn::with_files(stand_in::SPINS, Some(files::FILES));
    let _crowd = files::crowd(spins.address);
    wait_for("no descriptor is left", || (wire::descriptors(spins.pid()) >= files::FILES).then_some(()));
    let twin = caught(files::idles(spins.pid()), &[Wrong::Spins]);
    let sleeps = StandIn::with_files(stand_in::SLEEPS, Some(files::FILES));
    let slow = caught(files::recovers(sleeps.pid(), sleeps.address), &[Wrong::Slow]);
    println!(
        "proof: {} descriptors: {figures}, {recovered}; twin that asks again at once: {twin}; twin that sleeps: {slow}",
        files::FILES
    );
}

#[test]
fn stopped_for_longer_than_every_timeout_it_does_not_blame_the_clients() {
    let mut daemon = Daemon::start(&stopped::settings(stopped::TIMEOUT));
    let figures =
        stopped::longer_than_every_timeout(&mut daemon, stopped::CROWD, stopped::STOPPED, PATIENCE).expect("right");
    let mut without = Daemon::start(&stopped::settings(DAY));
    let twin = stopped::longer_than_every_timeout(&mut without, 10, SECOND, SECOND);
    let twin = caught(twin, &[Wrong::NotEnded]);
    println!("proof: stopped: {figures}; twin without timers: {twin}");
}
