//! `--restore`, `--check-store` and `--salvage`: what is done to the store of a cpd that does not run.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setegid, seteuid, setgroups};
use signal_hook::consts::signal::SIGXFSZ;

use super::config::{self, Arguments, Config, Tool};
use super::exit::{ExitCode, Fatal};
use super::wall_clock;
use crate::store::{self, Damaged, OpenError, OpenErrorKind, Source};

/// Does it, and says on standard output what came of it.
pub fn run(arguments: &Arguments) -> Result<(), Fatal> {
    // A file that may not grow is a write that fails, and is undone.
    let limit = signal_hook::flag::register(SIGXFSZ, Arc::default());
    limit.map_err(|e| Fatal::new(ExitCode::System, format!("cannot take signals: {e}")))?;
    let fatal = |error: OpenError| store_error(error, arguments);
    let config = || Config::load(arguments);
    if let Some(Tool::Restore(name) | Tool::CheckStore(Some(name)) | Tool::Salvage(name)) = &arguments.tool
        && name == Path::new("-")
    {
        let said =
            "a file has to be named, as its parts are not read or written in their order; ./- is one of that name";
        return Err(Fatal::new(ExitCode::Usage, format!("-: {said}")));
    }
    match &arguments.tool {
        None => Ok(()),
        Some(Tool::Restore(name)) => restore(&config()?, name, &fatal),
        // Where the file is said no configuration is needed.
        Some(Tool::CheckStore(Some(file))) => check_copy(file),
        Some(Tool::CheckStore(None)) => check(arguments, &config()?.store_path, &fatal),
        Some(Tool::Salvage(new)) => salvage(arguments, &config()?, new, &fatal),
    }
}

type AsFatal<'a> = &'a dyn Fn(OpenError) -> Fatal;

fn restore(config: &Config, name: &Path, fatal: AsFatal<'_>) -> Result<(), Fatal> {
    if let Some(dir) = &config.data {
        config::make_data_dir(dir)?;
    }
    // Opened before this process becomes the store's owner, who need not be able to read it.
    let source = Source::open(name).map_err(|error| as_given(error, name))?;
    become_owner(&config.store_path)?;
    let restored = store::restore(&config.store_path, &source, wall_clock().as_secs());
    let of_the_source = |error: &OpenError| error.message.starts_with(&format!("{}: ", name.display()));
    let restored = restored.map_err(|error| match of_the_source(&error) {
        true => as_given(error, name),
        false => fatal(error),
    })?;
    let (users, messages) = (count(restored.users, "user"), count(restored.messages, "message"));
    let (path, name) = (config.store_path.display(), name.display());
    let mut text = format!("{path}: restored from {name}: {users}, {messages}\n");
    for kept in &restored.kept {
        text.push_str(&format!("kept of the store before: {}\n", kept.display()));
    }
    print(&text)
}

/// What is wrong with a file that was named: nothing is said of the store, which is another one.
fn as_given(error: OpenError, name: &Path) -> Fatal {
    // Nobody is to begin a new store in its place.
    let message =
        error.message.replace("; delete it to begin a new one", "").replace("; the file was left as it is", "");
    let code = code_of(error.kind);
    match code {
        ExitCode::DamagedStore => {
            Fatal::new(code, format!("{message}; the store was not touched: take another backup"))
        }
        _ if message.contains(&name.display().to_string()) => Fatal::new(code, message),
        _ => Fatal::new(code, format!("{}: {message}", name.display())),
    }
}

/// Verifies a file that need not be this cpd's store, a backup above all.
fn check_copy(file: &Path) -> Result<(), Fatal> {
    let no_input = |said: &str| Fatal::new(ExitCode::NoInput, format!("{}: {said}", file.display()));
    match std::fs::metadata(file) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(no_input("there is no such file"));
        }
        Ok(found) if !found.is_file() => return Err(no_input("is not a file")),
        _ => {}
    }
    let report = store::check(file).map_err(|error| {
        let message = error.message.replace("; delete it to begin a new one", "");
        Fatal::new(code_of(error.kind), message)
    })?;
    tell(&report, file, "")
}

fn check(arguments: &Arguments, path: &Path, fatal: AsFatal<'_>) -> Result<(), Fatal> {
    let report = store::check(path).map_err(fatal)?;
    let (restore, salvage) = (restoring(arguments), command(arguments, "--salvage NEW"));
    tell(&report, path, &format!("; put a backup in its place: {restore}; or copy what is sound: {salvage}"))
}

/// Says what a check has found, and, where that is damage, what to do.
fn tell(report: &store::Report, path: &Path, hint: &str) -> Result<(), Fatal> {
    if report.damage.is_empty() {
        let (users, messages) = (count(report.users, "user"), count(report.messages, "message"));
        return print(&format!("{}: {users}, {messages}; nothing is damaged\n", path.display()));
    }
    let mut text = report.damage.join("\n");
    if report.more > 0 {
        text.push_str(&format!("\nand {} more", report.more));
    }
    print(&format!("{text}\n"))?;
    let found = (report.damage.len() as u64).saturating_add(report.more);
    let said = format!("{}: {} of damage{hint}", path.display(), count(found, "case"));
    Err(Fatal::new(ExitCode::DamagedStore, said))
}

