//! A store that the disk has damaged: every page of the file and every frame of the log in turn, flipped, zeroed, swapped,
//! cut. What is refused has exit code 65 and is left byte for byte as it was; what is served are rows that were stored:
//! never another body, sender or recipient.
//!
//! `FLIPS=n` flips n places of each page. The twin is this same test on a store that trusts its rows:
//! `CPD_SABOTAGE=trusted-rows cargo test --features sabotage --target-dir target/sabotage --test damage`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;

use cp_proto::values::Username;
use cpd_core::engine::port::{AdminOp, Answer, Batch, FromStore, MessageId, Op, RequestId, SessionId, StoredMessage};
use cpd_core::sabotage::{Fault, is_ordered};
use cpd_store::{OpenErrorKind, Store};
use cpd_testing::random::Random;
use cpd_testing::{open_stores, running};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const MESSAGES: u64 = 600;
/// Messages of one commit.
const COMMIT: u64 = 30;
const PAGE: usize = 4096;
const WAL_HEADER: usize = 32;
const FRAME: usize = 24 + PAGE;
const HISTORY: &str = ".cpd.db.history";
const SESSION: SessionId = SessionId { serial: 1, slot: 1 };
/// Messages of one page of a download.
const FETCHED: usize = 64;

/// What became of a damaged store.
#[derive(Debug)]
enum Fate {
    /// With 65, and nothing of it was touched.
    Refused,
    /// So many messages came as they were stored, and so many did not come.
    Served { right: usize, withheld: usize },
    /// What must never be.
    Wrong(String),
}

#[derive(Default, Debug)]
struct Tally {
    cases: usize,
    refused: usize,
    whole: usize,
    /// Served, but not every message.
    partly: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn count(&mut self, what: &str, fate: Fate) {
        self.cases += 1;
        match fate {
            Fate::Refused => self.refused += 1,
            Fate::Served { right, withheld: 0 } if right == MESSAGES as usize => self.whole += 1,
            Fate::Served { .. } => self.partly += 1,
            Fate::Wrong(fault) => self.wrong.push(format!("{what}: {fault}")),
        }
    }

    /// Tells the figures. The twin has to be caught, and nothing else may be.
    fn conclude(&self, what: &str) {
        let Tally { cases, refused, whole, partly, wrong } = self;
        let fate = format!("{cases} cases, {refused} refused, {whole} served whole, {partly} in part");
        if is_ordered(Fault::TrustedRows) {
            println!("proof: damage, {what}: {fate}; twin trusted-rows: {} wrong, {:?}", wrong.len(), wrong.first());
            assert!(!wrong.is_empty(), "the twin was not caught");
        } else {
            println!("proof: damage, {what}: {fate}, {} wrong", wrong.len());
            assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
        }
    }
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn sender(id: u64) -> &'static str {
    USERS[(id % 3) as usize]
}

fn recipient(id: u64) -> &'static str {
    USERS[(id / 3 % 3) as usize]
}

fn body(id: u64) -> String {
    let filler = "and so on ".repeat((id % 17) as usize);
    format!("number {id} from {} to {}: {filler}", sender(id), recipient(id))
}

/// A store as a killed process would leave it.
struct Killed {
    file: Vec<u8>,
    log: Vec<u8>,
    /// What the folder knows of the store.
    history: Vec<u8>,
}

