//! Timers that are restarted by progress, and timers that are suspended while the client waits for cpd.

use cp_proto::limits::REPLY_MAX_BYTES;

use super::*;
use crate::limits::{OUTPUT_HIGH_WATER_BYTES, WRITE_PROGRESS_MIN_BYTES};
use crate::record::{RecordFormat, RecordReader, RecordWriter};

/// A client that sends PDUs and reads nothing until the output is full.
fn client_that_does_not_read() -> Scene {
    let mut scene = Scene::logged_in();
    while scene.session.wants_input() {
        scene.receive(b"X\r\n");
    }
    scene
}

#[test]
fn a_byte_now_and_then_does_not_restart_the_write_timer() {
    let mut scene = client_that_does_not_read();
    let limit = scene.world.settings.timeouts.write;
    assert_eq!(scene.session.output.deadline(), limit);
    for _ in 0..limit / 1000 - 1 {
        scene.wait(1000);
        call!(scene, output_sent, 1);
        assert_eq!(scene.session.output.deadline(), limit);
        // Further input from the client does not change the timer.
        scene.receive(b"X\r\n");
    }
    scene.wait(1000);
    call!(scene, expire);
    assert_eq!(scene.session.next_close_step(), Closing::Now);
}

#[test]
fn reading_16_kib_or_all_output_restarts_the_write_timer() {
    let mut scene = client_that_does_not_read();
    let limit = scene.world.settings.timeouts.write;
    scene.wait(1000);
    let mut taken = 0;
    while taken < usize::from(WRITE_PROGRESS_MIN_BYTES) {
        assert_eq!(scene.session.output.deadline(), limit, "after {taken} bytes");
        let count = scene.session.output().len().min(1000) - 1;
        call!(scene, output_sent, count);
        taken += count;
        while scene.session.wants_input() {
            scene.receive(b"X\r\n");
        }
    }
    assert_eq!(scene.session.output.deadline(), 1000 + limit);
    scene.take_output();
    assert_eq!(scene.session.output.deadline(), NEVER);
    scene.wait(1000);
    scene.receive(b"X\r\n");
    assert_eq!(scene.session.output.deadline(), 2000 + limit, "nothing counts from before");
    assert_eq!(scene.session.output.progress(), 0);
}

#[test]
fn a_successor_keeps_the_write_progress() {
    let mut scene = client_that_does_not_read();
    call!(scene, output_sent, 10_000);
    scene.wait(7000);
    let mut record = RecordWriter::default();
    scene.session.freeze(scene.world.now, &mut record).expect("can be handed over");
    let record = record.into_bytes();
    let mut reader = RecordReader::new(&record);
    let thawed = Session::thaw(&mut reader, RecordFormat::Current, 50_000).expect("is read");
    let rest = scene.world.settings.timeouts.write - 7000;
    assert_eq!((thawed.output.progress(), thawed.output.deadline()), (10_000, 50_000 + rest));
}

#[test]
fn a_client_that_does_not_read_costs_little_more_than_the_high_water_mark() {
    let mut scene = client_that_does_not_read();
    let most = OUTPUT_HIGH_WATER_BYTES * 9 / 8 + 2 * REPLY_MAX_BYTES;
    assert!(
        scene.session.output.buffer().capacity() <= most,
        "{} of {most} bytes",
        scene.session.output.buffer().capacity()
    );
}

#[test]
fn the_time_for_a_login_stands_still_while_a_password_waits() {
    let limit = SessionSettings::default().timeouts.login;
    for pass in [b"PASSbob\r\n".as_slice(), b"PASS\r\n"] {
        let mut scene = Scene::new(Dialect::Cp);
        scene.wait(1000);
        scene.receive(b"USERbob\r\n");
        scene.receive(pass);
        scene.take_output();
        assert_eq!(scene.session.deadline(), NEVER, "{pass:?}");
        scene.wait(10 * limit);
        call!(scene, expire);
        call!(scene, verified, false);
        assert!(scene.session.output().ends_with(b"565 error authenticating user\r\n"));
        let rest = limit - 1000;
        assert_eq!(scene.session.deadlines.state, 1000 + 10 * limit + rest, "it goes on where it was");
    }
}

#[test]
fn a_successful_login_ends_the_login_timer() {
    let mut scene = Scene::new(Dialect::Cp);
    scene.receive(b"USERbob\r\nPASSbob\r\n");
    call!(scene, verified, true);
    assert_eq!(scene.session.deadlines.state, NEVER);
}

#[test]
fn an_undone_login_keeps_its_remaining_time() {
    let limit = SessionSettings::default().timeouts.login;
    let mut scene = Scene::new(Dialect::Cp);
    scene.wait(1000);
    scene.receive(b"USERbob\r\nPASSbob\r\n");
    scene.wait(5000);
    scene.session.undo_login(Password::parse(b"bob").as_ref(), scene.world.now);
    assert_eq!(scene.session.deadlines.state, 5000 + limit);
}

/// Settings may be made shorter while a session is open.
#[test]
fn shorter_timeouts_hold_from_the_next_event_on() {
    let mut scene = Scene::new(Dialect::Cp);
    scene.world.settings.timeouts.login = 5000;
    assert_eq!(scene.session.deadline(), 60_000, "nothing has happened since");
    scene.world.now = 10_000;
    scene.receive(b"NOOP\r\n");
    scene.take_output();
    assert_eq!(scene.session.deadline(), 15_000);
    scene.world.now = 12_000;
    scene.receive(b"NOOP\r\n");
    scene.take_output();
    assert_eq!(scene.session.deadline(), 15_000, "later events prolong nothing");

    let mut scene = Scene::logged_in();
    scene.world.settings.timeouts.idle = 2000;
    scene.world.now = 1000;
    scene.receive(b"NO");
    assert_eq!(scene.session.deadlines.idle, 3000, "half a PDU is an event");
    scene.world.settings.timeouts.idle = 90_000;
    scene.world.settings.timeouts.pdu = 100;
    scene.receive(b"O");
    assert_eq!(
        (scene.session.deadlines.idle, scene.session.deadlines.pdu),
        (3000, 1100),
        "longer from the next start on"
    );

    let mut scene = Scene::downloading(2, 1..=3, 1);
    let before = scene.session.deadlines.state;
    scene.world.settings.timeouts.ack = 50;
    scene.receive(b"HELP\r\n");
    assert!(before > scene.world.now + 50);
    assert_eq!(scene.session.deadlines.state, scene.world.now + 50);
}
