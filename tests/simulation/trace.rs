//! What happened, in order: always as one number, and in words when a run is repeated to be looked at.

use cpd_core::time::Millis;

/// Who did something: a client by its number, or one of these.
pub const SERVER: usize = usize::MAX;
pub const STORE: usize = usize::MAX - 1;
/// Bytes that a line of the trace shows.
const SHOWN_MAX_BYTES: usize = 120;
/// Lines of a shortened trace: the last ones, and those that concern the same clients and messages.
const LAST_LINES: usize = 40;
const CONCERNED_LINES: usize = 60;

pub struct Line {
    at: Millis,
    who: usize,
    text: String,
}

pub struct Trace {
    hash: u64,
    pub events: u64,
    lines: Option<Vec<Line>>,
}

impl Trace {
    /// `words`: it keeps lines that can be read.
    pub fn new(words: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: words.then(Vec::new) }
    }

    pub fn note(&mut self, at: Millis, who: usize, what: &str, bytes: &[u8]) {
        self.events += 1;
        self.mix(at);
        self.mix(who as u64);
        self.mix_bytes(what.as_bytes());
        self.mix_bytes(bytes);
        if let Some(lines) = &mut self.lines {
            let text = format!("{what} {}", bytes.escape_ascii());
            lines.push(Line { at, who, text });
        }
    }

    pub fn note_number(&mut self, at: Millis, who: usize, what: &str, number: u64) {
        self.events += 1;
        for part in [at, who as u64, number] {
            self.mix(part);
        }
        self.mix_bytes(what.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, who, text: format!("{what} {number}") });
        }
    }

    /// A number that is the same exactly if the same happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What led to a violation that is told by `text`: lines of the clients and messages in it, and the last ones.
    pub fn shortened(&self, text: &str) -> String {
        let Some(lines) = &self.lines else { return String::new() };
        let messages: Vec<String> = numbers_behind(text, "message ").map(|n| format!("#{n}.")).collect();
        let clients: Vec<usize> = numbers_behind(text, "client ").collect();
        let concerned = |line: &Line| clients.contains(&line.who) || messages.iter().any(|m| line.text.contains(m));
        let last = lines.len().saturating_sub(LAST_LINES);
        let picked: Vec<&Line> = lines[..last].iter().filter(|line| concerned(line)).collect();
        let mut shown = format!("{} events; of those before the last {LAST_LINES}:\n", lines.len());
        let skipped = picked.len().saturating_sub(CONCERNED_LINES);
        let tell = |line: &Line| {
            let who = match line.who {
                SERVER => "server".to_owned(),
                STORE => "store".to_owned(),
                client => format!("client {client}"),
            };
            let text = line.text.get(..SHOWN_MAX_BYTES).unwrap_or(&line.text);
            let more = if text.len() < line.text.len() { "..." } else { "" };
            format!("  {:>9} ms  {who:<10} {text}{more}\n", line.at)
        };
        shown.extend(picked.iter().skip(skipped).map(|line| tell(line)));
        shown.push_str("the last ones:\n");
        shown.extend(lines[last..].iter().map(tell));
        shown
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }
}

/// The numbers that stand behind `word` in `text`.
fn numbers_behind<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).filter_map(move |(at, _)| {
        let rest = &text[at + word.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}
