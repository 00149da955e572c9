//! `--restore`, `--check-store` and `--salvage`: work on a store while no cpd runs on it.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpd_store::{DamagedStore, OpenError, OpenErrorKind, RestoreSource};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setegid, seteuid, setgroups};
use signal_hook::consts::signal::SIGXFSZ;

use super::clock::wall_clock;
use super::config::{self, Arguments, Config, StoreTool};
use super::exit::{ExitCode, Fatal};

/// Runs the tool that the arguments name and prints the result on standard output.
pub fn run(arguments: &Arguments) -> Result<(), Fatal> {
    // With a handler, exceeding RLIMIT_FSIZE makes the write fail, and the tool can undo what it did.
    let limit = signal_hook::flag::register(SIGXFSZ, Arc::default());
    limit.map_err(|e| Fatal::new(ExitCode::System, format!("cannot take signals: {e}")))?;
    let fatal = |error: OpenError| store_error(error, arguments);
    let config = || Config::load(arguments);
    if let Some(StoreTool::Restore(name) | StoreTool::CheckStore(Some(name)) | StoreTool::Salvage(name)) =
        &arguments.tool
        && name == Path::new("-")
    {
        let message = "-: a store cannot be read from or written to a pipe; for a file of that name say ./-";
        return Err(Fatal::new(ExitCode::Usage, message));
    }
    match &arguments.tool {
        None => Ok(()),
        Some(StoreTool::Restore(name)) => restore(&config()?, name, &fatal),
        // With a file named, no configuration is needed.
        Some(StoreTool::CheckStore(Some(file))) => check_named_file(file),
        Some(StoreTool::CheckStore(None)) => check_own_store(arguments, &config()?.store_path, &fatal),
        Some(StoreTool::Salvage(new)) => salvage(arguments, &config()?, new, &fatal),
    }
}

type ToFatal<'a> = &'a dyn Fn(OpenError) -> Fatal;

fn restore(config: &Config, name: &Path, fatal: ToFatal<'_>) -> Result<(), Fatal> {
    if let Some(dir) = &config.data {
        config::make_data_dir(dir)?;
    }
    // Open the backup before changing to the store's owner, who may not be allowed to read it.
    let source = RestoreSource::open(name).map_err(|error| named_file_error(error, name))?;
    become_store_owner(&config.store_path)?;
    let restored = cpd_store::restore(&config.store_path, &source, wall_clock().as_secs());
    let of_the_source = |error: &OpenError| error.message.starts_with(&format!("{}: ", name.display()));
    let restored = restored.map_err(|error| match of_the_source(&error) {
        true => named_file_error(error, name),
        false => fatal(error),
    })?;
    let (users, messages) = (format_count(restored.users, "user"), format_count(restored.messages, "message"));
    let (path, name) = (config.store_path.display(), name.display());
    let mut text = format!("{path}: restored from {name}: {users}, {messages}\n");
    for kept in &restored.kept {
        text.push_str(&format!("kept of the store before: {}\n", kept.display()));
    }
    print_escaped(&text)
}

/// The error about a file that was named on the command line. Hints that concern the store do not apply to it.
fn named_file_error(error: OpenError, name: &Path) -> Fatal {
    // The file is not the store, so advice to delete it and begin a new store would be wrong.
    let message =
        error.message.replace("; delete it to begin a new one", "").replace("; the file was left as it is", "");
    let code = exit_code_for(error.kind);
    match code {
        ExitCode::DamagedStore => {
            Fatal::new(code, format!("{message}; the store was not touched: take another backup"))
        }
        _ if message.contains(&name.display().to_string()) => Fatal::new(code, message),
        _ => Fatal::new(code, format!("{}: {message}", name.display())),
    }
}

/// Checks a named file, usually a backup, instead of this cpd's own store.
fn check_named_file(file: &Path) -> Result<(), Fatal> {
    let no_input = |message: &str| Fatal::new(ExitCode::NoInput, format!("{}: {message}", file.display()));
    match std::fs::metadata(file) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(no_input("there is no such file"));
        }
        Ok(found) if !found.is_file() => return Err(no_input("is not a file")),
        _ => {}
    }
    let report = cpd_store::check(file).map_err(|error| {
        let message = error.message.replace("; delete it to begin a new one", "");
        Fatal::new(exit_code_for(error.kind), message)
    })?;
    print_report(&report, file, "")
}

