//! What every client of a test saw, and whether docs/protocol.md section 7 was kept: nothing lost, altered, mixed,
//! delivered to anybody else, out of order, or twice without need. Pure: no clock, socket or thread; whoever has clients
//! on several threads puts the ledger behind a lock.
//!
//! The rules hold for any server that may be killed, cut from its power or stopped at any moment, provided that each
//! client writes down what it does **before** it does it (sending, 250, 550, closing) and what it sees **after** it saw
//! it (240, messages, 255). Then "a is written before b" means that a happened before b, and no rule has to guess:
//!
//! - a message is *certainly queued* from its 240 on, or from when somebody downloaded it, until a 250 for it is sent;
//!   a download that ends in 255 must have had every message that was certainly queued when it began;
//! - of two messages of one sender to one recipient the one is *earlier* if one connection sent it first, or if it was
//!   certainly queued before the other was sent, or if the server died between them; nothing else is known;
//! - a message comes again only if its last 250 may have been lost: it must not once its download's 255 was seen, or that
//!   of a download which acknowledged later; nor in the same life of the server when it is known to have taken the 250;
//! - one that got no 240 may be there or not. What a complete download did not have after the server's next start is not.
//!
//! What it does not know: removed users, purges, expiry, and the server's acknowledgement timer (with one that can run
//! out [`Kind::TwoDownloads`] means nothing).

mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// A rule that was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A body that nobody sent: altered, mixed or made up.
    Invented,
    /// Under another sender's name.
    WrongSender,
    /// To another user.
    WrongRecipient,
    /// Delivered although the server had said that it is not stored.
    Refused,
    /// Delivered although an earlier complete download has shown that it was never stored.
    FromNowhere,
    /// Delivered again although its delete was durable, or its 250 taken in this life.
    Again,
    /// Twice in one download.
    TwiceInDownload,
    /// Before an earlier one of the same sender.
    Order,
    /// Certainly queued, and not there.
    Lost,
    /// Sent after the download had begun.
    TooLate,
    /// Two sessions hold messages of one queue at once.
    TwoDownloads,
    /// More unacknowledged messages than the window has room for.
    Window,
    /// 255 with messages unacknowledged.
    EarlyEnd,
    /// A reply or a message that nothing asked for.
    Unasked,
    /// The server counts fewer or more messages than there can be.
    Count,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub kind: Kind,
    pub text: String,
}

/// The reply to an SMSG.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 240.
    Kept,
    /// 540: stored or not.
    Unknown,
    /// 500, 545, 546.
    NotStored,
}

/// The end of a download.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// 255.
    All,
    /// 256.
    Nothing,
    /// 550 from the server.
    Failed,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// Anyhow: what is unanswered may be stored.
    Torn,
    /// The server said its last word and closed: what is unanswered is not stored.
    Orderly,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionNo(usize);

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub sent: u64,
    /// Got their 240.
    pub kept: u64,
    /// Different messages that were downloaded.
    pub delivered: u64,
    /// Came again because no 250 had been sent.
    pub given_back: u64,
    /// Came again although a 250 had been sent that may have been lost.
    pub duplicates: u64,
    /// Got no 240 and were there.
    pub unconfirmed: u64,
}

/// The ledger's own time: one step for each entry.
type Step = u64;
type Life = u32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Unanswered,
    Unknown,
    Kept,
    NotStored,
    /// Not among what a complete download of a later life had.
    Absent,
}

#[derive(Clone, Debug)]
struct Message {
    sender: usize,
    recipient: usize,
    session: SessionNo,
    life: Life,
    sent: Step,
    fate: Fate,
    /// Certainly queued since: its 240 or its first delivery.
    present: Option<Step>,
    deliveries: u32,
    /// When its last 250 was sent; `None` since it was delivered anew.
    acknowledged: Option<(Life, Step)>,
    /// The life in which the server is known to have taken a 250 for it.
    taken: Option<Life>,
    /// A delete that was taken, and went with the process that had it.
    delete_lost: bool,
    /// Its delete is durable.
    gone: bool,
}

#[derive(Clone, Debug)]
struct Session {
    user: usize,
    /// Sent and not answered, oldest first.
    unanswered: VecDeque<usize>,
    download: Option<Download>,
    closed: bool,
}

#[derive(Clone, Debug)]
struct Download {
    began: Step,
    first: Option<Step>,
    window: usize,
    /// The client sent 550: what is read now was sent before, and may be with somebody else by now.
    stopped: bool,
    had: HashSet<usize>,
    /// In the order of their delivery; `None` is one that nobody sent.
    sequence: Vec<Option<usize>>,
    /// How many of `sequence` have their 250 sent.
    acknowledged: usize,
    fronts: HashMap<usize, Front>,
    /// Found to be passed over; once is enough.
    passed_over: HashSet<usize>,
}

