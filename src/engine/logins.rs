//! Logins under way: first the store says what to check against, then, by turns, each is verified. Every attempt costs
//! the same, whatever is wrong with it.

use std::collections::HashMap;

use super::port::{AddressKey, LoginRecord, SessionId};
use super::settings::Limits;
use super::throttle::{Attempt, Guessing, Throttle, TooMany, Verdict};
use super::turns::{Remembered, Turns};
use crate::proto::codec::{Form, Reader, Writer};
use crate::proto::types::{Millis, Password, Username};

/// Work for the verifiers: `password` against `hash`, or, without one, the same work for nothing.
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
    /// An administrator changed the user meanwhile: whatever the outcome, it fails.
    doomed: bool,
}

impl Login {
    /// To be tried, or, where it is not `allowed`, to be refused at the same cost.
    fn verification(&mut self, session: SessionId, attempt: Attempt, allowed: bool) -> Option<Verification> {
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

/// What the end of a login means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub name: Username,
    pub from: AddressKey,
    pub ok: bool,
    /// It was not tried, or those that follow from this address are not.
    pub throttled: bool,
    /// Failures for this name are too many, for a day.
    pub guessing: Option<Guessing>,
}

/// A login that is not tried, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTried {
    pub name: Username,
    pub from: AddressKey,
    pub too_many: TooMany,
}

/// All logins under way.
#[derive(Debug, Default)]
pub struct Logins {
    open: HashMap<SessionId, Login>,
    /// Those in `Stage::Waiting`.
    turns: Turns,
    throttle: Throttle,
    /// Who has logged in from where in this run, the latest: the store knows it a moment later.
    recent: Remembered<(Username, AddressKey)>,
}

impl Logins {
    /// A session sent a password, or one that is malformed.
    pub fn begin(&mut self, session: SessionId, name: Username, from: AddressKey, password: Option<Password>) {
        self.open.insert(session, Login { name, from, password, stage: Stage::LookingUp, doomed: false });
    }

    /// What the store knows of the user.
    pub fn looked_up(&mut self, session: SessionId, record: Option<Box<LoginRecord>>) {
        if let Some(login) = self.open.get_mut(&session) {
            login.stage = Stage::Waiting(record);
            self.turns.push(session, login.from);
        }
    }

    /// The next login to verify, and whether it is throttled. `None`: none waits, or it depends on those being verified
    /// whether they may be tried.
    pub fn next(&mut self, limits: &Limits, now: Millis) -> Option<(Verification, Option<NotTried>)> {
        let Logins { open, turns, throttle, recent } = self;
        turns.take(|session| {
            let login = open.get_mut(&session)?;
            let (name, from) = (login.name, login.from);
            let known = match &login.stage {
                Stage::Waiting(Some(record)) => record.known_address || recent.contains(&(name, from)),
                _ => false,
            };
            match throttle.begin(name, from, known, limits, now) {
                Verdict::Allowed(attempt) => Some((login.verification(session, attempt, true)?, None)),
                Verdict::Throttled(attempt, too_many) => {
                    let not_tried = NotTried { name, from, too_many };
                    Some((login.verification(session, attempt, false)?, Some(not_tried)))
                }
                Verdict::Undecided => None,
            }
        })
    }

    /// The outcome of a verification.
    pub fn end(&mut self, session: SessionId, ok: bool, limits: &Limits, now: Millis) -> Option<Ended> {
        let login = self.open.remove(&session)?;
        let ok = ok && !login.doomed;
        let (guessing, tried) = match login.stage {
            Stage::Verifying(attempt) => (self.throttle.end(attempt, !ok, now), attempt.was_tried()),
            Stage::LookingUp | Stage::Waiting(_) => (None, true),
        };
        if ok {
            self.turns.know(login.from);
            self.recent.insert((login.name, login.from));
        }
        let throttled = !tried || self.throttle.is_full(login.from, limits, now);
        Some(Ended { name: login.name, from: login.from, ok, throttled, guessing })
    }

    /// The session is gone. An attempt that is being verified still counts.
    pub fn abandon(&mut self, session: SessionId) {
        if let Some(login) = self.open.get(&session)
            && !matches!(login.stage, Stage::Verifying(_))
        {
            self.turns.remove(session, login.from);
            self.open.remove(&session);
        }
    }

    /// What a successor has to know of failures.
    pub fn freeze_failures(&self, now: Millis, out: &mut Writer) {
        self.throttle.freeze(now, out);
    }

    /// Takes up the failures of a predecessor, in today's form or that of 0.2.0. `None`: they were not written so.
    pub fn thaw_failures(&mut self, from: &mut Reader<'_>, form: Form, now: Millis) -> Option<()> {
        let throttle = match form {
            Form::Now => Throttle::thaw(from, now)?,
            Form::Old => Throttle::thaw_old(from, now)?,
        };
        from.end()?;
        self.throttle = throttle;
        Some(())
    }

    /// The failed logins that are counted.
    pub fn throttle(&mut self) -> &mut Throttle {
        &mut self.throttle
    }

    /// Takes a login back: it is to be tried again by a successor. Its password.
    pub fn undo(&mut self, session: SessionId) -> Option<Password> {
        let login = self.open.remove(&session)?;
        self.turns.remove(session, login.from);
        login.password
    }

    /// Somebody has logged in from there before.
    pub fn know(&mut self, address: AddressKey) {
        self.turns.know(address);
    }

    /// Whether somebody has.
    pub fn knows(&self, address: AddressKey) -> bool {
        self.turns.knows(address)
    }

    /// A user is made, has another password or is gone: what failed for the name before is of no account, nor is from where
    /// somebody of that name has logged in, if it is `gone`.
    pub fn begin_anew(&mut self, name: Username, gone: bool) {
        self.throttle.clear_name(name);
        if gone {
            self.recent.retain(|(user, _)| *user != name);
        }
    }

    /// The user changed: logins that were looked up before the change fail.
    pub fn doom(&mut self, name: Username) {
        for login in self.open.values_mut().filter(|l| l.name == name) {
            if !matches!(login.stage, Stage::LookingUp) {
                login.doomed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
