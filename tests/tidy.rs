//! The house rules, held by a test: who may call whom, how long things get, what is not left lying about. The rooms and
//! the reasons are in CONTRIBUTING.md. Every rule has a sample below that breaks it: a check that cannot fail is none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const FILE_MAX_LINES: usize = 500;
const FUNCTION_MAX_LINES: usize = 70;
const BINARY_MAX_LINES: usize = 12;

/// Each room and the rooms that it may import. A new room gets its line here.
const ROOMS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("timer", &["proto"]),
    ("engine", &["timer", "proto"]),
    ("control", &["proto"]),
    ("auth", &["proto"]),
    ("store", &["engine", "proto"]),
    ("daemon", &["engine", "timer", "proto", "store", "auth", "control"]),
    ("ctl", &["control", "auth", "proto"]),
    ("bin", &["daemon", "ctl"]),
    (SABOTAGE, &[]),
];
/// Faults for tests of the tests, which every room may ask for.
const SABOTAGE: &str = "sabotage";
/// Of these rooms a caller sees one part only: (caller, room, part). The port is plain data.
const PARTS: &[(&str, &str, &str)] = &[("store", "engine", "port")];
/// Rooms without a clock, a thread, a socket, a file, or a crate.
const PURE: &[&str] = &["proto", "timer", "engine"];
const IMPURE_STD: &[&str] = &["env", "fs", "os", "process", "thread"];
const IMPURE_NAMES: &[&str] =
    &["Instant", "SystemTime", "TcpListener", "TcpStream", "UdpSocket", "eprintln", "print", "println"];
/// Crates that belong to some rooms alone.
const CRATES: &[(&str, &[&str])] =
    &[("mio", &["daemon"]), ("rusqlite", &["store"]), ("argon2", &["auth"]), ("serde_json", &["control", "ctl"])];
const UNSAFE_FILE: &str = "src/daemon/fd.rs";

type Rule = fn(&Source, &Crates) -> Vec<String>;

/// The crates of Cargo.toml, as they are written in Rust.
type Crates = BTreeSet<String>;

const RULES: &[Rule] = &[
    rooms_import_only_what_they_may,
    crates_stay_in_their_rooms,
    pure_rooms_touch_nothing,
    unsafe_has_one_home,
    files_are_short,
    functions_are_short,
    nothing_is_left_to_do,
    lints_are_switched_off_for_a_reason,
    tests_are_not_ignored,
    product_code_does_not_unwrap,
];

#[test]
fn the_house_is_tidy() {
    // cargo runs tests in the folder of the package, also when the build came from another checkout.
    let root = Path::new(".");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let mut complaints = unexplained_dependencies(&manifest);
    let crates = crates_of(&manifest);
    let mut files = Vec::new();
    collect(root, "src", &mut files);
    assert!(files.iter().any(|file| file.path == "src/engine/port.rs"), "the walk over src does not work");
    for file in &files {
        complaints.extend(RULES.iter().flat_map(|rule| rule(file, &crates)));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn collect(root: &Path, folder: &str, files: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(folder)).expect("a folder of sources") {
        let entry = entry.expect("an entry of a folder");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(root, &path, files);
        } else if path.ends_with(".rs") {
            files.push(Source::new(&path, &fs::read_to_string(entry.path()).expect("a source")));
        }
    }
}

// ---- the rules ----

fn rooms_import_only_what_they_may(source: &Source, _: &Crates) -> Vec<String> {
    let room = source.room();
    if room == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![source.complain(0, &format!("the room `{room}` has no line in tests/tidy.rs"))];
    };
    let mut complaints = Vec::new();
    for (at, path) in source.paths_from_root() {
        let Some(other) = path.first().filter(|other| ROOMS.iter().any(|(name, _)| name == other)) else { continue };
        let part = PARTS.iter().find(|(caller, callee, _)| *caller == room && callee == other);
        if other != room && other != SABOTAGE && !allowed.contains(&other.as_str()) {
            complaints.push(source.complain(at, &format!("`{room}` must not import `{other}`")));
        } else if part.is_some_and(|(_, _, part)| path.get(1).is_none_or(|name| name != part)) {
            complaints.push(source.complain(at, &format!("`{room}` may import only the port of `{other}`")));
        }
    }
    complaints
}