/// A store of several users and hundreds of messages, in several commits: its file once it was closed; and as a killed
/// process would leave it.
fn filled() -> (Vec<u8>, Killed) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cpd.db");
    let (wake, wakes) = mpsc::channel();
    let _open = open_stores::hold();
    let mut store = Store::open(&path).expect("opens");
    store.load(|_| (), |_| ()).expect("loads");
    let mut writer = store.spawn(move || wake.send(()).unwrap_or_default(), |_| ()).expect("spawns");
    let mut next = 1;
    while next <= MESSAGES {
        let mut batch = Batch::default();
        if next == 1 {
            for (at, user) in USERS.iter().enumerate() {
                let op = AdminOp::UserAdd { name: name(user), hash: "$argon2id$none".to_owned(), at: 5 };
                batch.ops.push(Op::Admin { request: RequestId(at as u64), op: Box::new(op) });
            }
        }
        for id in next..(next + COMMIT).min(MESSAGES + 1) {
            let start = batch.bytes.len() as u32;
            batch.bytes.extend(body(id).bytes());
            batch.ops.push(Op::Insert {
                session: SESSION,
                id: MessageId(id),
                recipient: name(recipient(id)),
                sender: name(sender(id)),
                queued_at: 1000 + id,
                body: start..batch.bytes.len() as u32,
            });
        }
        next += COMMIT;
        writer.submit(batch).expect("room");
        // One commit each.
        while writer.outstanding() > 0 {
            wakes.recv_timeout(running::PATIENCE).expect("the store answers");
            while let Some(result) = writer.try_recv() {
                assert!(!matches!(result, FromStore::Broken(_)), "{result:?}");
            }
        }
    }
    let killed = tempfile::tempdir().expect("a folder");
    fs::copy(&path, killed.path().join("cpd.db")).expect("copies");
    fs::copy(folder.path().join("cpd.db-wal"), killed.path().join("cpd.db-wal")).expect("copies");
    fs::copy(folder.path().join(HISTORY), killed.path().join(HISTORY)).expect("copies");
    writer.close();
    let read = |path: &Path| fs::read(path).expect("reads");
    let left = |name| read(&killed.path().join(name));
    (read(&path), Killed { file: left("cpd.db"), log: left("cpd.db-wal"), history: left(HISTORY) })
}

/// All files but the lock, which is no part of the store.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry"));
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let named = named.filter(|(name, _)| !name.ends_with("-lock"));
    named.map(|(name, path)| (name, fs::read(path).expect("reads"))).collect()
}

/// Lays a store with its log and what its folder knows of it; without them, as an earlier version left it.
fn lay(folder: &Path, file: &[u8], log: Option<(&[u8], &[u8])>) {
    use std::os::unix::fs::PermissionsExt;
    let log_file = folder.join("cpd.db-wal");
    let _ = fs::remove_file(&log_file);
    let history = folder.join(HISTORY);
    let _ = fs::remove_file(&history);
    let (log, known) = log.unzip();
    for (path, bytes) in [(folder.join("cpd.db"), Some(file)), (log_file, log), (history, known)] {
        let Some(bytes) = bytes else { continue };
        fs::write(&path, bytes).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets the mode");
    }
}

/// Opens the store in `folder` and downloads everything.
fn judge(folder: &Path) -> Fate {
    let before = files(folder);
    let mut loaded: Vec<StoredMessage> = Vec::new();
    let _open = open_stores::hold();
    let opened = Store::open(&folder.join("cpd.db")).and_then(|mut store| {
        store.load(|_| (), |message| loaded.push(message))?;
        Ok(store)
    });
    let store = match opened {
        Ok(store) => store,
        Err(error) if !matches!(error.kind, OpenErrorKind::Damaged | OpenErrorKind::Newer) => {
            return Fate::Wrong(format!("refused, but not with 65: {error}"));
        }
        Err(error) if files(folder) != before => return Fate::Wrong(format!("refused and touched: {error}")),
        Err(_) => return Fate::Refused,
    };
    if let Some(message) = loaded.iter().find(|message| !is_indexed_right(message)) {
        return Fate::Wrong(format!("the index has {message:?}"));
    }
    let (wake, wakes) = mpsc::channel();
    let mut writer = store.spawn(move || wake.send(()).unwrap_or_default(), |_| ()).expect("spawns");
    let (mut right, mut withheld) = (0, 0);
    for ids in loaded.chunks(FETCHED) {
        let mut batch = Batch { ids: ids.iter().map(|message| message.id.0).collect(), ..Batch::default() };
        batch.ops.push(Op::Fetch { session: SESSION, download: 1, ids: 0..ids.len() as u32 });
        writer.submit(batch).expect("room");
        while writer.outstanding() > 0 {
            wakes.recv_timeout(running::PATIENCE).expect("the store answers");
            while let Some(result) = writer.try_recv() {
                let FromStore::Answers(answers) = result else { continue };
                for answer in answers {
                    let Answer::Page { page: Some(page), .. } = answer else {
                        withheld += ids.len();
                        continue;
                    };
                    for message in &page.messages {
                        let range = message.body.start as usize..message.body.end as usize;
                        let came = String::from_utf8_lossy(&page.bytes[range]).into_owned();
                        if came != body(message.id.0) || message.sender != name(sender(message.id.0)) {
                            return Fate::Wrong(format!("{:?} came as {came:?} from {}", message.id, message.sender));
                        }
                        right += 1;
                    }
                }
            }
        }
    }
    writer.close();
    Fate::Served { right, withheld }
}

