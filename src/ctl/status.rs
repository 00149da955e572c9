//! `cpctl status`: the state of the daemon, its listeners, its configuration and its counters.

use clap::ArgMatches;
use cpd_control::answer::{ConfigurationInfo, ListenerInfo, StatusAnswer};
use cpd_control::{ErrorCode, Request};

use super::client::DaemonClient;
use super::context::{CommandOutput, Context, json_or_text};
use super::exit::Failure;
use super::render::format_pairs;
use super::target::{SocketOrigin, Target};
use crate::duration;

pub(super) fn status(context: &Context, _: &ArgMatches) -> Result<CommandOutput, Failure> {
    let status = fetch_status(context)?;
    Ok(json_or_text(context, &status, || {
        let words = |name: &str| name.replace('_', " ");
        let numbers = [("connections".to_owned(), status.connections)]
            .into_iter()
            .chain(status.sessions.iter().map(|(state, count)| (format!("  {}", words(state)), count)))
            .chain([
                ("queued messages".to_owned(), status.queued_messages),
                ("store bytes".to_owned(), status.store_bytes),
            ])
            .chain(status.counters.iter().map(|(name, count)| (words(name), count)))
            .map(|(name, number)| (name, number.to_string()));
        let first = [("version", status.version.clone()), ("uptime", duration::show_roughly(status.uptime_seconds))];
        let texts = first.into_iter().chain(listener_lines(&status, &context.target));
        let texts = texts.chain(status.configuration.iter().flat_map(configuration_lines));
        format_pairs(&texts.map(|(name, text)| (name.to_owned(), text)).chain(numbers).collect::<Vec<_>>())
    }))
}

/// Asks for the status with details, or without them if the daemon is too old to know that field.
fn fetch_status(context: &Context) -> Result<StatusAnswer, Failure> {
    let mut client = DaemonClient::connect(&context.target)?;
    match client.ask(&Request::Status { details: true }) {
        Err(failure) if failure.daemon_code == Some(ErrorCode::UnknownField) => {
            client.ask(&Request::Status { details: false })
        }
        status => status,
    }
}

/// One line for each listener and, if clients can connect from this machine only, a line that says how to change that.
fn listener_lines(status: &StatusAnswer, target: &Target) -> Vec<(&'static str, String)> {
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
    if let Some(first) = clients.first().filter(|_| clients.iter().all(|one| is_loopback(&one.address))) {
        lines.push((
            "",
            format!("only this machine can connect; for all: {}", how_to_listen_publicly(first, status, target)),
        ));
    }
    lines
}

fn is_loopback(address: &str) -> bool {
    let parsed = address.parse::<std::net::SocketAddr>();
    parsed.is_ok_and(|address| address.ip().to_canonical().is_loopback())
}

/// The command or setting with which other machines can connect.
fn how_to_listen_publicly(first: &ListenerInfo, status: &StatusAnswer, target: &Target) -> String {
    if first.opened_by == "systemd" {
        return "sudo cpd-listen all".to_owned();
    }
    let file = status.configuration.as_ref().and_then(|configuration| configuration.file.as_deref());
    let port = first.address.rsplit(':').next().unwrap_or_default();
    match (file, target.origin) {
        (Some(file), _) => format!("listen.cp = [\"[::]:{port}\"] in {file}, then a restart"),
        (None, SocketOrigin::Data) => {
            let folder = target.socket.parent().unwrap_or(std::path::Path::new("."));
            format!("cpd --data {} --listen [::]:{port}", folder.display())
        }
        (None, SocketOrigin::Default | SocketOrigin::Named) => format!("start it with --listen [::]:{port}"),
    }
}

fn configuration_lines(found: &ConfigurationInfo) -> Vec<(&'static str, String)> {
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
    use crate::ctl::service::ServiceManager;

    fn target(origin: SocketOrigin) -> Target {
        Target {
            socket: PathBuf::from("/home/try/control.sock"),
            origin,
            timeout: Duration::from_secs(5),
            may_start_service: false,
            manager: ServiceManager::default(),
        }
    }

    fn rendered(listeners: &[(&str, &str, &str)], file: Option<&str>, origin: SocketOrigin) -> String {
        let listener = |(listener, address, opened_by): &(&str, &str, &str)| ListenerInfo {
            listener: (*listener).to_owned(),
            address: (*address).to_owned(),
            opened_by: (*opened_by).to_owned(),
        };
        let status = StatusAnswer {
            listeners: Some(listeners.iter().map(listener).collect()),
            configuration: Some(ConfigurationInfo { file: file.map(str::to_owned), ..ConfigurationInfo::default() }),
            ..StatusAnswer::default()
        };
        let lines = listener_lines(&status, &target(origin));
        lines.into_iter().map(|(name, text)| format!("{name}: {text}\n")).collect()
    }

    #[test]
    fn the_advice_on_listening_publicly_fits_the_setting_in_force() {
        let control = ("control", "/run/cpd/control.sock", "systemd");
        assert_eq!(
            rendered(&[("cp", "127.0.0.1:5035", "systemd"), control], Some("/etc/cpd/cpd.toml"), SocketOrigin::Default),
            "listens: cp 127.0.0.1:5035 (systemd, cpd.socket)\n\
             listens: control /run/cpd/control.sock (systemd, cpd-control.socket)\n\
             : only this machine can connect; for all: sudo cpd-listen all\n"
        );
        let own = [("cp", "127.0.0.1:7", "cpd"), ("cp", "[::1]:7", "cpd")];
        let with_file = rendered(&own, Some("/tmp/c.toml"), SocketOrigin::Data);
        assert!(
            with_file.ends_with("for all: listen.cp = [\"[::]:7\"] in /tmp/c.toml, then a restart\n"),
            "{with_file}"
        );
        let data = rendered(&own, None, SocketOrigin::Data);
        assert!(data.ends_with("for all: cpd --data /home/try --listen [::]:7\n"), "{data}");
        assert!(rendered(&own, None, SocketOrigin::Named).contains("--listen [::]:7"));
        for open in ["0.0.0.0:7", "[::]:7", "192.0.2.1:7"] {
            let all = [("cp", "127.0.0.1:7", "cpd"), ("classic", open, "cpd")];
            assert!(!rendered(&all, None, SocketOrigin::Data).contains("only this machine"), "{open}");
        }
        assert_eq!(rendered(&[], None, SocketOrigin::Default), "", "an older daemon does not say");
    }

    #[test]
    fn a_configuration_that_is_not_in_force_is_reported() {
        let lines = configuration_lines(&ConfigurationInfo {
            file: Some("/etc/cpd/cpd.toml".to_owned()),
            read_at: "2026-01-01T00:00:00Z".to_owned(),
            problem: Some("/etc/cpd/cpd.toml:3: unknown key".to_owned()),
            problem_since: Some("2026-01-02T00:00:00Z".to_owned()),
            needs_restart: vec!["listen.cp".to_owned(), "store.path".to_owned()],
        });
        assert_eq!(lines[1].1, "the file as it is now: /etc/cpd/cpd.toml:3: unknown key (since 2026-01-02T00:00:00Z)");
        assert_eq!(lines[2], ("needs a restart", "listen.cp, store.path".to_owned()));
        assert_eq!(configuration_lines(&ConfigurationInfo::default()), [("configuration", "the defaults".to_owned())]);
    }
}
