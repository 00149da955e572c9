//! What a session needs of the world around it.

use super::dfa::Refusal;
use super::download::MessageId;
use super::reply::Reply;
use super::settings::SessionSettings;
use super::types::{Millis, Password, Username};

/// Whether the store takes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// [`super::session::Session::stored`] tells the outcome later.
    Admitted,
    Refused(Refusal),
    /// No room now; [`super::session::Session::resume`] when there is.
    Full,
}

/// Whether a queue can be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It is this session's; [`Services::read_queue`] may be called.
    Opened,
    /// Nothing is there, or another session has it.
    Nothing,
    /// [`super::session::Session::granted`] comes when there is something.
    Waiting,
}

/// What a session asks of the world around it. Each answers at once; what takes time comes back as a call of the
/// session's method that is named.
pub trait Services {
    /// Check `password` for `name`, or do the same work for nothing; [`super::session::Session::verified`].
    fn verify(&mut self, name: Username, password: Option<Password>);
    /// Queue a message.
    fn store(&mut self, sender: Username, recipient: Username, body: &[u8]) -> Admission;
    /// Begin to download `user`'s queue; with `wait`, queue up for it.
    fn open_download(&mut self, user: Username, wait: bool) -> Opening;
    /// Read the next page of the open download; [`super::session::Session::page`]. `None`: no message is left. Else whether more are
    /// left behind this page.
    fn read_queue(&mut self, user: Username, serial: u32) -> Option<bool>;
    /// The client has this message. Whether [`super::session::Session::deleted`] will be called for it.
    fn delete(&mut self, user: Username, id: MessageId) -> bool;
    /// The client waits for its deletes.
    fn hurry(&mut self);
    /// This reply is on its way; for those who count.
    fn replied(&mut self, reply: Reply);
    /// From now on this is a session of `user`'s.
    fn logged_in(&mut self, user: Username);
    /// It is one no longer, while the connection is still there.
    fn logged_out(&mut self, user: Username);
    /// The download or the wait for it is over; what is not deleted stays queued.
    fn close_download(&mut self, user: Username);
}

/// What each call needs to know.
pub struct Context<'a, S: Services> {
    pub now: Millis,
    pub settings: &'a SessionSettings,
    pub services: &'a mut S,
}