fn crates_stay_in_their_rooms(source: &Source, crates: &Crates) -> Vec<String> {
    let room = source.room();
    let mut complaints = Vec::new();
    for (at, path) in paths(&source.product) {
        let Some(name) = path.first() else { continue };
        let stranger = PURE.contains(&room) && crates.contains(name);
        let misplaced = CRATES.iter().any(|(owned, homes)| owned == name && !homes.contains(&room));
        if stranger || misplaced {
            complaints.push(source.complain(at, &format!("`{name}` is not for `{room}`")));
        }
    }
    complaints
}

fn pure_rooms_touch_nothing(source: &Source, _: &Crates) -> Vec<String> {
    if !PURE.contains(&source.room()) {
        return Vec::new();
    }
    let std = paths(&source.product)
        .into_iter()
        .filter(|(_, path)| path.first().is_some_and(|head| head == "std"))
        .filter_map(|(at, path)| Some((at, path.get(1)?.clone())))
        .filter(|(_, name)| IMPURE_STD.contains(&name.as_str()));
    let names =
        words(&source.product).filter(|(_, word)| IMPURE_NAMES.contains(word)).map(|(at, word)| (at, word.to_owned()));
    std.chain(names).map(|(at, name)| source.complain(at, &format!("`{name}` in a pure room"))).collect()
}

fn unsafe_has_one_home(source: &Source, _: &Crates) -> Vec<String> {
    if source.path == "src/lib.rs" && !source.code.contains("#![deny(unsafe_code)]") {
        return vec![source.complain(0, "#![deny(unsafe_code)] is missing")];
    }
    if source.path == UNSAFE_FILE {
        return Vec::new();
    }
    source.find_words(&source.code, &["unsafe"], "`unsafe` outside daemon/fd.rs")
}

fn files_are_short(source: &Source, _: &Crates) -> Vec<String> {
    let lines = source.product_lines();
    let (bound, what) =
        if source.room() == "bin" { (BINARY_MAX_LINES, "a binary") } else { (FILE_MAX_LINES, "a file") };
    if lines <= bound {
        return Vec::new();
    }
    vec![source.complain(0, &format!("{lines} lines; {what} has at most {bound}"))]
}

fn functions_are_short(source: &Source, _: &Crates) -> Vec<String> {
    let code = source.product.as_bytes();
    let mut complaints = Vec::new();
    for (at, _) in words(&source.product).filter(|(_, word)| *word == "fn") {
        let Some(end) = item_end(code, at) else { continue };
        let lines = source.line(end) - source.line(at) + 1;
        if lines > FUNCTION_MAX_LINES {
            let bound = format!("a function of {lines} lines; at most {FUNCTION_MAX_LINES}");
            complaints.push(source.complain(at, &bound));
        }
    }
    complaints
}

fn nothing_is_left_to_do(source: &Source, _: &Crates) -> Vec<String> {
    let marks = ["FIXME", "TODO", "XXX"];
    let macros = ["dbg", "todo", "unimplemented"];
    let mut complaints = source.find_words(&source.text, &marks, "something is left to do");
    for (at, word) in words(&source.product).filter(|(_, word)| macros.contains(word)) {
        if source.product[at + word.len()..].starts_with('!') {
            complaints.push(source.complain(at, &format!("`{word}!` is left")));
        }
    }
    complaints
}

