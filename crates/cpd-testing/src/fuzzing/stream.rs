//! Clients' bytes through the whole of `proto` and `engine`: every complete PDU is answered once, nothing but lines of a
//! server comes out, no message is invented or altered, the way a stream is cut into segments means nothing, and neither
//! does a successor that takes over.

use std::collections::HashSet;

use cpd_core::dfa::Dialect;

use super::framing::{self, Piece};
use super::output::{self, Item};
use super::program::{CLIENTS, Program, Step};
use super::world::{Life, Play, World};
use super::{Twin, shown};

/// Plays what `data` says. `Err`: a promise does not hold.
pub fn check(data: &[u8], twin: Twin) -> Result<(), String> {
    let program = Program::decode(data);
    for client in 0..CLIENTS {
        let segments: Vec<&[u8]> = program
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Send(sender, bytes) if *sender == client => Some(bytes.as_slice()),
                _ => None,
            })
            .collect();
        framing::check(&segments, twin)?;
    }
    let mut plain = World::play(&program, Play::Resting, twin)?;
    plain.lives.iter_mut().for_each(|life| spoil(life, twin));
    let timely = plain.now < program.first_timeout();
    lives_are_sound(timely, &plain.lives, program.dialect)?;
    let restarted = World::play(&program, Play::Restarting, twin)?;
    // A malformed password's answer is certain before its work is done, and a predecessor gives it when it leaves: where
    // the verifiers hang, that can be before a time-out or what another client does, and else behind it.
    let hanging = program.has(|step| *step == Step::Logins(false));
    if !hanging || (timely && plain.lives.len() == 1) {
        same(&plain.lives, &restarted.lives)?;
    }
    // The order in which a failing or waiting store, or several clients, are met is what the segments make it.
    let ordered = plain.lives.len() > 1
        || program.has(|s| matches!(s, Step::FailStore | Step::Store(false) | Step::Logins(false)));
    if !ordered && !program.has(|s| matches!(s, Step::Hears(..))) && sent(&program) <= 4096 {
        let apart = World::play(&program, Play::ByteByByte, twin)?;
        same_apart(&plain.lives, &apart.lives)?;
    }
    Ok(())
}

fn sent(program: &Program) -> usize {
    let length = |step: &Step| if let Step::Send(_, bytes) = step { bytes.len() } else { 0 };
    program.steps.iter().map(length).sum()
}

fn same(plain: &[Life], other: &[Life]) -> Result<(), String> {
    for (number, (plain, other)) in plain.iter().zip(other).enumerate() {
        if plain.output != other.output || plain.closed != other.closed {
            let told = |life: &Life| format!("{} (closed: {})", shown(&life.output), life.closed);
            let told = [told(plain), told(other)];
            return Err(format!("connection {number} hears {}\nwith a successor it hears {}", told[0], told[1]));
        }
    }
    Ok(())
}

/// Refusals and `[yes]` answer no PDU: they come when they come, each kind in its order.
fn same_apart(plain: &[Life], apart: &[Life]) -> Result<(), String> {
    for (number, (plain, apart)) in plain.iter().zip(apart).enumerate() {
        let kinds = |life: &Life| -> Result<(Vec<Item>, Vec<Item>), String> {
            let items = output::parse(&life.output, true)?;
            Ok(items.into_iter().partition(|item| matches!(item, Item::Refusal(_) | Item::Present)))
        };
        if kinds(plain)? != kinds(apart)? || plain.closed != apart.closed {
            let told = |life: &Life| format!("{} (closed: {})", shown(&life.output), life.closed);
            let told = [told(plain), told(apart)];
            return Err(format!("connection {number} hears {}\nbyte by byte it hears {}", told[0], told[1]));
        }
    }
    Ok(())
}

fn lives_are_sound(timely: bool, lives: &[Life], dialect: Dialect) -> Result<(), String> {
    let all: Vec<(Vec<Piece>, bool)> = lives.iter().map(|life| framing::pieces(&life.taken)).collect();
    // In the classic dialect silence ends a PDU too, so that a stream does not tell its PDUs.
    let framed = dialect == Dialect::Cp;
    let sent: HashSet<(&[u8], &[u8])> = all.iter().flat_map(|(pieces, _)| pieces).filter_map(message).collect();
    for (number, (life, (pieces, flood))) in lives.iter().zip(&all).enumerate() {
        let at = |fault: String| format!("connection {number}: {fault}\nsent {}", shown(&life.taken));
        // Who takes a part only, and is gone, has a part only.
        let whole = !(life.dawdled && (life.cut || life.closed));
        let items = output::parse(&life.output, whole).map_err(at)?;
        if !*flood && framed {
            messages_were_sent(pieces, &items, &sent).map_err(at)?;
        }
        if !*flood && framed && timely && !life.refused && !life.cut && whole {
            all_is_answered(life, pieces, &items).map_err(at)?;
        }
    }
    Ok(())
}

/// Recipient and body of an SMSG.
fn message(piece: &Piece) -> Option<(&[u8], &[u8])> {
    let Piece::Line(line) = piece else { return None };
    let argument = line.get(4..).filter(|_| verb(piece) == *b"SMSG")?;
    let argument = argument.strip_prefix(b" ").unwrap_or(argument);
    let colon = argument.iter().position(|b| *b == b':')?;
    Some((&argument[..colon], &argument[colon + 1..]))
}

