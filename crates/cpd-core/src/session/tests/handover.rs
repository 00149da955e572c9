//! The hand-over of a session from one process to the next.

use cp_proto::limits::UNTERMINATED_MAX_BYTES;

use super::*;
use crate::record::{RecordFormat, RecordReader, RecordWriter};

fn record(session: &Session, now: Millis) -> Option<Vec<u8>> {
    let mut record = RecordWriter::default();
    session.freeze(now, &mut record)?;
    Some(record.into_bytes().to_vec())
}

fn thawed(record: &[u8], now: Millis) -> Option<Session> {
    let mut reader = RecordReader::new(record);
    let session = Session::thaw(&mut reader, RecordFormat::Current, now)?;
    reader.expect_end()?;
    Some(session)
}

/// The same scene in the next process, on whose clock it is `now`.
pub fn handed_over(scene: Scene, now: Millis) -> Scene {
    let record = record(&scene.session, scene.world.now).expect("nothing is under way");
    let session = thawed(&record, now).expect("its own record");
    let mut scene = Scene { session, world: World { now, ..scene.world } };
    call!(scene, resume_after_handover);
    scene
}

#[test]
fn unread_input_is_handled_by_the_successor() {
    let mut scene = Scene::logged_in();
    scene.world.now = 100;
    // About as much unread input as fits a record, after a message on its way to the store.
    let behind = UNTERMINATED_MAX_BYTES - b"SMSGbob:a\r\n".len();
    scene.receive(&[b"SMSGbob:a\r\n".to_vec(), b"X".repeat(behind - 2), b"\r\n".to_vec()].concat());
    scene.session.pause();
    assert!(!scene.session.wants_input());
    assert_eq!(record(&scene.session, 100), None, "a message is on its way");
    call!(scene, stored, Ok(()));
    assert_eq!(scene.take_codes(), "240");
    assert_eq!(scene.session.idle_for(160), 60);
    scene.world.now = 160;
    let mut scene = handed_over(scene, 1000);
    assert_eq!((scene.session.idle_for(1000), scene.take_codes().as_str()), (0, "500"));
    assert!(scene.session.wants_input());
    // The idle time continues as well.
    assert_eq!(scene.session.deadline(), 1000 + 30 * 60_000);
}

#[test]
fn a_session_with_work_under_way_is_not_handed_over() {
    let mut scene = Scene::new(Dialect::Cp);
    scene.receive(b"USERbob\r\nPASS\r\n");
    assert_eq!(record(&scene.session, 0), None, "a login's answer");
    let mut scene = Scene::logged_in();
    scene.receive(b"SMSGbob:a\r\nSMSGbob:b\r\n");
    call!(scene, stored, OUTCOME_UNKNOWN);
    assert_eq!(record(&scene.session, 0), None, "an outcome that nobody is told");
    call!(scene, stored, Ok(()));
    assert!(record(&scene.session, 0).is_some());
    let mut scene = Scene::downloading(1, 1..=1, 1);
    scene.receive(b"250\r\n");
    assert_eq!(record(&scene.session, 0), None, "a delete");
    let mut scene = Scene::logged_in();
    scene.session.disconnect();
    assert_eq!(record(&scene.session, 0), None, "at its end");
    scene = Scene::logged_in();
    scene.world.admission = Admission::Full;
    scene.receive(&b"SMSGbob:a\r\n".repeat(10_000));
    assert_eq!(record(&scene.session, 0), None, "more input than is ever read at once");
    scene.session.input = WipedBytes::concat(&[&scene.session.input[..64 * 1024 + 1]]);
    assert_eq!(record(&scene.session, 0), None);
    scene.session.input = WipedBytes::concat(&[&scene.session.input[..64 * 1024]]);
    assert!(thawed(&record(&scene.session, 0).expect("as much as that"), 0).is_some());
}

