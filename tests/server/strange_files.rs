//! Files that are not what the configuration says: a link, a pipe, a folder, somebody else's store. A start that refuses
//! them, and what `--restore` and `--salvage` do not take, is left in every respect as it was, and so is its folder.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cpd_testing::running;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, mkfifo};
use running::{Ended, run};

const NOBODY: u32 = 65_534;
/// Somebody who is neither root nor the one who starts cpd.
const STRANGER: u32 = 1;

/// Everything that can be told of what is under a name, and, of a file, its content.
type Found = (u32, u32, u32, u64, u64, (i64, i64), Vec<u8>);

/// A folder of folders: `data` of the one who starts cpd, `elsewhere` and `strange` of others.
struct Scene {
    root: tempfile::TempDir,
    user: u32,
    cpd: PathBuf,
}

impl Scene {
    fn new(user: u32) -> Scene {
        let root = tempfile::tempdir().expect("a folder");
        let cpd = root.path().join("cpd");
        // Not by ourselves: a child that another test starts meanwhile would hold the copy open for writing.
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_cpd")).arg(&cpd).status().expect("cp runs").success());
        let scene = Scene { root, user, cpd };
        mode(scene.root.path(), 0o755);
        for folder in ["data", "elsewhere", "strange", "socket"] {
            fs::create_dir(scene.at(folder)).expect("made");
            mode(&scene.at(folder), 0o755);
        }
        for (folder, owner) in [("data", user), ("elsewhere", user), ("socket", user), ("strange", STRANGER)] {
            give(&scene.at(folder), owner);
        }
        scene
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn store(&self) -> PathBuf {
        self.at("data/cpd.db")
    }

    /// A whole store of `owner`, which everybody may read.
    fn makes_store(&self, path: &str, owner: u32) {
        let folder = tempfile::tempdir().expect("a folder");
        let made = folder.path().join("cpd.db");
        drop(cpd_store::Store::open(&made).expect("made"));
        self.makes_file(path, owner, &fs::read(&made).expect("read"));
    }

    fn makes_file(&self, path: &str, owner: u32, content: &[u8]) {
        fs::write(self.at(path), content).expect("written");
        mode(&self.at(path), 0o644);
        give(&self.at(path), owner);
    }

    fn makes_link(&self, path: &str, owner: u32, to: &Path) {
        symlink(to, self.at(path)).expect("made");
        if geteuid().is_root() {
            lchown(self.at(path), Some(owner), None).expect("given");
        }
    }

    /// Starts cpd with this store, as the user, with more words for a tool.
    fn runs(&self, store: &Path, words: &[&str]) -> Ended {
        let config = self.at("cpd.toml");
        let text = format!(
            "store.path = {store:?}\nlisten.cp = [\"127.0.0.1:0\"]\ncontrol.socket = {:?}\ncontrol.group = \"\"\n\
             log.target = \"stderr\"\n",
            self.at("socket/s")
        );
        fs::write(&config, text).expect("written");
        mode(&config, 0o644);
        let mut command = Command::new("timeout");
        command.arg("30").arg(&self.cpd).arg("--config").arg(&config).args(words);
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").current_dir("/");
        if geteuid().is_root() && self.user != 0 {
            command.uid(self.user).gid(self.user);
        }
        run(&mut command, "")
    }

    fn all(&self) -> BTreeMap<PathBuf, Found> {
        let mut found = BTreeMap::new();
        for folder in ["data", "elsewhere", "strange"] {
            look(&self.at(folder), &mut found);
        }
        found
    }

    /// That a start with this store ends with `code` and says `said`, and that nothing is changed anywhere.
    #[track_caller]
    fn refuses(&self, what: &str, store: &Path, words: &[&str], code: i32, said: &str) {
        let before = self.all();
        let ended = self.runs(store, words);
        assert_eq!(ended.code(), code, "{what}, uid {}: {ended:?}", self.user);
        assert!(ended.stderr.contains(said), "{what}, uid {}: {ended:?}", self.user);
        let after = self.all();
        let names = |found: &BTreeMap<PathBuf, Found>| found.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "{what}, uid {}: {ended:?}", self.user);
        assert!(before == after, "{what}, uid {}: {ended:?}: {before:?} {after:?}", self.user);
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

fn give(path: &Path, owner: u32) {
    if geteuid().is_root() {
        chown(path, Some(owner), Some(owner)).expect("given");
    }
}

fn look(path: &Path, into: &mut BTreeMap<PathBuf, Found>) {
    let found = fs::symlink_metadata(path).expect("is there");
    let content = match found.file_type() {
        kind if kind.is_file() => fs::read(path).expect("read"),
        kind if kind.is_symlink() => fs::read_link(path).expect("read").into_os_string().into_encoded_bytes(),
        kind if kind.is_dir() => {
            for entry in fs::read_dir(path).expect("listed") {
                look(&entry.expect("an entry").path(), into);
            }
            Vec::new()
        }
        kind => format!("{} {}", kind.is_fifo(), found.rdev()).into_bytes(),
    };
    let times = (found.mtime(), found.mtime_nsec());
    into.insert(path.into(), (found.mode(), found.uid(), found.gid(), found.nlink(), found.ino(), times, content));
}

/// Those as whom cpd is started here.
fn users() -> Vec<u32> {
    if geteuid().is_root() { vec![0, NOBODY] } else { vec![geteuid().as_raw()] }
}

#[test]
fn a_file_that_is_no_store_is_left_as_it_is() {
    for user in users() {
        let left = "the file was left as it is";
        type Make = fn(&Scene);
        let cases: [(&str, Make, i32, &str); 9] = [
            ("a text", |s| s.makes_file("data/cpd.db", s.user, b"precious"), 65, left),
            ("an empty file", |s| s.makes_file("data/cpd.db", s.user, b""), 65, left),
            (
                "a link to a text",
                |s| {
                    s.makes_file("elsewhere/text", s.user, b"precious");
                    s.makes_link("data/cpd.db", s.user, &s.at("elsewhere/text"));
                },
                65,
                left,
            ),
            (
                "a second name of a text",
                |s| {
                    s.makes_file("elsewhere/text", s.user, b"precious");
                    fs::hard_link(s.at("elsewhere/text"), s.store()).expect("made");
                },
                65,
                left,
            ),
            (
                "a store of a later version",
                |s| {
                    s.makes_store("data/cpd.db", s.user);
                    let mut bytes = fs::read(s.store()).expect("read");
                    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
                    s.makes_file("data/cpd.db", s.user, &bytes);
                },
                65,
                left,
            ),
            ("a pipe", |s| mkfifo(&s.store(), Mode::S_IRWXU).expect("made"), 73, "is not a file"),
            ("a folder", |s| fs::create_dir(s.store()).expect("made"), 73, "is not a file"),
            (
                "a socket",
                |s| drop(std::os::unix::net::UnixListener::bind(s.store()).expect("made")),
                73,
                "is not a file",
            ),
            (
                "a link to nothing",
                |s| s.makes_link("data/cpd.db", s.user, &s.at("elsewhere/none")),
                71,
                "cannot follow the symbolic link",
            ),
        ];
        for (what, make, code, said) in cases {
            let scene = Scene::new(user);
            make(&scene);
            scene.refuses(what, &scene.store(), &[], code, said);
            scene.refuses(what, &scene.store(), &["--check"], code, said);
        }
    }
}

#[test]
fn what_others_have_made_is_not_used_and_left_as_it_is() {
    if !geteuid().is_root() {
        // Only root can make what is another's.
        return;
    }
    for user in users() {
        type Make = fn(&Scene);
        let cases: [(&str, Make, &str); 6] = [
            ("a store of a stranger's", |s| s.makes_store("data/cpd.db", STRANGER), "cpd.db: belongs to uid 1"),
            (
                "a link to a stranger's store",
                |s| {
                    s.makes_store("elsewhere/cpd.db", STRANGER);
                    s.makes_link("data/cpd.db", s.user, &s.at("elsewhere/cpd.db"));
                },
                "elsewhere/cpd.db: belongs to uid 1",
            ),
            (
                "a second name of a stranger's store",
                |s| {
                    s.makes_store("strange/cpd.db", STRANGER);
                    fs::hard_link(s.at("strange/cpd.db"), s.store()).expect("made");
                },
                "cpd.db: belongs to uid 1",
            ),
            (
                "a stranger's link to a store",
                |s| {
                    s.makes_store("elsewhere/cpd.db", s.user);
                    s.makes_link("data/cpd.db", STRANGER, &s.at("elsewhere/cpd.db"));
                },
                "cpd.db: is a symbolic link of uid 1",
            ),
            (
                "a link into a stranger's folder",
                |s| {
                    s.makes_store("strange/cpd.db", s.user);
                    s.makes_link("data/cpd.db", s.user, &s.at("strange/cpd.db"));
                },
                "strange: the store's folder belongs to uid 1",
            ),
            (
                "a log of a stranger's",
                |s| {
                    s.makes_store("data/cpd.db", s.user);
                    s.makes_file("data/cpd.db-wal", STRANGER, b"");
                },
                "cpd.db-wal: belongs to uid 1",
            ),
        ];
        for (what, make, said) in cases {
            let scene = Scene::new(user);
            make(&scene);
            scene.refuses(what, &scene.store(), &[], 77, said);
        }
        let scene = Scene::new(user);
        scene.makes_store("elsewhere/cpd.db", user);
        scene.makes_link("strange/cpd.db", user, &scene.at("elsewhere/cpd.db"));
        let said = "strange: the store's folder belongs to uid 1";
        scene.refuses("one's own link in a stranger's folder", &scene.at("strange/cpd.db"), &[], 77, said);
        // A device, and a log and a lock that are no files: whatever was opened would do something, or wait.
        let scene = Scene::new(user);
        mknod(&scene.store(), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).expect("made");
        give(&scene.store(), user);
        scene.refuses("a device", &scene.store(), &[], 73, "is not a file");
    }
}

#[test]
fn what_lies_beside_a_store_is_not_followed() {
    for user in users() {
        for name in ["cpd.db-wal", "cpd.db-lock", ".cpd.db.history"] {
            for kind in ["link", "pipe"] {
                let scene = Scene::new(user);
                scene.makes_store("data/cpd.db", user);
                scene.makes_file("elsewhere/text", user, b"precious");
                let path = format!("data/{name}");
                match kind {
                    "link" => scene.makes_link(&path, user, &scene.at("elsewhere/text")),
                    _ => {
                        mkfifo(&scene.at(&path), Mode::S_IRWXU).expect("made");
                        give(&scene.at(&path), user);
                    }
                }
                let code = if name == ".cpd.db.history" { 71 } else { 73 };
                scene.refuses(&format!("{kind} {name}"), &scene.store(), &[], code, name);
            }
        }
    }
}

#[test]
fn a_folder_in_which_others_can_make_something_is_none_for_a_store() {
    for user in users() {
        let scene = Scene::new(user);
        let backup = scene.at("elsewhere/backup");
        scene.makes_store("elsewhere/backup", user);
        let restore = backup.display().to_string();
        for open in [0o777, 0o1777] {
            let said = format!("data: the store's folder may be written by everyone (mode {open:04o})");
            mode(&scene.at("data"), open);
            scene.refuses("without a store", &scene.store(), &[], 77, &said);
            scene.refuses("a check without a store", &scene.store(), &["--check"], 77, &said);
            scene.refuses("a restore", &scene.store(), &["--restore", &restore], 77, &said);
            scene.makes_store("data/cpd.db", user);
            scene.refuses("with a store", &scene.store(), &[], 77, &said);
            fs::remove_file(scene.store()).expect("removed");
            // Nor is it one for what is to become a store.
            scene.makes_store("elsewhere/cpd.db", user);
            let new = scene.at("data/new").display().to_string();
            scene.refuses("a salvage", &scene.at("elsewhere/cpd.db"), &["--salvage", &new], 77, &said);
            fs::remove_file(scene.at("elsewhere/cpd.db")).expect("removed");
        }
    }
}

#[test]
fn a_restore_refuses_what_a_start_does() {
    for user in users() {
        let scene = Scene::new(user);
        scene.makes_store("elsewhere/backup", user);
        let backup = scene.at("elsewhere/backup").display().to_string();
        let words = ["--restore", backup.as_str()];
        mkfifo(&scene.store(), Mode::S_IRWXU).expect("made");
        give(&scene.store(), user);
        scene.refuses("a restore over a pipe", &scene.store(), &words, 73, "is not a file");
        fs::remove_file(scene.store()).expect("removed");
        if geteuid().is_root() {
            scene.makes_store("elsewhere/cpd.db", user);
            scene.makes_link("data/cpd.db", STRANGER, &scene.at("elsewhere/cpd.db"));
            let said = "is a symbolic link of uid 1";
            scene.refuses("a restore by a stranger's link", &scene.store(), &words, 77, said);
        }
    }
}

/// Root does in another's folder what that one could do, and nothing more.
#[test]
fn root_salvages_as_the_owner_of_the_folder() {
    if !geteuid().is_root() {
        return;
    }
    let scene = Scene::new(0);
    scene.makes_store("data/cpd.db", 0);
    let new = scene.at("strange/new");
    let words = ["--salvage", &new.display().to_string()].map(str::to_owned);
    let words = [words[0].as_str(), words[1].as_str()];
    // Root could, but the folder's owner cannot.
    mode(&scene.at("strange"), 0o555);
    scene.refuses("a folder of which nobody may change anything", &scene.store(), &words, 73, "Permission denied");
    mode(&scene.at("strange"), 0o755);
    // What root alone may have is none of the folder's owner, whatever name leads to it.
    scene.makes_file("elsewhere/text", 0, b"precious");
    for tail in ["", "-wal", "-journal"] {
        scene.makes_link(&format!("strange/new.incomplete-new{tail}"), STRANGER, &scene.at("elsewhere/text"));
    }
    let ended = scene.runs(&scene.store(), &words);
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(fs::read(scene.at("elsewhere/text")).expect("is there"), b"precious");
    assert_eq!(fs::metadata(scene.at("elsewhere/text")).expect("is there").uid(), 0);
    let found = fs::symlink_metadata(&new).expect("is there");
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (STRANGER, STRANGER, 0o600));
    let left: Vec<_> =
        fs::read_dir(scene.at("strange")).expect("listed").map(|e| e.expect("one").file_name()).collect();
    assert_eq!(left, ["new"]);
}

/// A link of one's own or of root's gives the store another place, and a mode that is too wide is taken back.
#[test]
fn an_administrators_link_is_followed() {
    for user in users() {
        for owner in [user, 0] {
            let scene = Scene::new(user);
            scene.makes_store("elsewhere/real.db", user);
            scene.makes_link("data/cpd.db", owner, &scene.at("elsewhere/real.db"));
            let place = cpd_store::preflight(&scene.store(), false);
            place.expect("a start would take it");
            let ended = scene.runs(&scene.store(), &["--check"]);
            assert_eq!(ended.code(), 0, "{ended:?}");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (real, link) = (folder.path().join("real.db"), folder.path().join("cpd.db"));
    drop(cpd_store::Store::open(&real).expect("made"));
    symlink("real.db", &link).expect("made");
    for name in ["real.db", "real.db-wal"] {
        if folder.path().join(name).exists() {
            mode(&folder.path().join(name), 0o640);
        }
    }
    let store = cpd_store::Store::open(&link).expect("opened");
    assert!(store.warnings().iter().any(|said| said.contains("real.db: mode was 0640, is now 0600")));
    assert_eq!(fs::metadata(&real).expect("is there").mode() & 0o7777, 0o600);
}
