//! The commands: the requests that each sends to the daemon, and how it shows the answers.

use clap::ArgMatches;
use cp_proto::secret::WipedText;
use cp_proto::values::{Password, Username};
use cpd_control::answer::{
    CheckPage, Done, MessageInfo, Pong, Purged, QueueInfo, Removed, SessionInfo, SessionsEnded, StatusAnswer, UserInfo,
};
use cpd_control::{ErrorCode, PurgeFilter, ROWS_MAX, Request};
use serde::Serialize;

use super::client::DaemonClient;
use super::context::{CommandOutput, Context, json_or_text};
use super::exit::{ExitStatus, Failure};
use super::render::{Table, format_count, format_pairs};
use super::{generate, prompt};
use crate::duration;

type CommandResult = Result<CommandOutput, Failure>;

/// Shown in text output where there is no value.
const NO_VALUE: &str = "-";
/// Added to the error if a generated password was set but could not be printed.
const PASSWORD_NOT_SHOWN: &str =
    "the generated password is in force but could not be printed; set a new one with user passwd";

pub(super) fn user_add(context: &Context, arguments: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<&'a str>,
    }
    let name = username(arguments, "NAME")?;
    let NewPassword { password, generated } = NewPassword::obtain(context, arguments, name, ExpectedUser::Absent)?;
    let _: Done = DaemonClient::connect(&context.target)?.ask(&Request::UserAdd { name, password })?;
    let shown = generated.as_deref();
    let document = Document { name: name.as_str(), password: shown };
    let text = shown.map_or_else(|| format!("user {name} added\n"), |password| format!("{password}\n"));
    Ok(CommandOutput {
        write_failure_note: shown.and(Some(PASSWORD_NOT_SHOWN)),
        ..json_or_text(context, &document, || text)
    })
}

pub(super) fn user_passwd(context: &Context, arguments: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        sessions: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<&'a str>,
    }
    let name = username(arguments, "NAME")?;
    let NewPassword { password, generated } = NewPassword::obtain(context, arguments, name, ExpectedUser::Existing)?;
    let request = Request::UserPasswd { name, password, keep_sessions: arguments.get_flag("keep-sessions") };
    let ended: SessionsEnded = DaemonClient::connect(&context.target)?.ask(&request)?;
    let shown = generated.as_deref();
    let document = Document { name: name.as_str(), sessions: ended.sessions, password: shown };
    let text = match shown {
        Some(password) => format!("{password}\n"),
        None => format!("password of {name} changed, {} ended\n", format_count(ended.sessions, "session")),
    };
    Ok(CommandOutput {
        write_failure_note: shown.and(Some(PASSWORD_NOT_SHOWN)),
        ..json_or_text(context, &document, || text)
    })
}

pub(super) fn user_list(context: &Context, _: &ArgMatches) -> CommandResult {
    let users: Vec<UserInfo> =
        DaemonClient::connect(&context.target)?.rows_by_name(|after| Request::UserList { after, limit: ROWS_MAX })?;
    Ok(json_or_text(context, &users, || {
        let mut table = Table::new(&["NAME", "LOCKED", "CREATED", "LAST LOGIN", ">QUEUED"]);
        for user in &users {
            let last = user.last_login.as_deref().unwrap_or(NO_VALUE).to_owned();
            table.add_row([
                user.name.clone(),
                yes_or_no(user.locked),
                user.created.clone(),
                last,
                user.queued.to_string(),
            ]);
        }
        table.text()
    }))
}

pub(super) fn user_show(context: &Context, arguments: &ArgMatches) -> CommandResult {
    let name = username(arguments, "NAME")?;
    let user: UserInfo = DaemonClient::connect(&context.target)?.ask(&Request::UserShow { name })?;
    Ok(json_or_text(context, &user, || {
        format_pairs(&[
            ("name", user.name.clone()),
            ("locked", yes_or_no(user.locked)),
            ("created", user.created.clone()),
            ("last login", user.last_login.as_deref().unwrap_or(NO_VALUE).to_owned()),
            ("queued", user.queued.to_string()),
            (
                "throttled",
                user.throttled.as_ref().map_or_else(
                    || yes_or_no(false),
                    |until| format!("until {until}, but for where it has logged in before"),
                ),
            ),
        ])
    }))
}