fn lints_are_switched_off_for_a_reason(source: &Source, _: &Crates) -> Vec<String> {
    let lint = |name: &str| name == "allow" || name == "expect";
    let unexplained = |start: usize, end: usize| {
        let rest_of_line = source.text[end..].lines().next().unwrap_or_default();
        !words(&source.code[start..end]).any(|(_, word)| word == "reason") && !rest_of_line.contains("//")
    };
    attributes(&source.code)
        .filter(|(start, end)| words(&source.code[*start..*end]).any(|(_, word)| lint(word)))
        .filter(|(start, end)| unexplained(*start, *end))
        .map(|(start, _)| source.complain(start, "a lint is switched off without a reason"))
        .collect()
}

fn tests_are_not_ignored(source: &Source, _: &Crates) -> Vec<String> {
    attributes(&source.code)
        .filter(|(start, end)| words(&source.code[*start..*end]).any(|(_, word)| word == "ignore"))
        .map(|(start, _)| source.complain(start, "a test is ignored"))
        .collect()
}

fn product_code_does_not_unwrap(source: &Source, _: &Crates) -> Vec<String> {
    words(&source.product)
        .filter(|(_, word)| *word == "unwrap" || *word == "expect")
        .filter(|(at, word)| {
            let (before, after) = (&source.product[..*at], &source.product[at + word.len()..]);
            before.trim_end().ends_with(['.', ':']) && !after.starts_with("_")
        })
        .map(|(at, word)| source.complain(at, &format!("`{word}` in product code")))
        .collect()
}

/// Entries under a `…dependencies]` heading without a `# reason` on them.
fn unexplained_dependencies(manifest: &str) -> Vec<String> {
    let explained = |entry: &str| entry.rsplit_once("# ").is_some_and(|(_, reason)| !reason.trim().is_empty());
    dependency_entries(manifest)
        .into_iter()
        .filter(|entry| !explained(entry))
        .map(|entry| format!("Cargo.toml: no reason is given for `{entry}`"))
        .collect()
}

fn crates_of(manifest: &str) -> Crates {
    dependency_entries(manifest)
        .iter()
        .filter_map(|entry| entry.split(['=', ' ', '.']).next())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn dependency_entries(manifest: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    let mut inside = false;
    let mut open = false;
    for line in manifest.lines() {
        if let Some(heading) = line.strip_prefix('[') {
            inside = heading.contains("dependencies");
            // `[dependencies.name]` would hide an entry from this scan: it counts as one, unexplained.
            if let Some((_, name)) = heading.split_once("dependencies.") {
                entries.push(name.trim_end_matches(']').to_owned());
            }
        } else if inside && open {
            entries.last_mut().expect("an entry").push_str(line);
            open = !line.trim_start().starts_with([']', '}']);
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            entries.push(line.to_owned());
            open = line.ends_with(['[', '{']);
        }
    }
    entries
}

// ---- reading sources ----

/// A source in three versions of the same length: as it is; without comments and what stands in literals; and without
/// test code as well.
struct Source {
    path: String,
    text: String,
    code: String,
    product: String,
    test_lines: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let code = without_comments_and_literals(text);
        // A module of tests in a file of its own is test code as a whole.
        let (product, test_lines) = if path.ends_with("/tests.rs") || path.contains("/tests/") {
            (blanked(&code), text.lines().count())
        } else {
            without_tests(&code)
        };
        Source { path: path.to_owned(), text: text.to_owned(), code, product, test_lines }
    }

    /// `src/engine/port.rs` is in `engine`, `src/timer.rs` in `timer`.
    fn room(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many `super::` lead from this file to the root of the crate.
    fn depth(&self) -> usize {
        let inside = self.path.trim_end_matches("/mod.rs");
        inside.split('/').count() - 1
    }

    /// Paths that go through the root of this crate, without that root.
    fn paths_from_root(&self) -> Vec<(usize, Vec<String>)> {
        let depth = self.depth();
        let from_root = |path: &Vec<String>| match path.first().map(String::as_str) {
            Some("crate") => Some(path[1..].to_vec()),
            Some("cpd") if self.room() == "bin" => Some(path[1..].to_vec()),
            Some("super") => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                (ups >= depth).then(|| path[ups..].to_vec())
            }
            _ => None,
        };
        paths(&self.product).iter().filter_map(|(at, path)| Some((*at, from_root(path)?))).collect()
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
    }

    fn complain(&self, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, self.line(at))
    }

    fn find_words(&self, text: &str, wanted: &[&str], what: &str) -> Vec<String> {
        words(text).filter(|(_, word)| wanted.contains(word)).map(|(at, _)| self.complain(at, what)).collect()
    }

    /// All lines but those of test code, comments included.
    fn product_lines(&self) -> usize {
        self.text.lines().count() - self.test_lines
    }
}

