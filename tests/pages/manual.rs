//! cpd(8), cpd.conf(5) and cp(7) against the program. cpctl(8) has tests/man_cpctl.rs.

use std::collections::BTreeSet;
use std::process::Command;

use cp_proto::limits as wire;
use cp_proto::reply;
use cpd::daemon::config::{self, Config, KEYS, SOCKET_PATH_MAX_BYTES, ValueKind};
use cpd::daemon::exit::ExitCode;
use cpd::duration;
use cpd_core::limits;
use cpd_core::session::settings::Timeouts;

const CPD: &str = include_str!("../../man/cpd.8");
const CONF: &str = include_str!("../../man/cpd.conf.5");
const CP: &str = include_str!("../../man/cp.7");

/// The lines of a section (`.Sh`) or subsection (`.Ss`).
fn section<'p>(page: &'p str, title: &str) -> Vec<&'p str> {
    let heading = |line: &str| line.strip_prefix(".Sh ").or(line.strip_prefix(".Ss ")).map(str::to_owned);
    let from = page.lines().skip_while(|line| heading(line).is_none_or(|found| found != title));
    let lines: Vec<&str> = from.skip(1).take_while(|line| heading(line).is_none()).collect();
    assert!(!lines.is_empty(), "no section {title}");
    lines
}

/// The text of lines without macros at their beginning, in one line.
fn prose(lines: &[&str]) -> String {
    const MACROS: [&str; 12] = ["Li", "Ql", "Ic", "Pa", "Dv", "Ar", "Pq", "Sq", "Fl", "Xr", "It", "No"];
    let words = lines.iter().flat_map(|line| {
        let line = line.strip_prefix('.').unwrap_or(line);
        line.split(' ').filter(|word| !MACROS.contains(word))
    });
    words.collect::<Vec<_>>().join(" ").replace("\\&", "").replace("\\(dq", "\"")
}

/// The items of a list with their headers and what is said under each.
fn items<'p>(lines: &[&'p str]) -> Vec<(&'p str, String)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines {
        match (line.strip_prefix(".It "), found.last_mut()) {
            (Some(header), _) => found.push((header, Vec::new())),
            (None, Some((_, text))) => text.push(line),
            (None, None) => {}
        }
    }
    found.into_iter().map(|(header, text)| (header, prose(&text))).collect()
}

// ---- cpd(8) ----

#[test]
fn options_are_the_parsers() {
    let description = section(CPD, "DESCRIPTION");
    let headers = items(&description).into_iter().map(|(header, _)| header);
    let described: BTreeSet<String> =
        headers.filter_map(|header| header.strip_prefix("Fl Fl ")?.split(' ').next().map(str::to_owned)).collect();
    let mut parser = config::command();
    parser.build();
    let known: BTreeSet<String> = parser.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    assert_eq!(described, known);
    let synopsis = prose(&section(CPD, "SYNOPSIS"));
    assert!(known.iter().all(|option| synopsis.contains(option.as_str())), "{synopsis}");
    let data = items(&description).into_iter().find(|(header, _)| header.contains("data")).expect("described above").1;
    let config = Config::default();
    assert!(data.contains(&format!("127.0.0.1 port {}", config.cp[0].port())), "{data}");
    assert!(prose(&description).contains(config::DEFAULT_FILE));
}

#[test]
fn signals_are_those_that_the_program_takes() {
    let section = section(CPD, "Signals");
    let described: Vec<&str> = items(&section).into_iter().map(|(header, _)| header).collect();
    assert_eq!(described, ["Dv TERM , INT", "Dv HUP", "Dv PIPE"]);
    // That each does what the page says is tested in tests/server/daemon/signals.rs.
    let source = include_str!("../../src/daemon/mod.rs");
    assert!(source.contains("Signals::new([SIGTERM, SIGINT, SIGHUP])"), "other signals are taken");
}

#[test]
fn exit_codes_are_the_programs() {
    let known = [
        ExitCode::Ok,
        ExitCode::Usage,
        ExitCode::DamagedStore,
        ExitCode::NoInput,
        ExitCode::Unavailable,
        ExitCode::Internal,
        ExitCode::System,
        ExitCode::CannotCreate,
        ExitCode::NotPermitted,
        ExitCode::Config,
    ];
    let known: Vec<String> = known.iter().map(|code| (*code as u8).to_string()).collect();
    let section = section(CPD, "EXIT STATUS");
    let described: Vec<&str> = items(&section).into_iter().map(|(header, _)| header).collect();
    assert_eq!(described, known);
    let variants = include_str!("../../src/daemon/exit.rs").lines().filter(|line| line.ends_with(',')).filter(|line| {
        line.trim().split_once(" = ").is_some_and(|(_, code)| code.trim_end_matches(',').parse::<u8>().is_ok())
    });
    assert_eq!(variants.count(), known.len(), "ExitCode has codes that are not compared here");
}