fn check_own_store(arguments: &Arguments, path: &Path, fatal: ToFatal<'_>) -> Result<(), Fatal> {
    let report = cpd_store::check(path).map_err(fatal)?;
    let (restore, salvage) = (restore_command(arguments), command_line(arguments, "--salvage NEW"));
    print_report(&report, path, &format!("; put a backup in its place: {restore}; or copy what is sound: {salvage}"))
}

/// Prints what a check has found. If that is damage, it returns an error that ends in `hint`.
fn print_report(report: &cpd_store::CheckReport, path: &Path, hint: &str) -> Result<(), Fatal> {
    if report.damage.is_empty() {
        let (users, messages) = (format_count(report.users, "user"), format_count(report.messages, "message"));
        return print_escaped(&format!("{}: {users}, {messages}; nothing is damaged\n", path.display()));
    }
    let mut text = report.damage.join("\n");
    if report.unlisted > 0 {
        text.push_str(&format!("\nand {} more", report.unlisted));
    }
    print_escaped(&format!("{text}\n"))?;
    let found = (report.damage.len() as u64).saturating_add(report.unlisted);
    let message = format!("{}: {} of damage{hint}", path.display(), format_count(found, "case"));
    Err(Fatal::new(ExitCode::DamagedStore, message))
}

fn salvage(arguments: &Arguments, config: &Config, new: &Path, fatal: ToFatal<'_>) -> Result<(), Fatal> {
    // Open the store before changing to another user, who may not be allowed to read it.
    let damaged = DamagedStore::open(&config.store_path).map_err(fatal)?;
    if let Some((_, owner)) = open_folder(new) {
        become_user(new, &owner)?;
    }
    let found = damaged.salvage(new).map_err(fatal)?;
    let (path, lost) = (new.display(), found.lost);
    let (users, messages) = (format_count(found.users, "user"), format_count(found.messages, "message"));
    let mut text = format!("{path}: kept {users} and {messages}\n");
    let (messages, others) = (format_count(lost.messages, "message"), format_count(lost.others, "other row"));
    text.push_str(&format!("lost: {messages}, {others}"));
    if lost.pages > 0 {
        text.push_str(&format!(", and what {} held that cannot be read", format_count(lost.pages, "page")));
    }
    text.push('\n');
    if let Some(log) = found.foreign_log {
        text.push_str(&format!("{}: belongs to another store and was left out\n", log.display()));
    }
    text.push_str(&format!("to use it: {}\n", command_line(arguments, &format!("--restore {path}"))));
    print_escaped(&text)
}

/// If this process is root, it continues as the owner of the store, so that the files it creates belong to that user.
fn become_store_owner(store: &Path) -> Result<(), Fatal> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    // If the directory cannot be opened, the store itself reports that with a better message.
    let Some((folder, found)) = open_folder(store) else { return Ok(()) };
    let found = match std::fs::metadata(store) {
        // In a directory of root the store may belong to another user. In another user's directory, a store that
        // belongs to root is a mistake, so the owner of the directory counts.
        Ok(store) if found.uid() == 0 => store,
        _ => found,
    };
    chown_store_files(&folder, store, &found).map_err(|e| {
        let message = format!("{}: cannot be given to the owner of its folder: {e}", store.display());
        Fatal::new(ExitCode::NotPermitted, message)
    })?;
    become_user(store, &found)
}

/// Opens the directory of `file`. The metadata is that of the open directory, since its owner may meanwhile put another
/// one under its name.
fn open_folder(file: &Path) -> Option<(File, Metadata)> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::options().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(folder).ok()?;
    let found = folder.metadata().ok()?;
    Some((folder, found))
}

