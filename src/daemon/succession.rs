//! Connections from one process to the next, through the service manager's descriptor store.
//!
//! They are stored when the daemon stops, not before: until then a connection costs the manager nothing, and what is
//! stored is never out of date. The manager compares each descriptor that it stores with every other one, so it gets two,
//! however many connections there are: a socket in whose queue all connections lie, and a memory file with their
//! sessions' records in the same order. Whatever cannot be read is closed and logged, never guessed.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use sd_notify::NotifyState;

use super::fd::{self, Inherited, Received};
use super::notify::tell;
use crate::proto::codec::{Reader, Writer};

/// Names in the descriptor store.
const CLIENTS: &str = "cpd-clients";
const RECORDS: &str = "cpd-records";
/// Of the random number that stands in each message of the queue and at the head of the memory file: what does not
/// belong together is never put together.
pub const SEAL_BYTES: usize = 16;
/// Begins the memory file, behind the seal; with another number behind it, it is another version's. What begins like this
/// can be changed by nobody.
const MAGIC: &[u8] = b"cpd succession 3\n";
/// The same of 0.1.0 and of 0.2.0, who left files that whoever held them could have changed, which is the manager alone:
/// each record says itself what its form is.
const OLD_MAGICS: [&[u8]; 2] = [b"cpd succession 1\n", b"cpd succession 2\n"];
/// What nobody can do to the memory file any more, this process and its successor included: they are kept by the kernel
/// and cannot be taken back.
const FROZEN: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);
/// Of memfd_create(2), since Linux 6.3: nor can it be run. nix has no name for it.
const MFD_NOEXEC_SEAL: u32 = 8;
/// Descriptors that travel in one message; the kernel allows three more.
pub const DESCRIPTORS_PER_MESSAGE: usize = 250;
/// Records that are read at most, and the longest of them, in bytes.
const RECORDS_MAX: u32 = 1 << 20;
const RECORD_MAX_BYTES: usize = 256 * 1024;
const FILE_MAX_BYTES: u64 = 1 << 31;
/// How long the manager may take to store what it is sent.
const BARRIER: Duration = Duration::from_millis(1000);

/// What a predecessor left, as it was found.
pub struct Heritage {
    clients: OwnedFd,
    records: OwnedFd,
}

/// What a predecessor left, read.
pub struct Estate {
    /// The engine's record of what is not any connection's.
    pub common: Vec<u8>,
    /// Connections with their sessions' records, in the order in which they are to be taken up.
    pub sessions: Vec<(TcpStream, Vec<u8>)>,
    /// How many more there were than this process may have; they are closed.
    pub left_out: usize,
}

/// The memory file, read.
struct Records {
    seal: [u8; SEAL_BYTES],
    common: Vec<u8>,
    sessions: Vec<Vec<u8>>,
}

/// Takes what a predecessor left out of what was inherited, one of each name. The manager keeps every descriptor that it
/// was given under a name, so that what a crash in the middle of a stop left behind stands beside what came later.
///
/// # Errors
/// Whatever was left is incomplete, or there is more of it than one process leaves: it is closed and forgotten.
pub fn find(inherited: Vec<Inherited>) -> (Vec<Inherited>, io::Result<Option<Heritage>>) {
    let (left, rest): (Vec<_>, Vec<_>) =
        inherited.into_iter().partition(|one| matches!(one.name.as_str(), CLIENTS | RECORDS));
    if left.is_empty() {
        return (rest, Ok(None));
    }
    let (mut clients, mut records): (Vec<_>, Vec<_>) = left.into_iter().partition(|one| one.name == CLIENTS);
    let heritage = match (clients.pop(), records.pop()) {
        (Some(clients_of_one), Some(records_of_one)) if clients.is_empty() && records.is_empty() => {
            Ok(Some(Heritage { clients: clients_of_one.fd, records: records_of_one.fd }))
        }
        _ => {
            forget();
            Err(io::Error::new(io::ErrorKind::InvalidData, "they were left by halves, or more than once"))
        }
    };
    (rest, heritage)
}

/// Reads it, at most `max` connections, and lets the manager forget it.
///
/// # Errors
/// The records cannot be read, are another version's, or belong to other connections; all are closed with the error.
pub fn read(heritage: Heritage, max: usize) -> io::Result<Estate> {
    let estate = put_together(heritage, max);
    forget();
    estate
}

