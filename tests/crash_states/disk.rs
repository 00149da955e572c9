//! What a disk may hold when its power goes: everything that was synced, and of what was written since then any part, each
//! sector for itself.

use super::recording::{Event, File};
use crate::rounds::random::Random;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The bytes of a file that was there.
pub type Bytes = Option<Vec<u8>>;

/// How much of what was not synced had reached the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    Nothing,
    All,
    /// Any part, as chance has it.
    Some,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Cut(usize),
}

/// A file's contents, whatever its name.
#[derive(Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// What a name in the folder stands for.
#[derive(Debug, Default)]
struct Name {
    durable: Option<usize>,
    pending: Vec<Option<usize>>,
}

/// The store's file, its log, and what the folder knows of them.
#[derive(Debug, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    names: [Name; 3],
}

impl Disk {
    /// A disk on which these are durable: the store's file, its log and its history.
    pub fn new(files: [Bytes; 3]) -> Disk {
        let mut disk = Disk::default();
        for (name, bytes) in files.into_iter().enumerate() {
            disk.names[name].durable = bytes.map(|durable| disk.add(Inode { durable, pending: Vec::new() }));
        }
        disk
    }

    fn add(&mut self, inode: Inode) -> usize {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Wrote { file, at, bytes } => {
                self.inode(*file).pending.push(Change::Write { at: *at, bytes: bytes.clone() });
            }
            Event::Cut { file, length } => self.inode(*file).pending.push(Change::Cut(*length)),
            Event::Synced { file } => {
                let Inode { durable, pending } = self.inode(*file);
                pending.drain(..).for_each(|change| change.apply(durable));
            }
            Event::Made { file } if self.names[*file as usize].now().is_none() => {
                let made = self.add(Inode::default());
                self.names[*file as usize].pending.push(Some(made));
            }
            Event::Removed { file } => self.names[*file as usize].pending.push(None),
            Event::FolderSynced => {
                for name in &mut self.names {
                    (name.durable, name.pending) = (name.now(), Vec::new());
                }
            }
            Event::Made { .. } | Event::Received { .. } | Event::Sent { .. } | Event::Left { .. } | Event::Ended => {}
        }
    }

    fn inode(&mut self, file: File) -> &mut Inode {
        let inode = self.names[file as usize].now().expect("a write to a file that is there");
        &mut self.inodes[inode]
    }

    /// Whether anything stands between the files and what is durable of them.
    pub fn is_settled(&self) -> bool {
        self.names.iter().all(|name| name.pending.is_empty())
            && self.inodes.iter().all(|inode| inode.pending.is_empty())
    }

    /// Whether the log is being moved into the file, or begun anew, and that is not synced.
    pub fn is_moving(&self) -> bool {
        let pending = |file: File| self.names[file as usize].now().map(|inode| &self.inodes[inode].pending);
        let anew = |change: &Change| matches!(change, Change::Write { at: 0, .. } | Change::Cut(_));
        pending(File::Store).is_some_and(|changes| !changes.is_empty())
            || pending(File::Log).is_some_and(|changes| changes.iter().any(anew))
            || self.names.iter().any(|name| !name.pending.is_empty())
    }

    /// The files as they could be found if the power went now.
    pub fn crashed(&self, kept: Kept, random: &mut Random) -> [Bytes; 3] {
        self.names.each_ref().map(|name| {
            let inode = match kept {
                Kept::Nothing => name.durable,
                Kept::All => name.now(),
                Kept::Some => {
                    let number = random.between(0, name.pending.len() as u64) as usize;
                    number.checked_sub(1).map_or(name.durable, |number| name.pending[number])
                }
            };
            inode.map(|inode| self.inodes[inode].crashed(kept, random))
        })
    }
}

impl Name {
    fn now(&self) -> Option<usize> {
        self.pending.last().copied().unwrap_or(self.durable)
    }
}

impl Inode {
    fn crashed(&self, kept: Kept, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let choice = match kept {
            Kept::Nothing => Choice::FirstOnes(0),
            Kept::All => Choice::FirstOnes(self.pending.len()),
            Kept::Some => Choice::any(self.pending.len(), random),
        };
        for (number, change) in self.pending.iter().enumerate() {
            match choice.fate(number, random) {
                Fate::Kept => change.clone().apply(&mut bytes),
                Fate::Torn => change.tear(&mut bytes, random),
                Fate::Lost => {}
            }
        }
        bytes
    }
}

