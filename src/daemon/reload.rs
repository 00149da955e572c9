//! A reload (SIGHUP): reads the configuration again, and replaces a control socket whose file is gone. This happens in
//! a separate thread, because the files may be on a disk that stalls.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::config::{Arguments, Config};
use super::exit::Fatal;
use super::listeners::{ControlFile, ControlListener, Note};
use super::logging::{LogLine, Logger};

/// The result of a reload.
pub struct ReloadResult {
    pub config: Result<Config, Fatal>,
    /// The new control socket; `None` if the old one is still in place, or systemd provides it.
    pub control: Option<Result<(ControlListener, Note), Fatal>>,
}

/// Runs reloads, one at a time.
pub struct Reload {
    arguments: Arguments,
    /// The files of the control sockets. Dropping one removes the file that cpd created.
    control_files: Vec<ControlFile>,
    waker: Arc<mio::Waker>,
    /// Receives the result of the reload under way, if there is one.
    under_way: Option<Receiver<ReloadResult>>,
    /// A reload was requested while another one was under way.
    requested_again: bool,
}

impl Reload {
    pub fn new(arguments: Arguments, control_files: Vec<ControlFile>, waker: Arc<mio::Waker>) -> Reload {
        Reload { arguments, control_files, waker, under_way: None, requested_again: false }
    }

    /// Replaces the files of the control sockets by that of a new one.
    pub fn replace_control_file(&mut self, file: ControlFile) {
        self.control_files = vec![file];
    }

    /// Starts a reload, or remembers that another one is needed after the one under way. The waker is woken when the
    /// result is there. Returns `false` if no thread could be started, which is logged.
    pub fn begin(&mut self, logger: &Logger) -> bool {
        if self.under_way.is_some() {
            self.requested_again = true;
            return true;
        }
        let (sender, receiver) = sync_channel(1);
        let (arguments, waker) = (self.arguments.clone(), Arc::clone(&self.waker));
        // cpd itself creates at most one control socket, and only if none was handed over.
        let made = self.control_files.iter().find_map(ControlFile::made).cloned();
        let thread = std::thread::Builder::new().name("reload".to_string()).spawn(move || {
            let control = made.and_then(|made| made.make_again_if_gone());
            let config = Config::load(&arguments).map_err(|mut fatal| {
                // The sandbox admits only what was there at the start, whatever the file's own permissions are.
                if fatal.message.contains("Permission denied") {
                    fatal.message.push_str("; if the file was replaced since cpd started, restart cpd");
                }
                fatal
            });
            // This fails only if the daemon has stopped meanwhile.
            let _ = sender.send(ReloadResult { config, control });
            let _ = waker.wake();
        });
        match thread {
            Ok(_) => {
                self.under_way = Some(receiver);
                true
            }
            Err(error) => {
                logger.error(LogLine::new("configuration not reloaded").field("cause", error));
                false
            }
        }
    }

    /// Takes the result of a reload that has finished.
    pub fn take_result(&mut self) -> Option<ReloadResult> {
        let loaded = self.under_way.as_ref()?.try_recv().ok()?;
        self.under_way = None;
        Some(loaded)
    }

    /// Whether to call [`Reload::begin`] once more, for a request that came during the last reload.
    pub fn take_repeat_request(&mut self) -> bool {
        self.under_way.is_none() && std::mem::take(&mut self.requested_again)
    }
}
