//! The table of commands, from which the parser, the help, the completions and the check of cpctl(8) are made.

use clap::ArgMatches;
use cpd_control::answer::COUNTERS;
use cpd_control::request;

use super::context::{CommandOutput, Context};
use super::exit::Failure;
use super::{backup, commands, status, throttle};

/// The kind of value that an argument or a flag takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArgumentKind {
    /// A user name.
    Name,
    /// A message id, which is at least 1.
    MessageId,
    /// A session id.
    SessionId,
    /// An age such as `7d`.
    Age,
    /// A path.
    File,
    /// An IP address.
    Address,
}

/// A positional argument. All are required.
pub struct Argument {
    /// The name in capitals, which the help shows and by which the parser knows the argument.
    pub name: &'static str,
    pub kind: ArgumentKind,
    pub help: &'static str,
}

/// A flag, `--long`, with or without a value.
pub struct Flag {
    pub long: &'static str,
    /// The name and the kind of the value; `None` for a flag without a value.
    pub value: Option<(&'static str, ArgumentKind)>,
    pub help: &'static str,
    /// Flags that cannot be combined with this one.
    pub conflicts: &'static [&'static str],
}

/// A command of cpctl.
pub struct CtlCommand {
    /// One or two words, as typed.
    pub words: &'static [&'static str],
    pub about: &'static str,
    pub arguments: &'static [Argument],
    pub flags: &'static [Flag],
    /// The commands of the control protocol that it may send.
    pub sends: &'static [&'static str],
    /// The fields of its JSON document, see [`CtlCommand::json_fields`].
    pub json: &'static [&'static str],
    /// Whether the document is an array of objects with those fields.
    pub list: bool,
    pub(super) run: fn(&Context, &ArgMatches) -> Result<CommandOutput, Failure>,
}

impl CtlCommand {
    /// The command as typed: `user add`.
    pub fn name(&self) -> String {
        self.words.join(" ")
    }

    /// The fields of its JSON document; nested fields are written with a dot.
    pub fn json_fields(&self) -> Vec<&'static str> {
        let counters = || COUNTERS.iter().map(|counter| counter.field).collect();
        let expand = |name: &&'static str| if *name == ALL_COUNTERS { counters() } else { vec![*name] };
        self.json.iter().flat_map(expand).collect()
    }

    /// Whether the command changes nothing, and therefore must not start a stopped service. A backup is such a command,
    /// although the daemon logs its request as a change.
    pub fn is_query(&self) -> bool {
        let changes = |name: &&&str| request::COMMANDS.iter().any(|spec| spec.name == **name && spec.changes);
        self.sends.iter().filter(changes).all(|name| *name == "store.backup")
    }
}

/// The first words of the commands that have two words, with their descriptions.
pub const GROUPS: &[(&str, &str)] = &[
    ("user", "Users: who may log in"),
    ("queue", "Queues: messages that wait for their recipients"),
    ("store", "The store: copy, check and shrink"),
    ("session", "Sessions: who is connected"),
    ("throttle", "Throttles: who is kept out, as too many logins have failed"),
];

const NAME: Argument = Argument { name: "NAME", kind: ArgumentKind::Name, help: "The user's name" };
const USER: Argument = Argument { name: "USER", kind: ArgumentKind::Name, help: "The user whose queue it is" };

const fn switch(long: &'static str, help: &'static str, conflicts: &'static [&'static str]) -> Flag {
    Flag { long, value: None, help, conflicts }
}

const PASSWORD_STDIN: Flag =
    switch("password-stdin", "Read the password from the next line of standard input", &["generate"]);
const GENERATE: Flag = switch("generate", "Make a password and print it", &["password-stdin"]);
const YES: Flag = switch("yes", "Do not ask first", &[]);

const USER_FIELDS: &[&str] = &["name", "locked", "created", "last_login", "queued", "throttled"];