fn blanked(text: &str) -> String {
    text.chars().flat_map(|c| if c == '\n' { vec!['\n'] } else { vec![' '; c.len_utf8()] }).collect()
}

fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_word = false;
    while let Some(c) = rest.chars().next() {
        let skipped = if in_word { literal_behind_word(rest) } else { comment_or_literal(rest) };
        let taken = if skipped > 0 { skipped } else { c.len_utf8() };
        let (piece, after) = rest.split_at(taken);
        code.push_str(&if skipped > 0 { blanked(piece) } else { piece.to_owned() });
        in_word = skipped == 0 && (c.is_alphanumeric() || c == '_');
        rest = after;
    }
    code
}

/// Within a word nothing starts but what ends it: a string behind its prefix (`b"…"`), a comment, a character.
fn literal_behind_word(rest: &str) -> usize {
    if rest.starts_with(['r', 'b', 'c']) { 0 } else { comment_or_literal(rest) }
}

/// How many bytes of a comment or a literal `rest` starts with; 0: neither.
fn comment_or_literal(rest: &str) -> usize {
    let raw = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - raw.len();
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if let Some(hashes) = raw.strip_prefix('r').filter(|_| prefix <= 1) {
        let body = hashes.trim_start_matches('#');
        if body.starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes.len() - body.len()));
            let head = rest.len() - body.len() + 1;
            return rest[head..].find(&close).map_or(rest.len(), |end| head + end + close.len());
        }
    }
    match rest.chars().next() {
        Some('"') => quoted(rest, '"'),
        Some('\'') if rest[1..].starts_with('\\') => quoted(rest, '\''),
        // `'a'` is a character, `'a` a lifetime.
        Some('\'') => {
            let width = rest[1..].chars().next().map_or(0, char::len_utf8);
            if rest[1 + width..].starts_with('\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let bytes = rest.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// Blanks every item behind a `#[cfg(test)]`, and counts their lines.
fn without_tests(code: &str) -> (String, usize) {
    let mut product = code.to_owned();
    let mut lines = 0;
    while let Some(start) = product.find("#[cfg(test)]") {
        let mut item = start;
        // The item stands behind all of its attributes.
        while let Some((at, end)) = attributes(&product[item..]).next()
            && product[item..item + at].trim().is_empty()
        {
            item += end;
        }
        // What is no item, a field say, is taken to be one line: too little is exempt then, never too much.
        let line = product[item..].find('\n').map_or(product.len(), |length| item + length);
        let end = item_end(product.as_bytes(), item).map_or(line, |end| end + 1);
        lines += 1 + code[start..end].matches('\n').count();
        product.replace_range(start..end, &blanked(&code[start..end]));
    }
    (product, lines)
}

/// Where the item that starts at `at` ends: its last `}`, or a `;` before any brace.
fn item_end(code: &[u8], at: usize) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (place, byte) in code.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others -= 1,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces <= 0 {
                    return (braces == 0).then_some(place);
                }
            }
            b';' if braces == 0 && others == 0 => return Some(place),
            _ => {}
        }
    }
    None
}

