//! Hands connections over from one process to the next, through the service manager's descriptor store.
//!
//! They are stored when the daemon stops, not before: until then a connection costs the manager nothing, and what is
//! stored is never out of date. The manager compares each descriptor that it stores with every other one, so it gets
//! two, however many connections there are: a socket whose queue contains all connections, and a memory file with their
//! sessions' records in the same order. Whatever cannot be read is closed and logged, never guessed.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use cp_proto::secret::WipedBytes;
use cpd_core::record::{RecordReader, RecordWriter};
use cpd_core::sabotage::{self, Fault};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use sd_notify::NotifyState;

use super::fd::{self, Inherited, ReceivedFds};
use super::notify::notify_manager;

/// The two descriptors' names in the descriptor store.
const CLIENTS: &str = "cpd-clients";
const RECORDS: &str = "cpd-records";
/// The length of the random number in each message of the queue and at the beginning of the memory file, in bytes. It
/// shows which queue and which file belong together.
pub const NONCE_BYTES: usize = 16;
/// Follows the random number in the memory file; another number at its end means another version. A file with this
/// magic must be sealed, so that nobody can have changed it.
const MAGIC: &[u8] = b"cpd succession 3\n";
/// The magics of 0.1.0 and 0.2.0, whose files are not sealed. They are accepted because the only other holder of the
/// file is the service manager. Each record states its own form.
const OLD_MAGICS: [&[u8]; 2] = [b"cpd succession 1\n", b"cpd succession 2\n"];
/// The seals that the memory file must have, against every change, also by this process and its successor. The kernel
/// keeps them, and they cannot be removed.
const REQUIRED_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);
/// The flag of memfd_create(2), since Linux 6.3, that makes a file not executable. nix has no name for it.
const MFD_NOEXEC_SEAL: u32 = 8;
/// Descriptors in one message; the kernel allows three more.
pub const DESCRIPTORS_PER_MESSAGE: usize = 250;
/// The most records that are read.
const RECORDS_MAX: u32 = 1 << 20;
/// The longest record.
const RECORD_MAX_BYTES: usize = 256 * 1024;
/// The most bytes that are read of the memory file.
const FILE_MAX_BYTES: u64 = 1 << 31;
/// How long the manager may take to store the descriptors.
const BARRIER_TIMEOUT: Duration = Duration::from_millis(1000);

/// The two descriptors that a predecessor handed over.
pub struct HandoverFds {
    clients: OwnedFd,
    records: OwnedFd,
}

/// The connections and records that a predecessor handed over.
pub struct Handover {
    /// The engine's record of what belongs to no single connection.
    pub common: WipedBytes,
    /// Connections with their sessions' records, in the order in which they have to be resumed.
    pub sessions: Vec<(OwnedFd, WipedBytes)>,
    /// How many further connections there were than this process may have; they are closed.
    pub left_out: usize,
}

/// The contents of the memory file.
struct Records {
    nonce: [u8; NONCE_BYTES],
    common: WipedBytes,
    sessions: Vec<WipedBytes>,
}

/// Takes a predecessor's two descriptors out of the inherited ones, and returns the others as well. The manager keeps
/// all descriptors that it was given under a name, so those of a process that crashed while it stopped may come with
/// later ones.
///
/// # Errors
/// One of the two is missing, or there are several of one name: all of them are closed and removed from the store.
pub fn take_handover_fds(inherited: Vec<Inherited>) -> (Vec<Inherited>, io::Result<Option<HandoverFds>>) {
    let (left, rest): (Vec<_>, Vec<_>) =
        inherited.into_iter().partition(|one| matches!(one.name.as_str(), CLIENTS | RECORDS));
    if left.is_empty() {
        return (rest, Ok(None));
    }
    let (mut clients, mut records): (Vec<_>, Vec<_>) = left.into_iter().partition(|one| one.name == CLIENTS);
    let handover_fds = match (clients.pop(), records.pop()) {
        (Some(clients_of_one), Some(records_of_one)) if clients.is_empty() && records.is_empty() => {
            Ok(Some(HandoverFds { clients: clients_of_one.fd, records: records_of_one.fd }))
        }
        _ => {
            remove_stored_fds();
            Err(io::Error::new(io::ErrorKind::InvalidData, "the hand-over is incomplete, or there are several"))
        }
    };
    (rest, handover_fds)
}

/// Reads a hand-over, with at most `max` connections, and removes it from the manager's store.
///
/// # Errors
/// The records cannot be read, are another version's, or belong to other connections; all connections are closed.
pub fn read_handover(handover_fds: HandoverFds, max: usize) -> io::Result<Handover> {
    let handover = assemble(handover_fds, max);
    remove_stored_fds();
    handover
}

