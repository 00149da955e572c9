//! The tools for a store that no cpd serves: restoring a copy, checking, and salvaging what is sound.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::history::{History, ID_GAP};
use crate::{DamagedStore, OpenErrorKind, RestoreSource, Salvaged, check, restore};

const PAGE: usize = 4096;
const MESSAGES: u64 = 400;
const USERS: usize = 200;

fn body(id: u64) -> String {
    format!("letter {id}: {}", "and so on ".repeat((id % 23) as usize))
}

/// A store with many pages in every table: as it is after a stop, and as a killed process leaves it.
fn filled(folder: TempDir) -> (TempDir, TempDir) {
    let mut rig = Rig::start(folder, |_| None);
    for user in 0..USERS {
        let user = format!("user{user}");
        rig.run(BatchBuilder::new(0).user(1, &user, &"h".repeat(100)).op(Op::LoggedIn {
            name: name(&user),
            from: HOME,
            at: 7,
            rehash: None,
        }));
    }
    for id in 1..=MESSAGES {
        rig.run(BatchBuilder::new(0).insert(id, "user1", &body(id)));
    }
    let killed = tempfile::tempdir().expect("a folder");
    for name in ["cpd.db", "cpd.db-wal", ".cpd.db.history"] {
        fs::copy(rig.folder.path().join(name), killed.path().join(name)).expect("copies");
    }
    (rig.close(), killed)
}

fn salvage(store: &Path, new: &Path) -> Result<Salvaged, OpenError> {
    DamagedStore::open(store)?.salvage(new)
}

fn new_folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("cpd.db")
}

/// The number of users, the ids of the messages, and the first id to be given out, of a store that can be opened.
fn contents(path: &Path) -> (usize, Vec<u64>, u64) {
    let (mut users, mut ids) = (0, Vec::new());
    let next = Store::open(path).expect("opens").load(|_| users += 1, |m| ids.push(m.id.0)).expect("loads").next_id;
    (users, ids, next)
}

/// Everything that can be seen of a folder.
fn folder_state(folder: &Path) -> Vec<(PathBuf, Vec<u8>, [i64; 5])> {
    let facts = |path: &Path| {
        let found = fs::symlink_metadata(path).expect("is there");
        let [mode, uid, links] = [found.mode(), found.uid(), found.nlink() as u32].map(i64::from);
        [mode, uid, links, found.mtime(), found.mtime_nsec()]
    };
    let mut all = vec![(folder.to_owned(), Vec::new(), facts(folder))];
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("an entry").path();
        all.push((path.clone(), fs::read(&path).expect("reads"), facts(&path)));
    }
    all.sort();
    all
}

#[test]
fn a_sound_store_is_found_sound_and_left_alone() {
    let (stopped, killed) = filled(new_folder());
    // There is no lock, others may read the store, and it may have a log.
    for folder in [stopped, killed] {
        let _ = fs::remove_file(folder.path().join("cpd.db-lock"));
        fs::set_permissions(path(&folder), fs::Permissions::from_mode(0o644)).expect("sets the mode");
        let before = folder_state(folder.path());
        let report = check(&path(&folder)).expect("reads");
        assert_eq!(report.damage, [""; 0]);
        assert_eq!((report.users, report.messages), (USERS as u64, MESSAGES));
        assert!(folder_state(folder.path()) == before, "something was changed");
    }
    let empty = new_folder();
    assert_eq!(check(&path(&empty)).expect_err("nothing is there").kind, OpenErrorKind::Gone);
    assert_eq!(fs::read_dir(empty.path()).expect("lists").count(), 0);
}