/// How far the messages of one sender to one recipient have come.
#[derive(Clone, Debug, Default)]
struct Front {
    life: Life,
    sent: Step,
    /// The last of each connection of `life`.
    sessions: HashMap<SessionNo, usize>,
}

impl Front {
    fn is_past(&self, number: usize, message: &Message) -> bool {
        message.life < self.life
            || message.present.is_some_and(|present| present < self.sent)
            || self.sessions.get(&message.session).is_some_and(|last| *last > number)
    }

    fn pass(&mut self, number: usize, message: &Message) {
        if message.life > self.life {
            self.life = message.life;
            self.sessions.clear();
        }
        self.sent = self.sent.max(message.sent);
        if message.life == self.life {
            let last = self.sessions.entry(message.session).or_default();
            *last = number.max(*last);
        }
    }
}

/// What is known of one user's queue.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// Certainly queued.
    waiting: BTreeSet<usize>,
    /// Their 250 was sent, their delete may not be durable.
    acknowledged: BTreeSet<usize>,
    /// Without a 240 so far, never downloaded, and perhaps stored.
    unknown: BTreeSet<usize>,
    fronts: HashMap<usize, Front>,
    /// Sessions with a download.
    open: BTreeSet<SessionNo>,
    /// A connection was closed in a download of this life: nobody knows until when the server held the queue for it.
    unsure: bool,
    last_end: Step,
}

/// The ledger of one server's life or lives.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    step: Step,
    life: Life,
    /// The server is being ended: downloads may be handed on before their clients know.
    ending: bool,
    names: BTreeMap<String, usize>,
    queues: Vec<Queue>,
    bodies: HashMap<Vec<u8>, usize>,
    messages: Vec<Message>,
    sessions: Vec<Session>,
    counts: Counts,
    violations: Vec<Violation>,
}

// ---- what the clients write down ----

impl Ledger {
    /// `user` is logged in on a new connection.
    pub fn session(&mut self, user: &str) -> SessionNo {
        let user = self.user(user);
        self.sessions.push(Session { user, unanswered: VecDeque::new(), download: None, closed: false });
        SessionNo(self.sessions.len() - 1)
    }

    /// An SMSG is about to leave. Bodies must differ: they are what messages are known by.
    pub fn sending(&mut self, session: SessionNo, recipient: &str, body: &[u8]) {
        let sent = self.tick();
        let (number, recipient) = (self.messages.len(), self.user(recipient));
        let message = Message {
            sender: self.sessions[session.0].user,
            recipient,
            session,
            life: self.life,
            sent,
            fate: Fate::Unanswered,
            present: None,
            deliveries: 0,
            acknowledged: None,
            taken: None,
            delete_lost: false,
            gone: false,
        };
        assert!(self.bodies.insert(body.to_vec(), number).is_none(), "the test has sent a body twice");
        self.messages.push(message);
        self.queues[recipient].unknown.insert(number);
        self.sessions[session.0].unanswered.push_back(number);
        self.counts.sent += 1;
    }

    /// The reply to the session's oldest unanswered SMSG was read.
    pub fn answered(&mut self, session: SessionNo, answer: Answer) {
        let now = self.tick();
        match self.sessions[session.0].unanswered.pop_front() {
            Some(number) => self.decide(number, answer, now),
            None => self.violate(Kind::Unasked, format!("{answer:?} without an SMSG")),
        }
    }

    /// RMSG (window 1), WMSG (window 1) or RMSG`<window>` is about to leave.
    pub fn downloading(&mut self, session: SessionNo, window: usize) {
        let began = self.tick();
        let Session { user, download, .. } = &mut self.sessions[session.0];
        self.queues[*user].open.insert(session);
        *download = Some(Download {
            began,
            first: None,
            window,
            stopped: false,
            had: HashSet::new(),
            sequence: Vec::new(),
            acknowledged: 0,
            fronts: HashMap::new(),
            passed_over: HashSet::new(),
        });
    }

    /// `RMSG<sender>:<body>` was read.
    pub fn received(&mut self, session: SessionNo, sender: &str, body: &[u8]) {
        let now = self.tick();
        let number = self.recognize(session, sender, body);
        let Some(mut download) = self.sessions[session.0].download.take() else {
            return self.violate(Kind::Unasked, "a message outside of a download".into());
        };
        if !download.stopped {
            let again = number.is_some_and(|number| !download.had.insert(number));
            match number {
                Some(number) if again => self.violate(Kind::TwiceInDownload, self.tell(number)),
                Some(number) => self.take_up(session, &mut download, number, now),
                None => {}
            }
            download.sequence.push(number);
            download.first.get_or_insert(now);
            if download.sequence.len() - download.acknowledged > download.window {
                self.violate(Kind::Window, format!("more than {} unacknowledged", download.window));
            }
            // Room in the window shows which 250s have been taken.
            let taken = download.sequence.len().saturating_sub(download.window).min(download.acknowledged);
            self.note_taken(&download, taken);
        }
        self.sessions[session.0].download = Some(download);
    }

