//! What a session needs from its surroundings: the store, the verifiers and the counters.

use cp_proto::reply::Reply;
use cp_proto::values::{Password, Username};

use super::dfa::Refusal;
use super::download::MessageId;
use super::session::settings::SessionSettings;
use crate::time::Millis;

/// The answer of [`Services::store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The message is on its way to the store; [`super::session::Session::stored`] will be called with the outcome.
    Admitted,
    /// The message is not stored.
    Refused(Refusal),
    /// There is no room on the way to the store now; [`super::session::Session::resume`] will be called once there may
    /// be some.
    Full,
}

/// The answer of [`Services::open_download`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// This session has the lease of the queue, and may call [`Services::read_queue`].
    Granted,
    /// The queue is empty, or another session has its lease.
    Nothing,
    /// The session waits for the lease; [`super::session::Session::granted`] will be called when it gets it.
    Waiting,
    /// Whether the session has the lease is not known yet: [`super::session::Session::granted`] or
    /// [`super::session::Session::nothing`] will be called.
    Asked,
}

/// What a session requests from its surroundings. No method blocks: the outcome of a request that takes time is
/// delivered later, by a call of the session's method that its comment names.
pub trait Services {
    /// Starts a verification of `password` for the user `name`; without a password, a dummy verification that takes the
    /// same time. [`super::session::Session::verified`] will be called with the outcome.
    fn verify(&mut self, name: Username, password: Option<Password>);
    /// Offers a message to the store.
    fn store(&mut self, sender: Username, recipient: Username, body: &[u8]) -> Admission;
    /// Requests the lease of `user`'s queue. With `wait`, the session waits for it if it cannot have it now.
    fn open_download(&mut self, user: Username, wait: bool) -> LeaseAnswer;
    /// Starts to read the next page of the open download; [`super::session::Session::page`] will be called with it and
    /// with `serial`. Returns `false` if no message is left and nothing is read.
    fn read_queue(&mut self, user: Username, serial: u32) -> bool;
    /// Deletes a message that the client has acknowledged. Returns whether it was still queued; only then
    /// [`super::session::Session::deleted`] will be called for it.
    fn delete(&mut self, user: Username, id: MessageId) -> bool;
    /// Sends delayed deletes to the store now, because the client waits for them.
    fn flush_deletes(&mut self);
    /// Counts a reply for the statistics.
    fn count_reply(&mut self, reply: Reply);
    /// Counts the session as one of `user`'s.
    fn logged_in(&mut self, user: Username);
    /// Stops counting the session as one of `user`'s. Not called if the connection ends while the user is logged in.
    fn logged_out(&mut self, user: Username);
    /// Gives back the lease of `user`'s queue, or stops waiting for it. Messages that were not deleted stay queued.
    fn close_download(&mut self, user: Username);
}

/// What the methods of a session need in each call: the current time, the settings, and the services.
pub struct SessionContext<'a, S: Services> {
    pub now: Millis,
    pub settings: &'a SessionSettings,
    pub services: &'a mut S,
}
