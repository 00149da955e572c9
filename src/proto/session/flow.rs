//! A session's way through its PDUs and states.

use std::mem;

use super::clock::make_room;
use super::{Closing, Context, NEVER, Services, Session};
use crate::proto::command::{Command, Line};
use crate::proto::dfa::{Action, Event, Refusal, Say, State, Step, transition};
use crate::proto::limits::{BAD_PDUS_MAX, LOGIN_FAILURES_MAX, OUTPUT_HIGH_WATER_BYTES, OVERLAP_MAX_STORES};
use crate::proto::line::{Found, Token};
use crate::proto::reply::{Reply, Why, write_message};
use crate::proto::services::{Admission, Opening};
use crate::proto::telnet::PRESENT;
use crate::proto::types::Username;

impl Session {
    /// Answers the PDUs in `input` one after another, as far as that is possible now.
    pub(super) fn run<S: Services>(&mut self, input: &mut &[u8], cx: &mut Context<'_, S>) {
        while self.closing == Closing::Open && !self.is_full() {
            let overlapping = matches!(self.state, State::SendingMessage { .. }) && self.ahead < OVERLAP_MAX_STORES;
            if !self.takes_pdus() && !overlapping {
                return;
            }
            let (line, token) = match self.decoder.peek(input) {
                Found::Line(line, token) => (line, token),
                Found::More => return,
                Found::Flood => return self.close(cx),
                Found::End => {
                    self.ended = true;
                    return;
                }
                Found::AreYouThere => {
                    self.output.extend_from_slice(PRESENT);
                    continue;
                }
                Found::Refuse(bytes) => {
                    self.output.extend_from_slice(&bytes);
                    continue;
                }
            };
            let next = match strangeness(&self.state, self.fresh, line) {
                Some(why) => Next::Strange(why),
                None => self.state.meaning(line, overlapping, self.downloads, cx),
            };
            match next {
                Next::Strange(why) => {
                    self.taken(token, input, cx);
                    self.say(Reply::BadCommand(self.state.stage(), why), cx);
                    self.close(cx);
                }
                Next::Later => return,
                Next::EndWait => {
                    self.end_wait(cx);
                    continue;
                }
                Next::Event(event) => {
                    self.taken(token, input, cx);
                    self.apply(event, cx);
                }
                Next::Sent(refusal) => {
                    self.taken(token, input, cx);
                    if overlapping {
                        self.ahead += 1;
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

    /// A complete PDU was taken: its own time is over, idle time begins anew.
    fn taken<S: Services>(&mut self, token: Token, input: &mut &[u8], cx: &mut Context<'_, S>) {
        self.decoder.take(token, input);
        self.fresh = false;
        self.pdu_deadline = NEVER;
        self.last_pdu = cx.now;
        if self.idle_deadline != NEVER {
            self.idle_deadline = cx.now.saturating_add(cx.settings.timeouts.idle);
        }
    }

    /// What happens to the state: the only place where it changes, but for a session that is taken up.
    pub(super) fn apply<S: Services>(&mut self, event: Event, cx: &mut Context<'_, S>) {
        if matches!(self.closing, Closing::Flush | Closing::Now) {
            return;
        }
        let was_waiting = self.is_waiting();
        let before = mem::replace(&mut self.state, State::Idle);
        let (was_logged_in, was_in_error) = (before.user(), matches!(before, State::ErrorProcessing { .. }));
        if matches!(event, Event::Receive { .. } | Event::Wait { .. }) {
            self.downloads = self.downloads.wrapping_add(1);
        }
        let Step { state, say, action } = transition(before, event, self.dialect);
        self.state = state;
        match (&self.state, was_logged_in) {
            (State::AuthenticationValidated { .. }, _) => self.pause_login(cx.now),
            (State::ErrorProcessing { .. }, _) if !was_in_error => {
                self.state_deadline = cx.now.saturating_add(cx.settings.timeouts.recover);
            }
            (State::ProcessCommand { .. }, None) => {
                self.state_deadline = NEVER;
                self.idle_deadline = cx.now.saturating_add(cx.settings.timeouts.idle);
            }
            (State::ProcessCommand { .. } | State::SendingMessage { .. }, Some(_)) => self.state_deadline = NEVER,
            _ => {}
        }
        match (was_logged_in, self.state.user()) {
            (None, Some(user)) => cx.services.logged_in(user),
            (Some(user), None) => cx.services.logged_out(user),
            (None, None) | (Some(_), Some(_)) => {}
        }
        // Idle time stands still in WMSG, and goes on however that ends.
        if was_waiting && !self.is_waiting() {
            self.idle_deadline = cx.now.saturating_add(cx.settings.timeouts.idle);
        }
        match say {
            Say::Reply(Reply::AuthError) if matches!(action, Action::VerifyNothing { .. }) => {
                self.penance = true;
                self.pause_login(cx.now);
            }
            Say::Reply(reply) => self.say(reply, cx),
            Say::Nothing | Say::Later | Say::Messages => {}
        }
        self.act(action, was_logged_in, cx);
        if say == Say::Messages {
            self.deliver(cx);
        }
    }

    fn act<S: Services>(&mut self, action: Action, user: Option<Username>, cx: &mut Context<'_, S>) {
        match (action, user) {
            (Action::Verify { name, password }, _) => cx.services.verify(name, Some(password)),
            (Action::VerifyNothing { name }, _) => cx.services.verify(name, None),
            (Action::OpenDownload, Some(user)) => match cx.services.open_download(user, false) {
                Opening::Opened => self.read_queue(cx),
                Opening::Nothing | Opening::Waiting => self.apply(Event::Nothing, cx),
            },
            (Action::AwaitMessage { seconds }, Some(user)) => match cx.services.open_download(user, true) {
                Opening::Opened => self.apply(Event::Granted, cx),
                Opening::Nothing => self.apply(Event::Nothing, cx),
                Opening::Waiting => {
                    self.state_deadline = cx.now.saturating_add(u64::from(seconds) * 1000);
                    self.idle_deadline = NEVER;
                }
            },
            (Action::ReadQueue, _) => {
                self.state_deadline = NEVER;
                self.read_queue(cx);
            }
            (Action::Delete(id), Some(user)) => {
                self.undeleted += u32::from(cx.services.delete(user, id));
                self.state_deadline = match &self.state {
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
                self.finish();
            }
            (Action::None | Action::Store, _) => {}
            (Action::OpenDownload | Action::AwaitMessage { .. } | Action::Delete(_) | Action::CloseDownload, None) => {
                debug_assert!(false, "a download without a user");
            }
        }
    }

    pub(super) fn end_wait<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        self.apply(Event::Nothing, cx);
    }

    fn read_queue<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        if let State::ReceivingMessage { user, download } = &mut self.state {
            match cx.services.read_queue(*user, download.serial) {
                Some(more) => {
                    download.reading = true;
                    download.more = more;
                }
                None => download.more = false,
            }
        }
    }

    /// Sends what the window allows, asks for more, and ends the download when all is acknowledged and gone.
    pub(super) fn deliver<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        let State::ReceivingMessage { download, .. } = &mut self.state else {
            return;
        };
        while download.unacknowledged.len() < usize::from(download.window)
            && self.output.len().saturating_sub(self.sent as usize) < OUTPUT_HIGH_WATER_BYTES
        {
            let Some((id, sender, body)) = download.take_next() else {
                break;
            };
            make_room(&mut self.output);
            write_message(sender, body, &mut self.output);
            if download.unacknowledged.is_empty() {
                self.state_deadline = cx.now.saturating_add(cx.settings.timeouts.ack);
            }
            download.unacknowledged.push_back(id);
            download.delivered = true;
        }
        if download.wants_page() {
            self.read_queue(cx);
        }
        if let State::ReceivingMessage { download, .. } = &self.state
            && download.exhausted()
        {
            if self.undeleted == 0 {
                self.apply(Event::Finished, cx);
            } else {
                cx.services.hurry();
            }
        }
    }

    /// After the outcome of one SMSG: those that were sent to the store behind it come next, or, behind a failure, are
    /// bad commands.
    pub(super) fn follow_up<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        while self.ahead > 0 {
            self.ahead -= 1;
            self.apply(Event::Send, cx);
            if matches!(self.state, State::SendingMessage { .. }) {
                return;
            }
            self.void += 1;
        }
    }

    /// Takes no further PDU, sends what was answered, closes.
    pub(super) fn finish(&mut self) {
        if matches!(self.closing, Closing::Open | Closing::Stopping | Closing::Paused) {
            self.closing = Closing::Flush;
        }
    }

    pub(super) fn say<S: Services>(&mut self, reply: Reply, cx: &mut Context<'_, S>) {
        cx.services.replied(reply);
        let into_error = matches!(self.state, State::ErrorProcessing { .. }) && reply.is_failure();
        make_room(&mut self.output);
        reply.write(into_error, &mut self.output);
        if matches!(reply, Reply::BadCommand(..) | Reply::UserError) && self.state.user().is_none() {
            self.bad_pdus = self.bad_pdus.saturating_add(1);
            if self.bad_pdus >= BAD_PDUS_MAX {
                self.finish();
            }
        }
    }

    pub(super) fn count_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= LOGIN_FAILURES_MAX {
            self.finish();
        }
    }

    /// Ends the session in order: what was answered is still sent, and what is being stored still answered.
    pub(super) fn close<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        if !matches!(self.state, State::SendingMessage { .. }) {
            self.apply(Event::Terminate, cx);
            self.finish();
        } else if matches!(self.closing, Closing::Open | Closing::Paused) {
            self.closing = Closing::Stopping;
        }
    }
}

