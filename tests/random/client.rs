//! Clients: those that keep to the protocol and know what must come, and those that send whatever comes to their mind.

use std::collections::VecDeque;

use cpd::engine::port::SessionId;
use cpd::proto::reply::ALL;

use super::book::{Book, Entry, Fate};
use super::chance::Chance;

/// What a client waits for.
#[derive(Debug)]
pub enum Expect {
    User,
    Pass,
    Send(Entry),
    Download(Download),
    Recovered,
    /// 500.
    Bad,
}

#[derive(Debug, Default)]
pub struct Download {
    /// In the order in which they came; `None` for one whose sender keeps no books.
    pub unacknowledged: VecDeque<Option<Entry>>,
    pub delivered: Vec<Entry>,
    pub messages: usize,
}

pub struct Client {
    pub number: u64,
    pub id: SessionId,
    pub user: String,
    /// Sends anything, and expects nothing.
    pub wild: bool,
    /// On the way to the server.
    pub input: Vec<u8>,
    pub fin: bool,
    /// Bytes of the session's output that were looked at.
    pub seen: usize,
    pub deaf: bool,
    pub logged_in: bool,
    pub in_error: bool,
    pub expects: VecDeque<Expect>,
    /// It hangs up after this.
    pub leaving: bool,
}

impl Client {
    pub fn new(number: u64, id: SessionId, user: &str, wild: bool) -> Client {
        Client {
            number,
            id,
            user: user.to_owned(),
            wild,
            input: Vec::new(),
            fin: false,
            seen: 0,
            deaf: false,
            logged_in: false,
            in_error: false,
            expects: VecDeque::new(),
            leaving: false,
        }
    }

    fn say(&mut self, line: &str) {
        self.input.extend_from_slice(line.as_bytes());
        self.input.extend_from_slice(if self.number.is_multiple_of(2) { b"\r\n" } else { b"\n" });
    }

    /// Whether it has messages that it did not acknowledge.
    pub fn holds_messages(&self) -> bool {
        matches!(self.expects.front(), Some(Expect::Download(d)) if !d.unacknowledged.is_empty())
    }

    /// Takes what the server has said: whole lines.
    pub fn hear(&mut self, mut bytes: &[u8], book: &mut Book) {
        while !bytes.is_empty() {
            if self.wild && matches!(bytes, [255, 252 | 254, _, ..]) {
                bytes = &bytes[3..];
                continue;
            }
            let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line without CRLF");
            let line = std::str::from_utf8(&bytes[..end]).expect("a line of UTF-8");
            bytes = &bytes[end + 2..];
            assert!(!line.is_empty() && line.len() <= 1024 && !line.contains(['\r', '\n']), "{line:?}");
            match line.strip_prefix("RMSG") {
                Some(message) => self.hear_message(message, book),
                None if self.wild && line == "[yes]" => {}
                None => self.hear_reply(line, book),
            }
        }
    }

    fn hear_message(&mut self, message: &str, book: &mut Book) {
        let (sender, body) = message.split_once(':').expect("a sender and a message");
        if self.wild {
            book.deliver(&self.user, sender, body, None);
            return;
        }
        let Some(Expect::Download(download)) = self.expects.front_mut() else {
            panic!("{} got a message without asking: {:?}", self.number, self.expects);
        };
        let entry = book.deliver(&self.user, sender, body, Some(&download.delivered));
        download.unacknowledged.push_back(entry);
        download.messages += 1;
        download.delivered.extend(entry);
    }

    fn hear_reply(&mut self, line: &str, book: &mut Book) {
        let known = ALL.iter().find(|reply| line.starts_with(reply.text())).unwrap_or_else(|| panic!("{line:?}"));
        let rest = &line[known.text().len()..];
        assert!(rest.is_empty() || rest.starts_with("; send 201"), "{line:?}");
        if self.wild {
            return;
        }
        let code = known.code();
        let failed = ["540", "545", "546", "550"].contains(&code);
        assert_eq!(failed, !rest.is_empty(), "{line:?}");
        let expected = self.expects.pop_front();
        match (expected, code) {
            (Some(Expect::User), "220") | (Some(Expect::Bad), "500") => {}
            (Some(Expect::User), "500") if self.in_error => {}
            (Some(Expect::Pass), "230") => self.logged_in = true,
            (Some(Expect::Pass), "565") => {
                assert!(self.user == "u3", "{} cannot log in", self.user);
                self.leaving = true;
            }
            (Some(Expect::Recovered), "201") => self.in_error = false,
            (Some(Expect::Send(entry)), "240") => book.get(entry).fate = Fate::Kept,
            (Some(Expect::Send(_)), "540") => self.in_error = true,
            (Some(Expect::Send(entry)), "545" | "546") => {
                book.get(entry).fate = Fate::Refused;
                self.in_error = true;
            }
            (Some(Expect::Send(entry)), "500") if self.in_error => book.get(entry).fate = Fate::Refused,
            (Some(Expect::Download(_)), "500") if self.in_error => {}
            (Some(Expect::Download(download)), "255") => {
                assert!(download.unacknowledged.is_empty() && download.messages > 0, "255 too early");
                download.delivered.iter().for_each(|entry| book.get(*entry).gone = true);
            }
            (Some(Expect::Download(download)), "256") => {
                assert!(download.unacknowledged.is_empty() && download.messages == 0, "256 after messages");
            }
            (Some(Expect::Download(_)), "550") => self.in_error = true,
            // A bad PDU that came too late to end a wait.
            (Some(Expect::Download(download)), "500") if matches!(self.expects.front(), Some(Expect::Bad)) => {
                self.expects[0] = Expect::Download(download);
            }
            (expected, _) => panic!("client {} expected {expected:?} and got {line:?}", self.number),
        }
    }

