//! Logins under way: the store looks up the record to check against, then each login is verified in its turn. Every
//! attempt costs the same work, whatever is wrong with it.

use std::collections::HashMap;

use cp_proto::values::{Password, Username};

use super::login_queue::{LoginQueue, RecentSet};
use super::port::{AddressKey, LoginRecord, SessionId};
use super::settings::Limits;
use super::throttle::{Attempt, Decision, GuessingAlert, Throttle, ThrottleCause};
use crate::record::{RecordFormat, RecordReader, RecordWriter};
use crate::time::Millis;

/// A password for a verifier to check against `hash`. `None`: the same work is done, and the login fails.
#[derive(Debug)]
pub struct Verification {
    pub session: SessionId,
    pub password: Password,
    pub hash: Option<String>,
}

#[derive(Debug)]
struct Login {
    name: Username,
    from: AddressKey,
    /// `None`: it was malformed.
    password: Option<Password>,
    stage: Stage,
    /// An operator has changed the user since the look-up: the login fails whatever the outcome.
    stale: bool,
}

impl Login {
    /// Begins the verification. Unless it is `allowed`, it fails at the same cost.
    fn begin_verification(&mut self, session: SessionId, attempt: Attempt, allowed: bool) -> Option<Verification> {
        let record = match std::mem::replace(&mut self.stage, Stage::Verifying(attempt)) {
            Stage::Waiting(record) => record,
            Stage::LookingUp | Stage::Verifying(_) => None,
        };
        let given = self.password.as_ref().and_then(|p| Password::parse(p.as_bytes()));
        let tried = allowed && given.is_some();
        let hash = record.filter(|r| tried && !r.locked).map(|r| r.hash);
        let password = given.or_else(|| Password::parse(b"-"))?;
        Some(Verification { session, password, hash })
    }
}

#[derive(Debug)]
enum Stage {
    LookingUp,
    Waiting(Option<Box<LoginRecord>>),
    Verifying(Attempt),
}

/// The outcome of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub name: Username,
    pub from: AddressKey,
    pub ok: bool,
    /// The password was not tried, or further attempts from this address will not be.
    pub throttled: bool,
    /// Set if this failure was the one too many for a day, for this name.
    pub guessing: Option<GuessingAlert>,
}

/// A login whose password is not tried, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottledLogin {
    pub name: Username,
    pub from: AddressKey,
    pub cause: ThrottleCause,
}

/// All logins under way, and the failed ones that are counted.
#[derive(Debug, Default)]
pub struct Logins {
    under_way: HashMap<SessionId, Login>,
    /// The logins in `Stage::Waiting`.
    login_queue: LoginQueue,
    throttle: Throttle,
    /// The latest successful logins of this run: the store records them only a moment later.
    recent: RecentSet<(Username, AddressKey)>,
}

impl Logins {
    /// Begins a login. `password`: `None` if it was malformed.
    pub fn begin(&mut self, session: SessionId, name: Username, from: AddressKey, password: Option<Password>) {
        self.under_way.insert(session, Login { name, from, password, stage: Stage::LookingUp, stale: false });
    }

    /// Takes the store's record of the user. `None`: there is no such user, or the record could not be read.
    pub fn looked_up(&mut self, session: SessionId, record: Option<Box<LoginRecord>>) {
        if let Some(login) = self.under_way.get_mut(&session) {
            login.stage = Stage::Waiting(record);
            self.login_queue.push(session, login.from);
        }
    }

