use std::path::{Path, PathBuf};

use cpd_core::session::settings::SessionSettings;

use super::*;
use crate::daemon::logging::levels::Level;

fn read(text: &str) -> Result<Config, Fatal> {
    read::apply(Config::default(), Path::new("f.toml"), text)
}

fn load_error(text: &str) -> String {
    let fatal = read(text).expect_err(text);
    assert_eq!(fatal.code, ExitCode::Config, "{text}");
    assert!(!fatal.message.contains('\n'), "{}", fatal.message);
    fatal.message
}

/// The text of the shipped file, generated from the table of keys.
fn shipped() -> String {
    let mut text = String::from(
        "# cpd.toml: configuration of cpd, the daemon of CP. Every key is here with its default; see cpd.conf(5).\n\
         # cpd rereads this file on SIGHUP (systemctl reload cpd); what needs a restart says so.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        let restart = if key.needs_restart { "; needs a restart" } else { "" };
        key.help.lines().for_each(|line| text.push_str(&format!("# {line}\n")));
        text.push_str(&format!("#   {}{restart}\n", key.range()));
        text.push_str(&format!("#{} = {}\n", key.key, key.default_value()));
    }
    text
}

fn shipped_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/cpd.toml")
}

#[test]
fn the_shipped_file_has_every_key_with_its_default() {
    let text = std::fs::read_to_string(shipped_file()).unwrap_or_default();
    if std::env::var_os("CPD_WRITE_SHIPPED").is_some() {
        std::fs::write(shipped_file(), shipped()).unwrap();
        return;
    }
    assert_eq!(text, shipped(), "CPD_WRITE_SHIPPED=1 cargo test the_shipped_file writes it anew");
}

#[test]
fn the_shipped_file_is_the_defaults_with_and_without_its_comments() {
    let text = shipped();
    let mut uncommented = 0;
    let bare: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => {
                uncommented += 1;
                String::from(rest)
            }
            _ => String::from(line),
        })
        .collect();
    assert_eq!(uncommented, KEYS.len());
    let expected = Config { file: Some("f.toml".into()), ..Config::default() };
    let apply_file = |text: &str| Config::default().apply_file(Path::new("f.toml"), String::from(text)).unwrap();
    assert_eq!(apply_file(&text), expected);
    let explicit_keys: std::collections::BTreeSet<String> = KEYS.iter().map(ConfigKey::name).collect();
    assert_eq!(apply_file(&bare.join("\n")), Config { explicit_keys, ..expected });
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = Config::default();
    let shown: Vec<String> = KEYS.iter().map(|key| format!("{}={}", key.name(), key.default_value())).collect();
    let expected = [
        r#"listen.cp=["127.0.0.1:5035"]"#,
        "listen.classic=[]",
        r#"control.socket="/run/cpd/control.sock""#,
        r#"control.group="cpd-admin""#,
        r#"store.path="/var/lib/cpd/cpd.db""#,
        "auth.memory_kib=19456",
        "auth.iterations=2",
        "auth.threads=0",
        "limits.connections=10000",
        "limits.connections_per_address=1000",
        "limits.queue_messages=1000",
        "limits.queue_messages_per_sender=200",
        "limits.messages_per_sender=100000",
        "limits.messages_per_sender_minute=100000",
        "limits.failures_per_address=10",
        "limits.failures_per_user=10",
        "limits.failures_per_user_day=100",
        "limits.sessions_per_user=32",
        "limits.store_bytes=0",
        r#"limits.message_age="0s""#,
        r#"timeouts.pdu="30s""#,
        r#"timeouts.login="60s""#,
        r#"timeouts.ack="30s""#,
        r#"timeouts.recover="60s""#,
        r#"timeouts.idle="30m""#,
        r#"timeouts.write="30s""#,
        "protocol.allow_colon=false",
        r#"protocol.classic_quiet="50ms""#,
        r#"log.target="auto""#,
        r#"log.level="info""#,
    ];
    assert_eq!(shown, expected);
    assert_eq!(config.settings.session, SessionSettings::default());
    assert!(config.warnings.is_empty());
}