fn verb(piece: &Piece) -> [u8; 4] {
    match piece {
        Piece::Line(line) => line.first_chunk::<4>().map_or([0; 4], |verb| verb.map(|b| b.to_ascii_uppercase())),
        Piece::Overlong(verb) => verb.map(|b| b.to_ascii_uppercase()),
        Piece::Refusal(_) | Piece::AreYouThere => [0; 4],
    }
}

/// What comes to a client was sent to a user whose name it gave.
fn messages_were_sent(pieces: &[Piece], items: &[Item], sent: &HashSet<(&[u8], &[u8])>) -> Result<(), String> {
    let users = pieces.iter().filter_map(|piece| match piece {
        Piece::Line(line) if verb(piece) == *b"USER" => {
            line.get(4..).map(|name| name.strip_prefix(b" ").unwrap_or(name))
        }
        _ => None,
    });
    let users: Vec<&[u8]> = users.collect();
    for item in items {
        if let Item::Message { body, .. } = item
            && !users.iter().any(|user| sent.contains(&(*user, body.as_slice())))
        {
            return Err(format!("nobody sent this to its user: {}", shown(body)));
        }
    }
    Ok(())
}

/// Every complete PDU has its one reply, but acknowledgements, TERM, and a download that goes on or that the client broke
/// off.
fn all_is_answered(life: &Life, pieces: &[Piece], items: &[Item]) -> Result<(), String> {
    let code = |item: &Item| if let Item::Code(code) = item { Some(*code) } else { None };
    let codes: Vec<u16> = items.iter().filter_map(code).collect();
    let mut pdus: Vec<&Piece> = pieces.iter().filter(|p| matches!(p, Piece::Line(_) | Piece::Overlong(_))).collect();
    // A TERM that is a browser's first line is answered like any other of those.
    let terminates = |(place, piece): (usize, &&Piece)| {
        matches!(piece, Piece::Line(_)) && verb(piece) == *b"TERM" && !(place == 0 && is_http(piece))
    };
    let end = pdus.iter().enumerate().position(terminates);
    pdus.truncate(end.unwrap_or(pdus.len()));
    let failed = life.closed && codes.iter().filter(|code| **code == 565).count() == 3;
    let failed = failed || life.closed && is_shown_out(&pdus, &codes);
    if failed {
        pdus.truncate(codes.len());
    }
    let end_taken = life.fin_taken || framing::ends(&life.taken);
    let over = failed || end.is_some() || end_taken;
    // A wait for a message outlives the client's FIN.
    let lingers = end_taken && downloads(&pdus);
    if life.closed != over && !lingers {
        return Err(format!("closed: {}, behind {} PDUs", life.closed, pdus.len()));
    }
    // Before the login each PDU has a reply, so that the 230 tells which one was the last of them.
    let Some(login) = codes.iter().position(|code| *code == 230) else {
        return equal(codes.len(), pdus.len(), 0, &codes);
    };
    let after = pdus.get(login + 1..).ok_or("a login without a PASS")?;
    let rejected = after.iter().filter(|p| is_code(p, b"550")).count();
    let due = after.iter().filter(|p| !is_code(p, b"250") && !is_code(p, b"550")).count();
    equal(codes.len() - login - 1, due, rejected + usize::from(downloads(after)), &codes)
}

/// Whether the last reply was the last that a stranger gets: to a browser's first line, to an over-long one, or the
/// twentieth that told of an error. Before the login each PDU has a reply.
fn is_shown_out(pdus: &[&Piece], codes: &[u16]) -> bool {
    if codes.contains(&230) {
        return false;
    }
    let last = codes.len().checked_sub(1).and_then(|last| pdus.get(last));
    let strange = match last {
        Some(Piece::Overlong(_)) => true,
        Some(piece) => codes.len() == 1 && is_http(piece),
        None => false,
    };
    strange && codes.last() == Some(&500) || codes.iter().filter(|code| [500, 560].contains(*code)).count() == 20
}

fn is_http(piece: &Piece) -> bool {
    matches!(piece, Piece::Line(line) if line.ends_with(b" HTTP/1.0") || line.ends_with(b" HTTP/1.1"))
}

/// `said` replies are what `due` PDUs ask for, or up to `less` fewer.
fn equal(said: usize, due: usize, less: usize, codes: &[u16]) -> Result<(), String> {
    match said <= due && said + less >= due {
        true => Ok(()),
        false => Err(format!("{said} replies to {due} PDUs: {codes:?}")),
    }
}

fn downloads(pdus: &[&Piece]) -> bool {
    pdus.iter().any(|p| [*b"RMSG", *b"WMSG"].contains(&verb(p)))
}

fn is_code(piece: &Piece, code: &[u8]) -> bool {
    matches!(piece, Piece::Line(line) if line.starts_with(code) && line.get(3).is_none_or(|b| *b == b' '))
}

/// Does to the client's side of a connection what the twin says.
fn spoil(life: &mut Life, twin: Twin) {
    let end = life.output.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2);
    let (Some(end), false) = (end, life.output.first() == Some(&255)) else { return };
    match twin {
        Twin::LostReply => drop(life.output.drain(..end)),
        Twin::DoubledReply => {
            let line = life.output[..end].to_vec();
            life.output.splice(..0, line);
        }
        Twin::ControlCharacter => life.output[end - 3] = 7,
        Twin::AlteredBody => {
            if let Some(at) = life.output.windows(4).position(|four| four == b"RMSG")
                && let Some(colon) = life.output[at..].iter().position(|b| *b == b':')
            {
                life.output[at + colon + 1] ^= 1;
            }
        }
        _ => {}
    }
}
