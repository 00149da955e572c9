//! The commands: what each asks the daemon, and how it shows the answer.

use clap::ArgMatches;
use serde::Serialize;

use super::client::Client;
use super::exit::{Exit, Failure};
use super::render::{Table, count, json, pairs};
use super::{Context, Output, age, generate, prompt};
use crate::control::answer::{
    Checked, Done, Ended, MessageInfo, Pong, Purged, QueueInfo, Removed, SessionInfo, Status, UserInfo,
};
use crate::control::frame::wipe;
use crate::control::{ErrorCode, PurgeFilter, ROWS_MAX, Request};
use crate::proto::types::{Password, Username};

type Outcome = Result<Output, Failure>;

/// What shows on the screen where there is no value.
const NOTHING: &str = "-";
/// Of a password that was made here and set.
const PASSWORD_UNREAD: &str = "the password that was made is set, and nobody has read it: set another with user passwd";

pub(super) fn user_add(context: &Context, arguments: &ArgMatches) -> Outcome {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<&'a str>,
    }
    let name = username(arguments, "NAME")?;
    let NewPassword { password, generated } = NewPassword::obtain(context, arguments, name, Wanted::New)?;
    let _: Done = Client::connect(&context.socket)?.ask(&Request::UserAdd { name, password })?;
    let shown = generated.as_ref().map(|text| text.0.as_str());
    let document = Document { name: name.as_str(), password: shown };
    let text = shown.map_or_else(|| format!("user {name} added\n"), |password| format!("{password}\n"));
    Ok(Output { unread: shown.and(Some(PASSWORD_UNREAD)), ..show(context, &document, || text) })
}

pub(super) fn user_passwd(context: &Context, arguments: &ArgMatches) -> Outcome {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        sessions: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<&'a str>,
    }
    let name = username(arguments, "NAME")?;
    let NewPassword { password, generated } = NewPassword::obtain(context, arguments, name, Wanted::Known)?;
    let request = Request::UserPasswd { name, password, keep_sessions: arguments.get_flag("keep-sessions") };
    let ended: Ended = Client::connect(&context.socket)?.ask(&request)?;
    let shown = generated.as_ref().map(|text| text.0.as_str());
    let document = Document { name: name.as_str(), sessions: ended.sessions, password: shown };
    let text = match shown {
        Some(password) => format!("{password}\n"),
        None => format!("password of {name} changed, {} ended\n", count(ended.sessions, "session")),
    };
    Ok(Output { unread: shown.and(Some(PASSWORD_UNREAD)), ..show(context, &document, || text) })
}

pub(super) fn user_list(context: &Context, _: &ArgMatches) -> Outcome {
    let users: Vec<UserInfo> =
        Client::connect(&context.socket)?.rows_by_name(|after| Request::UserList { after, limit: ROWS_MAX })?;
    Ok(show(context, &users, || {
        let mut table = Table::new(&["NAME", "LOCKED", "CREATED", "LAST LOGIN", ">QUEUED"]);
        for user in &users {
            let last = user.last_login.as_deref().unwrap_or(NOTHING).to_owned();
            table.row([user.name.clone(), yes(user.locked), user.created.clone(), last, user.queued.to_string()]);
        }
        table.text()
    }))
}

pub(super) fn user_show(context: &Context, arguments: &ArgMatches) -> Outcome {
    let name = username(arguments, "NAME")?;
    let user: UserInfo = Client::connect(&context.socket)?.ask(&Request::UserShow { name })?;
    Ok(show(context, &user, || {
        pairs(&[
            ("name", user.name.clone()),
            ("locked", yes(user.locked)),
            ("created", user.created.clone()),
            ("last login", user.last_login.as_deref().unwrap_or(NOTHING).to_owned()),
            ("queued", user.queued.to_string()),
            (
                "throttled",
                user.throttled.as_ref().map_or_else(
                    || yes(false),
                    |until| format!("until {until}, but for where it has logged in before"),
                ),
            ),
        ])
    }))
}

pub(super) fn user_lock(context: &Context, arguments: &ArgMatches) -> Outcome {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        sessions: u64,
    }
    let name = username(arguments, "NAME")?;
    let Ended { sessions } = Client::connect(&context.socket)?.ask(&Request::UserLock { name })?;
    let document = Document { name: name.as_str(), sessions };
    Ok(show(context, &document, || format!("user {name} locked, {} ended\n", count(sessions, "session"))))
}

pub(super) fn user_unlock(context: &Context, arguments: &ArgMatches) -> Outcome {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
    }
    let name = username(arguments, "NAME")?;
    let _: Done = Client::connect(&context.socket)?.ask(&Request::UserUnlock { name })?;
    Ok(show(context, &Document { name: name.as_str() }, || format!("user {name} unlocked\n")))
}

