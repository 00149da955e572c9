//! A configuration's text: what is taken is within its range, means what the text says and can be shown and read again;
//! what is refused is refused in one line with the file's name and a line of the file.

use std::path::Path;

use cpd::auth::HashParams;
use cpd::daemon::config::{Config, KEYS};
use cpd::daemon::exit::{ExitCode, Fatal};

use super::Twin;

const FILE: &str = "fuzz.toml";

pub fn check(data: &[u8], twin: Twin) -> Result<(), String> {
    // The file's reader refuses other bytes before.
    let Ok(text) = std::str::from_utf8(data) else { return Ok(()) };
    match parse(text, twin) {
        Ok(config) => accepted(text, &config),
        Err(fatal) => refused(text, &fatal),
    }
}

fn parse(text: &str, twin: Twin) -> Result<Config, Fatal> {
    let parsed = Config::parse(Path::new(FILE), text);
    match &parsed {
        Err(fatal) if twin == Twin::UnknownKeys && fatal.message.contains("unknown key") => {
            let line = line_of(fatal).unwrap_or(0);
            let rest: Vec<&str> =
                text.lines().enumerate().filter(|(at, _)| at + 1 != line).map(|(_, line)| line).collect();
            Config::parse(Path::new(FILE), &rest.join("\n"))
        }
        _ => parsed,
    }
}

fn line_of(fatal: &Fatal) -> Option<usize> {
    fatal.message.strip_prefix(FILE)?.strip_prefix(':')?.split(':').next()?.parse().ok()
}

fn accepted(text: &str, config: &Config) -> Result<(), String> {
    let mut again = String::new();
    for key in KEYS {
        again.push_str(&format!("{}.{} = {}\n", key.section, key.key, key.show(config)));
    }
    let mut shown = Config::parse(Path::new(FILE), &again).map_err(|fatal| format!("{}\nof {again}", fatal.message))?;
    // Warnings name lines, and these are other lines; and what was left out is named now.
    shown.warnings.clone_from(&config.warnings);
    shown.explicit_keys.clone_from(&config.explicit_keys);
    if shown != *config {
        return Err(format!("shown as {again} it is another: {shown:?}"));
    }
    if HashParams::new(config.auth.memory_kib, config.auth.iterations).is_none() || config.auth.worker_threads() == 0 {
        return Err(format!("no hash can be made with {:?}", config.auth));
    }
    if !config.keys_needing_restart(&shown).is_empty() {
        return Err("the same needs a restart".into());
    }
    let (kept, changed) = Config::default().reloaded(config.clone());
    if !kept.keys_needing_restart(&Config::default()).is_empty()
        || changed != Config::default().keys_needing_restart(config)
    {
        return Err(format!("a reload changes {changed:?}"));
    }
    if config.warnings.iter().any(|warning| !warning.starts_with(FILE) || warning.contains('\n')) {
        return Err(format!("no warning for a log: {:?}", config.warnings));
    }
    says_what_it_means(text, &again)
}

/// Every key of the text is one that there is, with the value that was read.
fn says_what_it_means(text: &str, shown: &str) -> Result<(), String> {
    let table = |text: &str| text.parse::<toml::Table>().map_err(|error| format!("no TOML: {error}"));
    let (said, meant) = (table(text)?, table(shown)?);
    for (section, keys) in &said {
        for (key, value) in keys.as_table().ok_or("a section that is none")? {
            let read = meant.get(section).and_then(|keys| keys.get(key));
            let read = read.ok_or_else(|| format!("{section}.{key} is skipped"))?;
            // Durations and addresses can be written in several ways.
            let exact = !section.contains("timeouts") && !matches!(value, toml::Value::Array(_)) && !is_duration(value);
            if exact && value != read {
                return Err(format!("{section}.{key} = {value} is read as {read}"));
            }
        }
    }
    Ok(())
}

fn is_duration(value: &toml::Value) -> bool {
    value.as_str().is_some_and(|text| cpd::duration::parse(text).is_some())
}

fn refused(text: &str, fatal: &Fatal) -> Result<(), String> {
    let line = line_of(fatal).filter(|line| (1..=text.lines().count() + 1).contains(line));
    if fatal.code != ExitCode::Config || line.is_none() {
        return Err(format!("no line of the file is named: {}", fatal.message));
    }
    let told = fatal.to_string();
    if told.chars().any(char::is_control) {
        return Err(format!("what is told is not one line: {told:?}"));
    }
    Ok(())
}