    /// Sends something. `at_once`: what it sends now is taken by the server before anything else happens.
    pub fn act(&mut self, users: &[String], chance: &mut Chance, book: &mut Book, at_once: bool) {
        if self.wild {
            return self.act_wildly(users, chance);
        }
        if let Some(Expect::Download(download)) = self.expects.front_mut() {
            if download.unacknowledged.is_empty() {
                if at_once && self.expects.len() == 1 && chance.one_in(20) {
                    self.say("NOOP");
                    self.expects.push_back(Expect::Bad);
                }
            } else if at_once && chance.one_in(30) {
                self.expects.pop_front();
                self.in_error = true;
                self.say("550 no");
            } else {
                for _ in 0..=chance.below(download.unacknowledged.len()) {
                    if let Some(Some(entry)) = download.unacknowledged.pop_front() {
                        book.get(entry).acknowledged = true;
                    }
                    self.input.extend_from_slice(b"250 message successfully downloaded\r\n");
                }
            }
            return;
        }
        if !self.expects.is_empty() || self.leaving {
            return;
        }
        if self.in_error {
            self.say("201 recovered");
            self.expects.push_back(Expect::Recovered);
        } else if !self.logged_in {
            let (user, password) = (format!("USER{}", self.user), format!("PASS pw-{}", self.user));
            self.say(&user);
            self.say(&password);
            self.expects.extend([Expect::User, Expect::Pass]);
        } else {
            for _ in 0..=chance.below(6) {
                self.command(users, chance, book);
                if matches!(self.expects.back(), Some(Expect::Download(_))) {
                    break;
                }
            }
        }
    }

    fn command(&mut self, users: &[String], chance: &mut Chance, book: &mut Book) {
        match chance.below(16) {
            0..10 => {
                let recipient = if chance.one_in(15) { "nobody" } else { users[chance.below(users.len())].as_str() };
                let padding = if chance.one_in(4) { chance.below(980) } else { chance.below(20) };
                let (entry, body) = book.write(self.number, &self.user, recipient, padding);
                self.say(&format!("SMSG{recipient}:{body}"));
                self.expects.push_back(Expect::Send(entry));
            }
            10..13 => self.download("RMSG"),
            13 => self.download(&format!("RMSG{}", 1 + chance.below(256))),
            14 => self.download(&format!("WMSG{}", 1 + chance.below(300))),
            _ => {
                self.say("NOOP");
                self.expects.push_back(Expect::Bad);
            }
        }
    }

    pub fn download(&mut self, line: &str) {
        self.say(line);
        self.expects.push_back(Expect::Download(Download::default()));
    }

    fn act_wildly(&mut self, users: &[String], chance: &mut Chance) {
        let recipient = users[chance.below(users.len())].clone();
        let user = self.user.clone();
        let line = match chance.below(24) {
            0 | 1 => format!("USER{user}\r\nPASSpw-{user}"),
            2 => format!("USER{user}\r\nPASSwrong"),
            3 => "USERghost\r\nPASSghost".to_owned(),
            4 | 5 => "RMSG7\r\n250\r\n250".to_owned(),
            6 => "WMSG3".to_owned(),
            7 | 8 => format!("SMSG{recipient}:wild {}", chance.below(1000)),
            9 => format!("SMSG{recipient}:{}", "w".repeat(chance.below(1100))),
            10 => "SMSGbad name:a:b".to_owned(),
            11 | 12 => "201".to_owned(),
            13..16 => "250".to_owned(),
            16 => "550".to_owned(),
            17 => chance.of(&["TERM", "NOOP", "", "PASS", "USER", "RMSG0", "WMSG999", "2501"]).to_owned(),
            18 => "x".repeat(chance.below(3000)),
            19 => format!("SMSG{recipient}:without an end"),
            20 => "RMSG256".to_owned(),
            21 => "x".repeat(70_000 / (1 + chance.below(3))),
            _ => {
                let bytes = [255, 246, 255, 253, 3, 255, 247, 255, 248, 13, 0, 10, 128, 255, 250, 1, 255, 240];
                let start = chance.below(bytes.len());
                self.input.extend_from_slice(&bytes[start..]);
                return;
            }
        };
        self.input.extend_from_slice(line.as_bytes());
        if !chance.one_in(8) {
            self.input.extend_from_slice(b"\r\n");
        }
    }
}