/// Start and end of each `#[…]` and `#![…]`.
fn attributes(code: &str) -> impl Iterator<Item = (usize, usize)> {
    code.match_indices('#').filter_map(|(start, _)| {
        let open = start + code[start..].find('[')?;
        let head = code[start + 1..open].trim();
        if !(head.is_empty() || head == "!") {
            return None;
        }
        let mut depth = 0;
        for (at, byte) in code.bytes().enumerate().skip(open) {
            depth += i32::from(byte == b'[') - i32::from(byte == b']');
            if depth == 0 {
                return Some((start, at + 1));
            }
        }
        None
    })
}

/// Every identifier and where it starts.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(part)?;
        let end = text[start..].find(|c| !part(c)).map_or(text.len(), |length| start + length);
        at = end;
        Some((start, &text[start..end]))
    })
}

/// Every path with `::` in it or behind a `use`, `{…}` multiplied out, from its head on.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut done = 0;
    let mut previous = "";
    for (at, word) in words(code) {
        let continued = code[at + word.len()..].trim_start().starts_with("::");
        let inner = code[..at].trim_end().ends_with("::") && !["use", "in"].contains(&previous);
        if at >= done && !inner && (continued || previous == "use") {
            done = expand(code, at, &mut Vec::new(), &mut found);
        }
        previous = word;
    }
    found
}

/// Reads the tree of paths at `at`, adds its branches to `found` and returns where it ends.
fn expand(code: &str, at: usize, trunk: &mut Vec<String>, found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let grown = trunk.len();
    let mut here = at;
    loop {
        here += code[here..].len() - code[here..].trim_start().len();
        if code[here..].starts_with('{') {
            here += 1;
            while here < code.len() && !code[here..].trim_start().starts_with('}') {
                here = expand(code, here, trunk, found);
                here += code[here..].find([',', '}']).unwrap_or(code.len() - here);
                here += usize::from(code[here..].starts_with(','));
            }
            here += code[here..].find('}').map_or(0, |end| end + 1);
            break;
        }
        if let Some((0, word)) = words(&code[here..]).next() {
            trunk.push(word.to_owned());
            here += word.len();
        } else {
            here += usize::from(code[here..].starts_with('*'));
        }
        let rest = code[here..].trim_start();
        if !rest.starts_with("::") {
            found.push((at, trunk.clone()));
            break;
        }
        here = code.len() - rest.len() + 2;
        // A turbofish ends the path.
        if code[here..].starts_with('<') {
            found.push((at, trunk.clone()));
            break;
        }
    }
    trunk.truncate(grown);
    here
}

// ---- samples that break the rules ----

fn crates() -> Crates {
    ["mio", "rusqlite", "argon2", "serde_json", "serde", "jiff"].map(str::to_owned).into()
}

#[track_caller]
fn breaks(rule: Rule, path: &str, text: &str) {
    assert!(!rule(&Source::new(path, text), &crates()).is_empty(), "not noticed in {path}: {text}");
}

#[track_caller]
fn holds(rule: Rule, path: &str, text: &str) {
    assert_eq!(rule(&Source::new(path, text), &crates()), [""; 0], "in {path}: {text}");
}

#[test]
fn imports_between_rooms_are_noticed() {
    let rule: Rule = rooms_import_only_what_they_may;
    breaks(rule, "src/proto/line.rs", "use crate::timer::Wheel;");
    breaks(rule, "src/proto/line.rs", "use super::super::engine::port;");
    breaks(rule, "src/timer.rs", "use super::engine::port;");
    breaks(rule, "src/timer.rs", "fn f() { crate::engine::settings::Limits::default(); }");
    breaks(rule, "src/engine/mod.rs", "use crate::{\n    proto::types,\n    store::Store,\n};");
    breaks(rule, "src/store/mod.rs", "use crate::engine::settings::Limits;");
    breaks(rule, "src/store/mod.rs", "use crate::engine;");
    breaks(rule, "src/store/mod.rs", "use crate::engine::{port::Op, settings};");
    breaks(rule, "src/ctl/mod.rs", "use crate::daemon::config;");
    breaks(rule, "src/ctl/mod.rs", "use crate::store::Store;");
    breaks(rule, "src/bin/cpd.rs", "fn main() { cpd::store::open() }");
    breaks(rule, "src/attic/mod.rs", "");
    holds(rule, "src/proto/session.rs", "use super::types::Username; use crate::proto::limits; // crate::daemon");
    holds(rule, "src/engine/mod.rs", "use crate::{proto::types, timer::{Wheel, Key}};");
    holds(rule, "src/store/mod.rs", "use crate::engine::port::{self, Op}; use crate::proto::types::Username;");
    holds(rule, "src/timer.rs", "#[cfg(test)]\nmod tests { use super::engine; }");
    holds(rule, "src/bin/cpd.rs", "fn main() { cpd::daemon::main() }");
}

