//! What a broken store would do, done on purpose to the files of a daemon that does not run.

use std::path::{Path, PathBuf};

use cp_proto::values::Username;
use cpd_core::engine::port::{Batch, FromStore, MessageId, Op, SessionId};
use cpd_store::Store;
use rusqlite::Connection;

use super::open_stores;

pub struct Row {
    pub id: u64,
    pub recipient: String,
    pub sender: String,
    pub body: String,
}

/// All messages, in their order.
pub fn rows(data: &Path) -> Vec<Row> {
    let connection = connect(data);
    let mut statement = connection.prepare("SELECT id, recipient, sender, body FROM message ORDER BY id").expect("SQL");
    let row = |row: &rusqlite::Row<'_>| {
        let id = row.get::<_, i64>(0)?.cast_unsigned();
        Ok(Row { id, recipient: row.get(1)?, sender: row.get(2)?, body: row.get(3)? })
    };
    statement.query_map([], row).expect("rows").map(|row| row.expect("a row")).collect()
}

/// Executes SQL behind the store's back; its checksums stay as they are.
pub fn sql(data: &Path, statement: &str) {
    assert!(connect(data).execute(statement, []).expect("SQL") > 0, "{statement} changed nothing");
}

/// Puts other messages in the place of those with the same ids, by the store's own code: their checksums are right.
pub fn replace(data: &Path, rows: &[Row]) {
    let _open = open_stores::hold();
    let mut store = Store::open(&store(data)).expect("a store");
    store.load(|_| (), |_| ()).expect("a sound store");
    let mut writer = store.spawn(|| (), |_| ()).expect("a thread");
    let session = SessionId { serial: 0, slot: 0 };
    let mut batch = Batch::default();
    for row in rows {
        let (id, start) = (MessageId(row.id), batch.bytes.len() as u32);
        batch.bytes.extend_from_slice(row.body.as_bytes());
        let body = start..batch.bytes.len() as u32;
        let [recipient, sender] =
            [&row.recipient, &row.sender].map(|name| Username::parse(name.as_bytes()).expect("a name"));
        batch.ops.push(Op::Delete { session, id });
        batch.ops.push(Op::Insert { session, id, recipient, sender, queued_at: 0, body });
    }
    writer.submit(batch).expect("room");
    let done = writer.close();
    assert!(done.iter().any(|result| matches!(result, FromStore::Done(_, outcome) if outcome.inserts)), "{done:?}");
}

/// The store's file and its log.
pub fn files(data: &Path) -> [PathBuf; 2] {
    [store(data), data.join("cpd.db-wal")]
}

fn store(data: &Path) -> PathBuf {
    data.join("cpd.db")
}

fn connect(data: &Path) -> Connection {
    Connection::open(store(data)).expect("a store")
}
