//! Handles a session's PDUs: parses them, applies their events to the state, and carries out what follows.

use std::mem;

use cp_proto::command::{Command, Line};
use cp_proto::line::{Found, LineToken};
use cp_proto::reply::{BadCommandCause, Reply, write_message};
use cp_proto::telnet::AYT_ANSWER;
use cp_proto::values::Username;

use super::{Closing, NEVER, Services, Session, SessionContext};
use crate::dfa::{Action, Event, Refusal, Response, State, Transition, transition};
use crate::limits::{BAD_PDUS_MAX, LOGIN_FAILURES_MAX, PIPELINE_MAX_STORES};
use crate::services::{Admission, LeaseAnswer};

impl Session {
    /// Handles the PDUs in `input` one after another, as far as that is possible now, and removes them from it.
    pub(super) fn handle_input<S: Services>(&mut self, input: &mut &[u8], cx: &mut SessionContext<'_, S>) {
        while self.closing == Closing::Open && !self.output.is_full() {
            let pipelining =
                matches!(self.state, State::SendingMessage { .. }) && self.store_work.pipelined < PIPELINE_MAX_STORES;
            if !self.takes_pdus() && !pipelining {
                return;
            }
            let (line, token) = match self.decoder.peek(input) {
                Found::Line(line, token) => (line, token),
                Found::NeedInput => return,
                Found::Flood => return self.close(cx),
                Found::End => {
                    self.input_ended = true;
                    return;
                }
                Found::AreYouThere => {
                    self.output.buffer().extend_from_slice(AYT_ANSWER);
                    continue;
                }
                Found::Refuse(bytes) => {
                    self.output.buffer().extend_from_slice(&bytes);
                    continue;
                }
            };
            let next = match foreign_protocol(&self.state, self.no_line_yet, line) {
                Some(why) => LineAction::Foreign(why),
                None => self.state.dispatch_line(line, pipelining, self.downloads, cx),
            };
            match next {
                LineAction::Foreign(why) => {
                    self.take_line(token, input, cx);
                    self.send_reply(Reply::BadCommand(self.state.stage(), why), cx);
                    self.close(cx);
                }
                LineAction::Deferred => return,
                LineAction::EndWait => {
                    self.end_wait(cx);
                    continue;
                }
                LineAction::Event(event) => {
                    self.take_line(token, input, cx);
                    self.apply(event, cx);
                }
                LineAction::Sent(refusal) => {
                    self.take_line(token, input, cx);
                    if pipelining {
                        self.store_work.pipelined += 1;
                    } else {
                        self.apply(Event::Send, cx);
                    }
                    if let Some(refusal) = refusal {
                        self.apply(Event::Refused(refusal), cx);
                    }
                }
            }
        }
        if !matches!(self.closing, Closing::Open | Closing::Paused) {
            *input = &[];
        }
    }

    /// Removes a complete PDU from the input, ends its timer, and restarts the idle timer.
    fn take_line<S: Services>(&mut self, token: LineToken, input: &mut &[u8], cx: &mut SessionContext<'_, S>) {
        self.decoder.take_line(token, input);
        self.no_line_yet = false;
        self.deadlines.pdu = NEVER;
        self.last_pdu_at = cx.now;
        if self.deadlines.idle != NEVER {
            self.deadlines.idle = cx.now.saturating_add(cx.settings.timeouts.idle);
        }
    }

    /// Applies one event. Apart from this, only `undo_login` and `thaw` replace the state, for a hand-over. The
    /// download inside it is also changed by `deliver`, `read_queue`, `purged` and `resume_after_handover`.
    pub(super) fn apply<S: Services>(&mut self, event: Event, cx: &mut SessionContext<'_, S>) {
        if matches!(self.closing, Closing::Flush | Closing::Now) {
            return;
        }
        let was_waiting = self.is_waiting();
        let before = mem::replace(&mut self.state, State::Idle);
        let (was_logged_in, was_in_error) = (before.user(), matches!(before, State::ErrorProcessing { .. }));
        if matches!(event, Event::Receive { .. } | Event::Wait { .. }) {
            self.downloads = self.downloads.wrapping_add(1);
        }
        let Transition { state, response, action } = transition(before, event, self.dialect());
        self.state = state;
        match (&self.state, was_logged_in) {
            (State::AuthenticationValidated { .. }, _) => self.suspend_login_timer(cx.now),
            (State::ErrorProcessing { .. }, _) if !was_in_error => {
                self.deadlines.state = cx.now.saturating_add(cx.settings.timeouts.recover);
            }
            (State::ProcessCommand { .. }, None) => {
                self.deadlines.state = NEVER;
                self.deadlines.idle = cx.now.saturating_add(cx.settings.timeouts.idle);
            }
            (State::ProcessCommand { .. } | State::SendingMessage { .. }, Some(_)) => self.deadlines.state = NEVER,
            _ => {}
        }
        match (was_logged_in, self.state.user()) {
            (None, Some(user)) => cx.services.logged_in(user),
            (Some(user), None) => cx.services.logged_out(user),
            (None, None) | (Some(_), Some(_)) => {}
        }
        // Idle time stands still during WMSG and begins anew in whatever way that ends (section 6).
        if was_waiting && !self.is_waiting() {
            self.deadlines.idle = cx.now.saturating_add(cx.settings.timeouts.idle);
        }
        match response {
            Response::Reply(reply) => self.send_reply(reply, cx),
            Response::Nothing | Response::Deferred | Response::Messages => {}
        }
        self.perform(action, was_logged_in, cx);
        if response == Response::Messages {
            self.deliver(cx);
        }
    }