    /// A 250 is about to leave: for the oldest message of the download that has none.
    pub fn acknowledging(&mut self, session: SessionNo) {
        let now = self.tick();
        let Some(download) = &mut self.sessions[session.0].download else { return };
        let Some(number) = download.sequence.get(download.acknowledged).copied() else { return };
        download.acknowledged += 1;
        if let Some(number) = number {
            let message = &mut self.messages[number];
            message.acknowledged = Some((self.life, now));
            let queue = &mut self.queues[message.recipient];
            queue.waiting.remove(&number);
            queue.acknowledged.insert(number);
        }
    }

    /// 550 is about to leave.
    pub fn stopping(&mut self, session: SessionNo) {
        self.tick();
        if let Some(download) = &mut self.sessions[session.0].download {
            download.stopped = true;
        }
    }

    /// 201 was answered.
    pub fn recovered(&mut self, session: SessionNo) {
        let now = self.tick();
        if let Some(download) = self.sessions[session.0].download.take() {
            self.note_taken(&download, download.acknowledged);
            let queue = &mut self.queues[self.sessions[session.0].user];
            queue.open.remove(&session);
            queue.last_end = now;
        }
    }

    /// The download's end was read.
    pub fn ended(&mut self, session: SessionNo, end: End) {
        let now = self.tick();
        let user = self.sessions[session.0].user;
        let Some(download) = self.sessions[session.0].download.take() else {
            return self.violate(Kind::Unasked, format!("{end:?} without a download"));
        };
        self.queues[user].open.remove(&session);
        match end {
            End::All => {
                if download.acknowledged < download.sequence.len() {
                    self.violate(Kind::EarlyEnd, "255 with messages unacknowledged".into());
                }
                self.note_taken(&download, download.acknowledged);
                self.complete(user, &download, End::All);
            }
            // While another session downloads, 256 says nothing of the queue.
            End::Nothing if self.was_alone(user, &download) => self.complete(user, &download, End::Nothing),
            End::Nothing | End::Failed => {}
        }
        self.queues[user].last_end = now;
    }

    /// The connection is about to be closed, or has ended. Nothing more is written down for it.
    pub fn closed(&mut self, session: SessionNo, parting: Parting) {
        let now = self.tick();
        let Session { user, unanswered, download, closed } = &mut self.sessions[session.0];
        *closed = true;
        if download.take().is_some() {
            self.queues[*user].open.remove(&session);
            self.queues[*user].unsure = true;
        }
        let answer = if parting == Parting::Torn { Answer::Unknown } else { Answer::NotStored };
        for number in std::mem::take(unanswered) {
            self.decide(number, answer, now);
        }
    }

    /// A successor goes on without a delete of this message that had not reached the store: it may come again, once.
    pub fn lost_delete(&mut self, body: &[u8]) {
        if let Some(number) = self.bodies.get(body) {
            self.messages[*number].delete_lost = true;
        }
    }

    /// The server is about to be killed or stopped.
    pub fn ending(&mut self) {
        self.ending = true;
    }

    /// The server has ended, so or so, and every connection to it is closed. One that stopped in order has finished the
    /// deletes whose 250 it is known to have taken.
    pub fn next_life(&mut self, parting: Parting) {
        assert!(self.sessions.iter().all(|session| session.closed), "a session of the last life is open");
        self.sessions.iter_mut().for_each(|session| session.unanswered = VecDeque::new());
        self.ending = false;
        self.life += 1;
        let (messages, life) = (&mut self.messages, self.life - 1);
        for queue in &mut self.queues {
            (queue.unsure, queue.last_end) = (false, 0);
            queue.acknowledged.retain(|number| {
                let message = &mut messages[*number];
                message.gone |= parting == Parting::Orderly && message.taken == Some(life) && !message.delete_lost;
                !message.gone
            });
        }
    }

    /// The server says that `queued` messages wait for `user`; nobody is connected.
    pub fn counted(&mut self, user: &str, queued: u64) {
        let queue = self.user(user);
        let Queue { waiting, acknowledged, unknown, .. } = &self.queues[queue];
        let least = waiting.len() as u64;
        let most = least + (acknowledged.len() + unknown.len()) as u64;
        if !(least..=most).contains(&queued) {
            self.violate(Kind::Count, format!("{queued} for {user}, not {least} to {most}"));
        }
    }

    /// Every queue was downloaded to its end: nothing may be left.
    pub fn drained(&mut self) {
        for queue in 0..self.queues.len() {
            for number in std::mem::take(&mut self.queues[queue].waiting) {
                self.violate(Kind::Lost, self.tell(number));
            }
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}