fn assemble(handover_fds: HandoverFds, max: usize) -> io::Result<Handover> {
    let Records { nonce, common, sessions: records } = read_records(handover_fds.records)?;
    let streams = receive_streams(&handover_fds.clients, nonce, records.len(), max)?;
    // All holders share one queue: a successor that was killed may have taken the first connections out of it.
    if streams.len() != records.len() {
        let text = format!("{} connections for {} records", streams.len(), records.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let all = records.len();
    let pairs = streams.into_iter().zip(records);
    let sessions: Vec<_> = pairs.filter_map(|(stream, record)| Some((stream?, record))).collect();
    let left_out = all - sessions.len();
    Ok(Handover { common, sessions, left_out })
}

/// Hands connections and records over to a successor, and returns how many connections it could send; the others have
/// to be closed. The manager has the descriptors when this returns.
///
/// # Errors
/// The descriptors could not be stored, or the manager did not confirm in time that they were; the error says which.
pub fn store_handover(common: &[u8], sessions: &[(OwnedFd, WipedBytes)]) -> io::Result<usize> {
    let (here, there) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    let mut went = 0;
    for group in sessions.chunks(DESCRIPTORS_PER_MESSAGE) {
        let fds: Vec<RawFd> = group.iter().map(|(stream, _)| stream.as_raw_fd()).collect();
        let message = [ControlMessage::ScmRights(&fds)];
        match sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(&nonce)], &message, MsgFlags::empty(), None) {
            Ok(_) => went += group.len(),
            // The queue is full, or the user has too many descriptors in flight: the remaining connections are not
            // handed over.
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let records = write_records(common, sessions.iter().take(went).map(|(_, record)| &**record));
    let memory = sealed_memory(&[&nonce, &records])?;
    // The successor would refuse several descriptors of one name.
    remove_stored_fds();
    store_fd(RECORDS, memory.as_fd())?;
    store_fd(CLIENTS, there.as_fd())?;
    barrier()?;
    Ok(went)
}

/// A memory file with these contents, which nobody can change.
fn sealed_memory(parts: &[&[u8]]) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = match memfd_create(c"cpd-records", flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(c"cpd-records", flags),
        made => made,
    };
    let mut memory = File::from(made?);
    parts.iter().try_for_each(|part| memory.write_all(part))?;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(REQUIRED_SEALS | SealFlag::F_SEAL_SEAL))?;
    Ok(memory)
}

fn is_sealed(memory: &File) -> bool {
    // The call fails for a file that cannot have seals.
    fcntl(memory, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(REQUIRED_SEALS))
}

/// Stores a descriptor with the manager under `name`.
fn store_fd(name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    // Without FDPOLL=0 the manager would drop the socket as soon as this process has closed the other end.
    notify_manager(&[NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")], &[fd])
}

/// Waits until the manager has handled all notifications: it then closes the descriptor that comes with a barrier.
fn barrier() -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    notify_manager(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
    drop(writer);
    let timeout = PollTimeout::try_from(BARRIER_TIMEOUT).unwrap_or(PollTimeout::NONE);
    match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::empty())], timeout)? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the service manager does not say whether it has them")),
        _ => Ok(()),
    }
}

/// Removes the manager's duplicates, so that a connection that is closed here really ends.
fn remove_stored_fds() {
    for name in [CLIENTS, RECORDS] {
        // If this fails, the next start finds what is still stored, and refuses it.
        let _ = notify_manager(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[]);
    }
}

/// Receives the connections in the queue, of which there should be `expected`, in the order of the records. `None`
/// stands for one that this process may not have, or that is beyond `max`.
fn receive_streams(
    queue: &OwnedFd,
    nonce: [u8; NONCE_BYTES],
    expected: usize,
    max: usize,
) -> io::Result<Vec<Option<OwnedFd>>> {
    let mut streams: Vec<Option<OwnedFd>> = Vec::new();
    let mut found = [0; NONCE_BYTES];
    let mut kept = 0;
    while let Some(ReceivedFds { fds, truncated }) = fd::receive(queue.as_fd(), &mut found, DESCRIPTORS_PER_MESSAGE)? {
        if found != nonce {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "records and connections do not belong together"));
        }
        let before = streams.len();
        for fd in fds {
            streams.push((kept < max).then_some(fd));
            kept += 1;
        }
        if truncated {
            // Every message but the last is full.
            let whole = before.saturating_add(DESCRIPTORS_PER_MESSAGE).min(expected);
            streams.resize_with(whole.max(streams.len()), || None);
        }
    }
    Ok(streams)
}