enum Fate {
    Kept,
    Torn,
    Lost,
}

/// Which changes have reached the disk.
enum Choice {
    FirstOnes(usize),
    /// The first ones, and one more in part.
    FirstOnesAndTorn(usize),
    AllBut(usize),
    /// Of this many changes each one, and of these some in part.
    OneIn(u64),
    /// All but one in this many.
    AllButOneIn(u64),
}

impl Choice {
    fn any(count: usize, random: &mut Random) -> Choice {
        let one = random.between(0, count.saturating_sub(1) as u64) as usize;
        match random.between(0, 5) {
            0 => Choice::FirstOnes(one),
            1 => Choice::FirstOnesAndTorn(one),
            2 => Choice::AllBut(one),
            3 => Choice::OneIn(2),
            4 => Choice::OneIn(8),
            _ => Choice::AllButOneIn(8),
        }
    }

    fn fate(&self, number: usize, random: &mut Random) -> Fate {
        let kept = match self {
            Choice::FirstOnes(count) => number < *count,
            Choice::FirstOnesAndTorn(count) if number == *count => return Fate::Torn,
            Choice::FirstOnesAndTorn(count) => number < *count,
            Choice::AllBut(one) => number != *one,
            Choice::OneIn(n) => random.one_in(*n),
            Choice::AllButOneIn(n) => !random.one_in(*n),
        };
        match (kept, self) {
            (true, Choice::OneIn(_) | Choice::AllButOneIn(_)) if random.one_in(4) => Fate::Torn,
            (true, _) => Fate::Kept,
            (false, _) => Fate::Lost,
        }
    }
}

impl Change {
    fn apply(self, file: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => put(file, at, &bytes),
            Change::Cut(length) => file.resize(length, 0),
        }
    }

    /// Any of its sectors; a file that was to grow may have done so without the bytes.
    fn tear(&self, file: &mut Vec<u8>, random: &mut Random) {
        let Change::Write { at, bytes } = self else { return };
        if random.one_in(2) {
            file.resize(file.len().max(at + bytes.len()), 0);
        }
        let mut from = 0;
        while from < bytes.len() {
            let to = ((at + from) / SECTOR + 1) * SECTOR - at;
            let to = to.min(bytes.len());
            if random.one_in(2) {
                put(file, at + from, &bytes[from..to]);
            }
            from = to;
        }
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn what_was_synced_is_there_and_the_rest_in_any_part() {
    let wrote = |at, byte| Event::Wrote { file: File::Store, at, bytes: vec![byte; 1024] };
    let mut disk = Disk::new([Some(vec![0; 512]), None, None]);
    disk.note(&wrote(256, 1));
    disk.note(&Event::Synced { file: File::Store });
    assert!(disk.is_settled());
    disk.note(&wrote(768, 2));
    disk.note(&Event::Made { file: File::Log });
    disk.note(&Event::Cut { file: File::Store, length: 1536 });
    let mut random = Random::new(1, 1);
    let durable = [vec![0; 256], vec![1; 1024]].concat();
    assert_eq!(disk.crashed(Kept::Nothing, &mut random), [Some(durable.clone()), None, None]);
    let all = [vec![0; 256], vec![1; 512], vec![2; 768]].concat();
    assert_eq!(disk.crashed(Kept::All, &mut random), [Some(all.clone()), Some(vec![]), None]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let [file, log, _] = disk.crashed(Kept::Some, &mut random);
        let file = file.expect("was always there");
        // Sectors of the second write: 768..1024, 1024..1536, 1536..1792.
        assert_eq!(file[..768], durable[..768]);
        for sector in [768..1024, 1024..1280] {
            assert!(file[sector.clone()].iter().all(|byte| *byte == file[sector.start]), "a sector is cut");
        }
        seen.insert((file.len(), file[768], file[1024], log.is_some()));
    }
    assert!(seen.len() > 12, "{seen:?}");
}
