//! The configuration file as a process reads it: `--check`, and every kind of fault with file, line, key and range.

use std::path::Path;

use cpd::daemon::config::{FILE_MAX_BYTES, KEYS, ValueKind};

use super::fails;
use super::running::{cpd, run};

struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn with(text: impl AsRef<[u8]>) -> File {
        let file = File { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(file.path(), text).expect("written");
        file
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("cpd.toml")
    }

    /// What `--check` says against it, after the file's name.
    #[track_caller]
    fn is_wrong(&self) -> String {
        let cause = fails(cpd().arg("--check").arg("--config").arg(self.path()), 78);
        let path = self.path().display().to_string();
        let (_, rest) = cause.split_once(&path).unwrap_or_else(|| panic!("{path} is not named: {cause}"));
        rest.to_owned()
    }
}

/// A value of the right kind, out of the key's range, where there is a range; else of the wrong kind.
fn out_of_range(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Addresses { .. } => "[\"localhost\"]".into(),
        ValueKind::Path { socket: true, .. } => format!("\"/{}\"", "x".repeat(107)),
        ValueKind::Path { .. } => "\"relative/path\"".into(),
        ValueKind::Group { .. } => "\"a:b\"".into(),
        ValueKind::Number { range: (_, high), .. } => (u64::from(*high) + 1).to_string(),
        ValueKind::Bytes { .. } => "-1".into(),
        ValueKind::Duration { .. } => "\"99999d\"".into(),
        ValueKind::Flag { .. } => "1".into(),
        ValueKind::Target { .. } | ValueKind::Level { .. } => "\"nowhere\"".into(),
    }
}

#[test]
fn every_key_names_itself_its_line_and_its_range() {
    for key in KEYS {
        // No key takes a date.
        for value in [out_of_range(&key.kind), "2026-11-22".to_owned()] {
            let said = File::with(format!("# one\n[{}]\n{} = {value}\n", key.section, key.key)).is_wrong();
            assert!(said.starts_with(&format!(":3: {}: ", key.name())), "{}: {said}", key.name());
            assert!(said.ends_with(&format!("({})", key.range())), "{}: {said}", key.name());
        }
    }
}

#[test]
fn what_is_not_a_key_is_named_with_those_that_are() {
    let said = File::with("[limits]\nconections = 5\n").is_wrong();
    assert!(said.starts_with(":2: ") && said.contains("conections") && said.contains("connections,"), "{said}");
    let said = File::with("\n\n[limit]\nconnections = 5\n").is_wrong();
    assert!(said.starts_with(":3: ") && said.contains("\"limit\"") && said.contains("limits"), "{said}");
    let said = File::with("limits = 5\n").is_wrong();
    assert!(said.starts_with(":1: ") && said.contains("[limits]"), "{said}");
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    for (text, line) in
        [("[limits\n", 1), ("[log]\nlevel = info\n", 2), ("[log]\nlevel = \"info\"\nlevel = \"warn\"\n", 3)]
    {
        let said = File::with(text).is_wrong();
        assert!(said.starts_with(&format!(":{line}: ")), "{text}: {said}");
    }
    assert!(File::with(b"[log]\n# \xff\n").is_wrong().contains("line 2"));
    let long = usize::try_from(FILE_MAX_BYTES).expect("small") + 1;
    assert!(File::with(vec![b'\n'; long]).is_wrong().contains(&FILE_MAX_BYTES.to_string()));
}

#[test]
fn what_holds_for_two_keys_together_is_checked() {
    let said = File::with("listen.cp = [\"127.0.0.1:7\"]\nlisten.classic = [\"127.0.0.1:7\"]\n").is_wrong();
    assert!(said.starts_with(":2: listen: ") && said.contains("127.0.0.1:7"), "{said}");
    let said = File::with("[auth]\nmemory_kib = 1048576\niterations = 1000\n").is_wrong();
    assert!(said.contains("auth.memory_kib") && said.contains("auth.iterations"), "{said}");
}

#[test]
fn several_faults_are_counted() {
    let said = File::with("[log]\nlevel = 1\ntarget = 1\n[lgo]\n").is_wrong();
    assert!(said.starts_with(":2: log.level: ") && said.ends_with("; and 2 more"), "{said}");
}

#[test]
fn a_file_that_is_named_and_not_there_is_a_fault() {
    let file = File::with("");
    std::fs::remove_file(file.path()).expect("removed");
    file.is_wrong();
    std::fs::create_dir(file.path()).expect("made");
    file.is_wrong();
}

#[test]
fn nothing_in_a_file_acts_on_the_terminal_that_shows_its_faults() {
    let said = File::with("[\"\\u001b[2J\\n\\u202e\"]\n").is_wrong();
    assert!(said.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{said:?}");
}

#[test]
fn a_good_file_is_checked_and_nothing_is_made() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/cpd.toml");
    let ended = run(cpd().arg("--check").arg("--config").arg(shipped), "");
    assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout.starts_with("configuration: /") && ended.stdout.contains("packaging/cpd.toml\n"), "{ended:?}");
    assert!(ended.stdout.ends_with("listen.cp: 127.0.0.1:5035 (the default decides)\n"), "{ended:?}");

    let file = File::with("[timeouts]\nack = \"200ms\"\n[auth]\nmemory_kib = 8\n");
    let data = file.folder.path().join("data");
    let ended = run(cpd().arg("--check").arg("--data").arg(&data).arg("--config").arg(file.path()), "");
    assert_eq!(ended.code(), 0);
    let path = file.path().display().to_string();
    let warnings: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().all(|line| line.starts_with(&format!("cpd: warning: {path}:"))), "{warnings:?}");
    assert!(!data.exists());
}
