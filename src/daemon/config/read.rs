//! Reads TOML into a [`Config`]. Every key is checked; the first problem is reported with its line, together with the
//! number of the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::addresses;
use super::keys::{ConfigKey, KEYS};
use super::values::Config;
use crate::auth::{HashParams, WORK_MAX_KIB};
use crate::daemon::exit::{ExitCode, Fatal};

/// Applies `text` to `base`. `file` is its name in error messages.
///
/// # Errors
/// [`ExitCode::Config`].
pub(super) fn apply(base: Config, file: &Path, text: &str) -> Result<Config, Fatal> {
    let fatal = |line: usize, what: &str| {
        let name = file.display();
        Fatal::new(ExitCode::Config, format!("{name}:{line}: {what}"))
    };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        fatal(line_of(text, at), &error.message().replace('\n', "; "))
    })?;
    let mut reader = Reader { config: base, file, text, lines: BTreeMap::new(), problems: Vec::new() };
    for (section, value) in document.get_ref() {
        reader.section(section, value);
    }
    reader.check_auth();
    reader.check_listeners();
    reader.problems.sort();
    let others = reader.problems.len().saturating_sub(1);
    match reader.problems.first() {
        None => Ok(reader.config),
        Some((line, what)) if others == 0 => Err(fatal(*line, what)),
        Some((line, what)) => Err(fatal(*line, &format!("{what}; and {others} more"))),
    }
}

/// The number of the line, counted from 1, that holds the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    line_of_bytes(text.as_bytes(), offset)
}

/// As [`line_of`], for bytes that may not be UTF-8.
pub(super) fn line_of_bytes(text: &[u8], offset: usize) -> usize {
    text.iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

struct Reader<'a> {
    config: Config,
    file: &'a Path,
    text: &'a str,
    /// The line of each key that the file sets.
    lines: BTreeMap<String, usize>,
    /// Each problem with its line.
    problems: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn section<T: AsRef<str>>(&mut self, name: &Spanned<T>, value: &Spanned<DeValue<'_>>) {
        let line = line_of(self.text, name.span().start);
        let section = name.get_ref().as_ref();
        if !KEYS.iter().any(|key| key.section == section) {
            let known = sections().join(", ");
            self.problems.push((line, format!("unknown section or key {section:?} (sections: {known})")));
            return;
        }
        let Some(table) = value.get_ref().as_table() else {
            self.problems.push((line, format!("{section} is a section: write [{section}] on a line of its own")));
            return;
        };
        for (key, value) in table {
            let line = line_of(self.text, key.span().start);
            self.key(section, key.get_ref(), value.get_ref(), line);
        }
    }

    fn key(&mut self, section: &str, name: &str, value: &DeValue<'_>, line: usize) {
        let of_section = || KEYS.iter().filter(|key| key.section == section);
        let Some(key) = of_section().find(|key| key.key == name) else {
            let known: Vec<&str> = of_section().map(|key| key.key).collect();
            let known = known.join(", ");
            self.problems.push((line, format!("unknown key {name:?} in [{section}] (keys: {known})")));
            return;
        };
        self.lines.insert(key.name(), line);
        self.config.explicit_keys.insert(key.name());
        match key.apply(&mut self.config, value) {
            Ok(None) => {}
            Ok(Some(unusual)) => self.warn(key, &unusual, line),
            Err(problem) => self.problems.push((line, format!("{}: {problem} ({})", key.name(), key.range()))),
        }
    }

    fn warn(&mut self, key: &ConfigKey, what: &str, line: usize) {
        self.config.warnings.push(format!("{}:{line}: {}: {what}", self.file.display(), key.name()));
    }

    /// Checks `auth.memory_kib` and `auth.iterations` together.
    fn check_auth(&mut self) {
        let line = |key: &str| self.lines.get(key).copied();
        let Some(line) = line("auth.memory_kib").or_else(|| line("auth.iterations")) else { return };
        let auth = self.config.auth;
        let file = self.file.display();
        match HashParams::new(auth.memory_kib, auth.iterations) {
            // One of them is out of its own range, which has been reported already.
            None if self.problems.iter().any(|(_, problem)| problem.starts_with("auth.")) => {}
            None => {
                let problem = format!(
                    "auth.memory_kib: {} times auth.iterations {} is out of range (a product up to {WORK_MAX_KIB})",
                    auth.memory_kib, auth.iterations
                );
                self.problems.push((line, problem));
            }
            Some(params) if params.is_weak() => {
                let warning = format!(
                    "{file}:{line}: auth: memory_kib = {} with iterations = {} is weak: stolen hashes are guessed fast",
                    auth.memory_kib, auth.iterations
                );
                self.config.warnings.push(warning);
            }
            Some(_) => {}
        }
    }

    /// Checks both lists of addresses together.
    fn check_listeners(&mut self) {
        let line = |key: &str| self.lines.get(key).copied();
        let Some(line) = line("listen.classic").or_else(|| line("listen.cp")) else { return };
        if let Some(clash) = addresses::clash(&self.config) {
            self.problems.push((line, format!("listen: {clash}")));
        }
        let seen: Vec<SocketAddr> = self.config.cp.iter().chain(&self.config.classic).copied().collect();
        let file = self.file.display();
        if seen.is_empty() {
            self.config.warnings.push(format!("{file}:{line}: listen: no address for clients"));
        }
        for address in seen.iter().filter(|address| address.port() == 0) {
            self.config.warnings.push(format!("{file}:{line}: listen: the kernel chooses the port of {address}"));
        }
    }
}

fn sections() -> Vec<&'static str> {
    let mut all: Vec<&str> = KEYS.iter().map(|key| key.section).collect();
    all.dedup();
    all
}