#[test]
fn every_key_is_read_into_its_own_place() {
    let text = r#"
        [listen]
        cp = ["127.0.0.1:1", "[::1]:2"]
        classic = ["127.0.0.1:3"]
        [control]
        socket = "/tmp/c.sock"
        group = "staff"
        [store]
        path = "/tmp/s.db"
        [auth]
        memory_kib = 19_457
        iterations = 3
        threads = 4
        [limits]
        connections = 101
        connections_per_address = 102
        queue_messages = 103
        queue_messages_per_sender = 104
        messages_per_sender = 111
        messages_per_sender_minute = 112
        failures_per_address = 105
        failures_per_user = 106
        failures_per_user_day = 109
        sessions_per_user = 110
        store_bytes = 5_000_000_000
        message_age = "7d"
        [timeouts]
        pdu = "1s"
        login = "2s"
        ack = "3s"
        recover = "4s"
        idle = "5s"
        write = "6s"
        [protocol]
        allow_colon = true
        classic_quiet = "70ms"
        [log]
        target = "syslog"
        level = "debug"
    "#;
    let config = read(text).unwrap();
    assert_eq!(config.cp, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!(config.classic, ["127.0.0.1:3".parse().unwrap()]);
    assert_eq!(config.control_socket, Path::new("/tmp/c.sock"));
    assert_eq!((config.control_group.as_str(), config.store_path.as_path()), ("staff", Path::new("/tmp/s.db")));
    assert_eq!(config.auth, AuthConfig { memory_kib: 19_457, iterations: 3, threads: 4 });
    assert_eq!((config.auth.hash_params().iterations(), config.auth.worker_threads()), (3, 4));
    let limits = config.settings.limits;
    assert_eq!((limits.connections, limits.connections_per_address), (101, 102));
    assert_eq!((limits.queue_messages, limits.queue_messages_per_sender), (103, 104));
    assert_eq!((limits.failures_per_address, limits.failures_per_user), (105, 106));
    assert_eq!((limits.messages_per_sender, limits.messages_per_sender_minute), (111, 112));
    assert_eq!((limits.failures_per_user_day, limits.sessions_per_user), (109, 110));
    assert_eq!((limits.store_bytes, limits.message_age), (5_000_000_000, 7 * 86_400));
    let t = config.settings.session.timeouts;
    assert_eq!((t.pdu, t.login, t.ack, t.recover, t.idle, t.write), (1000, 2000, 3000, 4000, 5000, 6000));
    assert!(config.settings.session.allow_colon && config.settings.session.classic_quiet == 70);
    assert_eq!((config.log_target, config.log_level), (LogTarget::Syslog, Level::Debug));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    for key in KEYS {
        assert_ne!(key.show(&config), key.default_value(), "{} was set to something else", key.name());
    }
}

#[test]
fn faults_name_file_line_key_and_range() {
    let found = load_error("[limits]\n\nconnections = 0\n");
    assert_eq!(found, "f.toml:3: limits.connections: 0 is out of range (a whole number from 1 to 2147483648)");
    let found = load_error("[timeouts]\npdu = \"99ms\"\n");
    assert_eq!(found, "f.toml:2: timeouts.pdu: 99ms is out of range (a duration from 100ms to 1d)");
    let found = load_error("[limits]\nconections = 5\n");
    assert!(found.starts_with("f.toml:2: unknown key \"conections\" in [limits] (keys: connections, "), "{found}");
    let found = load_error("\n[limit]\n");
    assert!(found.starts_with("f.toml:2: unknown section or key \"limit\" (sections: listen, control, "), "{found}");
    assert!(load_error("connections = 1\n").starts_with("f.toml:1: unknown section or key"));
    assert!(load_error("limits = 1\n").starts_with("f.toml:1: limits is a section"));
    assert!(load_error("[log]\nlevel = \"info\"\nlevel = \"warn\"\n").starts_with("f.toml:3: "));
    assert!(load_error("[log]\nlevel = \n").starts_with("f.toml:2: "));
    let found = load_error("[log]\nlevel = \"loud\"\n[timeouts]\npdu = 30\nack = \"1w\"\n");
    assert!(found.starts_with("f.toml:2: log.level: \"loud\" is out of range (one of \"error\", "), "{found}");
    assert!(found.ends_with("; and 2 more"), "{found}");
}

#[test]
fn values_of_the_wrong_kind_or_out_of_range_are_faults() {
    let wrong = [
        "listen.cp = \"[::]:5035\"",
        "listen.cp = [\"5035\"]",
        "listen.cp = [\"localhost:5035\"]",
        "listen.cp = [\"1.2.3.4\"]",
        "listen.cp = [1]",
        "listen = { cp = [\"1.2.3.4:5\"], classic = [\"1.2.3.4:5\"] }",
        "control.socket = \"control.sock\"",
        "control.socket = \"\"",
        "control.socket = \"/\"",
        "control.group = \"a:b\"",
        "store.path = \"cpd.db\"",
        "auth.memory_kib = 7",
        "auth.memory_kib = 1048577",
        "auth.memory_kib = 8.5",
        "auth.iterations = 0",
        "auth = { memory_kib = 1048576, iterations = 5 }",
        "auth.threads = 257",
        "limits.connections = 2147483649",
        "limits.connections = -1",
        "limits.connections = \"10\"",
        "limits.connections = 99999999999999999999",
        "limits.store_bytes = -1",
        "limits.message_age = \"500ms\"",
        "limits.message_age = \"1500ms\"",
        "timeouts.idle = \"25h\"",
        "timeouts.idle = \"0s\"",
        "protocol.allow_colon = 1",
        "protocol.classic_quiet = \"0ms\"",
        "log.target = \"file\"",
        "log.level = \"INFO\"",
    ];
    for text in wrong {
        let found = load_error(text);
        assert!(found.starts_with("f.toml:1: "), "{found}");
    }
    let long = format!("control.socket = \"/{}\"", "x".repeat(SOCKET_PATH_MAX_BYTES));
    assert!(load_error(&long).contains("may have 107"));
    assert!(read(&format!("control.socket = \"/{}\"", "x".repeat(SOCKET_PATH_MAX_BYTES - 1))).is_ok());
}

#[test]
fn weak_but_allowed_values_only_warn() {
    let weak = [
        "auth.memory_kib = 8",
        "auth.iterations = 1",
        "limits.connections = 2147483648",
        "limits.queue_messages = 1",
        "limits.failures_per_user = 2147483648",
        "limits.store_bytes = 1",
        "limits.message_age = \"1s\"",
        "timeouts.pdu = \"100ms\"",
        "timeouts.login = \"1d\"",
        "protocol.classic_quiet = \"1ms\"",
        "listen.cp = [\"127.0.0.1:0\"]",
        "listen.cp = []",
    ];
    for text in weak {
        let config = read(text).unwrap();
        assert_eq!(config.warnings.len(), 1, "{text}: {:?}", config.warnings);
        assert!(config.warnings[0].starts_with("f.toml:1: "), "{:?}", config.warnings);
    }
    let lowest = read("auth = { memory_kib = 8, iterations = 1 }").unwrap();
    assert_eq!((lowest.auth.hash_params().memory_kib(), lowest.auth.hash_params().iterations()), (8, 1));
}

#[test]
fn addresses_that_cannot_be_had_together_are_a_fault() {
    for text in [
        "listen.cp = [\"0.0.0.0:7\", \"[::]:7\"]",
        "listen.cp = [\"127.0.0.1:7\", \"0.0.0.0:7\"]",
        "listen.cp = [\"[::]:7\", \"127.0.0.1:7\"]",
        "listen.cp = [\"127.0.0.1:7\", \"127.0.0.1:7\"]",
        "listen = { cp = [\"[::]:7\"], classic = [\"127.0.0.1:7\"] }",
        "listen.classic = [\"0.0.0.0:5035\"]",
    ] {
        let found = load_error(text);
        assert!(found.starts_with("f.toml:1: listen: "), "{found}");
    }
    assert!(read("listen.cp = [\"0.0.0.0:7\", \"[::1]:7\", \"[::]:8\"]\nlisten.classic = [\"127.0.0.1:9\"]").is_ok());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cpd.toml");
    std::fs::write(&file, "listen.classic = [\"127.0.0.1:7\"]\n").unwrap();
    let arguments = Arguments { listen: vec!["[::]:7".parse().unwrap()], ..Arguments::default() };
    let fatal = Config::load_from(&arguments, &file).unwrap_err();
    assert!(
        fatal.code == ExitCode::Config && fatal.message.starts_with("--listen: [::]:7 (listen.cp) and 127.0.0.1:7")
    );
}

#[test]
fn only_a_named_file_has_to_exist() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cpd.toml");
    let none = Arguments::default();
    let named = Arguments { config: Some(file.clone()), ..Arguments::default() };
    assert_eq!(Config::load_from(&none, &file).unwrap(), Config::default());
    let fatal = Config::load_from(&named, &file).unwrap_err();
    assert!(fatal.code == ExitCode::Config && fatal.message.contains(file.to_str().unwrap()), "{fatal}");
    std::fs::write(&file, "[log]\nlevel = \"warn\"\n").unwrap();
    assert_eq!(Config::load_from(&none, &file).unwrap().log_level, Level::Warn);
    assert_eq!(Config::load_from(&named, Path::new("/nonexistent")).unwrap().file, Some(file.clone()));
    std::fs::write(&file, b"[log]\n# \xff\n").unwrap();
    assert!(Config::load_from(&none, &file).unwrap_err().message.contains("line 2 is not UTF-8"));
    std::fs::write(&file, vec![b'\n'; usize::try_from(FILE_MAX_BYTES).unwrap() + 1]).unwrap();
    assert!(Config::load_from(&none, &file).unwrap_err().message.contains("longer than"));
    assert_eq!(Config::load_from(&none, dir.path()).unwrap_err().code, ExitCode::Config);
}