fn put_together(heritage: Heritage, max: usize) -> io::Result<Estate> {
    let Records { seal, common, sessions: records } = read_records(heritage.records)?;
    let streams = receive(&heritage.clients, seal, records.len(), max)?;
    // The queue is one for everybody who holds it: a successor that was killed may have taken the first ones out.
    if streams.len() != records.len() {
        let text = format!("{} connections for {} records", streams.len(), records.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let all = records.len();
    let pairs = streams.into_iter().zip(records);
    let sessions: Vec<_> = pairs.filter_map(|(stream, record)| Some((stream?, record))).collect();
    let left_out = all - sessions.len();
    Ok(Estate { common, sessions, left_out })
}

/// Leaves connections and records to a successor; how many connections went. The manager has them when this returns.
///
/// # Errors
/// Nothing was stored, or the manager does not say whether it was: the error's text tells.
pub fn leave(common: &[u8], sessions: &[(TcpStream, Vec<u8>)]) -> io::Result<usize> {
    let (here, there) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    let mut seal = [0; SEAL_BYTES];
    getrandom::fill(&mut seal).map_err(|error| io::Error::other(error.to_string()))?;
    let mut went = 0;
    for group in sessions.chunks(DESCRIPTORS_PER_MESSAGE) {
        let fds: Vec<RawFd> = group.iter().map(|(stream, _)| stream.as_raw_fd()).collect();
        let message = [ControlMessage::ScmRights(&fds)];
        match sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(&seal)], &message, MsgFlags::empty(), None) {
            Ok(_) => went += group.len(),
            // The queue is full, or the user may have no more descriptors under way: the rest is closed.
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let records = write_records(common, sessions.iter().take(went).map(|(_, record)| record.as_slice()));
    let memory = frozen(&[&seal, &records])?;
    // Two of one name would be one too many for the successor.
    forget();
    store(RECORDS, memory.as_fd())?;
    store(CLIENTS, there.as_fd())?;
    barrier()?;
    Ok(went)
}

/// A memory file with these parts, which nobody can change.
fn frozen(parts: &[&[u8]]) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = match memfd_create(c"cpd-records", flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(c"cpd-records", flags),
        made => made,
    };
    let mut memory = File::from(made?);
    parts.iter().try_for_each(|part| memory.write_all(part))?;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(FROZEN | SealFlag::F_SEAL_SEAL))?;
    Ok(memory)
}

fn is_frozen(memory: &File) -> bool {
    // What cannot have seals has none.
    fcntl(memory, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(FROZEN))
}

fn store(name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    // Unasked, the manager would drop the queue of connections as soon as this process has closed its other end.
    tell(&[NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")], &[fd])
}

/// Waits until the manager has taken all that was sent: it closes the descriptor that comes with a barrier.
fn barrier() -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    tell(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
    drop(writer);
    let timeout = PollTimeout::try_from(BARRIER).unwrap_or(PollTimeout::NONE);
    match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::empty())], timeout)? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the service manager does not say whether it has them")),
        _ => Ok(()),
    }
}

/// The manager's duplicates go: a connection that ends here is to end.
fn forget() {
    for name in [CLIENTS, RECORDS] {
        // What stays stored is found at the next start, and refused.
        let _ = tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[]);
    }
}

/// The connections in the queue, `expected` of them and in the order of the records; `None` stands for one that this
/// process may not have, or that is beyond `max`.
fn receive(queue: &OwnedFd, seal: [u8; SEAL_BYTES], expected: usize, max: usize) -> io::Result<Vec<Option<TcpStream>>> {
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut found = [0; SEAL_BYTES];
    let mut kept = 0;
    while let Some(Received { fds, cut }) = fd::receive(queue.as_fd(), &mut found, DESCRIPTORS_PER_MESSAGE)? {
        if found != seal {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "records and connections do not belong together"));
        }
        let before = streams.len();
        for fd in fds {
            streams.push((kept < max).then(|| TcpStream::from(fd)));
            kept += 1;
        }
        if cut {
            // Every message but the last is full.
            let whole = before.saturating_add(DESCRIPTORS_PER_MESSAGE).min(expected);
            streams.resize_with(whole.max(streams.len()), || None);
        }
    }
    Ok(streams)
}

