//! The control protocol's bytes: lines as a simple splitter has them, requests that mean what their JSON says and
//! nothing more, refusals that are one short line and tell no password.

use cpd_control::request::COMMANDS;
use cpd_control::{ControlError, ErrorCode, Framer, REQUEST_MAX_BYTES, Request, request};
use serde_json::Value;

use super::program::MARK;
use super::{Twin, shown};

/// Longest refusal in bytes: a sentence, with a name of up to 40 characters, each of which JSON may write in 12 bytes.
const REFUSAL_MAX_BYTES: usize = 1024;

/// The first byte says how the rest is cut; [`MARK`] and a number n stand for n KiB of the byte before it.
pub fn check(data: &[u8], twin: Twin) -> Result<(), String> {
    let (cut, rest) = data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first).max(1), rest));
    let stream = unpacked(rest);
    let lines = lines(&stream);
    let mut expected = lines.iter();
    let mut framer = Framer::new();
    for chunk in stream.chunks(cut * if stream.len() > 8192 { 256 } else { 1 }) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let taken = framer.push(rest);
            rest = rest.get(taken..).ok_or("more was taken than there is")?;
            let mut none = taken == 0;
            while let Some(line) = framer.next_line() {
                none = false;
                let line = match line {
                    Ok(line) => Some(line.as_bytes().to_vec()),
                    Err(error) if error.code == ErrorCode::TooLong => None,
                    Err(error) => return Err(format!("the framer says {error}")),
                };
                if expected.next() != Some(&line) {
                    return Err(format!("another line than there is: {line:?}"));
                }
            }
            if none {
                return Err("the framer takes nothing and gives nothing".into());
            }
        }
    }
    if expected.next().is_some_and(|line| line.is_some()) {
        return Err("a line is missing".into());
    }
    lines.iter().flatten().try_for_each(|line| request(line, twin))
}

fn unpacked(data: &[u8]) -> Vec<u8> {
    let mut stream: Vec<u8> = Vec::new();
    let mut bytes = data.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != MARK {
            stream.push(byte);
        } else if let (Some(before), Some(count)) = (stream.last().copied(), bytes.next())
            && stream.len() < 2 * REQUEST_MAX_BYTES
        {
            stream.extend(std::iter::repeat_n(before, usize::from(count) * 1024));
        }
    }
    stream
}

/// Every line that ended, `None` for one over the bound; also the unfinished one if it is over it already.
fn lines(stream: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut parts: Vec<&[u8]> = stream.split(|b| *b == b'\n').collect();
    let unfinished = parts.pop().filter(|part| part.len() > REQUEST_MAX_BYTES);
    let line = |part: &[u8]| {
        let whole = part.len() <= REQUEST_MAX_BYTES;
        whole.then(|| part.strip_suffix(b"\r").unwrap_or(part).to_vec())
    };
    parts.into_iter().map(line).chain(unfinished.map(|_| None)).collect()
}

fn parse(line: &[u8], twin: Twin) -> Result<Request, ControlError> {
    let parsed = request::parse(line);
    match (&parsed, serde_json::from_slice::<Value>(line)) {
        (Err(error), Ok(Value::Object(fields)))
            if twin == Twin::UnknownFields && error.code == ErrorCode::UnknownField =>
        {
            let known: serde_json::Map<String, Value> =
                fields.into_iter().filter(|(name, _)| ["v", "cmd", "name"].contains(&name.as_str())).collect();
            request::parse(Value::Object(known).to_string().as_bytes())
        }
        _ => parsed,
    }
}

fn request(line: &[u8], twin: Twin) -> Result<(), String> {
    let at = |fault: String| format!("{fault}\nin {}", shown(line));
    match parse(line, twin) {
        Ok(request) => accepted(line, &request, twin).map_err(at),
        Err(error) => refused(line, &error).map_err(at),
    }
}

fn accepted(line: &[u8], request: &Request, twin: Twin) -> Result<(), String> {
    let encoded = request::encode(request);
    let bytes = encoded.as_bytes();
    if bytes.len() > REQUEST_MAX_BYTES || bytes.iter().filter(|b| b.is_ascii_control()).count() != 1 {
        return Err(format!("encoded it is not one line: {}", shown(bytes)));
    }
    let shape = COMMANDS.iter().find(|shape| shape.name == request.command()).ok_or("a command without a shape")?;
    let again = parse(bytes.trim_ascii_end(), twin).map_err(|error| format!("encoded it is refused: {error}"))?;
    if request::encode(&again).as_bytes() != bytes || format!("{again:?}") != format!("{request:?}") {
        return Err(format!("encoded it is another request: {again:?}"));
    }
    let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
    let (said, meant) = (value(line)?, value(bytes)?);
    let (Value::Object(said), Value::Object(meant)) = (said, meant) else { return Err("not an object".into()) };
    for (name, value) in &said {
        if meant.get(name) != Some(value) {
            return Err(format!("the field {name:?} is taken for {:?}", meant.get(name)));
        }
        if !["v", "cmd"].contains(&name.as_str()) && !shape.fields.contains(&name.as_str()) {
            return Err(format!("{} has no field {name:?}", shape.name));
        }
    }
    if let Some(Value::String(password)) = said.get("password") {
        let other = String::from_utf8_lossy(line).replace(password.as_str(), "qqqqqq");
        if let Ok(other) = request::parse(other.as_bytes())
            && other.command() == request.command()
            && said.values().filter(|value| value.as_str().is_some_and(|text| text.contains(password))).count() == 1
            && format!("{other:?}") != format!("{request:?}")
        {
            return Err("what is shown of it depends on the password".into());
        }
    }
    Ok(())
}

fn refused(line: &[u8], error: &ControlError) -> Result<(), String> {
    let answer = error.encode();
    let text = String::from_utf8_lossy(&answer);
    if answer.len() > REFUSAL_MAX_BYTES || text.chars().filter(|c| c.is_control()).count() != 1 {
        return Err(format!("the refusal is not one short line: {}", shown(&answer)));
    }
    let told: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    let code = told["error"]["code"].as_str().and_then(ErrorCode::parse);
    if told["ok"] != Value::Bool(false) || code != Some(error.code) {
        return Err(format!("the refusal says {told}"));
    }
    if let Ok(Value::Object(fields)) = serde_json::from_slice(line)
        && let Some(password) = fields.get("password").and_then(Value::as_str)
        && password.len() >= 6
        && let Ok(text) = std::str::from_utf8(line)
        && text.matches(password).count() == 1
    {
        let other = request::parse(text.replace(password, &"q".repeat(password.len())).as_bytes());
        if let Err(other) = other
            && other.code == error.code
            && other.message != error.message
        {
            return Err(format!("the refusal depends on the password: {}", error.message));
        }
    }
    Ok(())
}