#[test]
fn data_moves_every_path_and_a_named_file_and_arguments_override_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cpd.toml");
    std::fs::write(&file, "[listen]\ncp = [\"127.0.0.1:7\"]\n").unwrap();
    let data = dir.path().join("data");
    let mut arguments = Arguments { data: Some(data.clone()), ..Arguments::default() };
    let config = Config::load_from(&arguments, &file).unwrap();
    assert_eq!(config.cp, ["127.0.0.1:5035".parse().unwrap()], "the default file is not read");
    assert_eq!((&config.store_path, &config.control_socket), (&data.join("cpd.db"), &data.join("control.sock")));
    assert_eq!((config.log_target, config.control_group.as_str()), (LogTarget::Stderr, ""));
    assert!(!data.exists(), "nothing is created by reading");
    arguments.config = Some(file);
    let config = Config::load_from(&arguments, Path::new("/nonexistent")).unwrap();
    assert_eq!(config.cp, ["127.0.0.1:7".parse().unwrap()]);
    assert_eq!(config.store_path, data.join("cpd.db"));
    arguments.listen = vec!["127.0.0.1:9".parse().unwrap()];
    let config = Config::load_from(&arguments, Path::new("/nonexistent")).unwrap();
    assert_eq!(config.cp, ["127.0.0.1:9".parse().unwrap()], "the command line has the last word");
    assert!(
        config.is_explicit("listen.cp") && config.is_explicit("store.path") && !config.is_explicit("control.group")
    );
    arguments = Arguments { data: Some("/tmp".to_owned().into()), ..Arguments::default() };
    arguments.data = arguments.data.map(|dir| dir.join("x".repeat(SOCKET_PATH_MAX_BYTES)));
    let fatal = Config::load_from(&arguments, Path::new("/nonexistent")).unwrap_err();
    assert!(fatal.code == ExitCode::Config && fatal.message.starts_with("control.socket: /tmp/xxx"), "{fatal}");
}

#[test]
fn the_data_directory_is_made_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    make_data_dir(&data).unwrap();
    make_data_dir(&data).unwrap();
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o077, 0);
    std::fs::write(dir.path().join("file"), "").unwrap();
    let fatal = make_data_dir(&dir.path().join("file/x")).unwrap_err();
    assert_eq!(fatal.code, ExitCode::CannotCreate);
}

#[test]
fn a_reload_keeps_what_needs_a_restart() {
    let old = Config::default();
    let new = read("listen.cp = []\nlog.level = \"warn\"\nauth.threads = 3\nlimits.connections = 5000\n").unwrap();
    assert_eq!(old.keys_needing_restart(&new), ["listen.cp", "auth.threads"]);
    let (now, kept) = old.reloaded(new);
    assert_eq!(kept, ["listen.cp", "auth.threads"]);
    assert_eq!((&now.cp, now.auth.threads), (&old.cp, 0));
    assert_eq!((now.log_level, now.settings.limits.connections), (Level::Warn, 5000));
    assert!(old.keys_needing_restart(&now).is_empty());
}