fn is_indexed_right(message: &StoredMessage) -> bool {
    let id = message.id.0;
    (1..=MESSAGES).contains(&id)
        && message.recipient == name(recipient(id))
        && message.sender == name(sender(id))
        && message.queued_at == 1000 + id
        && usize::from(message.bytes) == body(id).len()
}

fn flips() -> usize {
    std::env::var("FLIPS").map_or(6, |text| text.parse().expect("FLIPS is a number"))
}

fn below(random: &mut Random, end: usize) -> usize {
    random.below(end as u64) as usize
}

/// Each way in which one piece of `size` bytes at `at` can be damaged, beside another piece of the same size.
fn damages(whole: &[u8], at: usize, size: usize, other: usize, random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    for _ in 0..flips() {
        let (place, bit) = (at + below(random, size), below(random, 8));
        let mut bytes = whole.to_vec();
        bytes[place] ^= 1 << bit;
        cases.push((format!("bit {bit} of byte {place}"), bytes));
    }
    let mut zeroed = whole.to_vec();
    zeroed[at..at + size].fill(0);
    cases.push((format!("{size} bytes from {at} zeroed"), zeroed));
    let mut swapped = whole.to_vec();
    swapped[at..at + size].copy_from_slice(&whole[other..other + size]);
    swapped[other..other + size].copy_from_slice(&whole[at..at + size]);
    cases.push((format!("{size} bytes at {at} and {other} swapped"), swapped));
    cases.push((format!("cut at {at}"), whole[..at].to_vec()));
    cases.push((format!("cut at {}", at + size / 2), whole[..at + size / 2].to_vec()));
    cases
}

/// Every damage of every page of a closed store's file.
fn damaged_files(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (pages, mut random) = (file.len() / PAGE, Random::new(9, 0));
    let mut cases = Vec::new();
    for page in 0..pages {
        let other = (page + 1 + below(&mut random, pages - 1)) % pages;
        cases.extend(damages(file, page * PAGE, PAGE, other * PAGE, &mut random));
    }
    cases
}

#[test]
fn every_page_of_a_file_is_damaged() {
    let (file, ..) = filled();
    assert!(file.len() / PAGE > 15, "{} bytes are few", file.len());
    let (folder, mut tally) = (tempfile::tempdir().expect("a folder"), Tally::default());
    lay(folder.path(), &file, None);
    let whole = judge(folder.path());
    assert!(matches!(whole, Fate::Served { right: 600, withheld: 0 }), "the store is sound: {whole:?}");
    for (what, bytes) in damaged_files(&file) {
        lay(folder.path(), &bytes, None);
        tally.count(&what, judge(folder.path()));
    }
    tally.conclude(&format!("{} pages of the file", file.len() / PAGE));
}

