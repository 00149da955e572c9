//! What neither the walls of the crates nor the lints of `[workspace.lints]` hold: how long files get, who in this package
//! may name whom, in which crates files may not use one another in a circle, that no crate goes without the lints, and
//! that each dependency has its reason. CONTRIBUTING.md says why.
//! Each rule has a sample below that breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const FILE_MAX_LINES: usize = 500;
const BINARY_MAX_LINES: usize = 12;
/// A longer file begins with a line that contains this, followed by the reason.
const LONGER_BECAUSE: &str = "Longer than 500 lines:";

/// The modules of this package that must not be named in each of its folders.
const STRANGERS: &[(&str, &[&str])] =
    &[("src/daemon/", &["ctl"]), ("src/ctl/", &["daemon"]), ("src/auth.rs", &["ctl", "daemon"])];
/// Crates without a clock, a thread, a socket or a file: their clippy.toml refuses those types. They may depend on these.
const PURE: &[(&str, &[&str])] = &[("crates/cp-proto", &[]), ("crates/cpd-core", &["cp-proto"])];
/// The crates of the workspace, by their manifests and roots.
const CRATES: &[&str] = &["", "crates/cp-proto/", "crates/cpd-control/", "crates/cpd-core/", "crates/cpd-store/"];
/// Where no file uses another one that, directly or by way of others, uses it. A file that uses what its module's parent
/// defines counts as well; what is only in tests does not.
const WITHOUT_CIRCLES: &[&str] =
    &["crates/cp-proto/src/", "crates/cpd-control/src/", "crates/cpd-core/src/", "crates/cpd-store/src/", "src/"];
/// Names of types that stand in two places, each with its reason.
const NAMES_TWICE: &[(&str, &str)] = &[
    ("Event", "what happens, of each of the two machines that events drive: `client::Event` and `dfa::Event`"),
    ("Request", "`cpd_control::Request` is an abbreviation of the other one, with its type argument"),
];
const UNSAFE_FILE: &str = "src/daemon/fd.rs";
const ROOT_LINTS: &str = "#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]";

#[test]
fn the_house_is_tidy() {
    let mut complaints = Vec::new();
    for name in CRATES {
        // cargo runs tests in the folder of the package, also when the build came from another checkout.
        let read =
            |path: &str| fs::read_to_string(format!("{name}{path}")).unwrap_or_else(|e| panic!("{name}{path}: {e}"));
        complaints.extend(manifest(&format!("{name}Cargo.toml"), &read("Cargo.toml")));
        complaints.extend(root(&format!("{name}src/lib.rs"), &read("src/lib.rs")));
        let mut files = Vec::new();
        collect(Path::new(&format!("{name}src")), &mut files);
        assert!(files.len() > 5, "the walk over {name}src does not work");
        complaints.extend(files.iter().flat_map(|(path, text)| source(path, text)));
    }
    for (folder, allowed) in PURE {
        let text = fs::read_to_string(format!("{folder}/Cargo.toml")).expect("a manifest");
        complaints.extend(strange_dependencies(&format!("{folder}/Cargo.toml"), &text, allowed));
        assert!(Path::new(folder).join("clippy.toml").exists(), "{folder} has a clippy.toml with what is refused");
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry of a folder").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push((path.display().to_string(), fs::read_to_string(&path).expect("a source")));
        }
    }
}

/// What is wrong with a source.
fn source(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
    // A module of tests at the end of a file is no product code.
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    let bound = if path.starts_with("src/bin/") { BINARY_MAX_LINES } else { FILE_MAX_LINES };
    let explained = text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains(LONGER_BECAUSE));
    if lines > bound && !is_test && !explained {
        complaints.push(format!("{path}: {lines} lines of product code; at most {bound}, or a reason at its head"));
    }
    for mark in ["FIXME", "TODO", "XXX"] {
        if text.split(|c: char| !c.is_alphanumeric()).any(|word| word == mark) {
            complaints.push(format!("{path}: {mark}: something is left to do"));
        }
    }
    for (_, strangers) in STRANGERS.iter().filter(|(folder, _)| path.starts_with(folder)) {
        for stranger in *strangers {
            if text.contains(&format!("crate::{stranger}")) {
                complaints.push(format!("{path}: names `{stranger}`"));
            }
        }
    }
    if text.contains("allow(unsafe_code") && path != UNSAFE_FILE {
        complaints.push(format!("{path}: `unsafe` belongs to {UNSAFE_FILE}"));
    }
    complaints
}

#[test]
fn files_use_one_another_in_no_circle() {
    for folder in WITHOUT_CIRCLES {
        let mut files = Vec::new();
        collect(Path::new(folder), &mut files);
        files.retain(|(path, _)| !path.ends_with("/tests.rs") && !path.contains("/tests/"));
        let module =
            |path: &str| path.trim_start_matches(folder).trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
        let found = circles(&files.into_iter().map(|(path, text)| (module(&path), text)).collect());
        assert!(found.is_empty(), "a circle in {folder}:\n{}\n", found.join("\n"));
    }
}

