//! The README as a stranger follows it: its commands are run as they stand there, one after the other, at a terminal,
//! and everything on the screen is compared with what it shows.
//!
//! The README's `cargo` is a stand-in that knows exactly the README's two commands and takes the programs that are built
//! already. Where another program has the port, cpd is given another address, and the text is read with that one.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cp_proto::reply;
use cpd_testing::running;
use running::terminal::Terminal;
use running::{need, next_address, wait_for};

const README: &str = include_str!("../../README.md");
const RUN: &str = "cargo run --release -- --data ./try";
const BUILD: &str = "cargo build --release --quiet";
const ADDRESS: &str = "127.0.0.1";
const PORT: &str = "5035";
/// What is typed into a client of CP; every other line of the tour is shown.
const TYPED: [&str; 5] = ["USER ", "PASS ", "SMSG ", "201\n", "TERM\n"];

/// Whether `line` is typed. Not so the headings of cpctl's tables, of which one begins with USER and more spaces.
fn is_typed(line: &str) -> bool {
    TYPED.iter().any(|typed| line.strip_prefix(typed).is_some_and(|rest| !rest.starts_with(' ')))
}

/// The code blocks of one kind, in order.
fn blocks(kind: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut within = None;
    for line in README.lines() {
        match (line.strip_prefix("```"), within) {
            (Some(opened), None) => {
                within = Some(opened == kind);
                blocks.extend((opened == kind).then(String::new));
            }
            (Some(_), Some(_)) => within = None,
            (None, Some(true)) => {
                let _ = writeln!(blocks.last_mut().expect("opened"), "{line}");
            }
            (None, Some(false) | None) => {}
        }
    }
    blocks
}

/// Times of day become one and the same.
fn timeless(text: &str) -> String {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00Z";
    let fits = |part: &[u8]| {
        let same = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
        part.len() == SHAPE.len() && part.iter().zip(SHAPE).all(same)
    };
    let mut bytes = text.as_bytes().to_vec();
    for at in 0..bytes.len().saturating_sub(SHAPE.len() - 1) {
        if fits(&bytes[at..at + SHAPE.len()]) {
            bytes[at..at + SHAPE.len()].copy_from_slice(SHAPE);
        }
    }
    String::from_utf8(bytes).expect("digits for digits")
}

/// A folder like a clone's, where `cargo` is the stand-in and gives cpd `more` arguments.
fn clone_with(more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let (cpd, cpctl) = (env!("CARGO_BIN_EXE_cpd"), env!("CARGO_BIN_EXE_cpctl"));
    let cargo = format!(
        "#!/bin/sh\n\
         case \"cargo $*\" in\n\
         '{RUN}') shift 3; exec '{cpd}' \"$@\" {more} ;;\n\
         '{BUILD}') mkdir -p target/release && ln -s '{cpd}' '{cpctl}' target/release ;;\n\
         *) echo \"the README has no cargo $*\" >&2; exit 64 ;;\n\
         esac\n"
    );
    std::fs::write(bin.join("cargo"), cargo).expect("written");
    std::fs::set_permissions(bin.join("cargo"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    folder
}

fn path_in(folder: &Path) -> String {
    format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap_or_default())
}

/// The daemon in its terminal. `None` when the address is in use.
fn start(folder: &Path) -> Option<Terminal> {
    let mut terminal = Terminal::runs(&["sh", "-c", &format!("exec {RUN}")], |command| {
        command.current_dir(folder).env("PATH", path_in(folder));
    });
    let started = wait_for("a line of the log", || {
        let screen = terminal.screen();
        let over = screen.contains(" in use");
        (over || screen.contains(" info started ")).then_some(!over)
    });
    if !started {
        assert_eq!(terminal.ends().code(), Some(69), "{}", terminal.screen());
    }
    started.then_some(terminal)
}

/// A script that shows each command of `transcript`, then runs it.
fn script(transcript: &str) -> String {
    let commands = transcript.lines().filter_map(|line| line.strip_prefix("$ "));
    commands.fold(String::new(), |mut script, command| {
        let shown = command.replace('\'', "'\\''");
        let _ = write!(script, "printf '%s\\n' '$ {shown}'\n{command}\n");
        script
    })
}

#[test]
fn every_line_of_the_tour_does_what_the_readme_says() {
    need("telnet", "inetutils-telnet");
    need("nc", "netcat-openbsd");
    assert!(blocks("sh").iter().any(|block| block.trim_end() == RUN), "the README does not say {RUN}");
    let mut tour = blocks("console").concat();
    let mut folder = clone_with("");
    let mut daemon = start(folder.path()).unwrap_or_else(|| {
        let own = next_address();
        folder = clone_with("--config own.toml");
        std::fs::write(folder.path().join("own.toml"), format!("listen.cp = [\"{own}\"]\n")).expect("written");
        tour = tour.replace(PORT, &own.port().to_string()).replace(ADDRESS, &own.ip().to_string());
        start(folder.path()).expect("an address of its own")
    });

    let script = script(&tour);
    let mut person = Terminal::runs(&["sh", "-c", &script], |command| {
        command.current_dir(folder.path()).env("PATH", path_in(folder.path()));
    });
    let mut expected = String::new();
    for line in timeless(&tour).split_inclusive('\n') {
        if is_typed(line) {
            person.waits_until_it_shows(&expected, timeless);
            person.types(line);
        }
        expected.push_str(line);
    }
    person.waits_until_it_shows(&expected, timeless);
    assert_eq!(person.ends().code(), Some(0));

    daemon.types("\u{3}");
    assert_eq!(daemon.ends().code(), Some(0), "{}", daemon.screen());
    assert!(daemon.screen().contains(" info stopped"), "{}", daemon.screen());
}

#[test]
fn the_commands_are_all_there_is_to_do() {
    assert_eq!(blocks("sh"), [format!("{RUN}\n"), "cargo test\n".to_owned()]);
    let manifest: toml::Table = toml::from_str(include_str!("../../Cargo.toml")).expect("TOML");
    let package = &manifest["package"];
    assert_eq!(package["default-run"].as_str(), Some("cpd"), "cargo run runs something else");
    let common = &manifest["workspace"]["package"];
    let rust = common["rust-version"].as_str().expect("a version");
    assert!(README.contains(&format!("Rust {rust} or later")), "the README asks for another Rust than {rust}");
    assert_eq!(common["license"].as_str(), Some("MIT OR Apache-2.0"));
    assert!(include_str!("../../.gitignore").lines().any(|line| line == "/try"), "the tour leaves files in the clone");
}

#[test]
fn the_codes_are_the_programs() {
    let rows = README.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    let told: Vec<String> =
        rows.filter(|(code, _)| *code != "code").map(|(code, text)| format!("{code} {text}")).collect();
    let known: Vec<&str> = reply::ALL.iter().map(|reply| reply.heading()).collect();
    assert_eq!(told, known);
}

#[test]
fn what_the_readme_points_at_is_there() {
    let mut links = 0;
    for part in README.split("](").skip(1) {
        let target = part.split(')').next().expect("a target");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists(), "{target}");
        links += 1;
    }
    assert!(links >= 9, "{links} links");
    assert!(README.contains("cross the network in the clear"), "the warning is gone");
}
