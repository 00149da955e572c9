//! Tests of the store through its public interface, and their helpers.

mod backups;
mod changed;
mod error_texts;
mod faults;
mod history;
mod migration;
mod migration_copy;
mod model;
mod opening;
mod refusals;
mod tools;
mod unwelcome;
mod writing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use cp_proto::values::Username;
use cpd_core::engine::port::{
    AddressKey, AdminAnswer, AdminOp, Answer, Batch, FromStore, LoginRecord, MessageId, Op, Origin, Outcome, Page,
    RequestId, SessionId, StoredMessage,
};
use tempfile::TempDir;

use super::sqlite::{FaultPoint, Faults};
use super::{OpenError, Store, StoreEvent, Writer};

/// Longer than anything here takes on any machine: a result that has not come by then will not come.
const PATIENCE: Duration = Duration::from_secs(60);
const SESSION: SessionId = SessionId { serial: 1, slot: 1 };
const HOME: AddressKey = AddressKey::V4(0x7f00_0001);

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a good name")
}

/// Builds a batch by chained calls.
#[derive(Default)]
struct BatchBuilder(Batch);

impl BatchBuilder {
    fn new(epoch: u32) -> BatchBuilder {
        BatchBuilder(Batch { epoch, ..Batch::default() })
    }

    fn insert(mut self, id: u64, recipient: &str, body: &str) -> BatchBuilder {
        let start = self.0.bytes.len() as u32;
        self.0.bytes.extend_from_slice(body.as_bytes());
        self.0.ops.push(Op::Insert {
            session: SESSION,
            id: MessageId(id),
            recipient: name(recipient),
            sender: name("ann"),
            queued_at: 1000 + id,
            body: start..self.0.bytes.len() as u32,
        });
        self
    }

    fn op(mut self, op: Op) -> BatchBuilder {
        self.0.ops.push(op);
        self
    }

    fn delete(self, id: u64) -> BatchBuilder {
        self.op(Op::Delete { session: SESSION, id: MessageId(id) })
    }

    fn forget(self, id: u64) -> BatchBuilder {
        self.op(Op::DeleteExpired { id: MessageId(id) })
    }

    fn fetch(mut self, ids: &[u64]) -> BatchBuilder {
        let start = self.0.ids.len() as u32;
        self.0.ids.extend_from_slice(ids);
        let ids = start..self.0.ids.len() as u32;
        self.op(Op::Fetch { session: SESSION, download: 7, ids })
    }

    fn lookup(self, user: &str) -> BatchBuilder {
        self.op(Op::Lookup { session: SESSION, name: name(user), from: HOME.into() })
    }

    fn admin(self, request: u64, op: AdminOp) -> BatchBuilder {
        self.op(Op::Admin { request: RequestId(request), op: Box::new(op) })
    }

    fn user(self, request: u64, user: &str, hash: &str) -> BatchBuilder {
        self.admin(request, AdminOp::UserAdd { name: name(user), hash: hash.to_owned(), at: 5 })
    }
}

/// The results that came back for some batches.
#[derive(Default)]
struct Received {
    pages: Vec<Option<Page>>,
    logins: Vec<Result<Option<Box<LoginRecord>>, ()>>,
    admin: BTreeMap<u64, AdminAnswer>,
    done: Vec<(Batch, Outcome)>,
}

impl Received {
    fn outcome(&self) -> Outcome {
        self.done.first().expect("a batch came back").1
    }

    fn bodies(&self) -> Option<Vec<String>> {
        let page = self.pages.first().expect("a page").as_ref()?;
        let text = |r: &std::ops::Range<u32>| {
            String::from_utf8(page.bytes[r.start as usize..r.end as usize].to_vec()).expect("text")
        };
        Some(page.messages.iter().map(|m| text(&m.body)).collect())
    }
}

