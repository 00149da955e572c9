//! The sockets on which clients and operators connect: those that systemd handed over, each checked to be what its name
//! says, and for what was not handed over, sockets bound here. Open them once the store is locked, so that the control
//! socket of another cpd is not taken away.

mod control;
mod handed_over;
pub mod kind;
mod tcp;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, setsockopt, sockopt};

pub use control::{ControlFile, ControlListener, Note};
pub use kind::ListenerKind;
pub use tcp::BACKLOG;

use self::handed_over::wrong_kind;
use super::config::Config;
use super::config::addresses::overlap;
use super::exit::{ExitCode, Fatal};
use super::fd::Inherited;
use super::logging::{Level, LogLine};

/// The send buffer requested from the kernel for each connection, in bytes. The kernel doubles it for its own
/// bookkeeping (socket(7)). Replies that do not fit wait in cpd, up to 16 KiB, and then nothing more is read.
/// cpd.socket requests the same sizes.
pub const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// The receive buffer requested from the kernel for each connection, in bytes; doubled likewise.
pub const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;

/// A socket that accepts clients; non-blocking and close-on-exec.
#[derive(Debug)]
pub struct StreamListener {
    pub socket: mio::net::TcpListener,
    pub kind: ListenerKind,
    /// The address to which it is bound, with the port that the kernel chose if 0 was configured.
    pub address: SocketAddr,
    /// Whether systemd handed it over.
    pub inherited: bool,
}

/// All listening sockets.
#[derive(Debug)]
pub struct Listeners {
    pub streams: Vec<StreamListener>,
    /// At least one. Dropping one that was made here removes its file.
    pub control: Vec<ControlListener>,
    /// Lines for the log.
    pub notes: Vec<(Level, LogLine)>,
}

/// Opens every listener of `config`, using `inherited` sockets first.
///
/// # Errors
/// [`ExitCode::Config`]: an inherited descriptor is not what its name says, or takes the connections of a configured
/// address. [`ExitCode::Unavailable`], [`ExitCode::NotPermitted`], [`ExitCode::CannotCreate`], [`ExitCode::System`] or
/// [`ExitCode::Config`]: an address or path, which the error names, cannot be used.
pub fn open(config: &Config, inherited: Vec<Inherited>) -> Result<Listeners, Fatal> {
    let mut listeners = Listeners { streams: Vec::new(), control: Vec::new(), notes: Vec::new() };
    for Inherited { name, fd } in inherited {
        listeners.adopt(&name, fd)?;
    }
    for kind in ListenerKind::ALL {
        listeners.bind_configured(kind, config)?;
    }
    listeners.provide_control_socket(config)?;
    for stream in &listeners.streams {
        set_connection_options(stream)?;
    }
    Ok(listeners)
}

/// Checks that the configured addresses can be bound at this moment.
///
/// # Errors
/// As for [`open`].
pub fn check_bindable(config: &Config) -> Result<(), Fatal> {
    let mut addresses = ListenerKind::ALL.into_iter().flat_map(|kind| config.addresses(kind));
    addresses.try_for_each(|address| tcp::listen(*address).map(drop))
}

impl Listeners {
    fn adopt(&mut self, name: &str, fd: OwnedFd) -> Result<(), Fatal> {
        if let Some(kind) = ListenerKind::ALL.into_iter().find(|kind| kind.name() == name) {
            return self.adopt_stream(kind, fd);
        }
        match name {
            "control" => {
                check_listening(name, &fd)?;
                self.control.push(ControlListener::adopt(fd)?);
                Ok(())
            }
            "tls" | "unix" => {
                let line = LogLine::new("inherited socket closed").field("name", name);
                self.note(Level::Warn, line.field("reason", "not supported in this version"));
                Ok(())
            }
            _ => {
                let line = LogLine::new("inherited socket closed").field("name", name);
                self.note(Level::Warn, line.field("reason", "unknown name"));
                Ok(())
            }
        }
    }

    fn adopt_stream(&mut self, kind: ListenerKind, fd: OwnedFd) -> Result<(), Fatal> {
        check_listening(kind.name(), &fd)?;
        let socket = std::net::TcpListener::from(fd);
        let address = socket.local_addr().map_err(|_| wrong_kind(kind.name(), "an IPv4 or IPv6 socket"))?;
        let ready = socket.set_nonblocking(true).map(|()| mio::net::TcpListener::from_std(socket));
        let socket = ready.map_err(|e| Fatal::new(ExitCode::System, format!("inherited socket {address}: {e}")))?;
        self.streams.push(StreamListener { socket, kind, address, inherited: true });
        Ok(())
    }

