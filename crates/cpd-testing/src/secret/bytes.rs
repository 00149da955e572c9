//! The same conversation for every cause: the server's whole stream of bytes, up to how it ends, must be the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};

use super::{Attempt, Cause, House, connect_from};
use crate::random::Random;

/// Of a connection, in this state of the contract: 3 failures close it.
pub const FAILURES_MAX: u32 = 6;
/// Logins in one conversation: as many as a connection may have, and an address half of a name's failures.
pub const LOGINS_MAX: u32 = 3;

/// What a client heard in a whole connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heard {
    pub text: String,
    pub end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Closed,
    Reset,
}

/// A conversation without the name and the password, which differ from cause to cause.
#[derive(Clone, Debug)]
pub struct Script {
    /// `{name}` and `{password}` stand for the attempt's.
    text: String,
    pace: Pace,
    /// Attempts that reach the verifiers.
    pub logins: u32,
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    /// Each line waits for the answer to the one before it.
    Polite,
    AllAtOnce,
    /// So many bytes at a time.
    Pieces(usize),
}

const VERBS: [(&str, &str); 4] = [("USER", "PASS"), ("USER ", "PASS "), ("user ", "pass"), ("uSeR", "PaSs ")];
/// What belongs to no login, with answers of every kind.
const NOISE: [&str; 20] = [
    "HELP\r\n",
    "help {name}\n",
    "SMSG {name}:hello\r\r\n",
    "RMSG {name}\r\n",
    "{name}\r\n",
    "WMSG0\r\0\r\n",
    "RMSG\r\n",
    "SMSG bob:hello\r\n",
    "250\r\n",
    "201 recovered\r\n",
    "\r\n",
    "NOOP\n",
    "USER\r\n",
    "USER -x\r\n",
    "USER elevenbytes\r\n",
    "PASS nobody asked\r\n",
    "\u{1}\u{2}\u{7f}\r\n",
    "WMSG 5\r\n",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n",
    "550 no\r\n",
];

impl Script {
    /// Three failures in a row, and what comes too late: politely, and all at once.
    pub fn plain() -> [Script; 2] {
        let login = "USER {name}\r\nPASS {password}\r\n".repeat(LOGINS_MAX as usize);
        let text = login + "USER {name}\r\nRMSG\r\n";
        [Pace::Polite, Pace::AllAtOnce].map(|pace| Script { text: text.clone(), pace, logins: LOGINS_MAX })
    }

    pub fn random(random: &mut Random) -> Script {
        let (mut text, mut logins) = (String::new(), 0);
        for _ in 0..random.between(1, 8) {
            let (user, pass) = *random.pick(&VERBS);
            match random.between(0, 9) {
                0..5 if logins < LOGINS_MAX => {
                    text.push_str(&format!("{user}{{name}}\r\n{pass}{{password}}\r\n"));
                    logins += 1;
                }
                // Closed already, or a password that is none: it costs a login as well.
                0..6 => {
                    text.push_str(&format!("{user}{{name}}\r\n{pass}\r\n"));
                    logins += u32::from(logins < LOGINS_MAX);
                }
                _ => text.push_str(random.pick::<&str>(&NOISE)),
            }
        }
        if logins == 0 {
            return Script::random(random);
        }
        let pace = match random.between(0, 3) {
            0..2 => Pace::Polite,
            2 => Pace::AllAtOnce,
            _ => Pace::Pieces(random.between(1, 40) as usize),
        };
        Script { text, pace, logins }
    }

    fn bytes(&self, attempt: &Attempt) -> Vec<u8> {
        self.text.replace("{name}", &attempt.name).replace("{password}", attempt.password).into_bytes()
    }
}

/// Plays `script` to its end.
#[track_caller]
pub fn play(script: &Script, attempt: &Attempt, to: SocketAddrV4) -> Heard {
    let mut stream = connect_from(attempt.from, to);
    let bytes = script.bytes(attempt);
    let pieces: Vec<&[u8]> = match script.pace {
        Pace::Polite => bytes.split_inclusive(|byte| *byte == b'\n').collect(),
        Pace::AllAtOnce => vec![&bytes],
        Pace::Pieces(length) => bytes.chunks(length).collect(),
    };
    let (mut heard, mut end) = (Vec::new(), None);
    for piece in pieces {
        // The server may have closed.
        if end.is_some() || stream.write_all(piece).is_err() {
            break;
        }
        if let Pace::Polite = script.pace {
            end = hear(&mut stream, &mut heard, true);
        }
    }
    // Nothing is left to shut when the server was first.
    let _ = stream.shutdown(Shutdown::Write);
    let end = end.or_else(|| hear(&mut stream, &mut heard, false)).expect("read to its end");
    Heard { text: String::from_utf8_lossy(&heard).into_owned(), end }
}

/// Reads one line, or everything; the end, if that came.
#[track_caller]
fn hear(stream: &mut TcpStream, heard: &mut Vec<u8>, one_line: bool) -> Option<End> {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Some(End::Closed),
            Ok(_) => heard.extend(byte),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Some(End::Reset),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(heard)),
        }
        if one_line && byte == *b"\n" {
            return None;
        }
    }
}

/// The causes that can be told from the first one by what was heard.
pub fn told_apart(heard: &[(Cause, Heard)]) -> Vec<String> {
    let Some((_, first)) = heard.first() else { return Vec::new() };
    let others = heard.iter().filter(|(_, other)| other != first);
    others.map(|(cause, other)| format!("{cause:?} has {other:?} instead of {first:?}")).collect()
}

/// The figures of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figures {
    pub conversations: u64,
    pub logins: u64,
    pub bytes: u64,
}

/// Plays a script for every cause. What was throttled must be what should be: otherwise nothing was compared.
#[track_caller]
pub fn compare(house: &mut House, script: &Script, figures: &mut Figures) -> Vec<String> {
    let mut all = Vec::new();
    for cause in Cause::ALL {
        let attempt = house.prepare(cause);
        let before = house.throttled();
        let heard = play(script, &attempt, house.daemon.address());
        let throttled = house.throttled() - before;
        let expected = if cause.is_throttled() { u64::from(script.logins) } else { 0 };
        assert_eq!(throttled, expected, "{cause:?}: {script:?} {heard:?}");
        figures.conversations += 1;
        figures.logins += u64::from(script.logins);
        figures.bytes += heard.text.len() as u64;
        all.push((cause, heard));
    }
    told_apart(&all)
}
