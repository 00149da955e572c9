//! The programs under test, as cargo has built them for the test that is running.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The root of the workspace.
pub fn root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent);
    crates.expect("crates/cpd-testing is two folders below the root").to_owned()
}

/// cpd(8).
pub fn cpd() -> &'static str {
    static CPD: OnceLock<String> = OnceLock::new();
    CPD.get_or_init(|| program("cpd"))
}

/// cpctl(8).
pub fn cpctl() -> &'static str {
    static CPCTL: OnceLock<String> = OnceLock::new();
    CPCTL.get_or_init(|| program("cpctl"))
}

/// Cargo builds the programs of a package before its tests, into the folder above theirs.
fn program(name: &str) -> String {
    let test = std::env::current_exe().expect("the program of this test");
    let path = test.parent().and_then(Path::parent).expect("target/debug/deps").join(name);
    assert!(path.exists(), "{} was not built: this test is not one of the package cpd", path.display());
    path.to_str().expect("a path in UTF-8").to_owned()
}