/// Whether `line` comes from a program that does not speak CP, a browser above all: then nothing of what stands in its
/// further lines is to be executed. `first`: no line came before it.
fn strangeness(state: &State, first: bool, line: Line<'_>) -> Option<Why> {
    match state {
        State::Idle | State::UserValidated { .. } | State::AuthenticationValidated { .. } => {}
        State::ProcessCommand { .. }
        | State::SendingMessage { .. }
        | State::ReceivingMessage { .. }
        | State::ErrorProcessing { .. } => return None,
    }
    match line {
        Line::Overlong(_) => Some(Why::Overlong),
        Line::Whole(line) => {
            let http = first && (line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"));
            http.then_some(Why::Http)
        }
    }
}

/// What becomes of the line that is next.
enum Next {
    Event(Event),
    /// It is no client's.
    Strange(Why),
    /// An SMSG went to the store, or was refused.
    Sent(Option<Refusal>),
    /// It ends the wait first.
    EndWait,
    /// It stays where it is until what is under way has ended.
    Later,
}

impl State {
    /// What `line` means in this state. An SMSG is offered to the store here, while its body is at hand.
    fn meaning<S: Services>(&self, line: Line<'_>, overlapping: bool, downloads: u32, cx: &mut Context<'_, S>) -> Next {
        let command = Command::parse(line, cx.settings.allow_colon);
        let waiting = matches!(self, State::ReceivingMessage { download, .. } if download.waiting);
        match (self, command) {
            (State::ProcessCommand { user } | State::SendingMessage { user }, Command::Send { recipient, body }) => {
                match cx.services.store(*user, recipient, body) {
                    Admission::Admitted => Next::Sent(None),
                    Admission::Refused(_) if overlapping => Next::Later,
                    Admission::Refused(refusal) => Next::Sent(Some(refusal)),
                    Admission::Full => Next::Later,
                }
            }
            _ if overlapping => Next::Later,
            (_, command @ (Command::Acknowledge | Command::Reject | Command::Terminate)) => {
                Next::Event(event_of(command, downloads))
            }
            _ if waiting => Next::EndWait,
            // Its reply comes behind the messages that the window allows already, however pages are cut.
            (State::ReceivingMessage { download, .. }, _) if download.starved() => Next::Later,
            (_, command) => Next::Event(event_of(command, downloads)),
        }
    }
}

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