    /// The next login to verify and, if its password is not tried, why. `None`: no login waits, or those that wait
    /// depend on the outcome of verifications under way.
    pub fn next(&mut self, limits: &Limits, now: Millis) -> Option<(Verification, Option<ThrottledLogin>)> {
        let Logins { under_way, login_queue, throttle, recent } = self;
        login_queue.take(|session| {
            let login = under_way.get_mut(&session)?;
            let (name, from) = (login.name, login.from);
            let known = match &login.stage {
                Stage::Waiting(Some(record)) => record.known_address || recent.contains(&(name, from)),
                _ => false,
            };
            match throttle.begin(name, from, known, limits, now) {
                Decision::Allowed(attempt) => Some((login.begin_verification(session, attempt, true)?, None)),
                Decision::Throttled(attempt, cause) => {
                    let not_tried = ThrottledLogin { name, from, cause };
                    Some((login.begin_verification(session, attempt, false)?, Some(not_tried)))
                }
                Decision::Undecided => None,
            }
        })
    }

    /// Ends a login with the outcome of its verification. `None`: there is no such login.
    pub fn end(&mut self, session: SessionId, ok: bool, limits: &Limits, now: Millis) -> Option<Ended> {
        let login = self.under_way.remove(&session)?;
        let ok = ok && !login.stale;
        let (guessing, tried) = match login.stage {
            Stage::Verifying(attempt) => (self.throttle.end(attempt, !ok, now), attempt.was_tried()),
            Stage::LookingUp | Stage::Waiting(_) => (None, true),
        };
        if ok {
            self.login_queue.add_known_address(login.from);
            self.recent.insert((login.name, login.from));
        }
        let throttled = !tried || self.throttle.is_throttled(login.from, limits, now);
        Some(Ended { name: login.name, from: login.from, ok, throttled, guessing })
    }

    /// Drops the login of a session that is gone, unless it is being verified: then its outcome still counts.
    pub fn abandon(&mut self, session: SessionId) {
        if let Some(login) = self.under_way.get(&session)
            && !matches!(login.stage, Stage::Verifying(_))
        {
            self.login_queue.remove(session, login.from);
            self.under_way.remove(&session);
        }
    }

    /// Writes the failed logins for a successor.
    pub fn freeze_failures(&self, now: Millis, out: &mut RecordWriter) {
        self.throttle.freeze(now, out);
    }

    /// Takes over the failed logins of a predecessor, in the current format or that of 0.2.0 and before. `None`: the
    /// record is malformed, and nothing is taken over.
    pub fn thaw_failures(&mut self, from: &mut RecordReader<'_>, form: RecordFormat, now: Millis) -> Option<()> {
        let throttle = match form {
            RecordFormat::Current => Throttle::thaw(from, now)?,
            RecordFormat::Previous => Throttle::thaw_old(from, now)?,
        };
        from.expect_end()?;
        self.throttle = throttle;
        Some(())
    }

    /// The throttle, which counts failed logins.
    pub fn throttle(&mut self) -> &mut Throttle {
        &mut self.throttle
    }

    /// Takes a login back, so that a successor tries it again, and returns its password. `None`: there is no login, or
    /// its password was malformed.
    pub fn undo(&mut self, session: SessionId) -> Option<Password> {
        let login = self.under_way.remove(&session)?;
        self.login_queue.remove(session, login.from);
        login.password
    }

    /// Notes that somebody has logged in from `address`.
    pub fn add_known_address(&mut self, address: AddressKey) {
        self.login_queue.add_known_address(address);
    }

    /// Whether somebody is known to have logged in from `address` before.
    pub fn is_known_address(&self, address: AddressKey) -> bool {
        self.login_queue.is_known_address(address)
    }

    /// Forgets the failures for a name whose user was added, removed or given another password. If the user is `gone`,
    /// also forgets where it has logged in from.
    pub fn clear_name_history(&mut self, name: Username, gone: bool) {
        self.throttle.clear_name(name);
        if gone {
            self.recent.retain(|(user, _)| *user != name);
        }
    }

    /// Makes the logins of a changed user fail that were looked up before the change.
    pub fn invalidate(&mut self, name: Username) {
        for login in self.under_way.values_mut().filter(|l| l.name == name) {
            if !matches!(login.stage, Stage::LookingUp) {
                login.stale = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