/// The uses that are left when those of a file that nobody uses, and those of a file that uses nothing, are taken away
/// again and again: they lie on a circle, or between two. `modules` has the sources by the paths of their modules, with
/// `lib` for the root.
fn circles(modules: &BTreeMap<String, String>) -> Vec<String> {
    let used = |(from, text): (&String, &String)| {
        let to = paths(text).into_iter().filter_map(|path| module_of(from, &path, modules));
        to.map(|to| (from.clone(), to)).collect::<Vec<_>>()
    };
    let mut uses: BTreeSet<(String, String)> = modules.iter().flat_map(used).collect();
    loop {
        let on_a_way = |(from, to): &&(String, String)| {
            uses.iter().any(|(_, used)| used == from) && uses.iter().any(|(user, _)| user == to)
        };
        let left: BTreeSet<_> = uses.iter().filter(on_a_way).cloned().collect();
        if left.len() == uses.len() {
            return left.iter().map(|(from, to)| format!("{from} uses {to}")).collect();
        }
        uses = left;
    }
}

/// The paths that a source names outside of its comments and its tests; `super::{a, b::C}` is `super::a` and
/// `super::b::C`.
fn paths(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = code.lines().flat_map(|line| line.split("//").next().unwrap_or_default().chars().chain(['\n']));
    let (mut paths, mut groups, mut word) = (Vec::new(), Vec::<String>::new(), String::new());
    for c in code {
        if c.is_alphanumeric() || c == '_' || c == ':' {
            word.push(c);
            continue;
        }
        let path = groups.last().cloned().unwrap_or_default() + &word;
        match c {
            '{' => groups.push(if word.ends_with("::") { path } else { String::new() }),
            _ if word.is_empty() => {}
            _ => paths.push(path),
        }
        if c == '}' {
            groups.pop();
        }
        word.clear();
    }
    paths
}

/// The module that `path` leads to from the module `from`; `None` if that is the same, or is not in this crate.
fn module_of(from: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    path.split_once("::")?;
    let mut at = from.to_owned();
    for (place, part) in path.split("::").enumerate() {
        let below = if at == "lib" { part.to_owned() } else { format!("{at}/{part}") };
        match part {
            "crate" => at = "lib".to_owned(),
            "self" => {}
            "super" => at = at.rsplit_once('/').map_or("lib", |(parent, _)| parent).to_owned(),
            _ if modules.contains_key(&below) => at = below,
            // The name of a crate, or of something that a `use` has brought in.
            _ if place == 0 => return None,
            _ => break,
        }
    }
    (at != from).then_some(at)
}

#[test]
fn a_circle_is_noticed() {
    let found = |text: &str| {
        let b = "mod deep;\n/// As [`super::a`].\nfn f() { crate::b::deep::g(\"{\") }\n";
        let sources =
            [("lib", "mod a;\npub use a::A;\n"), ("a", "use super::{b::{self, B}, c};\n"), ("b", b), ("c", "")];
        let sources = sources.into_iter().chain([("b/deep", text)]);
        circles(&sources.map(|(module, text)| (module.to_owned(), text.to_owned())).collect())
    };
    assert_eq!(found("use std::fmt;\n#[cfg(test)]\nmod tests {\n    use super::super::*;\n}\n"), [""; 0]);
    assert_eq!(found("use crate::a::{self, A};\n"), ["a uses b", "b uses b/deep", "b/deep uses a"]);
    assert_eq!(found("use super::*;\n"), ["b uses b/deep", "b/deep uses b"]);
    let root = ["a uses b", "b uses b/deep", "b/deep uses lib", "lib uses a"];
    assert_eq!(found("fn g(_: &str) -> crate::A {}\n"), root);
}

