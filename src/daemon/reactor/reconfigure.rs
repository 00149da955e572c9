//! The event loop's part of a reload.

use super::Reactor;
use crate::daemon::exit::{ExitCode, Fatal};
use crate::daemon::listeners::{ControlListener, Note};
use crate::daemon::logging::Line;
use crate::daemon::notify::Notice;
use crate::daemon::reload::Loaded;
use crate::proto::session::NEVER;

impl Reactor {
    /// Takes up a configuration that was read anew.
    pub(super) fn reconfigure(&mut self, loaded: Loaded) {
        if let Some(control) = loaded.control {
            self.renew_control(control);
        }
        match loaded.config {
            Ok(new) => {
                let (config, kept) = self.parts.config.reloaded(new);
                for warning in &config.warnings {
                    self.parts.logger.warn(Line::new("configuration").field("warning", warning));
                }
                for key in &kept {
                    self.parts.logger.warn(Line::new("configuration").field("needs_restart", key));
                }
                let settings =
                    crate::daemon::within_file_limit(config.settings, self.parts.connections_max, &self.parts.logger);
                self.parts.engine.configure(settings);
                self.parts.pool.set_params(config.auth.params());
                self.parts.logger.set_level(config.log_level);
                self.parts.logger.info(Line::new("configuration reloaded"));
                self.parts.operators.configured(kept);
                self.parts.config = config;
            }
            Err(fatal) => {
                self.parts.operators.not_configured(&fatal.message);
                self.parts.logger.error(Line::new("configuration not reloaded").field("cause", &fatal.message));
            }
        }
        self.parts.notifier.send(Notice::Ready);
    }

    /// The control socket had to be made anew: nobody comes to the old one any more.
    fn renew_control(&mut self, made: Result<(ControlListener, Note), Fatal>) {
        if self.stop_at != NEVER {
            // Its file goes with it.
            return;
        }
        let renewed = made.and_then(|(listener, note)| {
            let name = listener.name();
            let line = Line::new("control socket made anew").field("path", &name);
            let system = |e| Fatal::new(ExitCode::System, format!("control socket {name}: {e}"));
            self.parts.operators.renew(listener.socket, self.parts.poll.registry()).map_err(system)?;
            self.reload.renewed(listener.file);
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
                self.parts.logger.error(Line::new("control socket not made anew").field("cause", fatal.message));
            }
        }
    }
}