#[test]
fn every_damaged_page_is_found_and_the_rest_is_saved() {
    let (stopped, _) = filled(new_folder());
    let whole = fs::read(path(&stopped)).expect("reads");
    let (folder, out) = (new_folder(), new_folder());
    let (mut rows, mut least) = (0, MESSAGES);
    for page in 0..whole.len() / PAGE {
        let new = out.path().join(format!("{page}.db"));
        let mut bytes = whole.clone();
        // The whole page is destroyed, except that page 1 keeps the header that says that the file is a store.
        let from = page * PAGE + if page == 0 { 100 } else { 0 };
        bytes[from..(page + 1) * PAGE].fill(0xa5);
        fs::write(path(&folder), &bytes).expect("writes");
        let before = folder_state(folder.path());
        let report = check(&path(&folder)).expect("reads");
        assert!(!report.damage.is_empty(), "page {page}");
        assert!(report.damage.iter().all(|what| what.contains("cpd.db")), "{:?}", report.damage);
        let saved = salvage(&path(&folder), &new).unwrap_or_else(|error| panic!("page {page}: {error}"));
        assert!(folder_state(folder.path()) == before, "page {page}: the old store was changed");
        let (users, ids, next) = contents(&new);
        assert_eq!((users as u64, ids.len() as u64), (saved.users, saved.messages), "page {page}");
        assert!(next > ID_GAP + MESSAGES, "page {page}: {next}");
        let lost = (USERS - users) as u64 + MESSAGES - saved.messages;
        // A page holds a few dozen rows at most; the rows of all other pages are there.
        assert!(lost <= 70, "page {page}: {lost} rows are lost");
        assert!(lost == 0 || saved.lost.pages > 0, "page {page}: {saved:?}");
        rows += saved.users + saved.messages;
        least = least.min(saved.messages);
    }
    assert!(least < MESSAGES, "no page with messages was damaged");
    println!("proof: salvage: each of {} pages destroyed in turn, {rows} rows kept", whole.len() / PAGE);
}

