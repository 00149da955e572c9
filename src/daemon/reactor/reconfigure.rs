//! The event loop's part of a reload.

use cpd_core::time::NEVER;

use super::Reactor;
use crate::daemon::exit::{ExitCode, Fatal};
use crate::daemon::listeners::{ControlListener, Note};
use crate::daemon::logging::LogLine;
use crate::daemon::notify::Notice;
use crate::daemon::reload::ReloadResult;

impl Reactor {
    /// Applies a configuration that was read again, and replaces the control socket if its file had gone.
    pub(super) fn reconfigure(&mut self, loaded: ReloadResult) {
        if let Some(control) = loaded.control {
            self.replace_control_socket(control);
        }
        match loaded.config {
            Ok(new) => {
                let (config, kept) = self.parts.config.reloaded(new);
                for warning in &config.warnings {
                    self.parts.logger.warn(LogLine::new("configuration").field("warning", warning));
                }
                for key in &kept {
                    self.parts.logger.warn(LogLine::new("configuration").field("needs_restart", key));
                }
                let settings =
                    crate::daemon::cap_connections(config.settings, self.parts.connections_max, &self.parts.logger);
                self.parts.engine.configure(settings);
                self.parts.pool.set_params(config.auth.hash_params());
                self.parts.logger.set_level(config.log_level);
                self.parts.logger.info(LogLine::new("configuration reloaded"));
                self.parts.operators.configuration_applied(kept);
                self.parts.config = config;
            }
            Err(fatal) => {
                self.parts.operators.configuration_failed(&fatal.message);
                self.parts.logger.error(LogLine::new("configuration not reloaded").field("cause", &fatal.message));
            }
        }
        self.parts.notifier.send(Notice::Ready);
    }

    /// Replaces the control socket by one that was made because nobody can connect to the old one any more.
    fn replace_control_socket(&mut self, made: Result<(ControlListener, Note), Fatal>) {
        if self.stop_at != NEVER {
            // The daemon is stopping: the new socket is dropped, and removes its file.
            return;
        }
        let renewed = made.and_then(|(listener, note)| {
            let name = listener.name();
            let line = LogLine::new("control socket made anew").field("path", &name);
            let system = |e| Fatal::new(ExitCode::System, format!("control socket {name}: {e}"));
            self.parts.operators.replace_listener(listener.socket, self.parts.poll.registry()).map_err(system)?;
            self.reload.replace_control_file(listener.file);
            Ok((line, note))
        });
        match renewed {
            Ok((line, note)) => {
                self.parts.logger.warn(line);
                if let Some((level, line)) = note {
                    self.parts.logger.log(level, line);
                }
            }
            Err(fatal) => {
                self.parts.logger.error(LogLine::new("control socket not made anew").field("cause", fatal.message));
            }
        }
    }
}
