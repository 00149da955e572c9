//! A small ext4 in a file, in a mount namespace that nobody else sees, whose power can be cut.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::running::PATIENCE;

/// Set inside of the namespace.
const INSIDE: &str = "CPD_PROOF_INSIDE";
/// In the namespace a file system in memory is there; outside of it nothing is changed.
const ROOM: &str = "/mnt";

/// Runs `body`, of the test with this name, in a mount namespace: what it mounts is gone when its last process is, even
/// when it was killed, and so are the files that it makes below the folder for temporary files.
pub fn apart(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        run("mount", &["-t", "tmpfs", "-o", "size=1g,mode=0755", "tmpfs", ROOM]);
        return body();
    }
    assert!(nix::unistd::geteuid().is_root(), "this test mounts file systems: it wants root");
    let own = std::env::current_exe().expect("this program");
    assert!(!own.starts_with(ROOM), "{ROOM} is hidden from this test, which is in it");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(own);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, "1").env("TMPDIR", ROOM);
    let status = command.status().expect("unshare: install the package util-linux");
    assert!(status.success(), "{test} has failed, see above");
}

/// An ext4, mounted.
pub struct Disk {
    image: PathBuf,
    place: PathBuf,
}

impl Disk {
    /// A new one of that many mebibytes. `options` are more of mkfs.ext4(8).
    pub fn new(name: &str, mebibytes: u64, options: &[&str]) -> Disk {
        let room = Path::new(ROOM);
        let disk = Disk { image: room.join(format!("{name}.img")), place: room.join(name) };
        std::fs::create_dir(&disk.place).expect("a folder");
        File::create(&disk.image).and_then(|file| file.set_len(mebibytes << 20)).expect("an image");
        // No blocks are kept for root, which cpd is here.
        let mut arguments = vec!["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        arguments.extend(options);
        arguments.push(text(&disk.image));
        run("mkfs.ext4", &arguments);
        disk.mount();
        disk
    }

    pub fn mount(&self) {
        run("mount", &["-o", "loop", text(&self.image), text(&self.place)]);
    }

    /// Lays a hand on the switch.
    pub fn hand(&self) -> Hand {
        // EXT4_IOC_SHUTDOWN with NOLOGFLUSH: not even the journal's open transaction is written.
        let script = "import fcntl, os, struct, sys\n\
                      disk = os.open(sys.argv[1], os.O_RDONLY)\n\
                      os.write(1, b'.')\n\
                      if os.read(0, 1): fcntl.ioctl(disk, 0x8004587d, struct.pack('I', 2))";
        let mut command = Command::new("python3");
        command.args(["-c", script, text(&self.place)]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = command.spawn().expect("python3: install the package python3");
        python.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("it is ready");
        Hand { python }
    }

    /// Once nobody uses it any more.
    pub fn unmount(&self) {
        let begun = Instant::now();
        loop {
            let output = Command::new("umount").arg(&self.place).output().expect("umount");
            if output.status.success() {
                return;
            }
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(begun.elapsed() < PATIENCE, "umount: {error}");
            sleep(Duration::from_millis(5));
        }
    }

    pub fn folder(&self) -> &Path {
        &self.place
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.place).expect("a file system");
        found.blocks_available() * found.fragment_size()
    }

    /// A file that takes all room but `left` bytes.
    pub fn fill(&self, left: u64) -> PathBuf {
        self.fill_with("ballast", left)
    }

    /// Another one, which takes what is left.
    pub fn fill_up(&self) {
        self.fill_with("more ballast", 0);
    }

    fn fill_with(&self, name: &str, left: u64) -> PathBuf {
        let path = self.place.join(name);
        let mut file = File::create(&path).expect("a file");
        let mut zeros = vec![0; 1 << 20];
        while !zeros.is_empty() {
            // Until not even a small piece fits: the file system takes some room for itself.
            if self.free() < left + zeros.len() as u64
                || file.write_all(&zeros).and_then(|()| file.sync_data()).is_err()
            {
                zeros.truncate(zeros.len() / 2);
            }
        }
        path
    }
}

/// A hand on the switch of a [`Disk`]'s power.
pub struct Hand {
    python: Child,
}

impl Hand {
    /// As a power cut does: what was not written out is gone, nothing can be read or written any more.
    pub fn cut(mut self) {
        self.python.stdin.take().expect("a pipe").write_all(b".").expect("it waits");
        assert!(self.python.wait().expect("a child").success(), "the file system cannot be shut down");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may be unmounted already; and with the namespace it is in any case.
        let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(&self.place).status();
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
