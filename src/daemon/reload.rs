//! Rereading the configuration, and looking after the control socket's file, off the event loop: a file may lie on a disk
//! that stalls.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::config::{Arguments, Config};
use super::exit::Fatal;
use super::listeners::{ControlFile, ControlListener, Note};
use super::logging::{Line, Logger};

/// What a reload brings.
pub struct Loaded {
    pub config: Result<Config, Fatal>,
    /// The control socket, where it had to be made anew.
    pub control: Option<Result<(ControlListener, Note), Fatal>>,
}

pub struct Reload {
    arguments: Arguments,
    /// The control sockets' files, which go with this.
    files: Vec<ControlFile>,
    waker: Arc<mio::Waker>,
    under_way: Option<Receiver<Loaded>>,
    /// Asked for again while it was under way.
    again: bool,
}

impl Reload {
    pub fn new(arguments: Arguments, files: Vec<ControlFile>, waker: Arc<mio::Waker>) -> Reload {
        Reload { arguments, files, waker, under_way: None, again: false }
    }

    /// The control socket was made anew, and this is its file.
    pub fn renewed(&mut self, file: ControlFile) {
        self.files = vec![file];
    }

    /// Begins to read; the waker is woken at the end. `false`: it is not possible, and that was logged.
    pub fn begin(&mut self, logger: &Logger) -> bool {
        if self.under_way.is_some() {
            self.again = true;
            return true;
        }
        let (sender, receiver) = sync_channel(1);
        let (arguments, waker) = (self.arguments.clone(), Arc::clone(&self.waker));
        // One is made at most, and only where none was handed over.
        let made = self.files.iter().find_map(ControlFile::made).cloned();
        let thread = std::thread::Builder::new().name("reload".to_string()).spawn(move || {
            // Nobody listens any more only when the daemon stops.
            let control = made.and_then(|made| made.renewed());
            let config = Config::load(&arguments).map_err(|mut fatal| {
                // Whoever looks at the file finds nothing wrong with it.
                if fatal.message.contains("Permission denied") {
                    fatal
                        .message
                        .push_str("; a file or folder that took the place of the one at the start wants a restart");
                }
                fatal
            });
            let _ = sender.send(Loaded { config, control });
            let _ = waker.wake();
        });
        match thread {
            Ok(_) => {
                self.under_way = Some(receiver);
                true
            }
            Err(error) => {
                logger.error(Line::new("configuration not reloaded").field("cause", error));
                false
            }
        }
    }

    /// What was read, once it is.
    pub fn take(&mut self) -> Option<Loaded> {
        let loaded = self.under_way.as_ref()?.try_recv().ok()?;
        self.under_way = None;
        Some(loaded)
    }

    /// Whether [`Reload::begin`] is to be called once more.
    pub fn wants_again(&mut self) -> bool {
        self.under_way.is_none() && std::mem::take(&mut self.again)
    }
}