#[test]
fn files_are_the_defaults() {
    let config = Config::default();
    let files = prose(&section(CPD, "FILES"));
    let paths = [config::DEFAULT_FILE.to_owned(), show(&config.store_path), show(&config.control_socket)];
    for name in paths.iter().chain([&config.control_group]) {
        assert!(files.contains(name.as_str()), "{name}: {files}");
    }
}

fn show(path: &std::path::Path) -> String {
    path.display().to_string()
}

// ---- cpd.conf(5) ----

/// Section, key, default and text of everything that the page describes.
fn described_keys() -> Vec<(String, String, String, String)> {
    let titles = CONF.lines().filter_map(|line| line.strip_prefix(".Ss Section ["));
    let mut all = Vec::new();
    for title in titles {
        let name = title.split(']').next().expect("a name");
        let lines = section(CONF, &format!("Section [{title}"));
        for (header, text) in items(&lines) {
            let (key, default) = header.strip_prefix("Ic ").and_then(|h| h.split_once(" No = Li ")).expect(header);
            all.push((name.to_owned(), key.to_owned(), default.replace("\\(dq", "\""), text));
        }
    }
    all
}

/// The range of a key as the page words it, or what says it for the whole section.
fn range_in_words(kind: &ValueKind) -> Vec<String> {
    let spaced = |millis: u64| {
        let text = duration::show(millis);
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        format!("{} {}", &text[..digits], &text[digits..])
    };
    match kind {
        ValueKind::Addresses { .. } => vec!["At most 64".to_owned()],
        ValueKind::Path { socket: true, .. } => vec![format!("absolute path of at most {SOCKET_PATH_MAX_BYTES} bytes")],
        ValueKind::Path { .. } => vec!["an absolute path".to_owned()],
        ValueKind::Group { .. } => vec!["At most 32 bytes, or empty for no group".to_owned()],
        ValueKind::Number { range: (low, high), .. } => vec![format!("from {low} to {high}")],
        ValueKind::Bytes { .. } => vec![format!("from 0 to {}", i64::MAX)],
        ValueKind::Duration { range: (low, high), .. } => {
            vec![format!("duration from {} to {}", spaced(*low), spaced(*high))]
        }
        ValueKind::Flag { .. } => vec!["true".to_owned()],
        ValueKind::Target { .. } => ["journal", "syslog", "stderr", "auto"].map(str::to_owned).to_vec(),
        ValueKind::Level { .. } => ["error", "warn", "info", "debug"].map(str::to_owned).to_vec(),
    }
}

#[test]
fn keys_and_defaults_are_the_programs() {
    let described: Vec<String> =
        described_keys().into_iter().map(|(section, key, default, _)| format!("{section}.{key} = {default}")).collect();
    let known: Vec<String> = KEYS.iter().map(|key| format!("{} = {}", key.name(), key.default_value())).collect();
    assert_eq!(described, known);
}

#[test]
fn ranges_and_restarts_are_the_programs() {
    for ((section_name, _, _, text), key) in described_keys().iter().zip(KEYS) {
        let lines = section(CONF, &format!("Section [{section_name}]\\&"));
        let head: Vec<&str> = lines.iter().take_while(|line| !line.starts_with(".Bl")).copied().collect();
        let head = prose(&head);
        for part in range_in_words(&key.kind) {
            assert!(text.contains(&part) || head.contains(&part), "{}: no {part:?} in: {text}", key.name());
        }
        assert_eq!(text.contains("restart"), key.needs_restart, "{}: {text}", key.name());
    }
}