#[test]
fn a_damaged_row_is_named_and_counted_and_the_rest_is_saved() {
    let (_, killed) = filled(new_folder());
    // The row is damaged both in the log and in the file, because the newest image of its page may be in either.
    for name in ["cpd.db", "cpd.db-wal"] {
        let mut bytes = fs::read(killed.path().join(name)).expect("reads");
        for text in [&b"letter 399:"[..]] {
            let places: Vec<usize> =
                (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
            for at in places {
                bytes[at] ^= 1;
            }
        }
        fs::write(killed.path().join(name), bytes).expect("writes");
    }
    let new = killed.path().join("saved.db");
    let saved = salvage(&path(&killed), &new).expect("saves");
    // Frames with the damaged row are lost; most messages that were written since then are in other frames.
    assert!(saved.messages >= MESSAGES - 40 && saved.messages < MESSAGES, "{saved:?}");
    assert!(saved.lost.pages > 0, "{saved:?}");

    let (stopped, _) = filled(new_folder());
    let mut bytes = fs::read(path(&stopped)).expect("reads");
    for text in [&b"letter 17:"[..], b"user77hhhh"] {
        let at = bytes.windows(text.len()).position(|w| w == text).expect("is there");
        bytes[at + 8] ^= 1;
    }
    fs::write(path(&stopped), bytes).expect("writes");
    let report = check(&path(&stopped)).expect("reads");
    let said = report.damage.join("\n");
    assert!(said.contains("table message: message 17 does not match its checksum"), "{said}");
    assert!(said.contains("table user: user \"user77\" does not match its checksum"), "{said}");
    let new = stopped.path().join("saved.db");
    let saved = salvage(&path(&stopped), &new).expect("saves");
    assert_eq!((saved.users, saved.messages), (USERS as u64 - 1, MESSAGES - 1));
    assert_eq!((saved.lost.messages, saved.lost.others, saved.lost.pages), (1, 1, 0));
    let (_, ids, _) = contents(&new);
    assert!(!ids.contains(&17) && ids.len() as u64 == MESSAGES - 1);
    // A salvage never replaces a file.
    let before = fs::read(&new).expect("reads");
    assert_eq!(salvage(&path(&stopped), &new).expect_err("is there").kind, OpenErrorKind::CannotCreate);
    assert!(fs::read(&new).expect("reads") == before);
}

#[test]
fn rows_are_found_as_sqlite_has_them() {
    // There are records of every kind: long ones that continue on other pages, ids of every length, and a log.
    let mut rig = Rig::new();
    let long = "x".repeat(60_000);
    for (id, body) in [(1, "short"), (127, ""), (300, long.as_str()), (1 << 20, "a"), (1 << 40, "b"), (1 << 62, "c")] {
        rig.run(BatchBuilder::new(0).insert(id, "bob", body));
    }
    rig.run(BatchBuilder::new(0).user(1, "bob", &"h".repeat(5000)));
    let saved = salvage_of_running(&rig);
    let new = path(&saved);
    let rig2 = Rig::start(saved, |_| None);
    assert_eq!(rig2.ids(), [1, 127, 300, 1 << 20, 1 << 40, 1 << 62]);
    assert_eq!(rig2.users, [name("bob")]);
    let mut rig2 = rig2;
    let bodies = rig2.run(BatchBuilder::new(0).fetch(&[300])).bodies().expect("a page");
    assert!(bodies == [long], "{} bytes", bodies[0].len());
    drop(rig2);
    assert!(!new.exists() || fs::metadata(new).expect("is there").len() > 0);
}

/// Salvages the files of a running store as they are after a kill.
fn salvage_of_running(rig: &Rig) -> TempDir {
    let (killed, out) = (new_folder(), new_folder());
    for name in ["cpd.db", "cpd.db-wal", ".cpd.db.history"] {
        fs::copy(rig.folder.path().join(name), killed.path().join(name)).expect("copies");
    }
    let saved = salvage(&path(&killed), &path(&out)).expect("saves");
    assert_eq!(saved.lost, Default::default());
    out
}

#[test]
fn a_restored_store_has_what_was_restored_and_the_old_one_is_kept_with_its_log() {
    let (copy, _) = filled(new_folder());
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(70_000, "bob", "in the old store"));
    let old = new_folder();
    for name in ["cpd.db", "cpd.db-wal", ".cpd.db.history"] {
        fs::copy(rig.folder.path().join(name), old.path().join(name)).expect("copies");
    }
    let store = path(&old);
    let source = RestoreSource::open(&path(&copy)).expect("opens");
    let restored = restore(&store, &source, 1_800_000_000).expect("restores");
    assert_eq!((restored.users, restored.messages), (USERS as u64, MESSAGES));
    let kept: Vec<String> =
        restored.kept.iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    assert_eq!(kept, ["cpd.db.before-20270115T080000Z", "cpd.db.before-20270115T080000Z-wal"]);
    assert_eq!(fs::metadata(&store).expect("is there").mode() & 0o7777, 0o600);
    assert!(!old.path().join("cpd.db-wal").exists() && !old.path().join("cpd.db.incomplete-new").exists());
    let (users, ids, next) = contents(&store);
    assert_eq!((users, ids.len() as u64), (USERS, MESSAGES));
    assert!(next > ID_GAP + 70_000, "{next}");
    // The old store can be restored, with its log, without which the message would be missing.
    let source = RestoreSource::open(&restored.kept[0]).expect("opens");
    let back = restore(&store, &source, 1_800_000_000).expect("restores");
    assert_eq!(back.messages, 1);
    let (_, ids, later) = contents(&store);
    assert!(ids == [70_000] && later >= next + ID_GAP, "{ids:?} {later}");
    assert!(back.kept[0].to_string_lossy().ends_with("cpd.db.before-20270115T080001Z"), "{:?}", back.kept);
}