#[test]
fn every_frame_of_a_log_is_damaged() {
    let (_, Killed { file, log, history }) = filled();
    let (frames, mut random) = ((log.len() - WAL_HEADER) / FRAME, Random::new(10, 0));
    assert!(frames > 30, "{frames} frames are few");
    let (folder, mut tally) = (tempfile::tempdir().expect("a folder"), Tally::default());
    let mut cases = damages(&log, 0, WAL_HEADER, WAL_HEADER, &mut random);
    for frame in 0..frames {
        let other = (frame + 1 + below(&mut random, frames - 1)) % frames;
        let (at, other) = (WAL_HEADER + frame * FRAME, WAL_HEADER + other * FRAME);
        // The frame's head is small, and what matters most.
        let mut bytes = log.clone();
        bytes[at + below(&mut random, 24)] ^= 1 << below(&mut random, 8);
        cases.push((format!("the head of frame {frame}"), bytes));
        cases.extend(damages(&log, at, FRAME, other, &mut random).into_iter().step_by(2));
    }
    for (what, log) in cases {
        lay(folder.path(), &file, Some((&log, &history)));
        let fate = match judge(folder.path()) {
            Fate::Served { right, .. } if !right.is_multiple_of(COMMIT as usize) => {
                Fate::Wrong(format!("{right} messages are no whole commits"))
            }
            fate => fate,
        };
        tally.count(&what, fate);
    }
    let figures = format!("{frames} frames of the log");
    match is_ordered(Fault::TrustedRows) {
        // SQLite's own checksums hold the log; there are no rows to trust.
        true => println!("proof: damage, {figures}: {tally:?}"),
        false => tally.conclude(&figures),
    }
}

#[test]
fn a_real_cpd_refuses_with_65_what_the_store_refuses() {
    let (file, ..) = filled();
    let (mut refused, cases) = (0, damaged_files(&file));
    for (what, bytes) in cases.iter().step_by(cases.len() / 12) {
        let folder = tempfile::tempdir().expect("a folder");
        lay(folder.path(), bytes, None);
        if !matches!(judge(folder.path()), Fate::Refused) {
            continue;
        }
        let before = files(folder.path());
        let store = format!("store.path = \"{}\"", folder.path().join("cpd.db").display());
        let own = tempfile::tempdir().expect("a folder");
        let config = own.path().join("cpd.toml");
        fs::write(&config, format!("listen.cp = [\"127.0.0.1:0\"]\n{store}\n")).expect("writes");
        let mut cpd = running::cpd();
        cpd.arg("--data").arg(own.path()).arg("--config").arg(config);
        cpd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let ended = open_stores::spawn(&mut cpd).and_then(Child::wait_with_output).expect("cpd runs");
        assert_eq!(ended.status.code(), Some(65), "{what}: {ended:?}");
        assert!(files(folder.path()) == before, "{what}: a file was touched");
        refused += 1;
    }
    assert!(refused > 3, "{refused} cases are few");
    println!("proof: damage, a real cpd: {refused} stores refused with 65 and left as they were");
}

#[test]
fn a_message_altered_with_its_checksum_is_found() {
    // What the judge is worth: a row that is sound for the store, and not what was stored.
    let (file, ..) = filled();
    let folder = tempfile::tempdir().expect("a folder");
    lay(folder.path(), &file, None);
    let open = open_stores::hold();
    let mut store = Store::open(&folder.path().join("cpd.db")).expect("opens");
    store.load(|_| (), |_| ()).expect("loads");
    let mut writer = store.spawn(|| (), |_| ()).expect("spawns");
    let mut batch = Batch { bytes: body(8).replace("8", "9").into_bytes(), ..Batch::default() };
    let (id, whole) = (MessageId(8), 0..batch.bytes.len() as u32);
    batch.ops.push(Op::Delete { session: SESSION, id });
    let (recipient, sender) = (name(recipient(8)), name(sender(8)));
    batch.ops.push(Op::Insert { session: SESSION, id, recipient, sender, queued_at: 1008, body: whole });
    writer.submit(batch).expect("room");
    writer.close();
    drop(open);
    let fate = judge(folder.path());
    assert!(matches!(&fate, Fate::Wrong(fault) if fault.contains("number 9")), "{fate:?}");
}
