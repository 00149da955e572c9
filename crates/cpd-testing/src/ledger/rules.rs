//! The rules of the ledger, as its head says them.

use super::{Answer, Download, End, Fate, Kind, Ledger, Message, Queue, SessionNo, Step, Violation};

impl Ledger {
    pub(super) fn tick(&mut self) -> Step {
        self.step += 1;
        self.step
    }

    pub(super) fn user(&mut self, name: &str) -> usize {
        if let Some(user) = self.names.get(name) {
            return *user;
        }
        self.names.insert(name.to_owned(), self.queues.len());
        self.queues.push(Queue::default());
        self.queues.len() - 1
    }

    pub(super) fn violate(&mut self, kind: Kind, text: String) {
        self.violations.push(Violation { kind, text: format!("{kind:?} in life {}: {text}", self.life) });
    }

    pub(super) fn tell(&self, number: usize) -> String {
        let name = |user| self.names.iter().find(|(_, number)| **number == user).map_or("?", |(name, _)| name);
        let message = &self.messages[number];
        let (sender, recipient) = (name(message.sender), name(message.recipient));
        format!("message {number} of {sender} to {recipient}: {message:?}")
    }

    pub(super) fn decide(&mut self, number: usize, answer: Answer, now: Step) {
        let message = &mut self.messages[number];
        let queue = &mut self.queues[message.recipient];
        match answer {
            Answer::Kept => {
                self.counts.kept += 1;
                message.fate = Fate::Kept;
                queue.unknown.remove(&number);
                if message.present.is_none() {
                    message.present = Some(now);
                    queue.waiting.insert(number);
                }
            }
            Answer::Unknown => {
                message.fate = Fate::Unknown;
                self.counts.unconfirmed += u64::from(message.present.is_some());
            }
            Answer::NotStored => {
                message.fate = Fate::NotStored;
                queue.unknown.remove(&number);
                if message.present.is_some() {
                    self.violate(Kind::Refused, self.tell(number));
                }
            }
        }
    }

    /// The number of a message that was sent, whoever it was meant for.
    pub(super) fn recognize(&mut self, session: SessionNo, sender: &str, body: &[u8]) -> Option<usize> {
        let (user, sender) = (self.sessions[session.0].user, self.user(sender));
        let Some(number) = self.bodies.get(body).copied() else {
            let body = String::from_utf8_lossy(body).escape_debug().to_string();
            self.violate(Kind::Invented, body);
            return None;
        };
        let message = &self.messages[number];
        let (wrong_sender, wrong_recipient) = (message.sender != sender, message.recipient != user);
        if wrong_sender {
            self.violate(Kind::WrongSender, self.tell(number));
        }
        if wrong_recipient {
            self.violate(Kind::WrongRecipient, self.tell(number));
        }
        (!wrong_sender && !wrong_recipient).then_some(number)
    }

    /// A message of its recipient's download, for the first time in it.
    pub(super) fn take_up(&mut self, session: SessionNo, download: &mut Download, number: usize, now: Step) {
        let message = &self.messages[number];
        let (user, sender) = (message.recipient, message.sender);
        let mut broken = Vec::new();
        match message.fate {
            Fate::NotStored => broken.push(Kind::Refused),
            Fate::Absent => broken.push(Kind::FromNowhere),
            Fate::Kept | Fate::Unanswered | Fate::Unknown => {}
        }
        if message.gone || (message.taken == Some(self.life) && !message.delete_lost) {
            broken.push(Kind::Again);
        }
        if download.first.is_some_and(|first| message.sent > first) {
            broken.push(Kind::TooLate);
        }
        if self.is_held_by_another(user, session) {
            broken.push(Kind::TwoDownloads);
        }
        let front = download.fronts.entry(sender).or_default();
        let never_before = message.deliveries == 0;
        let late = never_before && self.queues[user].fronts.entry(sender).or_default().is_past(number, message);
        if late || front.is_past(number, message) {
            broken.push(Kind::Order);
        }
        front.pass(number, message);
        let passed_over = self.passed_over(user, number, download);
        self.queues[user].fronts.entry(sender).or_default().pass(number, message);
        for kind in broken {
            self.violate(kind, self.tell(number));
        }
        if let Some(earlier) = passed_over {
            download.passed_over.insert(earlier);
            let text = format!("{} comes before {}", self.tell(number), self.tell(earlier));
            self.violate(Kind::Order, text);
        }
        self.note_delivery(number, now);
    }