#[test]
fn what_cannot_be_restored_changes_nothing() {
    let (copy, _) = filled(new_folder());
    let whole = fs::read(path(&copy)).expect("reads");
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let folder = rig.close();
    let before = folder_state(folder.path());
    let same = |what: &str| {
        let names = |seen: &[(PathBuf, Vec<u8>, [i64; 5])]| -> Vec<_> {
            seen.iter().skip(1).map(|(path, bytes, [mode, ..])| (path.clone(), bytes.clone(), *mode)).collect()
        };
        assert!(names(&folder_state(folder.path())) == names(&before), "{what}: something was changed");
    };
    let elsewhere = new_folder();
    let file = elsewhere.path().join("backup");
    let restores = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("writes");
        restore(&path(&folder), &RestoreSource::open(&file).expect("opens"), 5).expect_err("was restored")
    };
    for page in 0..whole.len() / PAGE {
        let mut bytes = whole.clone();
        bytes[page * PAGE + 5..(page + 1) * PAGE].fill(0xa5);
        let error = restores(&bytes);
        assert_eq!(error.kind, OpenErrorKind::Damaged, "page {page}: {error}");
        assert!(error.message.contains("backup") && !error.message.contains("-new"), "{error}");
        same(&format!("page {page}"));
    }
    for (what, bytes) in [("empty", &b""[..]), ("text", b"hello"), ("cut", &whole[..whole.len() - PAGE])] {
        assert_eq!(restores(bytes).kind, OpenErrorKind::Damaged, "{what}");
        same(what);
    }
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&9u32.to_be_bytes());
    assert_eq!(restores(&newer).kind, OpenErrorKind::Newer);
    same("newer");
    assert_eq!(
        RestoreSource::open(&elsewhere.path().join("none")).expect_err("is missing").kind,
        OpenErrorKind::NoInput
    );
    assert_eq!(RestoreSource::open(elsewhere.path()).expect_err("is a folder").kind, OpenErrorKind::NoInput);
    let itself = RestoreSource::open(&path(&folder)).expect("opens");
    assert_eq!(restore(&path(&folder), &itself, 5).expect_err("is itself").kind, OpenErrorKind::NoInput);
    same("itself");
}

#[test]
fn tools_and_cpd_exclude_each_other() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let store = rig.path();
    let busy = |result: Result<(), OpenError>| assert_eq!(result.expect_err("is held").kind, OpenErrorKind::Busy);
    let (copy, _) = filled(new_folder());
    let source = RestoreSource::open(&path(&copy)).expect("opens");
    busy(check(&store).map(|_| ()));
    busy(salvage(&store, &rig.folder.path().join("new")).map(|_| ()));
    busy(restore(&store, &source, 5).map(|_| ()));
    let folder = rig.close();
    // While a tool works a cpd waits, for as long as `waits` says so.
    let lock = File::open(folder.path().join("cpd.db-lock")).expect("a lock");
    lock.lock_shared().expect("locks");
    let mut asked = 0;
    let mut waits = || {
        asked += 1;
        asked < 3
    };
    let opening = crate::StoreOptions { recreate_missing: false, keep_waiting: &mut waits };
    assert_eq!(Store::open_with_options(&store, opening).err().expect("gave up").kind, OpenErrorKind::ToolAtWork);
    assert_eq!(asked, 3);
    let mut waits = || {
        lock.unlock().expect("unlocks");
        true
    };
    let opening = crate::StoreOptions { recreate_missing: false, keep_waiting: &mut waits };
    Store::open_with_options(&store, opening).expect("opens when the tool is done");
}

#[test]
fn a_store_without_a_history_is_restored_beyond_its_ids() {
    // This is what a killed 0.1.0 leaves.
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(500_000, "bob", "one"));
    let old = new_folder();
    for name in ["cpd.db", "cpd.db-wal"] {
        fs::copy(rig.folder.path().join(name), old.path().join(name)).expect("copies");
    }
    let (copy, _) = filled(new_folder());
    restore(&path(&old), &RestoreSource::open(&path(&copy)).expect("opens"), 5).expect("restores");
    let (_, _, next) = contents(&path(&old));
    assert!(next > ID_GAP + 500_000, "{next}");
    assert!(History::read(&path(&old)).expect("reads").record().is_some());
    // A copy can also be restored where there is no store at all.
    let empty = new_folder();
    let made = restore(&path(&empty), &RestoreSource::open(&path(&copy)).expect("opens"), 5).expect("restores");
    assert_eq!(made.kept, Vec::<PathBuf>::new());
    assert_eq!(contents(&path(&empty)).1.len() as u64, MESSAGES);
}