fn read_records(records: OwnedFd) -> io::Result<Records> {
    let mut file = File::from(records);
    // Asked first: what is frozen stays as it is read.
    let is_frozen = is_frozen(&file);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "they were left by another version");
    let (seal, rest) = bytes.split_first_chunk().ok_or_else(unreadable)?;
    if rest.starts_with(MAGIC) && !is_frozen {
        let said = "they can have been changed since they were left: their memory is not sealed";
        return Err(io::Error::new(io::ErrorKind::InvalidData, said));
    }
    let (common, sessions) = parse_records(rest).ok_or_else(unreadable)?;
    Ok(Records { seal: *seal, common, sessions })
}

/// What [`parse_records`] reads.
pub fn write_records<'a>(common: &[u8], records: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut file = Writer::default();
    file.bytes(common);
    file.u32(u32::try_from(records.len()).unwrap_or(u32::MAX));
    records.for_each(|record| file.bytes(record));
    [MAGIC, &file.finish()].concat()
}

/// The engine's record of what is not any connection's, and the sessions' records, out of the memory file's bytes; `None`:
/// they are not what this version, 0.1.0 or 0.2.0 writes.
pub fn parse_records(bytes: &[u8]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut magics = std::iter::once(MAGIC).chain(OLD_MAGICS);
    let mut reader = Reader::new(magics.find_map(|magic| bytes.strip_prefix(magic))?);
    let common = reader.bytes(FILE_MAX_BYTES as usize)?.to_vec();
    let count = reader.u32().filter(|count| *count <= RECORDS_MAX)?;
    let records: Option<Vec<Vec<u8>>> =
        (0..count).map(|_| reader.bytes(RECORD_MAX_BYTES).map(<[u8]>::to_vec)).collect();
    reader.end()?;
    Some((common, records?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn records() -> Vec<u8> {
        let sessions = [&b"one"[..], b"two"];
        [&[7; SEAL_BYTES], write_records(b"common", sessions.into_iter()).as_slice()].concat()
    }

    /// As every version before did it.
    fn open_memory(bytes: &[u8]) -> File {
        let mut memory = File::from(memfd_create(c"cpd-records", MFdFlags::MFD_CLOEXEC).unwrap());
        memory.write_all(bytes).unwrap();
        memory
    }

    #[test]
    fn what_is_left_can_be_read_and_changed_by_nobody() {
        let bytes = records();
        let memory = frozen(&[&bytes[..5], &bytes[5..]]).unwrap();
        assert!(is_frozen(&memory));
        let refused = Some(Errno::EPERM as i32);
        assert_eq!(memory.write_at(b"x", 0).unwrap_err().raw_os_error(), refused);
        assert_eq!(memory.set_len(1).unwrap_err().raw_os_error(), refused);
        assert_eq!(memory.set_len(100_000).unwrap_err().raw_os_error(), refused);
        // By another way to the same memory, too, and no seal can be added.
        let again = File::options().write(true).open(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();
        assert_eq!(again.write_at(b"x", 0).unwrap_err().raw_os_error(), refused);
        assert_eq!(fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
        let read = read_records(memory.into()).unwrap();
        assert_eq!((read.seal, read.common.as_slice(), read.sessions.len()), ([7; SEAL_BYTES], &b"common"[..], 2));
    }

    #[test]
    fn what_is_not_sealed_is_taken_from_those_who_could_not_seal_alone() {
        let bytes = records();
        let error = read_records(open_memory(&bytes).into()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("not sealed"), "{error}");
        let some = open_memory(&bytes);
        assert!(!is_frozen(&some));
        for magic in OLD_MAGICS {
            let mut old = bytes.clone();
            old[SEAL_BYTES..SEAL_BYTES + magic.len()].copy_from_slice(magic);
            assert_eq!(read_records(open_memory(&old).into()).unwrap().sessions.len(), 2);
        }
        // Half a seal is none.
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut half = File::from(memfd_create(c"cpd-records", flags).unwrap());
        half.write_all(&bytes).unwrap();
        fcntl(&half, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        assert!(read_records(half.into()).is_err());
    }
}
