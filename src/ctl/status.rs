//! `cpctl status`: how the daemon is, where it listens, by which configuration, and what it did.

use clap::ArgMatches;

use super::client::Client;
use super::exit::Failure;
use super::render::pairs;
use super::run::show;
use super::target::{Origin, Target};
use super::{Context, Output, age};
use crate::control::answer::{ConfigurationInfo, ListenerInfo, Status};
use crate::control::{ErrorCode, Request};

pub(super) fn status(context: &Context, _: &ArgMatches) -> Result<Output, Failure> {
    let status = ask(context)?;
    Ok(show(context, &status, || {
        let (states, counters) = (&status.sessions, &status.counters);
        let numbers = [
            ("connections", status.connections),
            ("  idle", states.idle),
            ("  user validated", states.user_validated),
            ("  authentication validated", states.authentication_validated),
            ("  process command", states.process_command),
            ("  sending message", states.sending_message),
            ("  receiving message", states.receiving_message),
            ("  error processing", states.error_processing),
            ("queued messages", status.queued_messages),
            ("store bytes", status.store_bytes),
            ("connections accepted", counters.connections_accepted),
            ("connections refused", counters.connections_refused),
            ("logins", counters.logins),
            ("login failures", counters.login_failures),
            ("logins throttled", counters.logins_throttled),
            ("messages accepted", counters.messages_accepted),
            ("messages refused", counters.messages_refused),
            ("messages delivered", counters.messages_delivered),
            ("messages expired", counters.messages_expired),
            ("messages purged", counters.messages_purged),
            ("bad commands", counters.bad_commands),
            ("timeouts", counters.timeouts),
            ("store batches", counters.store_batches),
            ("store failures", counters.store_failures),
        ];
        let later =
            [("messages removed", counters.messages_removed), ("messages at start", counters.messages_at_start)];
        let mut lines = vec![("version", status.version.clone()), ("uptime", age::show(status.uptime_seconds))];
        lines.extend(where_it_listens(&status, &context.socket));
        lines.extend(status.configuration.iter().flat_map(configuration));
        lines.extend(numbers.iter().map(|(name, number)| (*name, number.to_string())));
        lines.extend(later.iter().filter_map(|(name, number)| Some((*name, (*number)?.to_string()))));
        pairs(&lines)
    }))
}

/// The whole status, or what an older daemon knows of it.
fn ask(context: &Context) -> Result<Status, Failure> {
    let mut client = Client::connect(&context.socket)?;
    match client.ask(&Request::Status { details: true }) {
        Err(failure) if failure.refusal == Some(ErrorCode::UnknownField) => {
            client.ask(&Request::Status { details: false })
        }
        status => status,
    }
}

/// A line for each listener, and what to do where only this machine can connect.
fn where_it_listens(status: &Status, target: &Target) -> Vec<(&'static str, String)> {
    let listeners = status.listeners.as_deref().unwrap_or_default();
    let mut lines: Vec<(&str, String)> = listeners
        .iter()
        .map(|one| {
            let opened_by = match (one.opened_by.as_str(), one.listener.as_str()) {
                ("systemd", "cp") => "systemd, cpd.socket",
                ("systemd", "control") => "systemd, cpd-control.socket",
                (other, _) => other,
            };
            ("listens", format!("{} {} ({opened_by})", one.listener, one.address))
        })
        .collect();
    let clients: Vec<&ListenerInfo> = listeners.iter().filter(|one| one.listener != "control").collect();
    if let Some(first) = clients.first().filter(|_| clients.iter().all(|one| is_local(&one.address))) {
        lines.push(("", format!("only this machine can connect; for all: {}", how_to_open(first, status, target))));
    }
    lines
}

fn is_local(address: &str) -> bool {
    let parsed = address.parse::<std::net::SocketAddr>();
    parsed.is_ok_and(|address| address.ip().to_canonical().is_loopback())
}

fn how_to_open(first: &ListenerInfo, status: &Status, target: &Target) -> String {
    if first.opened_by == "systemd" {
        return "sudo cpd-listen all".to_owned();
    }
    let file = status.configuration.as_ref().and_then(|configuration| configuration.file.as_deref());
    let port = first.address.rsplit(':').next().unwrap_or_default();
    match (file, target.origin) {
        (Some(file), _) => format!("listen.cp = [\"[::]:{port}\"] in {file}, then a restart"),
        (None, Origin::Data) => {
            let folder = target.socket.parent().unwrap_or(std::path::Path::new("."));
            format!("cpd --data {} --listen [::]:{port}", folder.display())
        }
        (None, Origin::Default | Origin::Named) => format!("start it with --listen [::]:{port}"),
    }
}

