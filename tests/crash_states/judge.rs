//! Opens what a crash has left with the production store, reads everything, and holds it against the ledger.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cpd_core::engine::port::{Answer, Batch, FromStore, Op, SessionId, StoredMessage};
use cpd_store::Store;

use super::disk::Bytes;
use crate::ledger::{End, Kind, Ledger, Parting};
use crate::rounds::load::USERS;
use crate::rounds::open_stores;

/// As they stand in [`super::recording::File`].
pub const FILES: [&str; 3] = ["cpd.db", "cpd.db-wal", ".cpd.db.history"];
/// Messages of one page.
const FETCHED: usize = 64;

/// Puts the files in place of what `folder` has.
pub fn lay(folder: &Path, files: &[Bytes; 3]) {
    for (name, bytes) in FILES.iter().zip(files) {
        let path = folder.join(name);
        match bytes {
            Some(bytes) => {
                fs::write(&path, bytes).expect("written");
                fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
            }
            None if path.exists() => fs::remove_file(&path).expect("removed"),
            None => {}
        }
    }
}

/// What is wrong with the store in `folder`, for one whose server had this ledger when it ended.
pub fn judge(folder: &Path, mut ledger: Ledger) -> Vec<(Kind, String)> {
    let before = ledger.violations().len();
    let mut wrong = Vec::new();
    match read(folder) {
        Ok(messages) => deliver(&mut ledger, &messages),
        Err(cause) => {
            // Then everything that was owed is lost.
            deliver(&mut ledger, &[]);
            wrong.push((Kind::Lost, cause));
        }
    }
    wrong.extend(ledger.violations()[before..].iter().map(|violation| (violation.kind, violation.text.clone())));
    wrong
}

/// A message as it would be delivered.
struct Letter {
    recipient: String,
    sender: String,
    body: Vec<u8>,
}

/// All messages in the order of their delivery. `Err`: the store was refused, or could not be read whole.
fn read(folder: &Path) -> Result<Vec<Letter>, String> {
    let (mut users, mut loaded): (Vec<String>, Vec<StoredMessage>) = (Vec::new(), Vec::new());
    let _open = open_stores::hold();
    let mut store = Store::open(&folder.join(FILES[0])).map_err(|error| format!("refused: {error}"))?;
    let on_user = |user: cp_proto::values::Username| users.push(user.as_str().to_owned());
    store.load(on_user, |message| loaded.push(message)).map_err(|error| format!("refused: {error}"))?;
    users.sort_unstable();
    let mut expected = USERS.map(String::from);
    expected.sort_unstable();
    if users != expected {
        return Err(format!("the users are {users:?}"));
    }
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    let on_event = move |event| heard.lock().expect("no panic").push(event);
    let mut writer = store.spawn(|| (), on_event).map_err(|error| format!("no thread: {error}"))?;
    let session = SessionId { serial: 1, slot: 1 };
    let mut batch = Batch { ids: loaded.iter().map(|message| message.id.0).collect(), ..Batch::default() };
    for from in (0..loaded.len()).step_by(FETCHED) {
        let ids = from as u32..(from + FETCHED).min(loaded.len()) as u32;
        batch.ops.push(Op::Fetch { session, download: 1, ids });
    }
    writer.submit(batch).expect("room");
    let mut bodies = Vec::new();
    for result in writer.close() {
        let FromStore::Answers(answers) = result else { continue };
        for answer in answers {
            let Answer::Page { page: Some(page), .. } = answer else { return Err(format!("no page: {answer:?}")) };
            let body = |range: &std::ops::Range<u32>| page.bytes[range.start as usize..range.end as usize].to_vec();
            bodies.extend(page.messages.iter().map(|message| body(&message.body)));
        }
    }
    let events = events.lock().expect("no panic");
    if !events.is_empty() || bodies.len() != loaded.len() {
        return Err(format!("{} of {} messages came; {events:?}", bodies.len(), loaded.len()));
    }
    let letter = |(message, body): (StoredMessage, Vec<u8>)| Letter {
        recipient: message.recipient.as_str().to_owned(),
        sender: message.sender.as_str().to_owned(),
        body,
    };
    Ok(loaded.into_iter().zip(bodies).map(letter).collect())
}

/// Every user downloads all there is.
fn deliver(ledger: &mut Ledger, letters: &[Letter]) {
    for user in USERS {
        let session = ledger.session(user);
        ledger.downloading(session, usize::MAX);
        let mut count = 0;
        for letter in letters.iter().filter(|letter| letter.recipient == user) {
            ledger.received(session, &letter.sender, &letter.body);
            count += 1;
        }
        (0..count).for_each(|_| ledger.acknowledging(session));
        ledger.ended(session, if count > 0 { End::All } else { End::Nothing });
        ledger.closed(session, Parting::Torn);
    }
    ledger.drained();
}
