//! A purge that the store could not write (a full disk) leaves every message where it was: nobody hears that they are
//! gone, and the next download has them.

use cp_proto::values::Username;
use cpd_core::engine::Engine;
use cpd_core::engine::port::{AdminAnswer, Answer, FromStore, MessageId, Op, RequestId, StoredMessage};
use cpd_core::engine::requests::{AdminResult, PurgeFilter, Request};
use cpd_core::engine::settings::Settings;

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

/// An engine whose ann and bob have sent three messages to ann.
fn engine() -> Engine {
    let mut engine = Engine::new(Settings::default(), 10, 0);
    for user in ["ann", "bob"] {
        engine.load_user(name(user));
    }
    for (id, sender, bytes) in [(1, "bob", 5), (2, "ann", 7), (3, "bob", 11)] {
        let (recipient, sender) = (name("ann"), name(sender));
        engine.load_message(&StoredMessage { id: MessageId(id), recipient, sender, queued_at: id, bytes });
    }
    engine
}

/// Purges what bob sent, and has the store answer so; the result.
fn purge(engine: &mut Engine, answer: AdminAnswer) -> AdminResult {
    let filter = PurgeFilter { from: Some(name("bob")), ..PurgeFilter::default() };
    engine.admin(RequestId(1), Request::QueuePurge { user: name("ann"), which: filter }, 1);
    let batch = engine.next_batch(1).expect("a batch");
    assert!(matches!(batch.ops[..], [Op::Admin { .. }]), "{:?}", batch.ops);
    assert_eq!(shown(engine), [2], "nobody is given what may be gone");
    engine.from_store(FromStore::Answers(vec![Answer::Admin { request: RequestId(1), answer }]), 2);
    engine.next_result().expect("a result").1
}

/// The ids of ann's queue.
fn shown(engine: &mut Engine) -> Vec<u64> {
    let request = Request::QueueShow { user: name("ann"), after: 0, limit: 100, body: false };
    engine.admin(RequestId(2), request, 3);
    match engine.next_result().expect("a result").1 {
        AdminResult::Messages { rows, .. } => rows.iter().map(|row| row.id.0).collect(),
        other => panic!("{other:?}"),
    }
}

fn summary(engine: &mut Engine) -> (u64, u64) {
    engine.admin(RequestId(3), Request::QueueList { after: None, limit: 100 }, 3);
    match engine.next_result().expect("a result").1 {
        AdminResult::Queues { rows, .. } => (rows[0].messages, rows[0].bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_purge_that_the_store_refuses_takes_nothing() {
    let mut engine = engine();
    let result = purge(&mut engine, AdminAnswer::Failed("the disk is full".into()));
    assert!(matches!(&result, AdminResult::Failed(cause) if cause == "the disk is full"), "{result:?}");
    assert_eq!(shown(&mut engine), [1, 2, 3]);
    assert_eq!((summary(&mut engine), engine.queued_messages()), ((3, 23), 3));
}

#[test]
fn a_purge_that_is_stored_takes_what_was_meant() {
    let mut engine = engine();
    let result = purge(&mut engine, AdminAnswer::Done);
    assert!(matches!(result, AdminResult::Removed { messages: 2, .. }), "{result:?}");
    assert_eq!(shown(&mut engine), [2]);
    assert_eq!((summary(&mut engine), engine.queued_messages()), ((1, 7), 1));
}

#[test]
fn a_message_that_does_not_meet_every_condition_is_there_and_stays() {
    let mut engine = engine();
    let mut purge = |request: u64, id: u64| {
        let filter = PurgeFilter { id: Some(id), from: Some(name("bob")), ..PurgeFilter::default() };
        engine.admin(RequestId(request), Request::QueuePurge { user: name("ann"), which: filter }, 1);
        if let Some(batch) = engine.next_batch(1) {
            let [Op::Admin { request, .. }] = batch.ops[..] else { panic!("{:?}", batch.ops) };
            engine.from_store(FromStore::Answers(vec![Answer::Admin { request, answer: AdminAnswer::Done }]), 2);
        }
        engine.next_result().expect("a result").1
    };
    assert!(matches!(purge(11, 4), AdminResult::NoSuchMessage));
    // It is ann's.
    assert!(matches!(purge(12, 2), AdminResult::Removed { messages: 0, .. }));
    assert!(matches!(purge(13, 3), AdminResult::Removed { messages: 1, .. }));
    assert_eq!(shown(&mut engine), [1, 2]);
}

#[test]
fn an_age_beyond_1970_reaches_no_message() {
    let mut engine = engine();
    engine.set_wall_clock(1_800_000_000);
    let which = PurgeFilter { older_than_seconds: Some(u64::MAX), ..PurgeFilter::default() };
    engine.admin(RequestId(21), Request::QueuePurge { user: name("ann"), which }, 1);
    if let Some(batch) = engine.next_batch(1) {
        let [Op::Admin { request, .. }] = batch.ops[..] else { panic!("{:?}", batch.ops) };
        engine.from_store(FromStore::Answers(vec![Answer::Admin { request, answer: AdminAnswer::Done }]), 2);
    }
    let result = engine.next_result().expect("a result").1;
    assert!(matches!(result, AdminResult::Removed { messages: 0, .. }), "{result:?}");
    assert_eq!(shown(&mut engine), [1, 2, 3]);
}
