//! Tests of the store through its public face, and what they share.

mod backups;
mod before;
mod causes;
mod changed;
mod faults;
mod history;
mod migration;
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

use tempfile::TempDir;

use super::sqlite::{Faults, Point};
use super::{OpenError, Store, StoreEvent, Writer};
use crate::engine::port::{
    AddressKey, AdminAnswer, AdminOp, Answer, Batch, FromStore, LoginRecord, MessageId, Op, Origin, Outcome, Page,
    RequestId, SessionId, StoredMessage,
};
use crate::proto::types::Username;

/// Longer than anything here takes on any machine: what does not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(60);
const SESSION: SessionId = SessionId { serial: 1, slot: 1 };
const HOME: AddressKey = AddressKey::V4(0x7f00_0001);

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a good name")
}

/// A batch that is written like a list.
#[derive(Default)]
struct Build(Batch);

impl Build {
    fn new(epoch: u32) -> Build {
        Build(Batch { epoch, ..Batch::default() })
    }

    fn insert(mut self, id: u64, recipient: &str, body: &str) -> Build {
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

    fn op(mut self, op: Op) -> Build {
        self.0.ops.push(op);
        self
    }

    fn delete(self, id: u64) -> Build {
        self.op(Op::Delete { session: SESSION, id: MessageId(id) })
    }

    fn forget(self, id: u64) -> Build {
        self.op(Op::Forget { id: MessageId(id) })
    }

    fn fetch(mut self, ids: &[u64]) -> Build {
        let start = self.0.ids.len() as u32;
        self.0.ids.extend_from_slice(ids);
        let ids = start..self.0.ids.len() as u32;
        self.op(Op::Fetch { session: SESSION, download: 7, ids })
    }

    fn lookup(self, user: &str) -> Build {
        self.op(Op::Lookup { session: SESSION, name: name(user), from: HOME.into() })
    }

    fn admin(self, request: u64, op: AdminOp) -> Build {
        self.op(Op::Admin { request: RequestId(request), op: Box::new(op) })
    }

    fn user(self, request: u64, user: &str, hash: &str) -> Build {
        self.admin(request, AdminOp::UserAdd { name: name(user), hash: hash.to_owned(), at: 5 })
    }
}

/// What came back for a batch.
#[derive(Default)]
struct Came {
    pages: Vec<Option<Page>>,
    logins: Vec<Result<Option<Box<LoginRecord>>, ()>>,
    admin: BTreeMap<u64, AdminAnswer>,
    done: Vec<(Batch, Outcome)>,
}

impl Came {
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

    fn faulty(fault: impl FnMut(Point) -> Option<i32> + Send + 'static) -> Rig {
        Rig::start(tempfile::tempdir().expect("a folder"), fault)
    }

    fn start(folder: TempDir, fault: impl FnMut(Point) -> Option<i32> + Send + 'static) -> Rig {
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

    fn submit(&mut self, batch: Build) {
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

    /// Everything up to and with the `count`th batch from now.
    fn collect(&mut self, count: usize) -> Came {
        let mut came = Came::default();
        while came.done.len() < count {
            match self.recv() {
                FromStore::Answers(answers) => note(&mut came, answers),
                FromStore::Done(batch, outcome) => came.done.push((batch, outcome)),
                FromStore::Broken(cause) | FromStore::Changed { what: cause, .. } => panic!("broken: {cause}"),
            }
        }
        came
    }

    fn go(&mut self, batch: Build) -> Came {
        self.submit(batch);
        self.collect(1)
    }

    /// The answer to a request that comes after its batch.
    fn answer(&mut self, request: u64) -> AdminAnswer {
        let mut came = Came::default();
        loop {
            if let Some(answer) = came.admin.remove(&request) {
                return answer;
            }
            match self.recv() {
                FromStore::Answers(answers) => note(&mut came, answers),
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

fn note(came: &mut Came, answers: Vec<Answer>) {
    for answer in answers {
        match answer {
            Answer::Page { page, download, .. } => {
                assert_eq!(download, 7);
                came.pages.push(page);
            }
            Answer::Login { record, .. } => came.logins.push(record),
            Answer::Admin { request, answer } => assert!(came.admin.insert(request.0, answer).is_none(), "twice"),
        }
    }
}

/// The stored ids, as another process would find them.
fn stored(folder: &TempDir) -> Result<Vec<u64>, OpenError> {
    let mut ids = Vec::new();
    Store::open(&folder.path().join("cpd.db"))?.load(|_| (), |m| ids.push(m.id.0))?;
    Ok(ids)
}
