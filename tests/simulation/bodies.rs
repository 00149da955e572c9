//! Messages that are not in the ledger, since hostile clients or administrators have a hand in them: still, none is
//! invented or comes to anybody else, and none comes back after its user was removed.

use std::collections::BTreeMap;

use crate::ledger::Kind;

struct Aside {
    sender: &'static str,
    recipient: &'static str,
    kept: bool,
    gone: bool,
}

#[derive(Default)]
pub struct Bodies {
    numbers: u64,
    aside: BTreeMap<Vec<u8>, Aside>,
    pub delivered: u64,
}

impl Bodies {
    /// The number of the next message in the ledger.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers - 1
    }

    /// A body like no other for a message outside of the ledger.
    pub fn aside(&mut self, sender: &'static str, recipient: &'static str) -> Vec<u8> {
        let body = format!("+{}. {sender} to {recipient}", self.aside.len()).into_bytes();
        self.aside.insert(body.clone(), Aside { sender, recipient, kept: false, gone: false });
        body
    }

    pub fn kept(&mut self, body: &[u8]) {
        if let Some(aside) = self.aside.get_mut(body) {
            aside.kept = true;
        }
    }

    /// The user is removed, and every message with it.
    pub fn removed(&mut self, user: &str) {
        for aside in self.aside.values_mut().filter(|aside| aside.recipient == user && aside.kept) {
            aside.gone = true;
        }
    }

    /// A message came to a user who is not in the ledger. What is wrong with it.
    pub fn delivered(
        &mut self,
        user: &str,
        sender: &str,
        body: &[u8],
        trusted: impl Fn(&str) -> bool,
    ) -> Option<(Kind, String)> {
        self.delivered += 1;
        let Some(aside) = self.aside.get(body) else {
            let text = || format!("invented or altered: {sender}:{}", body.escape_ascii());
            return trusted(sender).then(|| (Kind::Invented, text()));
        };
        if aside.sender != sender || aside.recipient != user {
            let kind = if aside.recipient == user { Kind::WrongSender } else { Kind::WrongRecipient };
            return Some((kind, format!("{} of {} came to {user} from {sender}", body.escape_ascii(), aside.sender)));
        }
        let text = || format!("{} came back after its user was removed", body.escape_ascii());
        aside.gone.then(|| (Kind::FromNowhere, text()))
    }
}