fn configuration(found: &ConfigurationInfo) -> Vec<(&'static str, String)> {
    let mut lines = vec![("configuration", found.file.clone().unwrap_or_else(|| "the defaults".to_owned()))];
    if let Some(problem) = &found.problem {
        let since = found.problem_since.as_deref().unwrap_or("the last reload");
        lines.push(("not in force", format!("the file as it is now: {problem} (since {since})")));
    }
    if !found.needs_restart.is_empty() {
        lines.push(("needs a restart", found.needs_restart.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::ctl::service::Manager;

    fn target(origin: Origin) -> Target {
        Target {
            socket: PathBuf::from("/home/try/control.sock"),
            origin,
            timeout: Duration::from_secs(5),
            may_start: false,
            manager: Manager::default(),
        }
    }

    fn told(listeners: &[(&str, &str, &str)], file: Option<&str>, origin: Origin) -> String {
        let listener = |(listener, address, opened_by): &(&str, &str, &str)| ListenerInfo {
            listener: (*listener).to_owned(),
            address: (*address).to_owned(),
            opened_by: (*opened_by).to_owned(),
        };
        let status = Status {
            listeners: Some(listeners.iter().map(listener).collect()),
            configuration: Some(ConfigurationInfo { file: file.map(str::to_owned), ..ConfigurationInfo::default() }),
            ..Status::default()
        };
        let lines = where_it_listens(&status, &target(origin));
        lines.into_iter().map(|(name, text)| format!("{name}: {text}\n")).collect()
    }

    #[test]
    fn the_step_that_opens_it_further_fits_whoever_decides() {
        let control = ("control", "/run/cpd/control.sock", "systemd");
        assert_eq!(
            told(&[("cp", "127.0.0.1:5035", "systemd"), control], Some("/etc/cpd/cpd.toml"), Origin::Default),
            "listens: cp 127.0.0.1:5035 (systemd, cpd.socket)\n\
             listens: control /run/cpd/control.sock (systemd, cpd-control.socket)\n\
             : only this machine can connect; for all: sudo cpd-listen all\n"
        );
        let own = [("cp", "127.0.0.1:7", "cpd"), ("cp", "[::1]:7", "cpd")];
        let with_file = told(&own, Some("/tmp/c.toml"), Origin::Data);
        assert!(
            with_file.ends_with("for all: listen.cp = [\"[::]:7\"] in /tmp/c.toml, then a restart\n"),
            "{with_file}"
        );
        let data = told(&own, None, Origin::Data);
        assert!(data.ends_with("for all: cpd --data /home/try --listen [::]:7\n"), "{data}");
        assert!(told(&own, None, Origin::Named).contains("--listen [::]:7"));
        for open in ["0.0.0.0:7", "[::]:7", "192.0.2.1:7"] {
            let all = [("cp", "127.0.0.1:7", "cpd"), ("classic", open, "cpd")];
            assert!(!told(&all, None, Origin::Data).contains("only this machine"), "{open}");
        }
        assert_eq!(told(&[], None, Origin::Default), "", "an older daemon does not say");
    }

    #[test]
    fn a_configuration_that_is_not_in_force_is_told() {
        let lines = configuration(&ConfigurationInfo {
            file: Some("/etc/cpd/cpd.toml".to_owned()),
            read_at: "2026-01-01T00:00:00Z".to_owned(),
            problem: Some("/etc/cpd/cpd.toml:3: unknown key".to_owned()),
            problem_since: Some("2026-01-02T00:00:00Z".to_owned()),
            needs_restart: vec!["listen.cp".to_owned(), "store.path".to_owned()],
        });
        assert_eq!(lines[1].1, "the file as it is now: /etc/cpd/cpd.toml:3: unknown key (since 2026-01-02T00:00:00Z)");
        assert_eq!(lines[2], ("needs a restart", "listen.cp, store.path".to_owned()));
        assert_eq!(configuration(&ConfigurationInfo::default()), [("configuration", "the defaults".to_owned())]);
    }
}