/// A store in a folder of its own.
struct Rig {
    folder: TempDir,
    writer: Option<Writer>,
    wakes: Receiver<()>,
    events: Receiver<StoreEvent>,
    next_id: u64,
    loaded: Vec<StoredMessage>,
    users: Vec<Username>,
}

impl Rig {
    fn new() -> Rig {
        Rig::start(tempfile::tempdir().expect("a folder"), |_| None)
    }

    fn faulty(fault: impl FnMut(FaultPoint) -> Option<i32> + Send + 'static) -> Rig {
        Rig::start(tempfile::tempdir().expect("a folder"), fault)
    }

    fn start(folder: TempDir, fault: impl FnMut(FaultPoint) -> Option<i32> + Send + 'static) -> Rig {
        let (mut loaded, mut users) = (Vec::new(), Vec::new());
        let mut store = Store::open(&folder.path().join("cpd.db")).expect("opens");
        store.faults = Faults(Some(Box::new(fault)));
        let next_id = store.load(|u| users.push(u), |m| loaded.push(m)).expect("loads").next_id;
        let ((wake, wakes), (event, events)) = (mpsc::channel(), mpsc::channel());
        let on_event = move |e| drop(event.send(e));
        let writer = store.spawn(move || wake.send(()).unwrap_or_default(), on_event).expect("spawns");
        Rig { folder, writer: Some(writer), wakes, events, next_id, loaded, users }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("cpd.db")
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().expect("is open")
    }

    fn submit(&mut self, batch: BatchBuilder) {
        self.writer().submit(batch.0).expect("is taken");
    }

    fn recv(&mut self) -> FromStore {
        loop {
            if let Some(result) = self.writer().try_recv() {
                return result;
            }
            self.wakes.recv_timeout(PATIENCE).expect("a wake");
        }
    }

    /// Receives results until `count` batches have come back.
    fn collect(&mut self, count: usize) -> Received {
        let mut received = Received::default();
        while received.done.len() < count {
            match self.recv() {
                FromStore::Answers(answers) => collect_answers(&mut received, answers),
                FromStore::Done(batch, outcome) => received.done.push((batch, outcome)),
                FromStore::Broken(cause) | FromStore::Changed { what: cause, .. } => panic!("broken: {cause}"),
            }
        }
        received
    }

    fn run(&mut self, batch: BatchBuilder) -> Received {
        self.submit(batch);
        self.collect(1)
    }

    /// Receives results until the answer to a request that is answered after its batch.
    fn answer(&mut self, request: u64) -> AdminAnswer {
        let mut received = Received::default();
        loop {
            if let Some(answer) = received.admin.remove(&request) {
                return answer;
            }
            match self.recv() {
                FromStore::Answers(answers) => collect_answers(&mut received, answers),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn close(mut self) -> TempDir {
        assert!(self.writer.take().expect("is open").close().is_empty(), "results were left");
        self.folder
    }

    fn reopen(self) -> Rig {
        Rig::start(self.close(), |_| None)
    }

    fn ids(&self) -> Vec<u64> {
        self.loaded.iter().map(|m| m.id.0).collect()
    }

    fn events(&self) -> Vec<StoreEvent> {
        self.events.try_iter().collect()
    }
}

fn collect_answers(received: &mut Received, answers: Vec<Answer>) {
    for answer in answers {
        match answer {
            Answer::Page { page, download, .. } => {
                assert_eq!(download, 7);
                received.pages.push(page);
            }
            Answer::Login { record, .. } => received.logins.push(record),
            Answer::Admin { request, answer } => assert!(received.admin.insert(request.0, answer).is_none(), "twice"),
        }
    }
}

/// The stored ids, as another process would find them.
fn stored(folder: &TempDir) -> Result<Vec<u64>, OpenError> {
    let mut ids = Vec::new();
    Store::open(&folder.path().join("cpd.db"))?.load(|_| (), |m| ids.push(m.id.0))?;
    Ok(ids)
}