    /// Binds the addresses configured for `kind`, unless sockets for it were handed over.
    fn bind_configured(&mut self, kind: ListenerKind, config: &Config) -> Result<(), Fatal> {
        let (key, configured) = (format!("listen.{}", kind.name()), config.addresses(kind));
        let handed: Vec<SocketAddr> =
            self.streams.iter().filter(|one| one.kind == kind).map(|one| one.address).collect();
        if handed.is_empty() {
            for address in configured {
                self.check_no_overlap(*address, &key)?;
                let (socket, note) = tcp::listen(*address)?;
                self.notes.extend(note);
                let address = socket.local_addr().unwrap_or(*address);
                let socket = mio::net::TcpListener::from_std(socket);
                self.streams.push(StreamListener { socket, kind, address, inherited: false });
            }
            return Ok(());
        }
        let same = handed.len() == configured.len() && configured.iter().all(|address| handed.contains(address));
        // Defaults that are not used deserve no warning.
        if !same && config.is_explicit(&key) {
            let line = LogLine::new("configured addresses not used: sockets were handed over")
                .field("key", key)
                .field("configured", join_addresses(configured))
                .field("used", join_addresses(&handed));
            self.note(Level::Warn, line);
        }
        Ok(())
    }

    /// Checks that no socket that was handed over takes the connections of `address`. The configured addresses were
    /// compared with each other when the configuration was read.
    fn check_no_overlap(&self, address: SocketAddr, key: &str) -> Result<(), Fatal> {
        let taken = self.streams.iter().find(|one| one.inherited && overlap(one.address, address));
        let Some(taken) = taken else { return Ok(()) };
        let said = format!(
            "{address} ({key}) and {} (handed over as {:?}) take the same connections",
            taken.address,
            taken.kind.name()
        );
        Err(Fatal::new(ExitCode::Config, said))
    }

    fn provide_control_socket(&mut self, config: &Config) -> Result<(), Fatal> {
        if self.control.is_empty() {
            let (listener, note) = control::make(&config.control_socket, &config.control_group)?;
            self.notes.extend(note);
            self.control.push(listener);
        } else if config.is_explicit("control.socket")
            && !self.control.iter().any(|one| one.path() == Some(config.control_socket.as_path()))
        {
            let used: Vec<String> = self.control.iter().map(ControlListener::name).collect();
            let line = LogLine::new("configured socket not used: one was handed over")
                .field("key", "control.socket")
                .field("configured", config.control_socket.display())
                .field("used", used.join(","));
            self.note(Level::Warn, line);
        }
        Ok(())
    }

    fn note(&mut self, level: Level, line: LogLine) {
        self.notes.push((level, line));
    }
}

/// Sets the options that every connection of the listener must have; on Linux, accepted connections inherit them. Small
/// replies are sent at once, and urgent data is read in line (protocol.md section 10).
fn set_connection_options(stream: &StreamListener) -> Result<(), Fatal> {
    let set = setsockopt(&stream.socket, sockopt::TcpNoDelay, &true)
        .and_then(|()| setsockopt(&stream.socket, sockopt::OobInline, &true))
        .and_then(|()| limit_kernel_buffers(&stream.socket));
    set.map_err(|e| Fatal::new(ExitCode::System, format!("socket {}: {}", stream.address, e.desc())))
}

/// Bounds the kernel's buffers of a connection: for replies that the client has not read, and for bytes that cpd has
/// not read. Without bounds both grow to mebibytes. The system's own bounds (net.core.wmem_max, rmem_max) apply if they
/// are lower. On a listener, this affects the connections that are established from then on.
pub fn limit_kernel_buffers(socket: &impl AsFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
    setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)
}

/// Checks that an inherited descriptor is a stream socket that listens.
fn check_listening(name: &str, fd: &OwnedFd) -> Result<(), Fatal> {
    if getsockopt(fd, sockopt::SockType) != Ok(SockType::Stream) {
        return Err(wrong_kind(name, "a stream socket"));
    }
    if getsockopt(fd, sockopt::AcceptConn) != Ok(true) {
        return Err(wrong_kind(name, "a listening socket (Accept=no)"));
    }
    Ok(())
}

fn join_addresses(addresses: &[SocketAddr]) -> String {
    let all: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    all.join(",")
}

#[cfg(test)]
mod tests;