/// Every command in the order of the help.
pub const COMMANDS: &[CtlCommand] = &[
    CtlCommand {
        words: &["user", "add"],
        about: "Add a user; asks for the password twice, without echo",
        arguments: &[NAME],
        flags: &[PASSWORD_STDIN, GENERATE],
        sends: &["user.show", "user.add"],
        json: &["name", "password"],
        list: false,
        run: commands::user_add,
    },
    CtlCommand {
        words: &["user", "passwd"],
        about: "Set a user's password, and end that user's sessions",
        arguments: &[NAME],
        flags: &[PASSWORD_STDIN, GENERATE, switch("keep-sessions", "Let the user's sessions go on", &[])],
        sends: &["user.show", "user.passwd"],
        json: &["name", "sessions", "password"],
        list: false,
        run: commands::user_passwd,
    },
    CtlCommand {
        words: &["user", "list"],
        about: "List every user",
        arguments: &[],
        flags: &[],
        sends: &["user.list"],
        json: USER_FIELDS,
        list: true,
        run: commands::user_list,
    },
    CtlCommand {
        words: &["user", "show"],
        about: "Show one user",
        arguments: &[NAME],
        flags: &[],
        sends: &["user.show"],
        json: USER_FIELDS,
        list: false,
        run: commands::user_show,
    },
    CtlCommand {
        words: &["user", "lock"],
        about: "Keep a user from logging in; messages for it are still queued",
        arguments: &[NAME],
        flags: &[],
        sends: &["user.lock"],
        json: &["name", "sessions"],
        list: false,
        run: commands::user_lock,
    },
    CtlCommand {
        words: &["user", "unlock"],
        about: "Let a locked user log in again",
        arguments: &[NAME],
        flags: &[],
        sends: &["user.unlock"],
        json: &["name"],
        list: false,
        run: commands::user_unlock,
    },
    CtlCommand {
        words: &["user", "remove"],
        about: "Remove a user and the messages in its queue; asks first",
        arguments: &[NAME],
        flags: &[YES],
        sends: &["user.show", "user.remove"],
        json: &["name", "messages", "sessions"],
        list: false,
        run: commands::user_remove,
    },
    CtlCommand {
        words: &["queue", "list"],
        about: "List every queue that is not empty",
        arguments: &[],
        flags: &[],
        sends: &["queue.list"],
        json: &["user", "messages", "bytes", "oldest"],
        list: true,
        run: commands::queue_list,
    },
    CtlCommand {
        words: &["queue", "show"],
        about: "List the messages in a user's queue",
        arguments: &[USER],
        flags: &[switch("body", "Show what the messages say", &[])],
        sends: &["queue.show"],
        json: &["id", "sender", "queued_at", "bytes", "body"],
        list: true,
        run: commands::queue_show,
    },
    CtlCommand {
        words: &["queue", "purge"],
        about: "Delete messages from a user's queue: all, or those that meet every flag; asks first",
        arguments: &[USER],
        flags: &[
            Flag {
                long: "id",
                value: Some(("N", ArgumentKind::MessageId)),
                help: "Only the message with this id",
                conflicts: &[],
            },
            Flag {
                long: "from",
                value: Some(("SENDER", ArgumentKind::Name)),
                help: "Only this sender's",
                conflicts: &[],
            },
            Flag {
                long: "older-than",
                value: Some(("AGE", ArgumentKind::Age)),
                help: "Only those queued longer ago: a number and s, m, h, d or w",
                conflicts: &[],
            },
            YES,
        ],
        sends: &["user.show", "queue.purge"],
        json: &["user", "messages"],
        list: false,
        run: commands::queue_purge,
    },
    CtlCommand {
        words: &["store", "backup"],
        about: "Write a consistent copy of the store to a new file, while the daemon runs",
        arguments: &[Argument {
            name: "FILE",
            kind: ArgumentKind::File,
            help: "Where to; must not exist. - is standard output",
        }],
        flags: &[],
        sends: &["store.backup", "store.backup.read", "store.backup.end"],
        json: &["file", "bytes"],
        list: false,
        run: backup::backup,
    },
    CtlCommand {
        words: &["store", "check"],
        about: "Verify the checksum of every row",
        arguments: &[],
        flags: &[],
        sends: &["store.check"],
        json: &["rows", "damaged"],
        list: false,
        run: commands::store_check,
    },
    CtlCommand {
        words: &["store", "shrink"],
        about: "Return unused space of the store to the file system",
        arguments: &[],
        flags: &[],
        sends: &["store.shrink"],
        json: &["before_bytes", "after_bytes"],
        list: false,
        run: backup::shrink,
    },
    CtlCommand {
        words: &["session", "list"],
        about: "List who is connected",
        arguments: &[],
        flags: &[],
        sends: &["session.list"],
        json: &["id", "user", "address", "listener", "state", "since", "idle_seconds"],
        list: true,
        run: commands::session_list,
    },
    CtlCommand {
        words: &["session", "close"],
        about: "Close a session",
        arguments: &[Argument { name: "ID", kind: ArgumentKind::SessionId, help: "Its id, from session list" }],
        flags: &[],
        sends: &["session.close"],
        json: &["id"],
        list: false,
        run: commands::session_close,
    },
    CtlCommand {
        words: &["throttle", "list"],
        about: "List the users and addresses whose logins are refused, as too many have failed",
        arguments: &[],
        flags: &[],
        sends: &["throttle.list"],
        json: &["throttles", "more"],
        list: false,
        run: throttle::list,
    },
    CtlCommand {
        words: &["throttle", "clear"],
        about: "Forget failed logins: of a user, of an address, or all",
        arguments: &[],
        flags: &[
            Flag {
                long: "user",
                value: Some(("NAME", ArgumentKind::Name)),
                help: "Those for this user",
                conflicts: &["all"],
            },
            Flag {
                long: "address",
                value: Some(("ADDRESS", ArgumentKind::Address)),
                help: "Those from this IP address (IPv6: from its /64)",
                conflicts: &["all"],
            },
            switch("all", "All of them", &["user", "address"]),
        ],
        sends: &["throttle.clear"],
        json: &["user", "address", "forgotten"],
        list: false,
        run: throttle::clear,
    },
    CtlCommand {
        words: &["ping"],
        about: "Ask whether the daemon answers; for monitors",
        arguments: &[],
        flags: &[],
        sends: &["ping"],
        json: &["version"],
        list: false,
        run: commands::ping,
    },
    CtlCommand {
        words: &["status"],
        about: "Show how the daemon is and what it did since it started",
        arguments: &[],
        flags: &[],
        sends: &["status"],
        json: STATUS_FIELDS,
        list: false,
        run: status::status,
    },
];

const STATUS_FIELDS: &[&str] = &[
    "version",
    "uptime_seconds",
    "connections",
    "sessions.idle",
    "sessions.user_validated",
    "sessions.authentication_validated",
    "sessions.process_command",
    "sessions.sending_message",
    "sessions.receiving_message",
    "sessions.error_processing",
    "queued_messages",
    "store_bytes",
    ALL_COUNTERS,
    "listeners",
    "configuration.file",
    "configuration.read_at",
    "configuration.problem",
    "configuration.problem_since",
    "configuration.needs_restart",
];
/// Stands for the fields of all [`COUNTERS`].
const ALL_COUNTERS: &str = "counters.*";
