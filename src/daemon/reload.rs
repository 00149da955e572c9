//! Rereading the configuration off the event loop: a file may lie on a disk that stalls.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::config::{Arguments, Config};
use super::exit::Fatal;
use super::logging::{Line, Logger};

pub struct Reload {
    arguments: Arguments,
    waker: Arc<mio::Waker>,
    under_way: Option<Receiver<Result<Config, Fatal>>>,
    /// Asked for again while it was under way.
    again: bool,
}

impl Reload {
    pub fn new(arguments: Arguments, waker: Arc<mio::Waker>) -> Reload {
        Reload { arguments, waker, under_way: None, again: false }
    }

    /// Begins to read; the waker is woken at the end. `false`: it is not possible, and that was logged.
    pub fn begin(&mut self, logger: &Logger) -> bool {
        if self.under_way.is_some() {
            self.again = true;
            return true;
        }
        let (sender, receiver) = sync_channel(1);
        let (arguments, waker) = (self.arguments.clone(), Arc::clone(&self.waker));
        let thread = std::thread::Builder::new().name("reload".to_string()).spawn(move || {
            // Nobody listens any more only when the daemon stops.
            let _ = sender.send(Config::load(&arguments));
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
    pub fn take(&mut self) -> Option<Result<Config, Fatal>> {
        let loaded = self.under_way.as_ref()?.try_recv().ok()?;
        self.under_way = None;
        Some(loaded)
    }

    /// Whether [`Reload::begin`] is to be called once more.
    pub fn wants_again(&mut self) -> bool {
        self.under_way.is_none() && std::mem::take(&mut self.again)
    }
}