    /// Carries out the action of a transition. `user` is the user that was logged in before it.
    fn perform<S: Services>(&mut self, action: Action, user: Option<Username>, cx: &mut SessionContext<'_, S>) {
        match (action, user) {
            (Action::Verify { name, password }, _) => cx.services.verify(name, Some(password)),
            (Action::VerifyDummy { name }, _) => cx.services.verify(name, None),
            (Action::OpenDownload, Some(user)) => match cx.services.open_download(user, false) {
                LeaseAnswer::Granted => self.read_queue(cx),
                LeaseAnswer::Nothing | LeaseAnswer::Waiting => self.apply(Event::Nothing, cx),
                LeaseAnswer::Asked => self.await_lease(),
            },
            (Action::AwaitMessage { seconds }, Some(user)) => match cx.services.open_download(user, true) {
                LeaseAnswer::Granted => self.apply(Event::Granted, cx),
                LeaseAnswer::Nothing => self.apply(Event::Nothing, cx),
                // Whoever waits for a message may as well wait for the answer.
                LeaseAnswer::Waiting | LeaseAnswer::Asked => {
                    self.deadlines.state = cx.now.saturating_add(u64::from(seconds) * 1000);
                    self.deadlines.idle = NEVER;
                }
            },
            (Action::ReadQueue, _) => {
                self.deadlines.state = NEVER;
                self.read_queue(cx);
            }
            (Action::Delete(id), Some(user)) => {
                self.store_work.pending_deletes += u32::from(cx.services.delete(user, id));
                self.deadlines.state = match &self.state {
                    State::ReceivingMessage { download, .. } if !download.unacknowledged.is_empty() => {
                        cx.now.saturating_add(cx.settings.timeouts.ack)
                    }
                    _ => NEVER,
                };
            }
            (Action::CloseDownload, Some(user)) => cx.services.close_download(user),
            (Action::Close, user) => {
                if let Some(user) = user {
                    cx.services.close_download(user);
                }
                self.close_after_output();
            }
            (Action::None, _) => {}
            (Action::OpenDownload | Action::AwaitMessage { .. } | Action::Delete(_) | Action::CloseDownload, None) => {
                debug_assert!(false, "a download without a user");
            }
        }
    }

    /// Ends the wait of a WMSG without a message.
    pub(super) fn end_wait<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        self.apply(Event::Nothing, cx);
    }

    /// Requests the next page of the download.
    fn read_queue<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        if let State::ReceivingMessage { user, download } = &mut self.state {
            download.page_requested = cx.services.read_queue(*user, download.serial);
            download.more_queued = false;
        }
    }

    /// Notes that it is not known yet whether the download has the lease. Until then nothing of it is read.
    fn await_lease(&mut self) {
        if let State::ReceivingMessage { download, .. } = &mut self.state {
            download.page_requested = true;
        }
    }

    /// Sends the messages that the window allows, requests the next page, and ends the download once all messages are
    /// acknowledged and deleted.
    pub(super) fn deliver<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        let State::ReceivingMessage { download, .. } = &mut self.state else {
            return;
        };
        while download.unacknowledged.len() < usize::from(download.window) && !self.output.is_full() {
            let Some((id, sender, body)) = download.take_next() else {
                break;
            };
            write_message(sender, body, self.output.buffer());
            if download.unacknowledged.is_empty() {
                self.deadlines.state = cx.now.saturating_add(cx.settings.timeouts.ack);
            }
            download.unacknowledged.push_back(id);
            download.any_sent = true;
        }
        if download.wants_page() {
            self.read_queue(cx);
        }
        if let State::ReceivingMessage { download, .. } = &self.state
            && download.exhausted()
        {
            if self.store_work.pending_deletes == 0 {
                self.apply(Event::Finished, cx);
            } else {
                cx.services.flush_deletes();
            }
        }
    }

    /// Continues after the outcome of one SMSG. The next pipelined SMSG enters Sending Message; after a failure, where
    /// the state does not allow that, all of them are answered 500.
    pub(super) fn advance_pipeline<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        while self.store_work.pipelined > 0 {
            self.store_work.pipelined -= 1;
            self.apply(Event::Send, cx);
            if matches!(self.state, State::SendingMessage { .. }) {
                return;
            }
            self.store_work.discarded_outcomes += 1;
        }
    }

    /// Closes the connection once the output is sent. No further PDU is handled.
    pub(super) fn close_after_output(&mut self) {
        if matches!(self.closing, Closing::Open | Closing::Stopping | Closing::Paused) {
            self.closing = Closing::Flush;
        }
    }

    /// Appends a reply to the output, and closes the connection after too many bad PDUs before the login.
    pub(super) fn send_reply<S: Services>(&mut self, reply: Reply, cx: &mut SessionContext<'_, S>) {
        cx.services.count_reply(reply);
        let into_error = matches!(self.state, State::ErrorProcessing { .. }) && reply.is_failure();
        reply.write(into_error, self.output.buffer());
        if matches!(reply, Reply::BadCommand(..) | Reply::UserError) && self.state.user().is_none() {
            self.bad_pdus = self.bad_pdus.saturating_add(1);
            if self.bad_pdus >= BAD_PDUS_MAX {
                self.close_after_output();
            }
        }
    }

    /// Counts a failed login, and closes the connection after too many of them.
    pub(super) fn count_failure(&mut self) {
        self.login_failures = self.login_failures.saturating_add(1);
        if self.login_failures >= LOGIN_FAILURES_MAX {
            self.close_after_output();
        }
    }

    /// Ends the session in order: SMSGs at the store are still answered, and the output is still sent.
    pub(super) fn close<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        if !matches!(self.state, State::SendingMessage { .. }) {
            self.apply(Event::Terminate, cx);
            self.close_after_output();
        } else if matches!(self.closing, Closing::Open | Closing::Paused) {
            self.closing = Closing::Stopping;
        }
    }
}

