use cp_proto::values::Username;

use super::*;
use crate::engine::port::{MessageId, SessionId};

const SESSION: SessionId = SessionId { serial: 1, slot: 0 };

fn insert(work: &mut Batcher, id: u64, body: &[u8]) {
    let name = Username::parse(b"bob").expect("a name");
    work.insert(body, |body| Op::Insert {
        session: SESSION,
        id: MessageId(id),
        recipient: name,
        sender: name,
        queued_at: 0,
        body,
    });
}

fn ids(batch: &Batch) -> Vec<u64> {
    let id = |op: &Op| match op {
        Op::Insert { id, .. } | Op::Delete { id, .. } | Op::DeleteExpired { id } => Some(id.0),
        Op::Fetch { .. } | Op::Lookup { .. } | Op::LoggedIn { .. } | Op::Admin { .. } => None,
    };
    batch.ops.iter().filter_map(id).collect()
}

fn outcome(inserts: bool, epoch: u32) -> Outcome {
    Outcome { inserts, no_room: false, deletes: true, epoch }
}

#[test]
fn batches_leave_in_order_and_fill_meanwhile() {
    let mut work = Batcher::default();
    assert!(work.next_batch(0).is_none() && work.is_idle());
    insert(&mut work, 1, b"one");
    insert(&mut work, 2, b"two");
    let first = work.next_batch(0).expect("a batch");
    insert(&mut work, 3, b"three");
    work.write(Op::DeleteExpired { id: MessageId(4) });
    let second = work.next_batch(0).expect("a batch");
    assert!(work.next_batch(0).is_none() && !work.is_idle());
    assert_eq!((ids(&first), ids(&second)), (vec![1, 2], vec![3, 4]));
    assert_eq!((&first.bytes[..], &second.bytes[..]), (b"onetwo".as_slice(), b"three".as_slice()));
    let bodies: Vec<_> = first
        .ops
        .iter()
        .map(|op| match op {
            Op::Insert { body, .. } => body.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bodies, [0..3, 3..6]);
    work.done(&first, outcome(true, 0));
    work.done(&second, outcome(true, 0));
    assert!(work.is_idle());
}

#[test]
fn a_read_of_no_ids_is_not_queued() {
    let mut work = Batcher::default();
    let op = |ids| Op::Fetch { session: SESSION, download: 1, ids };
    assert_eq!(work.fetch(|_| "nothing", op), "nothing");
    assert!(work.is_idle());
    work.fetch(|ids| ids.extend([7, 8]), op);
    work.fetch(|ids| ids.push(9), op);
    let batch = work.next_batch(0).expect("a batch");
    let ranges: Vec<_> = batch
        .ops
        .iter()
        .map(|op| match op {
            Op::Fetch { ids, .. } => ids.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((batch.ids, ranges), (vec![7, 8, 9], vec![0..2, 2..3]));
}

#[test]
fn what_was_filled_before_a_failure_became_known_keeps_its_epoch() {
    let mut work = Batcher::default();
    insert(&mut work, 1, b"x");
    let first = work.next_batch(0).expect("a batch");
    insert(&mut work, 2, b"x");
    let second = work.next_batch(0).expect("a batch");
    insert(&mut work, 3, b"x");
    work.done(&first, outcome(false, 1));
    work.write(Op::DeleteExpired { id: MessageId(4) });
    let third = work.next_batch(0).expect("a batch");
    let fourth = work.next_batch(0).expect("a batch");
    assert_eq!((ids(&third), third.epoch), (vec![3], 0));
    assert_eq!((ids(&fourth), fourth.epoch), (vec![4], 1));
    assert_eq!(second.epoch, 0);
}

#[test]
fn no_message_is_taken_until_all_filled_before_a_failure_are_back() {
    let mut work = Batcher::default();
    insert(&mut work, 1, b"x");
    let first = work.next_batch(0).expect("a batch");
    insert(&mut work, 2, b"x");
    let second = work.next_batch(0).expect("a batch");
    insert(&mut work, 3, b"x");
    assert!(work.has_room(1));
    work.done(&first, outcome(false, 1));
    assert!(!work.has_room(1));
    work.done(&second, outcome(false, 1));
    assert!(!work.has_room(1), "the third was filled before as well");
    let third = work.next_batch(0).expect("a batch");
    // Another commit fails, as one may for its deletes.
    work.write(Op::DeleteExpired { id: MessageId(4) });
    work.done(&third, outcome(false, 2));
    assert!(!work.has_room(1));
    let fourth = work.next_batch(0).expect("a batch");
    assert_eq!(fourth.epoch, 1);
    work.done(&fourth, outcome(false, 2));
    assert!(work.has_room(1) && work.is_idle());
    insert(&mut work, 5, b"x");
    assert_eq!(work.next_batch(0).expect("a batch").epoch, 2);
}

#[test]
fn bounds() {
    let mut work = Batcher::default();
    let body = [b'm'; 1009];
    let mut taken = 0;
    while work.has_room(body.len()) {
        insert(&mut work, taken, &body);
        taken += 1;
    }
    assert_eq!(taken as usize, INSERT_BYTES_MAX / body.len());
    let batch = work.next_batch(0).expect("a batch");
    assert!(!work.has_room(body.len()), "what is under way counts");
    work.done(&batch, outcome(true, 0));
    assert!(work.has_room(body.len()));

    for id in 0..INSERTS_MAX as u64 {
        assert!(work.has_room(1));
        insert(&mut work, id, b"x");
    }
    assert!(!work.has_room(1));
    let batch = work.next_batch(0).expect("a batch");
    work.done(&batch, outcome(false, 0));
    assert!(work.has_room(1));

    for _ in 0..BATCHES_UNDER_WAY_MAX {
        work.write(Op::DeleteExpired { id: MessageId(1) });
        assert!(work.next_batch(0).is_some());
    }
    work.write(Op::DeleteExpired { id: MessageId(1) });
    assert!(work.next_batch(0).is_none());
    work.done(&Batch::default(), outcome(true, 0));
    assert!(work.next_batch(0).is_some());
}

#[test]
fn batch_memory_is_reused_unless_it_is_large() {
    let mut work = Batcher::default();
    insert(&mut work, 1, &[b'm'; 1000]);
    let batch = work.next_batch(0).expect("a batch");
    work.done(&batch, outcome(true, 0));
    work.recycle(batch);
    assert!(work.spares.len() == 1 && work.spares[0].ops.is_empty() && work.spares[0].bytes.capacity() >= 1000);
    work.recycle(Batch { bytes: Vec::with_capacity(SPARE_BYTES_MAX + 1), ..Batch::default() });
    assert_eq!(work.spares.len(), 1);
    (0..2 * SPARES_MAX).for_each(|_| work.recycle(Batch::default()));
    assert_eq!(work.spares.len(), SPARES_MAX);
}

#[test]
fn a_lazy_write_waits_for_a_commit_to_share() {
    let forget = |id| Op::DeleteExpired { id: MessageId(id) };
    let mut work = Batcher::default();
    work.write_lazily(forget(1), 130);
    work.write_lazily(forget(2), 110);
    work.write_lazily(forget(3), 140);
    assert_eq!((work.due(), work.is_idle()), (Some(110), false), "the earliest of them");
    assert!(work.next_batch(109).is_none());
    work.fetch(|ids| ids.push(9), |ids| Op::Fetch { session: SESSION, download: 1, ids });
    assert_eq!(ids(&work.next_batch(101).expect("the read alone")), [0u64; 0]);
    assert_eq!(ids(&work.next_batch(110).expect("their time has come")), [1, 2, 3]);
    assert_eq!(work.due(), None);

    work.write_lazily(forget(3), 230);
    insert(&mut work, 4, b"x");
    assert_eq!(ids(&work.next_batch(200).expect("company")), [4, 3]);
    work.write_lazily(forget(5), 330);
    work.flush_lazy();
    assert_eq!(ids(&work.next_batch(300).expect("somebody waits")), [5]);
    for id in 0..LAZY_OPS_MAX as u64 {
        assert!(work.next_batch(400).is_none());
        work.write_lazily(forget(id), 430);
    }
    assert_eq!(work.next_batch(400).expect("enough of them").ops.len(), LAZY_OPS_MAX);
    work.write_lazily(forget(6), 530);
    assert!(work.next_batch(500).is_none(), "the flush is over");
}