fn read_records(records: OwnedFd) -> io::Result<Records> {
    let mut file = File::from(records);
    // Checked before reading: what is sealed cannot change any more.
    let is_sealed = is_sealed(&file);
    file.rewind()?;
    let length = file.metadata()?.len().min(FILE_MAX_BYTES);
    // They may hold passwords: all memory that has had them is overwritten, whatever becomes of the hand-over.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = file.read_exact(&mut bytes);
    let bytes = WipedBytes::from(bytes);
    read?;
    if sabotage::is_ordered(Fault::ForgottenWipe) {
        std::mem::forget(bytes.to_vec());
    }
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the records are of an unknown version");
    let (nonce, rest) = bytes.split_first_chunk().ok_or_else(unreadable)?;
    if rest.starts_with(MAGIC) && !is_sealed {
        let said = "the records are not sealed and may have been changed";
        return Err(io::Error::new(io::ErrorKind::InvalidData, said));
    }
    let (common, sessions) = parse_records(rest).ok_or_else(unreadable)?;
    Ok(Records { nonce: *nonce, common, sessions })
}

/// The memory file's contents after the random number, for [`parse_records`].
pub fn write_records<'a>(common: &[u8], records: impl ExactSizeIterator<Item = &'a [u8]>) -> WipedBytes {
    let mut file = RecordWriter::starting_with(MAGIC);
    file.bytes(common);
    file.u32(u32::try_from(records.len()).unwrap_or(u32::MAX));
    records.for_each(|record| file.bytes(record));
    file.into_bytes()
}

/// Parses the memory file's contents after the random number: the engine's record of what belongs to no single
/// connection, and the sessions' records. `None`: the format is not that of this version, 0.1.0 or 0.2.0.
pub fn parse_records(bytes: &[u8]) -> Option<(WipedBytes, Vec<WipedBytes>)> {
    let mut magics = std::iter::once(MAGIC).chain(OLD_MAGICS);
    let mut reader = RecordReader::new(magics.find_map(|magic| bytes.strip_prefix(magic))?);
    let common = WipedBytes::concat(&[reader.bytes(FILE_MAX_BYTES as usize)?]);
    let count = reader.u32().filter(|count| *count <= RECORDS_MAX)?;
    let record = |_| reader.bytes(RECORD_MAX_BYTES).map(|bytes| WipedBytes::concat(&[bytes]));
    let records: Option<Vec<WipedBytes>> = (0..count).map(record).collect();
    reader.expect_end()?;
    Some((common, records?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn records() -> Vec<u8> {
        let sessions = [&b"one"[..], b"two"];
        [&[7; NONCE_BYTES][..], &write_records(b"common", sessions.into_iter())].concat()
    }

    /// A memory file without seals, as 0.1.0 and 0.2.0 made it.
    fn open_memory(bytes: &[u8]) -> File {
        let mut memory = File::from(memfd_create(c"cpd-records", MFdFlags::MFD_CLOEXEC).unwrap());
        memory.write_all(bytes).unwrap();
        memory
    }

    #[test]
    fn a_sealed_file_can_be_read_and_not_changed() {
        let bytes = records();
        let memory = sealed_memory(&[&bytes[..5], &bytes[5..]]).unwrap();
        assert!(is_sealed(&memory));
        let refused = Some(Errno::EPERM as i32);
        assert_eq!(memory.write_at(b"x", 0).unwrap_err().raw_os_error(), refused);
        assert_eq!(memory.set_len(1).unwrap_err().raw_os_error(), refused);
        assert_eq!(memory.set_len(100_000).unwrap_err().raw_os_error(), refused);
        // Nor can it be changed through another descriptor, and no seals can be added.
        let again = File::options().write(true).open(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();
        assert_eq!(again.write_at(b"x", 0).unwrap_err().raw_os_error(), refused);
        assert_eq!(fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
        let read = read_records(memory.into()).unwrap();
        assert_eq!((read.nonce, &*read.common, read.sessions.len()), ([7; NONCE_BYTES], &b"common"[..], 2));
    }

    #[test]
    fn an_unsealed_file_is_accepted_from_old_versions_only() {
        let bytes = records();
        let error = read_records(open_memory(&bytes).into()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("not sealed"), "{error}");
        let some = open_memory(&bytes);
        assert!(!is_sealed(&some));
        for magic in OLD_MAGICS {
            let mut old = bytes.clone();
            old[NONCE_BYTES..NONCE_BYTES + magic.len()].copy_from_slice(magic);
            assert_eq!(read_records(open_memory(&old).into()).unwrap().sessions.len(), 2);
        }
        // Some of the seals are not enough.
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut half = File::from(memfd_create(c"cpd-records", flags).unwrap());
        half.write_all(&bytes).unwrap();
        fcntl(&half, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        assert!(read_records(half.into()).is_err());
    }
}
