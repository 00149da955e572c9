//! What a server may send at all: lines of a code and a text, messages, `[yes]` and refusals of options. Nothing else,
//! and above all no control character that a terminal would obey.

use super::shown;

const IAC: u8 = 255;
const DONT: u8 = 254;
const WONT: u8 = 252;
const CODES: [&[u8]; 14] =
    [b"201", b"214", b"220", b"230", b"240", b"255", b"256", b"500", b"540", b"545", b"546", b"550", b"560", b"565"];

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    Code(u16),
    Message { sender: Vec<u8>, body: Vec<u8> },
    Present,
    Refusal([u8; 2]),
}

/// Takes a server's output apart; unless it is `whole`, it may end anywhere. `Err`: it holds what no server may send.
pub fn parse(output: &[u8], whole: bool) -> Result<Vec<Item>, String> {
    let mut rest = output;
    let mut items = Vec::new();
    while let Some(first) = rest.first() {
        if *first == IAC {
            let Some((refusal, after)) = rest.split_first_chunk::<3>() else {
                return if whole { Err("half a refusal".into()) } else { Ok(items) };
            };
            let [_, verb @ (DONT | WONT), option] = *refusal else {
                return Err(format!("no refusal: {}", shown(refusal)));
            };
            items.push(Item::Refusal([verb, option]));
            rest = after;
            continue;
        }
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return if whole { Err("half a line".into()) } else { Ok(items) };
        };
        let (line, after) = rest.split_at(end);
        items.push(item(line).ok_or_else(|| format!("no line of a server: {}", shown(line)))?);
        rest = &after[2..];
    }
    Ok(items)
}

fn item(line: &[u8]) -> Option<Item> {
    let text = std::str::from_utf8(line).ok()?;
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return None;
    }
    if line == b"[yes]" {
        return Some(Item::Present);
    }
    if let Some(message) = line.strip_prefix(b"RMSG") {
        let colon = message.iter().position(|b| *b == b':')?;
        let (sender, body) = (&message[..colon], &message[colon + 1..]);
        let sound = (1..=10).contains(&sender.len()) && (1..=1009).contains(&body.len());
        return sound.then(|| Item::Message { sender: sender.to_vec(), body: body.to_vec() });
    }
    let (code, text) = line.split_at_checked(4)?;
    let known = CODES.contains(&&code[..3]) && code[3] == b' ' && text.is_ascii() && !text.contains(&b'\t');
    let known = known && line.len() <= 78;
    known.then(|| Item::Code(code[..3].iter().fold(0, |all, digit| all * 10 + u16::from(digit - b'0'))))
}