#[test]
fn examples_are_configurations() {
    let lines = section(CONF, "EXAMPLES");
    let block: Vec<&str> = lines
        .iter()
        .skip_while(|line| !line.starts_with(".Bd"))
        .skip(1)
        .take_while(|line| **line != ".Ed")
        .copied()
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cpd.toml");
    std::fs::write(&file, block.join("\n")).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_cpd")).arg("--check").arg("--config").arg(&file).output();
    let output = output.expect("cpd runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

// ---- cp(7) ----

#[test]
fn codes_and_texts_are_the_programs() {
    let lines = section(CP, "Server to client");
    let headers = items(&lines).into_iter().map(|(header, _)| header.replace("\\&", ""));
    let described: Vec<String> = headers.filter_map(|header| header.strip_prefix("Li ").map(str::to_owned)).collect();
    let (message, codes) = described.split_last().expect("items");
    assert_eq!(message, "RMSG Ns Ar sender Ns Li : Ns Ar message");
    let known: Vec<&str> = reply::ALL.iter().map(|reply| reply.heading()).collect();
    assert_eq!(codes, known);
}

/// The state table of the page: state, what comes, next state, reply.
fn states_of_the_page() -> Vec<[String; 4]> {
    let lines = section(CP, "States");
    let table = lines.iter().skip_while(|line| **line != "_").skip(1).take_while(|line| **line != ".TE");
    let text = table.copied().collect::<Vec<_>>().join("\n").replace("T{\n", "").replace("\nT}", "");
    let row = |line: &str| {
        let mut cells = line.split('\t').map(str::to_owned);
        std::array::from_fn(|_| cells.next().unwrap_or_else(|| panic!("four cells: {line}")))
    };
    text.lines().map(row).collect()
}

/// The same of docs/protocol.md, which tests of the program are held against.
fn states_of_the_contract() -> Vec<[String; 4]> {
    let contract = include_str!("../../docs/protocol.md");
    let table = contract.lines().skip_while(|line| *line != "| state | on | next | reply |").skip(2);
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        std::array::from_fn(|_| cells.next().unwrap_or_else(|| panic!("four cells: {line}")))
    };
    table.take_while(|line| line.starts_with('|')).map(row).collect()
}

#[test]
fn states_are_the_contracts() {
    let described = states_of_the_page();
    let known = states_of_the_contract();
    assert!(known.len() >= 18, "{known:?}");
    for (page, contract) in described.iter().zip(&known) {
        if contract[1] == "TERM" {
            // Which says more about it than a cell of the page holds.
            assert_eq!((page[0].as_str(), page[1].as_str(), page[3].as_str()), ("every state", "TERM", "-"));
            continue;
        }
        let [state, on, next, said] = contract.clone();
        assert_eq!(*page, [state, on, next, said.replace('\u{2026}', "")]);
    }
    assert_eq!(described.len(), known.len());
    let known: BTreeSet<&str> = cp_proto::reply::ALL.iter().map(|reply| reply.code()).collect();
    let in_table = described.iter().filter_map(|row| row[3].parse::<u16>().ok()).map(|code| code.to_string());
    assert!(in_table.into_iter().all(|code| known.contains(code.as_str())));
}

#[test]
fn limits_are_the_programs() {
    let text = prose(&CP.lines().collect::<Vec<_>>());
    let expected = [
        format!("one line of 1 to {} bytes", wire::PDU_MAX_BYTES),
        format!("1 to {} bytes, without CR LF", wire::PDU_MAX_BYTES),
        format!("A line of more than {} bytes", wire::PDU_MAX_BYTES),
        format!("past {} KiB without ending the line", wire::UNTERMINATED_MAX_BYTES / 1024),
        format!("username 1 to {} bytes", wire::USERNAME_MAX_BYTES),
        format!("The name is empty, over {} bytes", wire::USERNAME_MAX_BYTES),
        format!("password 1 to {} bytes of UTF-8", wire::PASSWORD_MAX_BYTES),
        format!("message 1 to {} bytes of UTF-8", wire::MESSAGE_MAX_BYTES),
        format!("messages, 1 to {}, sent ahead", wire::WINDOW_MAX_MESSAGES),
        format!("seconds, 1 to {}, until", wire::WAIT_MAX_SECONDS),
    ];
    for said in expected {
        assert!(text.contains(&said), "{said}");
    }
    assert_eq!(limits::LOGIN_FAILURES_MAX, 3, "cp(7) says: after three failed logins");
    assert!(text.contains("After three failed logins the server closes"));
    assert!(text.contains(&format!("TCP port {}", config::DEFAULT_PORT)));
}

#[test]
fn timeouts_are_the_defaults() {
    let defaults = Timeouts::default();
    let lines = section(CP, "Timeouts");
    let items = items(&lines);
    let timers = [
        ("pdu", defaults.pdu),
        ("login", defaults.login),
        ("ack", defaults.ack),
        ("idle", defaults.idle),
        ("recover", defaults.recover),
        ("write", defaults.write),
    ];
    assert_eq!(items.len(), timers.len());
    for ((header, text), (key, millis)) in items.iter().zip(timers) {
        assert!(header.ends_with(&format!("Pq Ic {key}")), "{header}");
        let seconds = millis / 1000;
        let said = if seconds > 60 { format!("{} minutes", seconds / 60) } else { format!("{seconds} seconds") };
        assert!(text.starts_with(&said), "{key}: {text}");
    }
    let dialect = prose(&section(CP, "The classic dialect"));
    let quiet = Config::default().settings.session.classic_quiet;
    assert!(dialect.contains(&format!("after {quiet} ms of silence")), "{dialect}");
}

// ---- all of them ----

#[test]
fn the_pages_are_sound_mdoc() {
    let pages =
        ["cp.7", "cpctl.8", "cpd.8", "cpd.conf.5"].map(|page| format!("{}/man/{page}", env!("CARGO_MANIFEST_DIR")));
    let output = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).args(pages).output();
    let output = output.unwrap_or_else(|error| panic!("mandoc: {error}; install the package mandoc"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