pub(super) fn user_remove(context: &Context, arguments: &ArgMatches) -> Outcome {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        messages: u64,
        sessions: u64,
    }
    let name = username(arguments, "NAME")?;
    confirm(context, arguments, name, |queued| {
        format!("Remove {name} and the {} in its queue?", count(queued, "message"))
    })?;
    let Removed { messages, sessions } = Client::connect(&context.socket)?.ask(&Request::UserRemove { name })?;
    let document = Document { name: name.as_str(), messages, sessions };
    Ok(show(context, &document, || {
        let (messages, sessions) = (count(messages, "message"), count(sessions, "session"));
        format!("user {name} removed, and {messages} in its queue; {sessions} ended\n")
    }))
}

pub(super) fn queue_list(context: &Context, _: &ArgMatches) -> Outcome {
    let queues: Vec<QueueInfo> =
        Client::connect(&context.socket)?.rows_by_name(|after| Request::QueueList { after, limit: ROWS_MAX })?;
    Ok(show(context, &queues, || {
        let mut table = Table::new(&["USER", ">MESSAGES", ">BYTES", "OLDEST"]);
        for queue in &queues {
            let (messages, bytes) = (queue.messages.to_string(), queue.bytes.to_string());
            table.row([queue.user.clone(), messages, bytes, queue.oldest.clone()]);
        }
        table.text()
    }))
}

pub(super) fn queue_show(context: &Context, arguments: &ArgMatches) -> Outcome {
    let user = username(arguments, "USER")?;
    let body = arguments.get_flag("body");
    let messages: Vec<MessageInfo> = Client::connect(&context.socket)?.rows_by_id(|after| Request::QueueShow {
        user,
        after,
        limit: ROWS_MAX,
        body,
    })?;
    Ok(show(context, &messages, || {
        let mut headers = vec![">ID", "SENDER", "QUEUED AT", ">BYTES"];
        headers.extend(body.then_some("BODY"));
        let mut table = Table::new(&headers);
        for message in &messages {
            let (id, bytes) = (message.id.to_string(), message.bytes.to_string());
            let mut cells = vec![id, message.sender.clone(), message.queued_at.clone(), bytes];
            cells.extend(body.then(|| message.body.clone().unwrap_or_default()));
            table.row(cells);
        }
        table.text()
    }))
}

pub(super) fn queue_purge(context: &Context, arguments: &ArgMatches) -> Outcome {
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
            those += &format!(" older than {}", age::show(seconds));
        }
        let all = count(queued, "message");
        if those.is_empty() {
            format!("Delete the {all} queued for {user}?")
        } else {
            format!("Of the {all} queued for {user}, delete those{those}?")
        }
    })?;
    let request = Request::QueuePurge { user, which };
    let Purged { messages } = Client::connect(&context.socket)?.ask(&request)?;
    let document = Document { user: user.as_str(), messages };
    Ok(show(context, &document, || format!("{} deleted from the queue of {user}\n", count(messages, "message"))))
}

pub(super) fn store_check(context: &Context, _: &ArgMatches) -> Outcome {
    #[derive(Serialize)]
    struct Document {
        rows: u64,
        damaged: Vec<String>,
    }
    let mut client = Client::connect(&context.socket)?;
    let (mut document, mut after) = (Document { rows: 0, damaged: Vec::new() }, 0);
    loop {
        let page: Checked = client.ask(&Request::StoreCheck { after, limit: ROWS_MAX })?;
        document.rows = document.rows.saturating_add(page.rows);
        document.damaged.extend(page.damaged);
        let Some(next) = page.next else { break };
        after = client.further(after, next)?;
    }
    let damaged = u64::try_from(document.damaged.len()).unwrap_or(u64::MAX);
    let mut output = show(context, &document, || {
        let mut table = Table::new(&["DAMAGED"]);
        document.damaged.iter().for_each(|row| table.row([row.clone()]));
        let list = if damaged == 0 { String::new() } else { table.text() };
        format!("{list}{} checked, {damaged} damaged\n", count(document.rows, "row"))
    });
    if damaged > 0 {
        let message = format!("the store is damaged: {} not what was written", count(damaged, "row"));
        output.complaint = Some(Failure::new(Exit::Refused, message));
    }
    Ok(output)
}

pub(super) fn session_list(context: &Context, _: &ArgMatches) -> Outcome {
    let sessions: Vec<SessionInfo> =
        Client::connect(&context.socket)?.rows_by_id(|after| Request::SessionList { after, limit: ROWS_MAX })?;
    Ok(show(context, &sessions, || {
        let mut table = Table::new(&[">ID", "USER", "ADDRESS", "LISTENER", "STATE", "SINCE", ">IDLE"]);
        for session in &sessions {
            table.row([
                session.id.to_string(),
                session.user.as_deref().unwrap_or(NOTHING).to_owned(),
                session.address.clone(),
                session.listener.clone(),
                session.state.clone(),
                session.since.clone(),
                age::show(session.idle_seconds),
            ]);
        }
        table.text()
    }))
}