pub(super) fn user_lock(context: &Context, arguments: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        sessions: u64,
    }
    let name = username(arguments, "NAME")?;
    let SessionsEnded { sessions } = DaemonClient::connect(&context.target)?.ask(&Request::UserLock { name })?;
    let document = Document { name: name.as_str(), sessions };
    Ok(json_or_text(context, &document, || {
        format!("user {name} locked, {} ended\n", format_count(sessions, "session"))
    }))
}

pub(super) fn user_unlock(context: &Context, arguments: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
    }
    let name = username(arguments, "NAME")?;
    let _: Done = DaemonClient::connect(&context.target)?.ask(&Request::UserUnlock { name })?;
    Ok(json_or_text(context, &Document { name: name.as_str() }, || format!("user {name} unlocked\n")))
}

pub(super) fn user_remove(context: &Context, arguments: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        messages: u64,
        sessions: u64,
    }
    let name = username(arguments, "NAME")?;
    confirm(context, arguments, name, |queued| {
        format!("Remove {name} and the {} in its queue?", format_count(queued, "message"))
    })?;
    let Removed { messages, sessions } = DaemonClient::connect(&context.target)?.ask(&Request::UserRemove { name })?;
    let document = Document { name: name.as_str(), messages, sessions };
    Ok(json_or_text(context, &document, || {
        let (messages, sessions) = (format_count(messages, "message"), format_count(sessions, "session"));
        format!("user {name} removed, and {messages} in its queue; {sessions} ended\n")
    }))
}

pub(super) fn queue_list(context: &Context, _: &ArgMatches) -> CommandResult {
    let queues: Vec<QueueInfo> =
        DaemonClient::connect(&context.target)?.rows_by_name(|after| Request::QueueList { after, limit: ROWS_MAX })?;
    Ok(json_or_text(context, &queues, || {
        let mut table = Table::new(&["USER", ">MESSAGES", ">BYTES", "OLDEST"]);
        for queue in &queues {
            let (messages, bytes) = (queue.messages.to_string(), queue.bytes.to_string());
            table.add_row([queue.user.clone(), messages, bytes, queue.oldest.clone()]);
        }
        table.text()
    }))
}

pub(super) fn queue_show(context: &Context, arguments: &ArgMatches) -> CommandResult {
    let user = username(arguments, "USER")?;
    let body = arguments.get_flag("body");
    let messages: Vec<MessageInfo> = DaemonClient::connect(&context.target)?
        .rows_by_id(|after| Request::QueueShow { user, after, limit: ROWS_MAX, body })?;
    Ok(json_or_text(context, &messages, || {
        let mut headers = vec![">ID", "SENDER", "QUEUED AT", ">BYTES"];
        headers.extend(body.then_some("BODY"));
        let mut table = Table::new(&headers);
        for message in &messages {
            let (id, bytes) = (message.id.to_string(), message.bytes.to_string());
            let mut cells = vec![id, message.sender.clone(), message.queued_at.clone(), bytes];
            cells.extend(body.then(|| message.body.clone().unwrap_or_default()));
            table.add_row(cells);
        }
        table.text()
    }))
}