#[test]
fn crates_in_the_wrong_room_are_noticed() {
    let rule: Rule = crates_stay_in_their_rooms;
    breaks(rule, "src/engine/mod.rs", "use serde::Serialize;");
    breaks(rule, "src/proto/mod.rs", "fn f() { jiff::Timestamp::now(); }");
    breaks(rule, "src/control/mod.rs", "use mio::Poll;");
    breaks(rule, "src/daemon/mod.rs", "use rusqlite as r;");
    breaks(rule, "src/daemon/mod.rs", "use {std::fs, serde_json::Value};");
    breaks(rule, "src/store/mod.rs", "fn f(h: &argon2::Argon2) {}");
    holds(rule, "src/daemon/reactor.rs", "use mio::{Poll, Token}; use crate::control::serde_json;");
    holds(rule, "src/control/mod.rs", "use serde_json::Value; const HELP: &str = \"mio::Poll\";");
    holds(rule, "src/engine/mod.rs", "use std::collections::HashMap; fn f() { mio(); }");
}

#[test]
fn the_world_in_a_pure_room_is_noticed() {
    let rule: Rule = pure_rooms_touch_nothing;
    breaks(rule, "src/engine/mod.rs", "use std::{collections::HashMap, thread};");
    breaks(rule, "src/timer.rs", "fn f() { std::time::Instant::now(); }");
    breaks(rule, "src/proto/mod.rs", "fn f() { println!(\"x\"); }");
    breaks(rule, "src/proto/mod.rs", "use std::net::{IpAddr, TcpStream};");
    holds(rule, "src/engine/port.rs", "use std::net::IpAddr;");
    holds(rule, "src/daemon/reactor.rs", "use std::time::Instant;");
}

#[test]
fn unsafe_code_is_noticed() {
    let rule: Rule = unsafe_has_one_home;
    breaks(rule, "src/lib.rs", "pub mod proto;");
    breaks(rule, "src/daemon/mod.rs", "fn f() { unsafe { g() } }");
    breaks(rule, "src/store/mod.rs", "#[cfg(test)]\nmod tests { unsafe fn f() {} }");
    holds(rule, "src/daemon/fd.rs", "fn f() { unsafe { g() } }");
    holds(rule, "src/lib.rs", "//! unsafe\n#![deny(unsafe_code)]");
}

#[test]
fn long_files_and_functions_are_noticed() {
    let lines = |count: usize| "    f();\n".repeat(count);
    breaks(files_are_short, "src/auth.rs", &lines(FILE_MAX_LINES + 1));
    breaks(files_are_short, "src/bin/cpd.rs", &lines(BINARY_MAX_LINES + 1));
    breaks(files_are_short, "src/auth.rs", &format!("#[cfg(test)]\nuse a::b;\n{}", lines(FILE_MAX_LINES + 1)));
    holds(files_are_short, "src/auth.rs", &lines(FILE_MAX_LINES));
    holds(
        files_are_short,
        "src/auth.rs",
        &format!("f();\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    // why\n".repeat(500)),
    );
    holds(files_are_short, "src/engine/tests.rs", &lines(FILE_MAX_LINES + 1));
    let function = |count: usize| format!("impl A {{\n  fn f(a: [u8; 3])\n  -> B {{\n{}  }}\n}}\n", lines(count));
    breaks(functions_are_short, "src/auth.rs", &function(FUNCTION_MAX_LINES - 2));
    holds(functions_are_short, "src/auth.rs", &function(FUNCTION_MAX_LINES - 3));
    holds(functions_are_short, "src/auth.rs", &format!("trait A {{\n  fn f(&self);\n{}}}", lines(80)));
}

