//! What a predecessor left: records that are taken are exactly what this version writes, and an engine that took one up
//! goes on with whatever comes; everything else is refused, without a panic and without memory for what is not there.

use std::net::IpAddr;

use cp_proto::values::Username;
use cpd::daemon::fd_store::{parse_records, write_records};
use cpd_core::engine::Engine;
use cpd_core::engine::handover::RECORD_VERSION;
use cpd_core::engine::port::{AddressKey, MessageId, SessionId, StoredMessage};
use cpd_core::engine::settings::Settings;
use cpd_core::record::{RecordFormat, RecordReader, RecordWriter};
use cpd_core::session::Session;
use cpd_core::time::Millis;

use super::program::{COMMON, SESSION};
use super::{Twin, shown};
use crate::memory_store::MemoryStore;

const NOW: Millis = 1_000_000;
/// In front of the failed logins: a version, the time that is believed, and for how long another one is doubted.
const COMMON_BYTES: usize = 2 + 8 + 8;

pub fn check(data: &[u8], twin: Twin) -> Result<(), String> {
    let Some((kind, record)) = data.split_first() else { return Ok(()) };
    match kind % 3 {
        SESSION => session(record, twin),
        COMMON => common(record, twin),
        _ => file(record, twin),
    }
}

/// As the twin takes it: with something behind it.
fn taken(record: &[u8], twin: Twin) -> &[u8] {
    if twin == Twin::LongRecords { record.strip_suffix(b"!").unwrap_or(record) } else { record }
}

fn engine() -> Engine {
    let mut engine = Engine::new(Settings::default(), 100, NOW);
    let mut store = MemoryStore::default();
    for user in ["bob", "alice"] {
        store.add_user(name(user), String::new());
    }
    store.load(&mut engine);
    for id in 1..9 {
        let (recipient, sender) = if id % 2 == 0 { ("bob", "alice") } else { ("alice", "bob") };
        let (recipient, sender) = (name(recipient), name(sender));
        engine.load_message(&StoredMessage { id: MessageId(id), recipient, sender, queued_at: 0, bytes: 3 });
    }
    engine
}

fn session(record: &[u8], twin: Twin) -> Result<(), String> {
    let mut engine = engine();
    let Some(id) = engine.thaw(taken(record, twin), from(), NOW) else { return Ok(()) };
    // The engine's own part comes first: a version, an age, the end of a download.
    let (head, body) = record.split_at_checked(2 + 8 + 8).ok_or("a record without a head was taken")?;
    let mut reader = RecordReader::new(body);
    let form =
        if head.starts_with(&RECORD_VERSION.to_le_bytes()) { RecordFormat::Current } else { RecordFormat::Previous };
    let thawed = Session::thaw(&mut reader, form, NOW).ok_or("the session in it cannot be thawed")?;
    reader.expect_end().ok_or("a record with something behind it was taken")?;
    let mut writer = RecordWriter::default();
    thawed.freeze(NOW, &mut writer).ok_or("what was thawed cannot be frozen")?;
    let again = writer.into_bytes();
    // What 0.1.0 wrote is written anew in this version's form.
    if form == RecordFormat::Current && &*again != body {
        return Err(format!("frozen again it is another:\n{}\n{}", shown(body), shown(&again)));
    }
    if !matches!(thawed.unfinished_download(), Some((_, false, _))) && head[10..] != [0; 8] {
        return Err("the end of a download that is none".into());
    }
    goes_on(&mut engine, id)
}

/// The engine serves the session, whatever its record said, and is rid of it at the end.
fn goes_on(engine: &mut Engine, id: SessionId) -> Result<(), String> {
    let mut store = MemoryStore::default();
    engine.finish_handover(NOW);
    let mut now = NOW;
    for bytes in [&b"x\r\nUSERbob\r\n250\r\n"[..], b"\xff\xf0RMSG9\r\n250\r\n201\r\nSMSGalice:hm\r\n", b"TERM\r\n"] {
        if engine.wants_input(id) {
            engine.receive(id, bytes, now);
        }
        for _ in 0..64 {
            let Some(batch) = engine.next_batch(now) else { break };
            for result in store.execute(batch) {
                engine.from_store(result, now);
            }
        }
        while let Some(login) = engine.next_verification(now) {
            engine.verified(login.session, false, None, now);
        }
        let owed = engine.output(id).len();
        engine.sent(id, owed, now);
        engine.arm(id);
        now += 61_000;
        engine.expire(now);
    }
    engine.close(id, now);
    match engine.connections() {
        0 => Ok(()),
        open => Err(format!("{open} connections are left of one")),
    }
}

fn common(record: &[u8], twin: Twin) -> Result<(), String> {
    let mut first = engine();
    if first.thaw_common(taken(record, twin), NOW).is_none() {
        return Ok(());
    }
    let again = first.freeze_common(NOW);
    // What 0.1.0 and 0.2.0 wrote is written anew in this version's form.
    let is_old = !record.starts_with(again.get(..2).unwrap_or_default());
    if record.get(2..COMMON_BYTES) != again.get(2..COMMON_BYTES) {
        return Err(format!("frozen again it begins otherwise: {}", shown(&again)));
    }
    let mut second = engine();
    second.thaw_common(&again, NOW).ok_or("what was frozen again is refused")?;
    // Their order is not kept, and who has nothing left to answer for is not written.
    let sorted = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.sort_unstable();
        bytes
    };
    if sorted(&second.freeze_common(NOW)) != sorted(&again) {
        return Err(format!("frozen again it is another: {}", shown(&again)));
    }
    // Who has nothing left to answer for is left out, and nothing is made up.
    match is_old || again.len() <= record.len() {
        true => Ok(()),
        false => Err(format!("frozen again it is another: {}", shown(&again))),
    }
}

fn file(record: &[u8], twin: Twin) -> Result<(), String> {
    let Some((common, sessions)) = parse_records(taken(record, twin)) else { return Ok(()) };
    let again = write_records(&common, sessions.iter().map(|session| &**session));
    let old = [b"cpd succession 1\n", b"cpd succession 2\n"];
    let again = match old.iter().any(|old| record.starts_with(*old)) {
        // 0.1.0's or 0.2.0's, whose form is the same.
        true => [&record[..17], &again[17..]].concat(),
        false => again.to_vec(),
    };
    match again == record {
        true => Ok(()),
        false => Err(format!("written again it is another: {}", shown(&again))),
    }
}

fn from() -> AddressKey {
    AddressKey::of(IpAddr::from([127, 0, 0, 1]))
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}
