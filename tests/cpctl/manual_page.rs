//! cpctl(8) against the table it describes: commands, arguments, flags, JSON fields, exit codes, paths.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cpd::ctl::arguments;
use cpd::ctl::defaults::{GROUP_DEFAULT, SOCKET_DEFAULT, SOCKET_VARIABLE};
use cpd::ctl::exit::EXIT_CODES;
use cpd::ctl::table::COMMANDS;
use cpd_control::{NAME_RULE, PASSWORD_RULE};

const PAGE: &str = include_str!("../../man/cpctl.8");

/// The lines of a section, `.It` headers over several lines joined.
fn section(title: &str) -> Vec<String> {
    let lines = PAGE.lines().skip_while(|line| *line != format!(".Sh {title}")).skip(1);
    let mut joined: Vec<String> = Vec::new();
    let mut open = false;
    for line in lines.take_while(|line| !line.starts_with(".Sh ")) {
        match (open, joined.last_mut()) {
            (true, Some(header)) => {
                *header += &line.replacen('.', " ", 1);
                open = line != ".Xc";
            }
            _ => {
                open = line == ".It Xo";
                joined.push(line.to_owned());
            }
        }
    }
    assert!(!joined.is_empty(), "no section {title}");
    joined
}

/// The words after a macro up to the next one: `words("Cm user add Ar NAME", "Cm")` is `user add`.
fn following<'a>(header: &'a str, mac: &str) -> Vec<&'a str> {
    const MACROS: [&str; 9] = ["Cm", "Ar", "Fl", "Op", "Oo", "Oc", "Xo", "Xc", "|"];
    let mut found = Vec::new();
    let mut within = "";
    for word in header.split_whitespace() {
        if MACROS.contains(&word) {
            within = word;
        } else if within == mac {
            found.push(word);
        }
    }
    found
}

#[test]
fn commands_arguments_and_flags_are_the_tables() {
    let mut described = BTreeMap::new();
    for line in section("COMMANDS").iter().filter(|line| line.starts_with(".It ")) {
        let flags: BTreeSet<String> = following(line, "Fl").iter().map(|flag| (*flag).to_owned()).collect();
        let values: BTreeSet<String> = following(line, "Ar").iter().map(|value| (*value).to_owned()).collect();
        let name = following(line, "Cm").join(" ");
        assert!(described.insert(name.clone(), (flags, values)).is_none(), "{name} is there twice");
    }
    // The parser's own.
    assert!(described.remove("help").is_some());
    for command in COMMANDS {
        let (flags, values) = described.remove(&command.name()).unwrap_or_else(|| panic!("no {}", command.name()));
        let wanted: BTreeSet<String> = command.flags.iter().map(|flag| format!("-{}", flag.long)).collect();
        assert_eq!(flags, wanted, "{}", command.name());
        let arguments = command.arguments.iter().map(|argument| argument.name);
        let flag_values = command.flags.iter().filter_map(|flag| flag.value).map(|(name, _)| name);
        let wanted: BTreeSet<String> = arguments.chain(flag_values).map(str::to_owned).collect();
        assert_eq!(values, wanted, "{}", command.name());
    }
    assert!(described.is_empty(), "described, but not in the table: {described:?}");
}

#[test]
fn options_before_the_command_are_the_parsers() {
    let described: BTreeSet<String> = section("DESCRIPTION")
        .iter()
        .filter_map(|line| line.strip_prefix(".It Fl "))
        .flat_map(|line| line.split_whitespace().filter_map(|word| word.strip_prefix('-')))
        .map(|word| word.trim_end_matches(',').to_owned())
        .collect();
    let mut parser = arguments::cpctl();
    parser.build();
    let known: BTreeSet<String> = parser.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    assert_eq!(described, known);
}

#[test]
fn json_fields_are_the_tables() {
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut command = String::new();
    for line in section("JSON OUTPUT") {
        if let Some(name) = line.strip_prefix(".It Cm ") {
            command = name.to_owned();
            described.insert(command.clone(), BTreeSet::new());
        } else if let Some(field) = line.strip_prefix(".Va ") {
            let field = field.split(' ').next().expect("a name").to_owned();
            described.get_mut(&command).expect("under a command").insert(field);
        }
    }
    for command in COMMANDS {
        let mut fields = described.remove(&command.name()).unwrap_or_else(|| panic!("no {}", command.name()));
        // An object is named beside the fields within it.
        let json = command.json_fields();
        fields.retain(|field| !json.iter().any(|name| name.starts_with(&format!("{field}."))));
        assert_eq!(fields, json.iter().map(|name| (*name).to_owned()).collect(), "{}", command.name());
    }
    assert!(described.is_empty(), "described, but not in the table: {described:?}");
}

#[test]
fn exit_codes_are_the_programs_and_the_helps() {
    let described: Vec<String> =
        section("EXIT STATUS").iter().filter_map(|line| line.strip_prefix(".It ").map(str::to_owned)).collect();
    let known: Vec<String> = EXIT_CODES.iter().map(|(code, _)| code.to_string()).collect();
    assert_eq!(described, known);
    let help = arguments::cpctl().render_long_help().to_string();
    for (code, _) in EXIT_CODES {
        assert!(help.contains(&format!("{code} ")), "{code} is not in the help");
    }
}

#[test]
fn names_and_rules_are_the_programs() {
    for word in [SOCKET_DEFAULT, SOCKET_VARIABLE, GROUP_DEFAULT] {
        assert!(PAGE.contains(word), "{word}");
    }
    let text = PAGE.replace('\n', " ");
    for (rule, said) in [(NAME_RULE, "1 to 10 ASCII letters"), (PASSWORD_RULE, "1 to 15 bytes of UTF-8")] {
        assert!(rule.contains(said) && text.contains(said), "{said}");
    }
}

#[test]
fn the_page_is_sound_mdoc() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/cpctl.8");
    let Ok(output) = Command::new("mandoc").args(["-Tlint", "-Wwarning", page]).output() else {
        eprintln!("no mandoc here: not checked");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