pub(super) fn session_close(context: &Context, arguments: &ArgMatches) -> Outcome {
    #[derive(Serialize)]
    struct Document {
        id: u64,
    }
    let id = *arguments.get_one::<u64>("ID").ok_or_else(|| missing("ID"))?;
    let _: Done = Client::connect(&context.socket)?.ask(&Request::SessionClose { id })?;
    Ok(show(context, &Document { id }, || format!("session {id} closed\n")))
}

pub(super) fn ping(context: &Context, _: &ArgMatches) -> Outcome {
    let mut client = Client::connect(&context.socket)?;
    let pong = match client.ask::<Pong>(&Request::Ping) {
        // A daemon that is older than this question has another that costs little.
        Err(failure) if failure.refusal == Some(ErrorCode::UnknownCommand) => {
            Pong { version: client.ask::<Status>(&Request::Status { details: false })?.version }
        }
        pong => pong?,
    };
    Ok(show(context, &pong, || format!("cpd {} answers\n", pong.version)))
}

/// The document for programs, or the text for people.
pub(super) fn show(context: &Context, document: &impl Serialize, text: impl FnOnce() -> String) -> Output {
    if context.json { json(document).into() } else { text().into() }
}

/// Text that is overwritten when dropped.
struct Wiped(String);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_bytes());
    }
}

/// A password to set, and its text when it was made here and has to be told.
struct NewPassword {
    password: Password,
    generated: Option<Wiped>,
}

impl NewPassword {
    /// Makes, reads or asks for it, as the flags say.
    fn obtain(
        context: &Context,
        arguments: &ArgMatches,
        name: Username,
        wanted: Wanted,
    ) -> Result<NewPassword, Failure> {
        if arguments.get_flag("generate") {
            let text = Wiped(generate::password()?);
            let password = Password::parse(text.0.as_bytes())
                .ok_or_else(|| Failure::new(Exit::Refused, "the password that was made is none"))?;
            return Ok(NewPassword { password, generated: Some(text) });
        }
        let password = if arguments.get_flag("password-stdin") {
            prompt::password_from_stdin()?
        } else if prompt::somebody_there() {
            wanted.check(context, name)?;
            prompt::password_twice(name.as_str())?
        } else {
            let message = "there is no terminal to ask for the password; use --password-stdin or --generate";
            return Err(Failure::new(Exit::Usage, message));
        };
        Ok(NewPassword { password, generated: None })
    }
}

/// What the user of a new password is to be.
#[derive(Clone, Copy)]
enum Wanted {
    New,
    Known,
}

impl Wanted {
    /// Nobody should think up a password only to hear that the daemon is not there, or that it is of no use. That
    /// nothing changes between here and the request is not promised: the daemon decides.
    fn check(self, context: &Context, name: Username) -> Result<(), Failure> {
        let found = Client::connect(&context.socket)?.ask::<UserInfo>(&Request::UserShow { name });
        match (self, found) {
            (Wanted::New, Ok(_)) => {
                let message = format!("there is a user '{name}' already");
                Err(Failure { refusal: Some(ErrorCode::UserExists), ..Failure::new(Exit::Refused, message) })
            }
            (Wanted::New, Err(failure)) if failure.refusal == Some(ErrorCode::NoSuchUser) => Ok(()),
            (Wanted::Known, Ok(_)) => Ok(()),
            (_, Err(failure)) => Err(failure),
        }
    }
}

/// Goes on only if `--yes` stands there or the person at the terminal says so. The question is told how many messages
/// are queued for `user`.
fn confirm(
    context: &Context,
    arguments: &ArgMatches,
    user: Username,
    question: impl FnOnce(u64) -> String,
) -> Result<(), Failure> {
    if arguments.get_flag("yes") {
        return Ok(());
    }
    if !prompt::somebody_there() {
        return Err(Failure::new(Exit::Usage, "there is no terminal to ask at; use --yes to go on without asking"));
    }
    let info: UserInfo = Client::connect(&context.socket)?.ask(&Request::UserShow { name: user })?;
    if prompt::confirmed(&question(info.queued))? {
        Ok(())
    } else {
        Err(Failure::new(Exit::Refused, "nothing was changed"))
    }
}

fn username(arguments: &ArgMatches, name: &str) -> Result<Username, Failure> {
    arguments.get_one(name).copied().ok_or_else(|| missing(name))
}

/// The parser requires what the table lists, so this is for a table that does not list what a command takes.
fn missing(name: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{name} is missing"))
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}
