//! Inputs for the fuzzing targets, made from the conversations of tests/conversations and from what the code itself
//! writes: `cargo run --example seeds -- FOLDER` makes FOLDER/stream, control, config and thaw.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cp_proto::values::{Password, Username};
use cpd::daemon::config::KEYS;
use cpd::daemon::fd_store::write_records;
use cpd_control::{PurgeFilter, Request, request};
use cpd_core::dfa::Dialect;
use cpd_core::engine::Engine;
use cpd_core::engine::port::AddressKey;
use cpd_core::engine::settings::Settings;
use cpd_testing::conversation::parser::{Action, Listener, Script, parse};
use cpd_testing::fuzzing::program::{ALLOW_COLON, CLASSIC, CLIENTS, COMMON, FILE, MARK, SESSION, SHORT, TIGHT, TIMES};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: seeds FOLDER");
        return ExitCode::from(64);
    };
    match write(&folder) {
        Ok(count) => {
            println!("{count} seeds in {}", folder.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("seeds: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    let mut seed = |target: &str, name: &str, bytes: &[u8]| {
        let folder = folder.join(target);
        count += 1;
        fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(name), bytes))
    };
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
    for entry in fs::read_dir(scripts)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let script = parse(&path, &fs::read_to_string(&path)?).map_err(|error| io::Error::other(error.to_string()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        seed("stream", &name, &stream(&script))?;
        for (at, record) in records(&script).iter().enumerate() {
            seed("thaw", &format!("{name}-{at}"), record)?;
        }
    }
    for (at, request) in requests().iter().enumerate() {
        seed(
            "control",
            &format!("{at:02}-{}", request.command()),
            &[&[64], request::encode(request).as_bytes()].concat(),
        )?;
    }
    seed(
        "control",
        "refused",
        b"\xff{\"v\":1,\"cmd\":\"user.show\",\"name\":\"bob\",\"colour\":\"red\"}\n{\"v\":2}\n[]\n",
    )?;
    let long =
        [&[255, b'{', b'"', b'x', MARK, 64, b'"', b'\n'][..], b"{\"v\":1,\"cmd\":\"status\"}\r\n{}\n[[[[[[[[[[\n"];
    seed("control", "long", &long.concat())?;
    let keys = KEYS.iter().map(|key| format!("{}.{} = {}\n", key.section, key.key, key.default_value()));
    seed("config", "defaults", keys.collect::<String>().as_bytes())?;
    for key in KEYS {
        let text = format!("[{}]\n# {}\n{} = {}\n", key.section, key.help, key.key, key.default_value());
        seed("config", &key.name(), text.as_bytes())?;
    }
    seed("config", "refused", b"[listen]\ncp = [\"[::]:5035\"]\ncolour = 1\n")?;
    Ok(count)
}

/// A conversation's clients as a program: what they expect is left out.
fn stream(script: &Script) -> Vec<u8> {
    let set = |part: &str| script.settings.iter().any(|setting| setting.key.starts_with(part));
    let flags = [
        (script.listener == Listener::Classic, CLASSIC),
        (set("protocol.allow_colon"), ALLOW_COLON),
        (set("limits"), TIGHT),
        (set("timeouts"), SHORT),
    ];
    let mut out = vec![flags.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()];
    for step in &script.steps {
        let mut client = |connection: usize| {
            let client = (connection.saturating_sub(1) % CLIENTS) as u8;
            out.extend([MARK, b'C' + client]);
        };
        match &step.action {
            Action::Send { connection, bytes } => {
                client(*connection);
                for byte in bytes {
                    out.extend(std::iter::repeat_n(*byte, if *byte == MARK { 2 } else { 1 }));
                }
                out.extend([MARK, b'S']);
            }
            Action::Fin { connection } => {
                client(*connection);
                out.extend([MARK, b'F']);
            }
            Action::Reset { connection } | Action::Gone { connection } => {
                client(*connection);
                out.extend([MARK, b'O']);
            }
            Action::Flood { connection, bytes } => {
                client(*connection);
                out.extend(bytes);
                out.extend([MARK, b'*', 255]);
            }
            Action::Wait(time) | Action::After(time) => {
                let millis = time.as_millis() as u64;
                let nearest = (0..TIMES.len()).min_by_key(|at| TIMES[*at].abs_diff(millis)).unwrap_or(0);
                out.extend([MARK, b'T', nearest as u8]);
            }
            Action::Admin { arguments, .. } if arguments.iter().any(|word| word == "purge") => {
                out.extend([MARK, b'P']);
            }
            Action::Expect { .. } | Action::Mark | Action::Admin { .. } => {}
        }
    }
    out
}

/// What is left of the first client after each of its segments: its session, and the failed logins.
fn records(script: &Script) -> Vec<Vec<u8>> {
    let from = AddressKey::of(IpAddr::from([127, 0, 0, 1]));
    let dialect = if script.listener == Listener::Classic { Dialect::Classic } else { Dialect::Cp };
    let mut records = Vec::new();
    let segments = script.steps.iter().filter_map(|step| match &step.action {
        Action::Send { connection: 1, bytes } if bytes.len() < 512 => Some(bytes),
        _ => None,
    });
    let segments: Vec<&Vec<u8>> = segments.collect();
    for until in 1..=segments.len() {
        let mut engine = Engine::new(Settings::default(), 1, 0);
        for user in [b"bob".as_slice(), b"alice"] {
            Username::parse(user).into_iter().for_each(|name| engine.load_user(name));
        }
        let Ok(id) = engine.open(from, dialect, 0) else { continue };
        for bytes in &segments[..until] {
            engine.receive(id, bytes, 10);
            let _ = engine.next_batch(10);
            while let Some(login) = engine.next_verification(10) {
                engine.verified(login.session, true, None, 10);
            }
        }
        engine.pause();
        let common = engine.freeze_common(20);
        if let Some(record) = engine.freeze(id, 20) {
            records.push([&[SESSION], &*record].concat());
            if until == 1 {
                records.push([&[SESSION], &*record, b"!"].concat());
            }
            let file = write_records(&common, [&*record].into_iter());
            records.push([&[FILE], &*file].concat());
        }
        records.push([&[COMMON], &*common].concat());
    }
    records
}

fn requests() -> Vec<Request> {
    let (Some(name), Some(from)) = (Username::parse(b"bob"), Username::parse(b"alice")) else { return Vec::new() };
    let password = || Password::parse(b"secret").into_iter();
    let (which, after) = (PurgeFilter { id: Some(7), from: Some(from), older_than_seconds: Some(60) }, Some(from));
    let mut all = vec![
        Request::UserList { after, limit: 7 },
        Request::UserShow { name },
        Request::UserLock { name },
        Request::UserUnlock { name },
        Request::UserRemove { name },
        Request::QueueList { after: None, limit: 100 },
        Request::QueueShow { user: name, after: 3, limit: 256, body: true },
        Request::QueuePurge { user: name, which },
        Request::StoreBackup,
        Request::StoreBackupRead { backup: 1, offset: 1 << 40 },
        Request::StoreBackupEnd { backup: 1 },
        Request::StoreCheck { after: 0, limit: 1 },
        Request::StoreShrink,
        Request::SessionList { after: u64::MAX, limit: 2 },
        Request::SessionClose { id: 5 },
        Request::Ping,
        Request::Status { details: false },
        Request::Status { details: true },
    ];
    all.extend(password().map(|password| Request::UserAdd { name, password }));
    all.extend(password().map(|password| Request::UserPasswd { name, password, keep_sessions: true }));
    all
}