pub(super) fn queue_purge(context: &Context, arguments: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document<'a> {
        user: &'a str,
        messages: u64,
    }
    let user = username(arguments, "USER")?;
    let which = PurgeFilter {
        id: arguments.get_one("id").copied(),
        from: arguments.get_one("from").copied(),
        older_than_seconds: arguments.get_one("older-than").copied(),
    };
    confirm(context, arguments, user, |queued| {
        let mut those = String::new();
        if let Some(id) = which.id {
            those += &format!(" with id {id}");
        }
        if let Some(from) = which.from {
            those += &format!(" from {from}");
        }
        if let Some(seconds) = which.older_than_seconds {
            those += &format!(" older than {}", duration::show_roughly(seconds));
        }
        let all = format_count(queued, "message");
        if those.is_empty() {
            format!("Delete the {all} queued for {user}?")
        } else {
            format!("Of the {all} queued for {user}, delete those{those}?")
        }
    })?;
    let request = Request::QueuePurge { user, which };
    let Purged { messages } = DaemonClient::connect(&context.target)?.ask(&request)?;
    let document = Document { user: user.as_str(), messages };
    Ok(json_or_text(context, &document, || {
        format!("{} deleted from the queue of {user}\n", format_count(messages, "message"))
    }))
}

pub(super) fn store_check(context: &Context, _: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document {
        rows: u64,
        damaged: Vec<String>,
    }
    let mut client = DaemonClient::connect(&context.target)?;
    let (mut document, mut after) = (Document { rows: 0, damaged: Vec::new() }, 0);
    loop {
        let page: CheckPage = client.ask(&Request::StoreCheck { after, limit: ROWS_MAX })?;
        document.rows = document.rows.saturating_add(page.rows);
        document.damaged.extend(page.damaged);
        let Some(next) = page.next else { break };
        after = client.checked_next(after, next)?;
    }
    let damaged = u64::try_from(document.damaged.len()).unwrap_or(u64::MAX);
    let mut output = json_or_text(context, &document, || {
        let mut table = Table::new(&["DAMAGED"]);
        document.damaged.iter().for_each(|row| table.add_row([row.clone()]));
        let list = if damaged == 0 { String::new() } else { table.text() };
        format!("{list}{} checked, {damaged} damaged\n", format_count(document.rows, "row"))
    });
    if damaged > 0 {
        let message = format!("the store is damaged: {} not as written", format_count(damaged, "row"));
        output.failure = Some(Failure::new(ExitStatus::Refused, message));
    }
    Ok(output)
}

pub(super) fn session_list(context: &Context, _: &ArgMatches) -> CommandResult {
    let sessions: Vec<SessionInfo> =
        DaemonClient::connect(&context.target)?.rows_by_id(|after| Request::SessionList { after, limit: ROWS_MAX })?;
    Ok(json_or_text(context, &sessions, || {
        let mut table = Table::new(&[">ID", "USER", "ADDRESS", "LISTENER", "STATE", "SINCE", ">IDLE"]);
        for session in &sessions {
            table.add_row([
                session.id.to_string(),
                session.user.as_deref().unwrap_or(NO_VALUE).to_owned(),
                session.address.clone(),
                session.listener.clone(),
                session.state.clone(),
                session.since.clone(),
                duration::show_roughly(session.idle_seconds),
            ]);
        }
        table.text()
    }))
}

pub(super) fn session_close(context: &Context, arguments: &ArgMatches) -> CommandResult {
    #[derive(Serialize)]
    struct Document {
        id: u64,
    }
    let id = *arguments.get_one::<u64>("ID").ok_or_else(|| missing_argument("ID"))?;
    let _: Done = DaemonClient::connect(&context.target)?.ask(&Request::SessionClose { id })?;
    Ok(json_or_text(context, &Document { id }, || format!("session {id} closed\n")))
}

pub(super) fn ping(context: &Context, _: &ArgMatches) -> CommandResult {
    let mut client = DaemonClient::connect(&context.target)?;
    let pong = match client.ask::<Pong>(&Request::Ping) {
        // An older daemon does not know `ping`; `status` is cheap, too.
        Err(failure) if failure.daemon_code == Some(ErrorCode::UnknownCommand) => {
            Pong { version: client.ask::<StatusAnswer>(&Request::Status { details: false })?.version }
        }
        pong => pong?,
    };
    Ok(json_or_text(context, &pong, || format!("cpd {} answers\n", pong.version)))
}