#[test]
fn a_name_of_a_type_stands_for_one_thing() {
    let mut files = Vec::new();
    CRATES.iter().for_each(|name| collect(Path::new(&format!("{name}src")), &mut files));
    files.retain(|(path, _)| !path.ends_with("/tests.rs") && !path.contains("/tests/"));
    assert_eq!(names_twice(&files), NAMES_TWICE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let twin = [("a.rs", "pub struct A;\nenum B {}\n"), ("b.rs", "pub(crate) type B<T> = Vec<T>;\n    struct A;\n")];
    assert_eq!(names_twice(&twin.map(|(path, text)| (path.to_owned(), text.to_owned()))), ["B"]);
}

/// The names of types that more than one item of the files has, but for items within others and those of tests.
fn names_twice(files: &[(String, String)]) -> Vec<String> {
    let mut places = BTreeMap::<&str, usize>::new();
    for (_, text) in files {
        for line in text.lines().take_while(|line| *line != "#[cfg(test)]") {
            let item = line.strip_prefix("pub").map_or(line, |rest| rest.trim_start_matches(|c| c != ' ').trim_start());
            let Some((kind, rest)) = item.split_once(' ') else { continue };
            if ["struct", "enum", "trait", "type", "union"].contains(&kind) {
                let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                *places.entry(name).or_default() += 1;
            }
        }
    }
    places.into_iter().filter(|(_, places)| *places > 1).map(|(name, _)| name.to_owned()).collect()
}

/// What is wrong with the root of a crate.
fn root(path: &str, text: &str) -> Option<String> {
    (!text.lines().any(|line| line == ROOT_LINTS)).then(|| format!("{path}: {ROOT_LINTS} is missing"))
}

/// What is wrong with a manifest.
fn manifest(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.contains("\n[lints]\nworkspace = true\n") {
        complaints.push(format!("{path}: goes without the lints of the workspace"));
    }
    let explained = |entry: &&String| entry.rsplit_once("# ").is_some_and(|(_, reason)| !reason.trim().is_empty());
    let entries = dependencies(text, true);
    complaints
        .extend(entries.iter().filter(|e| !explained(e)).map(|e| format!("{path}: no reason is given for `{e}`")));
    complaints
}

fn strange_dependencies(path: &str, text: &str, allowed: &[&str]) -> Vec<String> {
    let names =
        dependencies(text, false).into_iter().filter_map(|entry| Some(entry.split(['=', ' ', '.']).next()?.to_owned()));
    names.filter(|name| !allowed.contains(&name.as_str())).map(|name| format!("{path}: depends on {name}")).collect()
}

/// The entries under headings that end in `dependencies`; those for tests only if they are wanted.
fn dependencies(text: &str, for_tests: bool) -> Vec<String> {
    let mut entries = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix('[') {
            let heading = heading.trim_end_matches(']');
            inside = heading.ends_with("dependencies") && (for_tests || !heading.contains("dev-"));
            // `[dependencies.name]` would hide an entry from this scan: it counts as one, unexplained.
            if let Some((_, name)) = heading.split_once("dependencies.") {
                entries.push(name.to_owned());
            }
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            entries.push(line.to_owned());
        }
    }
    entries
}

#[test]
fn what_breaks_a_rule_is_noticed() {
    let lines = |count: usize| "    f();\n".repeat(count);
    for (path, text) in [
        ("src/auth.rs", lines(FILE_MAX_LINES + 1)),
        ("src/bin/cpd.rs", lines(BINARY_MAX_LINES + 1)),
        ("crates/cpd-core/src/dfa.rs", "// TODO: later".to_owned()),
        ("src/daemon/mod.rs", "/* FIXME */".to_owned()),
        ("src/ctl/mod.rs", "use crate::daemon::config;".to_owned()),
        ("src/daemon/mod.rs", "fn f() { crate::ctl::main() }".to_owned()),
        ("src/auth.rs", "use crate::daemon::exit;".to_owned()),
        ("crates/cpd-store/src/lib.rs", "#![allow(unsafe_code, reason = \"why not\")]".to_owned()),
    ] {
        assert_eq!(source(path, &text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/auth.rs", lines(FILE_MAX_LINES)),
        ("src/auth.rs", format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(400), lines(400))),
        ("crates/cpd-store/src/tests/model.rs", lines(FILE_MAX_LINES + 1)),
        ("src/auth.rs", format!("//! {LONGER_BECAUSE} one table.\n{}", lines(FILE_MAX_LINES + 1))),
        ("src/auth.rs", "const TODOS: u8 = 1;".to_owned()),
        (UNSAFE_FILE, "#![allow(unsafe_code, reason = \"descriptors\")]".to_owned()),
    ] {
        assert_eq!(source(path, &text), [""; 0], "{path}");
    }
    assert!(
        root("src/lib.rs", "pub mod auth;\n").is_some() && root("src/lib.rs", &format!("{ROOT_LINTS}\n")).is_none()
    );
    let lints = "\n[lints]\nworkspace = true\n";
    for (text, wrong) in [
        (format!("[dependencies]\nmio = \"1\"\n{lints}"), 1),
        (format!("[dev-dependencies.mio]\nversion = \"1\"\n{lints}"), 1),
        ("[dependencies]\nmio = \"1\" # polls\n".to_owned(), 1),
        (format!("[workspace.dependencies]\nmio = \"1\" # polls\n{lints}"), 0),
    ] {
        assert_eq!(manifest("Cargo.toml", &text).len(), wrong, "{text}");
    }
    let text = "[dependencies]\ncp-proto.workspace = true # wire\nmio = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
    assert_eq!(strange_dependencies("Cargo.toml", text, &["cp-proto"]), ["Cargo.toml: depends on mio"]);
}