/// After a flood, only the output that was not sent yet is left.
#[test]
fn replies_before_a_flood_are_still_sent() {
    let mut scene = Scene::logged_in();
    scene.receive(b"NOOP\r\n");
    scene.receive(&b"X".repeat(UNTERMINATED_MAX_BYTES + 1000));
    let mut scene = handed_over(scene, 1000);
    assert_eq!((scene.take_codes().as_str(), scene.session.next_close_step()), ("500", Closing::Flush));
    let mut scene = Scene::logged_in();
    scene.receive(&[b"SMSGbob:a\r\n".to_vec(), b"X".repeat(UNTERMINATED_MAX_BYTES + 1)].concat());
    scene.session.pause();
    call!(scene, stored, Ok(()));
    let mut scene = handed_over(scene, 1000);
    assert_eq!((scene.take_codes().as_str(), scene.session.next_close_step()), ("240", Closing::Flush));
}

#[test]
fn output_that_was_not_sent_is_sent_by_the_successor() {
    let mut scene = Scene::logged_in();
    // The output is as full as it gets: the last message begins one byte below the high-water mark.
    scene.receive(b"RMSG256\r\n");
    scene.session.output = Output::restored(vec![b'x'; OUTPUT_HIGH_WATER_BYTES - 1], NEVER);
    call!(scene, page, 1, Some(messages(1..=2, 1009)));
    let before = scene.session.output().to_vec();
    assert_eq!(before.len(), OUTPUT_HIGH_WATER_BYTES - 1 + 1019);
    scene.world.now = 500;
    call!(scene, output_sent, 100);
    let scene = handed_over(scene, 1000);
    assert_eq!(scene.session.output(), &before[100..]);
}

#[test]
fn the_third_failed_login_closes_across_a_hand_over_too() {
    for failures in 0..3 {
        let mut scene = Scene::new(Dialect::Cp);
        for _ in 0..failures {
            scene.receive(b"USERbob\r\nPASSwrong\r\n");
            call!(scene, verified, false);
        }
        scene.receive(b"USERbob\r\nPASS\r\n");
        scene.take_output();
        scene.session.undo_login(None, 0);
        let mut scene = handed_over(scene, 0);
        assert_eq!(scene.take_codes(), "565");
        assert_eq!(scene.session.next_close_step() == Closing::Flush, failures == 2, "behind {failures}");
    }
}

#[test]
fn a_record_with_a_silence_in_the_dialect_that_knows_none_is_refused() {
    let mut scene = Scene::new(Dialect::Classic);
    scene.receive(b"USER");
    let mut record = record(&scene.session, 0).expect("nothing is under way");
    assert!(thawed(&record, 0).is_some());
    // The dialect comes behind the state and the name, which is empty.
    let dialect = 5;
    assert_eq!(std::mem::replace(&mut record[dialect], 0), 1);
    assert!(thawed(&record, 0).is_none());
}

#[test]
fn a_record_of_an_impossible_download_is_refused() {
    let scene = Scene::downloading(2, 1..=3, 1);
    let good = record(&scene.session, 0).expect("nothing is under way");
    // The record begins with state, name, serial and window. Then come the flags for waiting and for messages sent, and
    // the count and the ids of unacknowledged messages.
    let (waiting, delivered, count, first) = (14, 15, 16, 18);
    assert_eq!(good[waiting..first + 16], [&[0, 1, 2, 0][..], &[1, 0, 0, 0, 0, 0, 0, 0, 2], &[0; 7]].concat());
    let changed = |changes: &[(usize, u8)]| {
        let mut record = good.clone();
        changes.iter().for_each(|(place, to)| record[*place] = *to);
        if record[count] == 0 {
            record.drain(first..first + 16);
        }
        thawed(&record, 0).is_some()
    };
    assert!(changed(&[]));
    assert!(changed(&[(count, 0)]), "all is acknowledged");
    assert!(changed(&[(count, 0), (delivered, 0)]), "nothing was sent");
    assert!(changed(&[(count, 0), (delivered, 0), (waiting, 1)]), "it waits");
    assert!(!changed(&[(delivered, 0)]), "not acknowledged, and never sent");
    assert!(!changed(&[(waiting, 1)]), "it waits, and has messages");
    assert!(!changed(&[(waiting, 1), (delivered, 0)]));
    assert!(!changed(&[(count, 0), (waiting, 1)]), "it waits, and was sent some");
    assert!(!changed(&[(first, 3)]), "not in their order");
}