    fn is_held_by_another(&self, user: usize, session: SessionNo) -> bool {
        let holds = |other: &SessionNo| {
            let download = self.sessions[other.0].download.as_ref();
            *other != session && download.is_some_and(|d| !d.stopped && d.acknowledged < d.sequence.len())
        };
        !self.ending && self.queues[user].open.iter().any(holds)
    }

    /// A message earlier than `number` that is certainly queued and did not come before it.
    fn passed_over(&self, user: usize, number: usize, download: &Download) -> Option<usize> {
        let later = &self.messages[number];
        let is_earlier = |earlier: &Message| {
            earlier.sender == later.sender
                && (earlier.session == later.session
                    || earlier.life < later.life
                    || earlier.present.is_some_and(|present| present < later.sent))
        };
        let before = self.queues[user].waiting.range(..number).copied();
        before
            .filter(|n| !download.had.contains(n) && !download.passed_over.contains(n))
            .find(|n| is_earlier(&self.messages[*n]))
    }

    fn note_delivery(&mut self, number: usize, now: Step) {
        let message = &mut self.messages[number];
        match (message.deliveries, message.acknowledged) {
            (0, _) => {
                self.counts.delivered += 1;
                self.counts.unconfirmed += u64::from(message.fate == Fate::Unknown);
            }
            (_, None) => self.counts.given_back += 1,
            (_, Some(_)) => self.counts.duplicates += 1,
        }
        message.deliveries += 1;
        message.present.get_or_insert(now);
        // It is in the queue, so that its earlier 250, if there was one, was not taken or is forgotten.
        (message.acknowledged, message.taken, message.delete_lost, message.gone) = (None, None, false, false);
        let queue = &mut self.queues[message.recipient];
        queue.unknown.remove(&number);
        queue.acknowledged.remove(&number);
        queue.waiting.insert(number);
    }

    /// The server has taken the first `count` 250s of the download.
    pub(super) fn note_taken(&mut self, download: &Download, count: usize) {
        // Those before them were noted before.
        for number in download.sequence.iter().take(count).rev().flatten() {
            let message = &mut self.messages[*number];
            if message.acknowledged.is_none() || message.taken == Some(self.life) {
                break;
            }
            message.taken = Some(self.life);
        }
    }

    /// Whether nobody else can have held the queue while this download was tried.
    pub(super) fn was_alone(&self, user: usize, download: &Download) -> bool {
        let queue = &self.queues[user];
        queue.open.is_empty() && !queue.unsure && queue.last_end < download.began
    }

    /// The download had all that was queued when it began.
    pub(super) fn complete(&mut self, user: usize, download: &Download, end: End) {
        let queue = &mut self.queues[user];
        let (messages, life) = (&mut self.messages, self.life);
        let missing = |number: &usize| {
            !download.had.contains(number) && messages[*number].present.is_some_and(|step| step < download.began)
        };
        let lost: Vec<usize> = queue.waiting.iter().copied().filter(missing).collect();
        queue.acknowledged.retain(|number| {
            let message = &mut messages[*number];
            // The deletes behind a 255 stand behind every earlier one; behind a 256 stands only what was loaded.
            let settled = match (end, message.acknowledged) {
                (End::All, Some((_, step))) => download.had.contains(number) || step < download.began,
                (_, Some((acknowledged, _))) => acknowledged < life,
                (_, None) => false,
            };
            message.gone |= settled;
            !settled
        });
        queue.unknown.retain(|number| {
            let message = &mut messages[*number];
            if message.life < life {
                message.fate = Fate::Absent;
            }
            message.life >= life
        });
        for number in lost {
            self.queues[user].waiting.remove(&number);
            self.violate(Kind::Lost, self.tell(number));
        }
    }
}