#[test]
fn leftovers_are_noticed() {
    breaks(nothing_is_left_to_do, "src/auth.rs", "// TODO: later");
    breaks(nothing_is_left_to_do, "src/auth.rs", "/* FIXME */");
    breaks(nothing_is_left_to_do, "src/auth.rs", "const A: &str = \"XXX\";");
    breaks(nothing_is_left_to_do, "src/auth.rs", "fn f() { todo!() }");
    holds(nothing_is_left_to_do, "src/auth.rs", "const TODOS: u8 = 1; // todo");
    breaks(tests_are_not_ignored, "src/auth.rs", "#[cfg(test)]\nmod t {\n#[test]\n#[ignore = \"slow\"]\nfn f() {} }");
    holds(tests_are_not_ignored, "src/auth.rs", "fn ignore() {} // #[ignore]");
}

#[test]
fn unexplained_exceptions_are_noticed() {
    let rule: Rule = lints_are_switched_off_for_a_reason;
    breaks(rule, "src/auth.rs", "// why not\n#[allow(dead_code)]\nfn f() {}");
    breaks(rule, "src/lib.rs", "#![allow(\n    unused,\n)]");
    breaks(rule, "src/lib.rs", "#[cfg_attr(test, allow(unused))]\nmod a; // a");
    breaks(rule, "src/lib.rs", "#[expect(unused)]\nmod a;");
    holds(rule, "src/auth.rs", "#[allow(dead_code)] // read by the debugger alone\nfn f() {}");
    holds(rule, "src/auth.rs", "#[expect(dead_code, reason = \"read by the debugger alone\")]\nfn f() {}");
    breaks(|source, _| unexplained_dependencies(&source.text), "Cargo.toml", "[dependencies]\nmio = \"1\"\n");
    breaks(|source, _| unexplained_dependencies(&source.text), "Cargo.toml", "[dependencies.mio]\nversion = \"1\"\n");
    let manifest = "[package]\nname = \"a\"\n[dev-dependencies]\nserde-json = { version = \"1\", features = [\n \"a\",\n] } # encoding\n";
    holds(|source, _| unexplained_dependencies(&source.text), "Cargo.toml", manifest);
    assert!(crates_of(manifest).iter().eq(["serde_json"]));
}

#[test]
fn unwrapping_is_noticed() {
    let rule: Rule = product_code_does_not_unwrap;
    breaks(rule, "src/auth.rs", "fn f() { a.unwrap(); }");
    breaks(rule, "src/auth.rs", "fn f() { a\n    .expect(\"never\"); }");
    breaks(rule, "src/auth.rs", "fn f() { a.map(Option::unwrap); }");
    breaks(rule, "src/auth.rs", "#[cfg(test)]\nuse a::b;\nfn f() { a.unwrap(); }");
    breaks(rule, "src/auth.rs", "struct A {\n#[cfg(test)]\na: u8,\n}\nfn f() { a.unwrap(); }");
    holds(rule, "src/auth.rs", "fn f() { a.unwrap_or_default(); } // .unwrap()");
    holds(rule, "src/auth.rs", "#[cfg(test)]\nmod tests { fn f() { a.unwrap(); } }");
    holds(rule, "src/auth.rs", "const A: char = '\"'; const B: &str = r#\"\".unwrap()\"#; fn f<'a>(b: &'a u8) {}");
}