/// A password to set, and its text if it was generated and must be printed.
struct NewPassword {
    password: Password,
    generated: Option<WipedText>,
}

impl NewPassword {
    /// Generates the password, reads it from standard input or asks for it, depending on the flags.
    fn obtain(
        context: &Context,
        arguments: &ArgMatches,
        name: Username,
        wanted: ExpectedUser,
    ) -> Result<NewPassword, Failure> {
        if arguments.get_flag("generate") {
            let text = WipedText::from(generate::password()?);
            let password = Password::parse(text.as_bytes())
                .ok_or_else(|| Failure::new(ExitStatus::Refused, "the generated password is not valid"))?;
            return Ok(NewPassword { password, generated: Some(text) });
        }
        let password = if arguments.get_flag("password-stdin") {
            prompt::read_password_from_stdin()?
        } else if prompt::is_interactive() {
            wanted.check(context, name)?;
            prompt::ask_password_twice(name.as_str())?
        } else {
            let message = "there is no terminal to ask for the password; use --password-stdin or --generate";
            return Err(Failure::new(ExitStatus::Usage, message));
        };
        Ok(NewPassword { password, generated: None })
    }
}

/// Whether the user whose password is asked for must exist.
#[derive(Clone, Copy)]
enum ExpectedUser {
    Absent,
    Existing,
}

impl ExpectedUser {
    /// Checks, before the password is asked for, that the daemon answers and that the user exists or does not exist, so
    /// that no password is typed in vain. This may change before the request is sent; the daemon checks again then.
    fn check(self, context: &Context, name: Username) -> Result<(), Failure> {
        let found = DaemonClient::connect(&context.target)?.ask::<UserInfo>(&Request::UserShow { name });
        match (self, found) {
            (ExpectedUser::Absent, Ok(_)) => {
                let message = format!("there is a user '{name}' already");
                Err(Failure { daemon_code: Some(ErrorCode::UserExists), ..Failure::new(ExitStatus::Refused, message) })
            }
            (ExpectedUser::Absent, Err(failure)) if failure.daemon_code == Some(ErrorCode::NoSuchUser) => Ok(()),
            (ExpectedUser::Existing, Ok(_)) => Ok(()),
            (_, Err(failure)) => Err(failure),
        }
    }
}

/// Asks for confirmation on the terminal unless `--yes` is set. `question` gets the number of messages that are queued
/// for `user`.
///
/// # Errors
/// [`ExitStatus::Refused`] if the user declines, [`ExitStatus::Usage`] if there is no terminal.
fn confirm(
    context: &Context,
    arguments: &ArgMatches,
    user: Username,
    question: impl FnOnce(u64) -> String,
) -> Result<(), Failure> {
    if arguments.get_flag("yes") {
        return Ok(());
    }
    if !prompt::is_interactive() {
        return Err(Failure::new(
            ExitStatus::Usage,
            "there is no terminal to ask at; use --yes to go on without asking",
        ));
    }
    let info: UserInfo = DaemonClient::connect(&context.target)?.ask(&Request::UserShow { name: user })?;
    if prompt::ask_yes_or_no(&question(info.queued))? {
        Ok(())
    } else {
        Err(Failure::new(ExitStatus::Refused, "nothing was changed"))
    }
}

fn username(arguments: &ArgMatches, name: &str) -> Result<Username, Failure> {
    arguments.get_one(name).copied().ok_or_else(|| missing_argument(name))
}

/// The error for a missing argument. The parser requires all arguments in the table of commands, so this happens only
/// if a command uses an argument that the table does not list.
fn missing_argument(name: &str) -> Failure {
    Failure::new(ExitStatus::Usage, format!("{name} is missing"))
}

fn yes_or_no(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}
