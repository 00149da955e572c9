//! What a real cpd asked of the system, in one order, as strace(1) has seen it: the writes to the store's file and its
//! log, the syncs, and what its clients said and heard.
//!
//! A thread that strace has stopped goes on only after its line is written, so that a call that happened because another
//! had returned stands behind it. What may have an effect before it returns (a write, a reply) counts from when it was
//! entered, what promises something by returning (a sync) from its return: nothing is judged milder than it was.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpd_testing::running::PATIENCE;

/// Everything that can change a file, make it durable, or pass bytes to and from a client: what [`Reader`] does not know of
/// these it refuses.
const CALLS: &str = "pwrite64,pwritev,pwritev2,write,writev,ftruncate,fallocate,sync_file_range,msync,fdatasync,fsync,\
                     openat,unlink,unlinkat,rename,renameat,renameat2,sendto,sendmsg,sendmmsg,recvfrom,recvmsg,\
                     shutdown,close";

/// A file of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum File {
    Store,
    Log,
    /// What the folder knows of the store.
    History,
}

#[derive(Debug)]
pub enum Event {
    Wrote {
        file: File,
        at: usize,
        bytes: Vec<u8>,
    },
    /// Its length was set.
    Cut {
        file: File,
        length: usize,
    },
    Synced {
        file: File,
    },
    /// It was opened, and made if it was not there.
    Made {
        file: File,
    },
    Removed {
        file: File,
    },
    FolderSynced,
    /// A client's bytes were read; none is its end.
    Received {
        socket: String,
        bytes: Vec<u8>,
    },
    /// Bytes left for a client.
    Sent {
        socket: String,
        bytes: Vec<u8>,
    },
    /// The server has closed a connection.
    Left {
        socket: String,
    },
    /// The process has ended.
    Ended,
}

/// strace in front of cpd, which stays the child of this test.
pub fn wrapper(trace: &Path) -> Vec<String> {
    let words = ["strace", "-D", "-f", "-y", "-xx", "-q", "-s", "1000000", "--seccomp-bpf"];
    let mut words: Vec<String> = words.map(String::from).into();
    words.extend(["-e".into(), format!("trace={CALLS}"), "-o".into(), trace.display().to_string()]);
    words
}

/// What the process `id`, which has ended, did to the store in `data`.
pub fn read(trace: &Path, id: u32, data: &Path) -> Vec<Event> {
    let begun = Instant::now();
    let ended = |text: &str| {
        let last = text.lines().next_back().unwrap_or_default();
        text.ends_with('\n') && last.starts_with(&id.to_string()) && last.contains("+++")
    };
    let mut text = String::new();
    while !ended(&text) {
        assert!(begun.elapsed() < PATIENCE, "strace has not written the end after {PATIENCE:?}");
        sleep(Duration::from_millis(20));
        text = fs::read_to_string(trace).expect("a trace; this test wants the package strace");
    }
    let data = fs::canonicalize(data).expect("a folder").display().to_string();
    let mut reader = Reader { data, events: Vec::new(), open: HashMap::new() };
    text.lines().for_each(|line| reader.line(line));
    reader.events.push(Event::Ended);
    reader.events
}

struct Reader<'a> {
    data: String,
    events: Vec<Event>,
    /// Calls that have not returned, by their thread: their text so far, and the event that they have made.
    open: HashMap<&'a str, (&'a str, Option<usize>)>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a str) {
        let (thread, text) = line.split_once(' ').expect("a thread and its call");
        let text = text.trim_start();
        if text.starts_with("+++") || text.starts_with("---") {
            return;
        }
        if let Some(rest) = text.strip_prefix("<... ") {
            let (_, rest) = rest.split_once("resumed>").expect("the rest of a call");
            let (begun, event) = self.open.remove(thread).expect("a call that has begun");
            self.left(&Call::parse(&format!("{begun}{rest}")), event);
        } else if let Some(begun) = text.strip_suffix("<unfinished ...>") {
            let event = self.entered(&Call::parse(begun));
            self.open.insert(thread, (begun, event));
        } else {
            let call = Call::parse(text);
            let event = self.entered(&call);
            self.left(&call, event);
        }
    }

    /// The event that a call makes by being entered.
    fn entered(&mut self, call: &Call<'_>) -> Option<usize> {
        let (file, socket) = (self.file(&call.path(0)), call.socket());
        let event = match (call.name, file, socket) {
            ("pwrite64", Some(file), _) => Event::Wrote { file, at: call.number(3), bytes: call.bytes(1) },
            ("ftruncate", Some(file), _) => Event::Cut { file, length: call.number(1) },
            // Blocks are set apart; what is in the file and how long it is stay as they are.
            ("fallocate", Some(_), _) if call.arguments.get(1) == Some(&"FALLOC_FL_KEEP_SIZE") => return None,
            ("sendto", _, Some(socket)) => Event::Sent { socket, bytes: call.bytes(1) },
            ("shutdown" | "close", _, Some(socket)) => Event::Left { socket },
            ("fdatasync" | "fsync" | "close", Some(_), _) | ("recvfrom", _, Some(_)) => return None,
            (name, Some(file), _) => panic!("{name} of {file:?} is not understood"),
            (name @ ("sendmsg" | "sendmmsg" | "recvmsg"), _, Some(_)) => panic!("{name} is not understood"),
            _ => return None,
        };
        self.events.push(event);
        Some(self.events.len() - 1)
    }

    /// Takes from that event what was not done, and adds those that a call makes by returning.
    fn left(&mut self, call: &Call<'_>, event: Option<usize>) {
        let Some(result) = call.result else { return };
        match event.and_then(|event| self.events.get_mut(event)) {
            Some(Event::Wrote { bytes, .. } | Event::Sent { bytes, .. }) => {
                bytes.truncate(result.max(0).cast_unsigned() as usize);
            }
            Some(Event::Cut { .. }) => assert_eq!(result, 0, "a file is not cut"),
            _ => {}
        }
        let done = match call.name {
            _ if result < 0 => None,
            "fdatasync" | "fsync" if call.path(0) == self.data => Some(Event::FolderSynced),
            "fdatasync" | "fsync" => self.file(&call.path(0)).map(|file| Event::Synced { file }),
            "openat" if call.arguments[2].contains("O_CREAT") => {
                self.file(&call.text(1)).map(|file| Event::Made { file })
            }
            "unlink" => self.file(&call.text(0)).map(|file| Event::Removed { file }),
            "unlinkat" | "rename" | "renameat" | "renameat2" => {
                let touches = (0..call.arguments.len()).any(|number| self.file(&call.text(number)).is_some());
                assert!(!touches, "{} of a file of the store is not understood", call.name);
                None
            }
            "recvfrom" => call.socket().map(|socket| Event::Received { socket, bytes: call.bytes(1) }),
            _ => None,
        };
        self.events.extend(done);
    }

    fn file(&self, path: &str) -> Option<File> {
        match path.strip_prefix(&self.data)? {
            "/cpd.db" => Some(File::Store),
            "/cpd.db-wal" => Some(File::Log),
            "/.cpd.db.history" => Some(File::History),
            _ => None,
        }
    }
}

