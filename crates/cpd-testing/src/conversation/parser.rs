//! A script's text -> a [`Script`]. Strict: what is not understood is an error with its line. The format is described
//! in tests/conversations/README.md.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::text::{Escapes, duration, expand};

/// One conversation, ready to be played.
#[derive(Debug)]
pub struct Script {
    pub path: PathBuf,
    /// The first comment: what the conversation shows.
    pub title: String,
    pub settings: Vec<Setting>,
    pub users: Vec<User>,
    pub listener: Listener,
    pub steps: Vec<Step>,
}

/// One key of the configuration, dotted as in `timeouts.ack`.
#[derive(Debug, PartialEq)]
pub struct Setting {
    pub key: String,
    pub value: toml::Value,
}

/// A user who exists before the conversation begins.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Cp,
    Classic,
}

#[derive(Debug, PartialEq)]
pub struct Step {
    pub line: usize,
    pub action: Action,
}

/// Connections are numbered as they are written: `C:` is 1, `C2:` is 2.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// One write.
    Send {
        connection: usize,
        bytes: Vec<u8>,
    },
    /// These bytes again and again, without reading, until the server has ended the connection.
    Flood {
        connection: usize,
        bytes: Vec<u8>,
    },
    /// The client shuts down its sending side.
    Fin {
        connection: usize,
    },
    /// The client drops the connection with a reset.
    Reset {
        connection: usize,
    },
    /// The client closes the connection.
    Gone {
        connection: usize,
    },
    Expect {
        connection: usize,
        what: Expected,
    },
    /// Time passes.
    Wait(Duration),
    /// Remembers the time.
    Mark,
    /// The last thing that came from the server came this long after the mark.
    After(Duration),
    /// cpctl with these arguments; `stdin` is what it reads.
    Admin {
        arguments: Vec<String>,
        stdin: Option<String>,
    },
}

#[derive(Debug, PartialEq)]
pub enum Expected {
    /// A line with this code, a space and any text.
    Code(String),
    /// Exactly this line.
    Line(Vec<u8>),
    /// Exactly these bytes, terminators included.
    Bytes(Vec<u8>),
    /// The server's FIN, and nothing before it.
    Close,
    /// Nothing has come.
    Quiet,
}

#[derive(Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Reads the script in `text`; `path` is for reports.
pub fn parse(path: &Path, text: &str) -> Result<Script, SyntaxError> {
    let mut script = Script {
        path: path.to_path_buf(),
        title: String::new(),
        settings: Vec::new(),
        users: Vec::new(),
        listener: Listener::Cp,
        steps: Vec::new(),
    };
    for (index, line) in text.lines().enumerate() {
        let at = |message| SyntaxError { line: index + 1, message };
        if index == 0 {
            let title = line.strip_prefix("# ").filter(|title| !title.trim().is_empty());
            script.title = title.ok_or_else(|| at("the first line says what is shown: # …".into()))?.to_string();
        } else if !line.is_empty() && !line.starts_with('#') {
            parse_line(&mut script, index + 1, line).map_err(at)?;
        }
    }
    if script.steps.is_empty() {
        return Err(SyntaxError { line: text.lines().count(), message: "nobody says anything".into() });
    }
    Ok(script)
}

fn parse_line(script: &mut Script, line: usize, text: &str) -> Result<(), String> {
    if text.trim() != text {
        return Err("space at the start or the end of a line; use a raw string to send one".into());
    }
    let (key, value) = text.split_once(':').ok_or("a line is `key: value`")?;
    if key.ends_with(' ') {
        return Err("no space belongs before the first colon".into());
    }
    let value = match value.strip_prefix(' ') {
        Some(rest) => rest,
        None if value.is_empty() => "",
        None => return Err("a space belongs behind the first colon".into()),
    };
    match key {
        "set" | "user" | "listener" if !script.steps.is_empty() => Err(format!("{key}: comes before the first step")),
        "set" => setting(value).map(|setting| script.settings.push(setting)),
        "user" => user(value).map(|user| script.users.push(user)),
        "listener" if value == "classic" => {
            script.listener = Listener::Classic;
            Ok(())
        }
        "listener" => Err("the only listener to name is: classic".into()),
        "C" if value.starts_with("<login ") => login(script, line, 1, value),
        _ => match key.strip_prefix('C').and_then(|number| number.parse().ok()) {
            Some(connection) if value.starts_with("<login ") => login(script, line, connection, value),
            _ => action(key, value).map(|action| script.steps.push(Step { line, action })),
        },
    }
}

fn setting(value: &str) -> Result<Setting, String> {
    let (key, value) = value.split_once(" = ").ok_or("set: key = value")?;
    if !key.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
        return Err(format!("no key of the configuration: {key}"));
    }
    let mut table: toml::Table = toml::from_str(&format!("value = {value}")).map_err(|e| e.to_string())?;
    let value = table.remove("value").ok_or("no value")?;
    Ok(Setting { key: key.to_string(), value })
}