/// If this process is root, it continues as the user that `found` belongs to. `file` is named in the error.
fn become_user(file: &Path, found: &Metadata) -> Result<(), Fatal> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    let changed = setgroups(&[gid]).and_then(|()| setegid(gid)).and_then(|()| seteuid(uid));
    changed.map_err(|e| {
        let message = format!("{}: cannot work as the owner of its folder, uid {uid}: {e}", file.display());
        Fatal::new(ExitCode::NotPermitted, message)
    })
}

/// Changes the owner of those store files that belong to root, for example because root copied them there. Their proper
/// owner could not use them otherwise.
fn chown_store_files(folder: &File, store: &Path, owner: &Metadata) -> std::io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    for suffix in ["", "-wal", "-lock"] {
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        let Ok(file) = openat(folder, name.as_os_str(), flags, Mode::empty()).map(File::from) else { continue };
        let found = file.metadata()?;
        // A file with a second link could be one from outside the store, planted to be given away.
        if found.is_file() && found.uid() == 0 && found.nlink() == 1 && owner.uid() != 0 {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

fn exit_code_for(kind: OpenErrorKind) -> ExitCode {
    match kind {
        OpenErrorKind::Damaged | OpenErrorKind::Newer | OpenErrorKind::Gone | OpenErrorKind::ForeignLog => {
            ExitCode::DamagedStore
        }
        OpenErrorKind::NoInput => ExitCode::NoInput,
        OpenErrorKind::Busy | OpenErrorKind::ToolAtWork => ExitCode::Unavailable,
        OpenErrorKind::CannotCreate => ExitCode::CannotCreate,
        OpenErrorKind::Permission | OpenErrorKind::Exposed => ExitCode::NotPermitted,
        OpenErrorKind::System => ExitCode::System,
    }
}

/// The fatal error for a store that cannot be opened, with a hint about what to do.
pub fn store_error(error: OpenError, arguments: &Arguments) -> Fatal {
    let code = exit_code_for(error.kind);
    let hint = hint(error.kind, arguments);
    let busy_tool = error.kind == OpenErrorKind::Busy && arguments.tool.is_some();
    let nowhere = error.kind == OpenErrorKind::CannotCreate && error.message.ends_with("folder does not exist");
    let by_hand = arguments.data.is_none() && arguments.config.is_none() && !super::notify::started_by_manager();
    let hint = match (busy_tool, &arguments.data) {
        _ if nowhere && by_hand && arguments.tool.is_none() => "to try it: cpd --data ./try".to_owned(),
        (true, None) => "stop it: systemctl stop cpd.socket cpd-control.socket cpd.service".to_owned(),
        (true, Some(_)) => "stop it first".to_owned(),
        (false, _) => hint,
    };
    let message = if hint.is_empty() { error.message } else { format!("{}; {hint}", error.message) };
    Fatal::new(code, message)
}

fn hint(kind: OpenErrorKind, arguments: &Arguments) -> String {
    let command_line = |what: &str| command_line(arguments, what);
    match kind {
        OpenErrorKind::Damaged => {
            let (check, salvage) = (command_line("--check-store"), command_line("--salvage NEW"));
            format!(
                "see {check}; put a backup in its place: {}; or copy what is sound: {salvage}",
                restore_command(arguments)
            )
        }
        OpenErrorKind::Gone | OpenErrorKind::ForeignLog => {
            format!("put a backup in its place: {}", restore_command(arguments))
        }
        _ => String::new(),
    }
}

/// The command that replaces the store by a backup.
pub fn restore_command(arguments: &Arguments) -> String {
    command_line(arguments, "--restore FILE")
}

/// A command line of cpd that works on the same store.
fn command_line(arguments: &Arguments, what: &str) -> String {
    let option = |name: &str, path: &Option<PathBuf>| {
        path.as_ref().map_or_else(String::new, |path| format!(" --{name} {}", path.display()))
    };
    format!("cpd{}{} {what}", option("config", &arguments.config), option("data", &arguments.data))
}

fn format_count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn print_escaped(text: &str) -> Result<(), Fatal> {
    let mut line = String::new();
    for part in text.lines() {
        cp_proto::printable::escape_into(&mut line, part);
        line.push('\n');
    }
    let mut stdout = std::io::stdout();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that has closed the pipe is not an error.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fatal::new(ExitCode::System, format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}
