//! A real cpd that lacks what it needs: descriptors, or time. Memory, a right clock, entropy and a log service are
//! taken away in tests/proof/starvation.rs.

#[path = "starvation/files.rs"]
mod files;
#[path = "support/ledger.rs"]
#[allow(dead_code, reason = "no cpd is ended here")]
mod ledger;
mod rounds;
mod running;
#[path = "peers/stand_in.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod stand_in;
#[path = "starvation/stopped.rs"]
mod stopped;
#[path = "peers/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use running::{Client, Daemon, PATIENCE, wait_for};
use stand_in::StandIn;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn without_descriptors_it_waits_and_does_not_spin() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start_in(folder, "", |command| {
        Daemon::under(command, &["sh", "-c", &format!("ulimit -n {} && exec \"$0\" \"$@\"", files::FILES)]);
    });
    daemon.add_user("bob", "bob");
    let mut inside = daemon.connect();
    inside.logs_in("bob", "bob");
    let crowd = files::crowd(daemon.address);
    daemon.waits_for_log(" warn accepting paused cause=");
    let figures = files::idles(daemon.child.id()).expect("it waits");
    inside.asks("SMSG bob:still here", "240 ");
    let freed = Instant::now();
    drop(crowd);
    wait_for("service like before", || {
        let mut client = daemon.connect();
        client.send("USER bob");
        client.line_within(PATIENCE).is_some_and(|line| line.starts_with("220 ")).then_some(())
    });
    let recovered = freed.elapsed().as_secs_f64();
    let mut bob: Client = daemon.connect();
    bob.logs_in("bob", "bob");
    bob.asks("RMSG", "RMSGbob:still here");
    assert!(daemon.runs());

    let spins = StandIn::with_files(stand_in::SPINS, Some(files::FILES));
    let _crowd = files::crowd(spins.address);
    wait_for("no descriptor is left", || (wire::descriptors(spins.pid()) >= files::FILES).then_some(()));
    let twin = files::idles(spins.pid()).expect_err("it spins, and nobody has noticed");
    println!(
        "proof: {} descriptors: {figures}, service {recovered:.2} s after some were free; twin that asks again at once: {twin}",
        files::FILES
    );
}

#[test]
fn stopped_for_longer_than_every_timeout_it_does_not_blame_the_clients() {
    let mut daemon = Daemon::start(&stopped::settings("5s"));
    let figures =
        stopped::longer_than_every_timeout(&mut daemon, stopped::CROWD, stopped::STOPPED, PATIENCE).expect("right");
    let mut without = Daemon::start(&stopped::settings("1d"));
    let twin = stopped::longer_than_every_timeout(&mut without, 10, SECOND, SECOND);
    let twin = twin.expect_err("no timers, and nobody has noticed");
    println!("proof: stopped: {figures}; twin without timers: {twin}");
}