fn user(value: &str) -> Result<User, String> {
    let (name, password) = value.split_once(' ').ok_or("user: NAME PASSWORD")?;
    Ok(User { name: name.to_string(), password: password.to_string() })
}

/// `<login NAME>`: four steps with one line number.
fn login(script: &mut Script, line: usize, connection: usize, value: &str) -> Result<(), String> {
    let name = value.strip_prefix("<login ").and_then(|rest| rest.strip_suffix('>')).ok_or("<login NAME>")?;
    let user = script.users.iter().find(|user| user.name == name).ok_or(format!("no `user: {name} …` above"))?;
    let user_line = format!("USER{}\r\n", user.name).into_bytes();
    let pass_line = format!("PASS{}\r\n", user.password).into_bytes();
    for (bytes, code) in [(user_line, "220"), (pass_line, "230")] {
        script.steps.push(Step { line, action: Action::Send { connection, bytes } });
        let what = Expected::Code(code.to_string());
        script.steps.push(Step { line, action: Action::Expect { connection, what } });
    }
    Ok(())
}

fn action(key: &str, value: &str) -> Result<Action, String> {
    match key {
        "wait" => return duration(value).map(Action::Wait),
        "after" => return duration(value).map(Action::After),
        "mark" if value.is_empty() => return Ok(Action::Mark),
        "admin" => return admin(value),
        _ => {}
    }
    let (who, form) = key.split_once(' ').unwrap_or((key, ""));
    let connection = |letter: char| match who.strip_prefix(letter) {
        Some("") => Some(1),
        Some(number) => number.parse::<usize>().ok().filter(|n| (2..=99).contains(n)),
        None => None,
    };
    match (connection('C'), connection('S'), form) {
        (Some(connection), _, "") => client(connection, value),
        (Some(connection), _, "raw") => Ok(Action::Send { connection, bytes: raw(value)? }),
        (Some(connection), _, "burst") => Ok(Action::Send { connection, bytes: burst(value)? }),
        (Some(connection), _, "flood") => Ok(Action::Flood { connection, bytes: line(value)? }),
        (_, Some(connection), "") => Ok(Action::Expect { connection, what: server(value)? }),
        (_, Some(connection), "raw") => Ok(Action::Expect { connection, what: Expected::Bytes(raw(value)?) }),
        _ => Err(format!("unknown kind of line: {key}")),
    }
}

fn client(connection: usize, value: &str) -> Result<Action, String> {
    match value {
        "<fin>" => Ok(Action::Fin { connection }),
        "<reset>" => Ok(Action::Reset { connection }),
        "<gone>" => Ok(Action::Gone { connection }),
        _ if value.starts_with('<') => Err(format!("unknown: {value}; a raw string sends such a text")),
        _ => Ok(Action::Send { connection, bytes: line(value)? }),
    }
}

fn server(value: &str) -> Result<Expected, String> {
    match value {
        "" => Err("what does the server say?".into()),
        "<close>" => Ok(Expected::Close),
        "<quiet>" => Ok(Expected::Quiet),
        _ if value.starts_with('<') => Err(format!("unknown: {value}")),
        _ if value.len() == 3 && value.bytes().all(|b| b.is_ascii_digit()) => Ok(Expected::Code(value.to_string())),
        _ => Ok(Expected::Line(expand(value, Escapes::Plain)?)),
    }
}

/// A line as the client ends it.
fn line(value: &str) -> Result<Vec<u8>, String> {
    let mut bytes = expand(value, Escapes::Plain)?;
    bytes.extend(b"\r\n");
    Ok(bytes)
}

/// Several lines in one write: `USERbob | PASSsecret`.
fn burst(value: &str) -> Result<Vec<u8>, String> {
    let lines: Vec<&str> = value.split(" | ").collect();
    if lines.len() < 2 || lines.iter().any(|text| text.is_empty()) {
        return Err("a burst is at least two lines: one | two; a raw string sends empty ones".into());
    }
    lines.into_iter().map(line).collect::<Result<Vec<_>, _>>().map(|lines| lines.concat())
}

fn raw(value: &str) -> Result<Vec<u8>, String> {
    let inside = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or("raw: \"…\"")?;
    let bytes = expand(inside, Escapes::Raw)?;
    if bytes.is_empty() { Err("an empty raw string".into()) } else { Ok(bytes) }
}

fn admin(value: &str) -> Result<Action, String> {
    let (command, stdin) = match value.split_once(" < ") {
        Some((command, stdin)) => (command, Some(format!("{stdin}\n"))),
        None => (value, None),
    };
    let arguments: Vec<String> = command.split_whitespace().map(String::from).collect();
    if arguments.is_empty() { Err("admin: COMMAND …".into()) } else { Ok(Action::Admin { arguments, stdin }) }
}

#[cfg(test)]
mod tests;