/// A line of strace.
struct Call<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
    /// `None` while it has not returned, and when the process ended before it did.
    result: Option<i64>,
}

impl<'a> Call<'a> {
    fn parse(text: &'a str) -> Call<'a> {
        let (name, rest) = text.split_once('(').expect("a call");
        // Strings and paths are in hex, so that no other character of a line is part of one.
        let (arguments, result) = rest.rsplit_once(" = ").unwrap_or((rest, "?"));
        let digits = result.split([' ', '<']).next().unwrap_or_default();
        let arguments = arguments.trim_end().trim_end_matches(')');
        Call { name, arguments: arguments.split(", ").map(str::trim).collect(), result: digits.parse().ok() }
    }

    /// What descriptor `number` of the arguments stands for.
    fn path(&self, number: usize) -> String {
        let inside = self.arguments.get(number).and_then(|text| text.split_once('<')?.1.strip_suffix('>'));
        String::from_utf8(decode(inside.unwrap_or_default())).unwrap_or_default()
    }

    /// The connection that the first argument stands for.
    fn socket(&self) -> Option<String> {
        Some(self.path(0)).filter(|path| path.starts_with("socket:"))
    }

    fn bytes(&self, number: usize) -> Vec<u8> {
        let text = self.arguments.get(number).expect("an argument");
        decode(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).expect("a whole string"))
    }

    /// A path among the arguments; none is no path.
    fn text(&self, number: usize) -> String {
        let text = self.arguments.get(number).copied().unwrap_or_default().trim_matches('"');
        String::from_utf8(decode(text)).unwrap_or_default()
    }

    fn number(&self, number: usize) -> usize {
        self.arguments.get(number).and_then(|text| text.parse().ok()).expect("a number")
    }
}

/// The bytes of `\x2f\x74`; of anything else none.
fn decode(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    let byte = |hex: &[u8]| match hex {
        [b'\\', b'x', high, low] => Some(digit(*high) << 4 | digit(*low)),
        _ => None,
    };
    text.as_bytes().chunks(4).map_while(byte).collect()
}

#[test]
fn calls_that_overlap_are_read_in_the_order_that_matters() {
    let hex = |text: &str| -> String { text.bytes().map(|byte| format!("\\x{byte:02x}")).collect() };
    let (log, socket) = (hex("/d/cpd.db-wal"), hex("socket:[7]"));
    let lines = [
        format!("10 pwrite64(3<{log}>, \"{}\", 3, 32) = 3", hex("abc")),
        format!("10 fdatasync(3<{log}> <unfinished ...>"),
        format!("11 sendto(4<{socket}>, \"{}\", 5, MSG_NOSIGNAL, NULL, 0 <unfinished ...>", hex("240\r\n")),
        "10 <... fdatasync resumed>)          = 0".to_owned(),
        "11 <... sendto resumed>)             = 3".to_owned(),
        format!("11 recvfrom(4<{socket}>,  <unfinished ...>"),
        format!("10 ftruncate(3<{log}>, 0)     = 0"),
        format!("11 <... recvfrom resumed>\"{}\", 8192, 0, NULL, NULL) = 2", hex("25")),
        "10 fdatasync(9<\\x2f\\x64> <unfinished ...>".to_owned(),
        "10 <... fdatasync resumed>)          = ?".to_owned(),
        "10 +++ killed by SIGKILL +++".to_owned(),
    ];
    let mut reader = Reader { data: "/d".to_owned(), events: Vec::new(), open: HashMap::new() };
    lines.iter().for_each(|line| reader.line(line));
    let read: Vec<String> = reader.events.iter().map(|event| format!("{event:?}")).collect();
    let expected = [
        "Wrote { file: Log, at: 32, bytes: [97, 98, 99] }",
        "Sent { socket: \"socket:[7]\", bytes: [50, 52, 48] }",
        "Synced { file: Log }",
        "Cut { file: Log, length: 0 }",
        "Received { socket: \"socket:[7]\", bytes: [50, 53] }",
    ];
    assert_eq!(read, expected);
}