fn salvage(arguments: &Arguments, config: &Config, new: &Path, fatal: AsFatal<'_>) -> Result<(), Fatal> {
    // Opened before this process becomes somebody who need not be able to read it.
    let damaged = Damaged::open(&config.store_path).map_err(fatal)?;
    if let Some((_, owner)) = open_folder(new) {
        become_user(new, &owner)?;
    }
    let found = damaged.salvage(new).map_err(fatal)?;
    let (path, lost) = (new.display(), found.lost);
    let (users, messages) = (count(found.users, "user"), count(found.messages, "message"));
    let mut text = format!("{path}: kept {users} and {messages}\n");
    let (messages, others) = (count(lost.messages, "message"), count(lost.others, "other row"));
    text.push_str(&format!("lost: {messages}, {others}"));
    if lost.pages > 0 {
        text.push_str(&format!(", and what {} held that cannot be read", count(lost.pages, "page")));
    }
    text.push('\n');
    if let Some(log) = found.foreign_log {
        text.push_str(&format!("{}: belongs to another store and was left out\n", log.display()));
    }
    text.push_str(&format!("to use it: {}\n", command(arguments, &format!("--restore {path}"))));
    print(&text)
}

/// As root, does everything from here on as the owner of the store: what is made is his, and he can use it.
fn become_owner(store: &Path) -> Result<(), Fatal> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    // What is not there the store's room says better.
    let Some((folder, found)) = open_folder(store) else { return Ok(()) };
    let found = match std::fs::metadata(store) {
        // In a folder of root's the store may be another's; in another's folder a store of root's is a slip.
        Ok(store) if found.uid() == 0 => store,
        _ => found,
    };
    take_back(&folder, store, &found).map_err(|e| {
        let said = format!("{}: cannot be given to the owner of its folder: {e}", store.display());
        Fatal::new(ExitCode::NotPermitted, said)
    })?;
    become_user(store, &found)
}

/// The folder of `file`, open, and whose it is. Whoever it belongs to may give its name to another one meanwhile.
fn open_folder(file: &Path) -> Option<(File, Metadata)> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::options().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(folder).ok()?;
    let found = folder.metadata().ok()?;
    Some((folder, found))
}

/// As root, goes on as the user whose `found` is, to do what is to be done to `file`.
fn become_user(file: &Path, found: &Metadata) -> Result<(), Fatal> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    let changed = setgroups(&[gid]).and_then(|()| setegid(gid)).and_then(|()| seteuid(uid));
    changed.map_err(|e| {
        let said = format!("{}: cannot work as the owner of its folder, uid {uid}: {e}", file.display());
        Fatal::new(ExitCode::NotPermitted, said)
    })
}

/// Gives what root has made of the store's files, as by a copy, to their owner, who could not even keep it aside.
fn take_back(folder: &File, store: &Path, owner: &Metadata) -> std::io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    for suffix in ["", "-wal", "-lock"] {
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        let Ok(file) = openat(folder, name.as_os_str(), flags, Mode::empty()).map(File::from) else { continue };
        let found = file.metadata()?;
        // A second name could be that of a file which is none of theirs.
        if found.is_file() && found.uid() == 0 && found.nlink() == 1 && owner.uid() != 0 {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

fn code_of(kind: OpenErrorKind) -> ExitCode {
    match kind {
        OpenErrorKind::Damaged | OpenErrorKind::Newer | OpenErrorKind::Gone | OpenErrorKind::Foreign => {
            ExitCode::DamagedStore
        }
        OpenErrorKind::NoInput => ExitCode::NoInput,
        OpenErrorKind::Busy | OpenErrorKind::InWork => ExitCode::Unavailable,
        OpenErrorKind::CannotCreate => ExitCode::CannotCreate,
        OpenErrorKind::Permission | OpenErrorKind::Exposed => ExitCode::NotPermitted,
        OpenErrorKind::System => ExitCode::System,
    }
}

/// The exit code and what to type, for a store that cannot be used.
pub fn store_error(error: OpenError, arguments: &Arguments) -> Fatal {
    let code = code_of(error.kind);
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
    let command = |what: &str| command(arguments, what);
    match kind {
        OpenErrorKind::Damaged => {
            let (check, salvage) = (command("--check-store"), command("--salvage NEW"));
            format!(
                "see {check}; put a backup in its place: {}; or copy what is sound: {salvage}",
                restoring(arguments)
            )
        }
        OpenErrorKind::Gone | OpenErrorKind::Foreign => format!("put a backup in its place: {}", restoring(arguments)),
        _ => String::new(),
    }
}

/// The command that puts a backup in the store's place.
pub fn restoring(arguments: &Arguments) -> String {
    command(arguments, "--restore FILE")
}

/// The command line for this store.
fn command(arguments: &Arguments, what: &str) -> String {
    let option = |name: &str, path: &Option<PathBuf>| {
        path.as_ref().map_or_else(String::new, |path| format!(" --{name} {}", path.display()))
    };
    format!("cpd{}{} {what}", option("config", &arguments.config), option("data", &arguments.data))
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn print(text: &str) -> Result<(), Fatal> {
    let mut line = String::new();
    for part in text.lines() {
        super::logging::escape_into(&mut line, part);
        line.push('\n');
    }
    let mut stdout = std::io::stdout();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever asked may have closed the pipe.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fatal::new(ExitCode::System, format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}
