//! Logins under way: first the store says what to check against, then, by turns, each is verified. Every attempt costs
//! the same, whatever is wrong with it.

use std::collections::HashMap;

use super::port::{AddressKey, LoginRecord, SessionId};
use super::settings::Limits;
use super::throttle::{Attempt, Throttle, Verdict};
use super::turns::Turns;
use crate::proto::codec::{Reader, Writer};
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
    /// To be tried, or, without an attempt, to be refused at the same cost.
    fn verification(&mut self, session: SessionId, attempt: Option<Attempt>) -> Option<Verification> {
        let record = match std::mem::replace(&mut self.stage, Stage::Verifying(attempt)) {
            Stage::Waiting(record) => record,
            Stage::LookingUp | Stage::Verifying(_) => None,
        };
        let given = self.password.as_ref().and_then(|p| Password::parse(p.as_bytes()));
        let tried = attempt.is_some() && given.is_some();
        let hash = record.filter(|r| tried && !r.locked).map(|r| r.hash);
        let password = given.or_else(|| Password::parse(b"-"))?;
        Some(Verification { session, password, hash })
    }
}

#[derive(Debug)]
enum Stage {
    LookingUp,
    Waiting(Option<Box<LoginRecord>>),
    /// `None`: throttled, or nothing to check.
    Verifying(Option<Attempt>),
}

/// What the end of a login means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub name: Username,
    pub from: AddressKey,
    pub ok: bool,
}

/// All logins under way.
#[derive(Debug, Default)]
pub struct Logins {
    open: HashMap<SessionId, Login>,
    /// Those in `Stage::Waiting`.
    turns: Turns,
    throttle: Throttle,
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

    /// The next login to verify; the second value tells that it is throttled. `None`: none waits, or it depends on
    /// those being verified whether they may be tried.
    pub fn next(&mut self, limits: &Limits, now: Millis) -> Option<(Verification, bool)> {
        let Logins { open, turns, throttle } = self;
        turns.take(|session| {
            let login = open.get_mut(&session)?;
            let known = matches!(&login.stage, Stage::Waiting(Some(record)) if record.known_address);
            match throttle.begin(login.name, login.from, known, limits, now) {
                Verdict::Allowed(attempt) => Some((login.verification(session, Some(attempt))?, false)),
                Verdict::Throttled => Some((login.verification(session, None)?, true)),
                Verdict::Undecided => None,
            }
        })
    }

    /// The outcome of a verification.
    pub fn end(&mut self, session: SessionId, ok: bool, now: Millis) -> Option<Ended> {
        let login = self.open.remove(&session)?;
        let ok = ok && !login.doomed;
        if let Stage::Verifying(Some(attempt)) = login.stage {
            self.throttle.end(attempt, !ok, now);
        }
        if ok {
            self.turns.know(login.from);
        }
        Some(Ended { name: login.name, from: login.from, ok })
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

    /// Takes up the failures of a predecessor. `None`: they were not written by this version.
    pub fn thaw_failures(&mut self, from: &mut Reader<'_>, now: Millis) -> Option<()> {
        let throttle = Throttle::thaw(from, now)?;
        from.end()?;
        self.throttle = throttle;
        Some(())
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