/// Detects before the login that `line` comes from a program that does not speak CP, above all a browser: none of its
/// further lines may then be handled (section 1). Returns the cause for the reply, or `None` if the line may be CP.
/// `first` means that no line came before it.
fn foreign_protocol(state: &State, first: bool, line: Line<'_>) -> Option<BadCommandCause> {
    match state {
        State::Idle | State::UserValidated { .. } | State::AuthenticationValidated { .. } => {}
        State::ProcessCommand { .. }
        | State::SendingMessage { .. }
        | State::ReceivingMessage { .. }
        | State::ErrorProcessing { .. } => return None,
    }
    match line {
        Line::Overlong(_) => Some(BadCommandCause::Overlong),
        Line::Whole(line) => {
            let http = first && (line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"));
            http.then_some(BadCommandCause::Http)
        }
    }
}

/// What to do with the next line.
enum LineAction {
    /// Apply this event to the state.
    Event(Event),
    /// Answer 500 and close: it does not come from a client of CP.
    Foreign(BadCommandCause),
    /// It was an SMSG, which was given to the store, or refused for this cause.
    Sent(Option<Refusal>),
    /// End the wait of the WMSG, and look at the line again.
    EndWait,
    /// Leave it unread until the work under way has ended.
    Deferred,
}

impl State {
    /// Decides what to do with `line` in this state. An SMSG is given to the store here, so that its body need not be
    /// copied into an event.
    fn dispatch_line<S: Services>(
        &self,
        line: Line<'_>,
        pipelining: bool,
        downloads: u32,
        cx: &mut SessionContext<'_, S>,
    ) -> LineAction {
        let command = Command::parse(line, cx.settings.allow_colon);
        let waiting = matches!(self, State::ReceivingMessage { download, .. } if download.waiting);
        match (self, command) {
            (State::ProcessCommand { user } | State::SendingMessage { user }, Command::Send { recipient, body }) => {
                match cx.services.store(*user, recipient, body) {
                    Admission::Admitted => LineAction::Sent(None),
                    Admission::Refused(_) if pipelining => LineAction::Deferred,
                    Admission::Refused(refusal) => LineAction::Sent(Some(refusal)),
                    Admission::Full => LineAction::Deferred,
                }
            }
            _ if pipelining => LineAction::Deferred,
            (_, command @ (Command::Acknowledge | Command::Reject | Command::Terminate)) => {
                LineAction::Event(event_of(command, downloads))
            }
            _ if waiting => LineAction::EndWait,
            // Delay the reply until the messages that the window already allows have been sent, even if they are in a
            // page that is still being read.
            (State::ReceivingMessage { download, .. }, _) if download.awaits_page() => LineAction::Deferred,
            (_, command) => LineAction::Event(event_of(command, downloads)),
        }
    }
}

/// The event of a PDU. `downloads` is the number of downloads that the session has begun.
fn event_of(command: Command<'_>, downloads: u32) -> Event {
    let serial = downloads.wrapping_add(1);
    match command {
        Command::User(name) => Event::User(name),
        Command::BadUser => Event::BadUser,
        Command::Pass(password) => Event::Pass(password),
        Command::BadPass => Event::BadPass,
        Command::Send { .. } => Event::Send,
        Command::BadSend(fault) => Event::BadSend(fault),
        Command::Receive { window } => Event::Receive { window, serial },
        Command::Wait { seconds } => Event::Wait { seconds, serial },
        Command::Acknowledge => Event::Acknowledge,
        Command::Reject => Event::Reject,
        Command::Recover => Event::Recover,
        Command::Help => Event::Help,
        Command::Terminate => Event::Terminate,
        Command::Bad(fault) => Event::Bad(fault),
    }
}
