//! What a line of the server answers.

use std::ops::Range;

use super::{Client, DownloadEnd, Event, Fate, RequestNumber, Unanswered, Violation};
use crate::limits::{PDU_MAX_BYTES, VERB_BYTES};
use crate::values::Username;

/// An event whose text and body are still in the input.
pub(super) enum FoundReply {
    LoggedIn,
    LoginFailed(Said),
    Sent(RequestNumber),
    NotSent(RequestNumber, Said),
    Message { sender: Username, body: Range<usize> },
    Complete,
    Empty,
    Failed(Said),
    Rejected,
    Help(Said),
    Unasked(Said),
    Violation(Violation),
}

/// A reply: its code and where its text is in the input.
pub(super) struct Said {
    code: u16,
    text: Range<usize>,
}

impl Client {
    /// Parses the line at `line` in the input, without its LF. `None`: it is no event.
    pub(super) fn take_line(&mut self, line: Range<usize>) -> Option<FoundReply> {
        let bytes = self.input.get(line.clone()).unwrap_or_default();
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let end = line.start + bytes.len();
        if bytes.len() > PDU_MAX_BYTES {
            return Some(FoundReply::Violation(Violation::Overlong));
        }
        if let Some(message) = bytes.strip_prefix(b"RMSG") {
            let Some(colon) = message.iter().position(|byte| *byte == b':') else {
                return Some(FoundReply::Violation(Violation::NotCp));
            };
            let Some(sender) = message.get(..colon).and_then(Username::parse) else {
                return Some(FoundReply::Violation(Violation::NotCp));
            };
            return self.take_message(sender, line.start + VERB_BYTES + colon + 1..end);
        }
        let Some(code) = parse_code(bytes) else { return Some(FoundReply::Violation(Violation::NotCp)) };
        self.take_reply(Said { code, text: (line.start + VERB_BYTES).min(end)..end })
    }

    fn take_message(&mut self, sender: Username, body: Range<usize>) -> Option<FoundReply> {
        match self.unanswered.front_mut() {
            Some(Unanswered::Download { window, unacknowledged, any_received }) if *unacknowledged < *window => {
                *unacknowledged += 1;
                *any_received = true;
                Some(FoundReply::Message { sender, body })
            }
            // It was on its way when the client gave the download up.
            Some(Unanswered::Recover { rejected: true }) => None,
            _ => Some(FoundReply::Violation(Violation::UnexpectedMessage)),
        }
    }

    fn take_reply(&mut self, said: Said) -> Option<FoundReply> {
        let code = said.code;
        let Some(position) = self.answered_by(code) else {
            return match (code, self.unanswered.front()) {
                // The server gave the download up when the client did.
                (550, Some(Unanswered::Recover { rejected: true })) => None,
                (500, None) => Some(FoundReply::Unasked(said)),
                _ => Some(FoundReply::Violation(Violation::UnexpectedReply(code))),
            };
        };
        match (self.unanswered.remove(position)?, code) {
            (Unanswered::User, 220) | (Unanswered::Void, _) | (Unanswered::Recover { rejected: false }, 201) => None,
            (Unanswered::User, _) => {
                if let Some(password @ Unanswered::Password) = self.unanswered.front_mut() {
                    *password = Unanswered::Void;
                }
                Some(FoundReply::LoginFailed(said))
            }
            (Unanswered::Password, 230) => Some(FoundReply::LoggedIn),
            (Unanswered::Password, _) => Some(FoundReply::LoginFailed(said)),
            (Unanswered::Send(number), 240) => Some(FoundReply::Sent(number)),
            (Unanswered::Send(number), _) => {
                self.recover_from(code);
                Some(FoundReply::NotSent(number, said))
            }
            (Unanswered::Download { .. }, 255) => Some(FoundReply::Complete),
            (Unanswered::Download { .. }, 256) => Some(FoundReply::Empty),
            (Unanswered::Download { .. }, _) => {
                self.recover_from(code);
                Some(FoundReply::Failed(said))
            }
            (Unanswered::Recover { .. }, 201) => Some(FoundReply::Rejected),
            (Unanswered::Recover { .. }, _) => Some(FoundReply::Violation(Violation::UnexpectedReply(code))),
            (Unanswered::Help, _) => Some(FoundReply::Help(said)),
        }
    }

    /// Which of the unanswered PDUs a reply of this code answers: the first, except for those that are answered while
    /// messages of a download are on their way.
    fn answered_by(&self, code: u16) -> Option<usize> {
        let fits = |pdu: &Unanswered| match (pdu, code) {
            (Unanswered::User, 220 | 500 | 560) | (Unanswered::Password, 230 | 500 | 565) => true,
            (Unanswered::Send(_), 240 | 500 | 540 | 545 | 546) | (Unanswered::Recover { .. }, 201) => true,
            (Unanswered::Download { any_received, .. }, _) => match code {
                255 | 550 => true,
                256 | 500 => !any_received,
                _ => false,
            },
            (Unanswered::Help, 214 | 500) | (Unanswered::Void, _) => true,
            _ => false,
        };
        let in_download = |pdu: &Unanswered| {
            matches!(pdu, Unanswered::Download { any_received: true, .. } | Unanswered::Recover { rejected: true })
        };
        let first = self.unanswered.front()?;
        if fits(first) {
            return Some(0);
        }
        let position = usize::from(in_download(first));
        (position == 1 && matches!(code, 214 | 500) && self.unanswered.get(1).is_some_and(fits)).then_some(1)
    }

    /// Sends 201 if a reply of this code has led to Error Processing.
    fn recover_from(&mut self, code: u16) {
        if matches!(code, 540 | 545 | 546 | 550) && !self.over {
            self.pdu(&[b"201"], Some(Unanswered::Recover { rejected: false }));
        }
    }

    pub(super) fn event(&mut self, found: FoundReply) -> Event<'_> {
        if let FoundReply::Violation(violation) = found {
            return self.violate(violation);
        }
        let text = |said: &Said| {
            let bytes = self.input.get(said.text.clone()).unwrap_or_default();
            std::str::from_utf8(bytes).unwrap_or_default()
        };
        match found {
            FoundReply::LoggedIn => Event::LoggedIn,
            FoundReply::LoginFailed(said) => Event::LoginFailed { code: said.code, text: text(&said) },
            FoundReply::Sent(number) => Event::Sent(number),
            FoundReply::NotSent(request, said) => {
                let fate = if said.code == 540 { Fate::Unknown } else { Fate::NotStored };
                Event::NotSent { request, fate, code: said.code, text: text(&said) }
            }
            FoundReply::Message { sender, body } => {
                Event::Message { sender, body: self.input.get(body).unwrap_or_default() }
            }
            FoundReply::Complete => Event::DownloadEnded(DownloadEnd::Complete),
            FoundReply::Empty => Event::DownloadEnded(DownloadEnd::Empty),
            FoundReply::Failed(said) => {
                Event::DownloadEnded(DownloadEnd::Failed { code: said.code, text: text(&said) })
            }
            FoundReply::Rejected => Event::DownloadEnded(DownloadEnd::Rejected),
            FoundReply::Help(said) => Event::Help(text(&said)),
            FoundReply::Unasked(said) => Event::Unasked { code: said.code, text: text(&said) },
            FoundReply::Violation(violation) => Event::Violation(violation),
        }
    }
}

/// The code of a reply: three digits, then a space or the end.
fn parse_code(line: &[u8]) -> Option<u16> {
    let (digits, rest) = line.split_first_chunk::<3>()?;
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    matches!(rest.first(), None | Some(b' ')).then(|| text.parse().ok())?
}
