//! Compares the store with a map through random operations, failures and restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;
use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC};

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Insert(u8),
    Delete(u8),
    Add(u8),
    Remove(u8),
    Commit,
    Reopen,
}

fn work() -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        8 => any::<u8>().prop_map(Action::Insert),
        6 => any::<u8>().prop_map(Action::Delete),
        1 => (0..4u8).prop_map(Action::Add),
        1 => (0..4u8).prop_map(Action::Remove),
        4 => Just(Action::Commit),
        1 => Just(Action::Reopen),
    ];
    proptest::collection::vec(one, 1..120)
}

/// The failures: at which visit of which point, and with which result code.
fn faults() -> impl Strategy<Value = Vec<(usize, FaultPoint, i32)>> {
    let point = prop_oneof![
        Just((FaultPoint::Commit, SQLITE_IOERR_FSYNC)),
        Just((FaultPoint::Committed, SQLITE_IOERR_FSYNC)),
        Just((FaultPoint::Inserts, SQLITE_FULL)),
    ];
    proptest::collection::vec((0..30usize, point).prop_map(|(n, (point, code))| (n, point, code)), 0..4)
}

fn fault(plan: Vec<(usize, FaultPoint, i32)>) -> impl FnMut(FaultPoint) -> Option<i32> + Send + 'static {
    let mut visits: BTreeMap<String, usize> = BTreeMap::new();
    move |point| {
        let visit = visits.entry(format!("{point:?}")).or_default();
        *visit += 1;
        plan.iter().find(|(n, at, _)| n + 1 == *visit && *at == point).map(|(_, _, code)| *code)
    }
}

struct Model {
    rig: Rig,
    messages: BTreeMap<u64, String>,
    users: BTreeMap<Username, ()>,
    next_id: u64,
    /// The highest id that was ever stored.
    used: u64,
    epoch: u32,
    plan: Vec<(usize, FaultPoint, i32)>,
}

impl Model {
    /// Commits the gathered operations and applies their outcome to the model.
    fn commit(&mut self, gathered: &mut Vec<Action>) {
        let mut batch = BatchBuilder::new(self.epoch);
        let (mut messages, mut users, mut inserted) = (self.messages.clone(), self.users.clone(), Vec::new());
        for (at, step) in gathered.drain(..).enumerate() {
            let request = at as u64;
            match step {
                Action::Insert(seed) => {
                    let body = format!("{seed}").repeat(1 + usize::from(seed) % 300);
                    batch = batch.insert(self.next_id, "bob", &body);
                    inserted.push((self.next_id, body));
                    self.next_id += 1;
                }
                Action::Delete(pick) => {
                    if let Some(id) = messages.keys().nth(usize::from(pick) % messages.len().max(1)).copied() {
                        messages.remove(&id);
                        batch = batch.delete(id);
                    }
                }
                Action::Add(n) => {
                    users.insert(name(&format!("u{n}")), ());
                    batch = batch.user(request, &format!("u{n}"), "hash");
                }
                Action::Remove(n) => {
                    users.remove(&name(&format!("u{n}")));
                    let op = AdminOp::UserRemove { name: name(&format!("u{n}")), ids: vec![] };
                    batch = batch.admin(request, op);
                }
                Action::Commit | Action::Reopen => {}
            }
        }
        let outcome = self.rig.run(batch).outcome();
        assert!(outcome.deletes, "no fault here keeps deletes from being stored");
        self.epoch = outcome.epoch;
        if outcome.inserts {
            self.used = inserted.last().map_or(self.used, |(id, _)| *id);
            messages.extend(inserted);
        }
        (self.messages, self.users) = (messages, users);
    }

    fn reopen(self) -> Model {
        let Model { rig, messages, users, used, plan, .. } = self;
        let rig = Rig::start(rig.close(), fault(plan.clone()));
        assert!(rig.next_id > used, "ids would be used twice");
        assert_eq!(rig.ids(), messages.keys().copied().collect::<Vec<_>>());
        assert_eq!(rig.users, users.keys().copied().collect::<Vec<_>>());
        let next_id = rig.next_id;
        let mut model = Model { rig, messages, users, next_id, used, epoch: 0, plan };
        let ids: Vec<u64> = model.messages.keys().copied().collect();
        let bodies = model.rig.run(BatchBuilder::new(0).fetch(&ids)).bodies().expect("a page");
        assert_eq!(bodies, model.messages.values().cloned().collect::<Vec<_>>());
        model
    }
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_store_behaves_like_a_map(steps in work(), plan in faults()) {
        let rig = Rig::faulty(fault(plan.clone()));
        let next_id = rig.next_id;
        let mut model =
            Model { rig, messages: BTreeMap::new(), users: BTreeMap::new(), next_id, used: 0, epoch: 0, plan };
        let mut gathered = Vec::new();
        for step in steps {
            match step {
                Action::Commit => model.commit(&mut gathered),
                Action::Reopen => {
                    model.commit(&mut gathered);
                    model = model.reopen();
                }
                step => gathered.push(step),
            }
        }
        model.commit(&mut gathered);
        model.reopen();
    }
}
