//! What every message went through, and what must never happen to one.

use std::collections::HashMap;

/// A message's place in the book.
pub type Entry = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No reply yet, or none that says whether it is stored.
    Unknown,
    /// 240.
    Kept,
    /// A reply that says that it is not stored.
    Refused,
}

#[derive(Debug)]
pub struct Message {
    pub client: u64,
    pub sender: String,
    pub recipient: String,
    pub fate: Fate,
    /// Its 250 was sent.
    pub acknowledged: bool,
    /// An administrator may have taken it.
    pub taken: bool,
    /// It must not come any more.
    pub gone: bool,
}

#[derive(Default)]
pub struct Book {
    messages: Vec<Message>,
    bodies: HashMap<String, Entry>,
    pub deliveries: usize,
}

impl Book {
    /// A new message with a body like no other.
    pub fn write(&mut self, client: u64, sender: &str, recipient: &str, padding: usize) -> (Entry, String) {
        let entry = self.messages.len();
        let body = format!("{sender} to {recipient} {entry} {}", "m".repeat(padding));
        self.bodies.insert(body.clone(), entry);
        let (sender, recipient) = (sender.to_owned(), recipient.to_owned());
        let fate = Fate::Unknown;
        // Those who keep no books do not tell what they acknowledged.
        let taken = recipient.starts_with('g');
        self.messages.push(Message { client, sender, recipient, fate, acknowledged: false, taken, gone: false });
        (entry, body)
    }

    pub fn get(&mut self, entry: Entry) -> &mut Message {
        &mut self.messages[entry]
    }

    /// A message came to `user` in a download that has delivered `before`; `None` if he keeps no books. The entry, if its
    /// sender does.
    pub fn deliver(&mut self, user: &str, sender: &str, body: &str, before: Option<&[Entry]>) -> Option<Entry> {
        self.deliveries += 1;
        let Some(&entry) = self.bodies.get(body) else {
            assert!(sender.starts_with('g'), "invented or altered: {sender}:{body}");
            return None;
        };
        let message = &self.messages[entry];
        assert_eq!(message.sender, sender, "another's name: {body}");
        assert_eq!(message.recipient, user, "delivered to another user: {body}");
        assert!(message.fate != Fate::Refused, "delivered and refused: {body}");
        assert!(!message.gone, "delivered after its end: {body}: {message:?}");
        let Some(before) = before else { return Some(entry) };
        assert!(!before.contains(&entry), "twice in one download: {body}");
        for (earlier, other) in self.messages.iter().enumerate().take(entry) {
            let same_way = other.client == message.client && other.recipient == message.recipient;
            let still_there = other.fate == Fate::Kept && !other.acknowledged && !other.taken;
            assert!(
                !(same_way && still_there) || before.contains(&earlier),
                "{body} overtakes number {earlier}: {other:?}"
            );
        }
        Some(entry)
    }

    /// Messages that got 240.
    pub fn kept(&self) -> usize {
        self.messages.iter().filter(|m| m.fate == Fate::Kept).count()
    }

    /// An administrator takes what is there for `user`; `for_ever`: it must not come any more.
    pub fn take(&mut self, user: &str, for_ever: bool) {
        for message in self.messages.iter_mut().filter(|m| m.recipient == user) {
            message.taken = true;
            message.gone |= for_ever && message.fate == Fate::Kept;
        }
    }

    /// After everything was downloaded by everybody.
    pub fn close(&self) {
        for (entry, m) in self.messages.iter().enumerate() {
            assert!(m.fate != Fate::Kept || m.acknowledged || m.taken, "number {entry} is lost: {m:?}");
        }
    }
}
