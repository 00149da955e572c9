//! Silence after unread lines has the same effect as after lines that are taken at once.

use super::*;
use crate::secret::WipedBytes;

/// Decodes `pieces`, of which all after the first `taken` stay unread until the last one has come.
fn decode_unread(pieces: &[(Vec<u8>, Interruption)], taken: usize) -> Vec<Out> {
    let mut decoder = Decoder::default();
    let (mut out, mut unread) = (Vec::new(), WipedBytes::default());
    let mut lookahead = decoder.lookahead(&unread);
    for (index, (piece, then)) in pieces.iter().enumerate() {
        if unread.is_empty() {
            lookahead.observe(piece);
            unread.append(piece);
        } else {
            lookahead.observe_queued(&decoder, piece, &mut unread);
        }
        if index < taken {
            out.extend(drained(&mut decoder, &mut unread));
            decoder.sync_with(&lookahead);
        }
        match (then, unread.is_empty()) {
            (Interruption::Silence, true) => {
                decoder.end_by_silence();
                out.extend(drained(&mut decoder, &mut unread));
                lookahead = decoder.lookahead(&unread);
            }
            (Interruption::Silence, false) => decoder.end_queued_line(&mut lookahead, &mut unread),
            _ => {}
        }
        // The lookahead is in the state that the decoder would have after all unread input.
        assert_eq!(lookahead.awaits_terminator(), decoder.lookahead(&unread).awaits_terminator());
    }
    out.extend(drained(&mut decoder, &mut unread));
    out
}

/// Decodes all of the unread input, and removes what was used from it.
fn drained(decoder: &mut Decoder, unread: &mut WipedBytes) -> Vec<Out> {
    let (mut out, mut input) = (Vec::new(), &**unread);
    loop {
        let token = match decoder.peek(&mut input) {
            Found::Line(Line::Whole(line), token) => {
                out.push(Out::Whole(line.to_vec()));
                token
            }
            Found::Line(Line::Overlong(verb), token) => {
                out.push(Out::Overlong(verb.to_vec()));
                token
            }
            Found::Refuse(bytes) => {
                out.push(Out::Refuse(bytes));
                continue;
            }
            Found::AreYouThere => {
                out.push(Out::AreYouThere);
                continue;
            }
            Found::Flood => panic!("a flood"),
            Found::NeedInput | Found::End => break,
        };
        decoder.take_line(token, &mut input);
    }
    let used = unread.len() - input.len();
    unread.consume(used);
    out
}

fn silent(pieces: &[&[u8]]) -> Vec<(Vec<u8>, Interruption)> {
    pieces.iter().map(|piece| (piece.to_vec(), Interruption::Silence)).collect()
}

#[test]
fn a_silence_ends_the_line_that_waits_and_no_command_within_it() {
    for (pieces, expected) in [
        (vec![&b"USERbob"[..], b"PASSx"], vec!["USERbob", "PASSx"]),
        (vec![b"USERbob\n", b"", b"TERM"], vec!["USERbob", "TERM"]),
        (vec![b"USERbob\r", b"TERM"], vec!["USERbob", "TERM"]),
        // IAC; IAC SB 1 2 IAC SE; IAC EC
        (vec![b"ab\xff\xf1", b"cd"], vec!["ab", "cd"]),
        (vec![b"ab\xff\xfe", b"\x01cd"], vec!["ab", "cd"]),
        (vec![b"ab\xff\xfa\x01", b"\x02\xff\xf0cd"], vec!["ab", "cd"]),
        (vec![b"abc\xff\xf7"], vec!["ab"]),
        (vec![b"a\xff\xf7"], vec![]),
        // CRs belong to the end by silence, and so does an LF after a CR.
        (vec![b"ab\r", b"\ncd\r\r", b"\n", b"\n"], vec!["ab", "cd", ""]),
        (vec![b"ab\r", b"\0\xff\xf1", b"\ncd"], vec!["ab", "cd"]),
        (vec![b"ab\r", b"\xff\xf1", b"\r\ncd"], vec!["ab", "", "cd"]),
        (vec![b"ab", b"\ncd"], vec!["ab", "", "cd"]),
        // A NUL after an erased CR is a bad byte. An LF still belongs to the end by silence, if it comes first.
        (vec![b"\r", b"\xff\xf4\0\n"], vec!["", "\0"]),
        (vec![b"ab\r", b"\xff\xf8\n", b"cd\n"], vec!["ab", "cd"]),
        // The client's end.
        (vec![b"ab", b"cd\xff\xecef\n", b"gh"], vec!["ab", "cd"]),
    ] {
        let expected: Vec<Out> = expected.iter().map(|line| Out::Whole(line.as_bytes().to_vec())).collect();
        let pieces = silent(&pieces);
        for taken in 0..=pieces.len() {
            assert_eq!(decode_unread(&pieces, taken), expected, "{pieces:?}, {taken} taken");
        }
    }
}

#[test]
fn an_iac_with_nothing_behind_it_before_the_silence_is_a_bad_byte() {
    for (pieces, expected) in [
        (vec![&b"ab\xff"[..], b"\xf1cd"], vec![&b"ab\xff"[..], b"\xf1cd"]),
        (vec![b"\xff", b"ab"], vec![b"\xff", b"ab"]),
        (vec![b"ab\r\xff", b"\n"], vec![b"ab\r\xff", b""]),
    ] {
        let expected: Vec<Out> = expected.iter().map(|line| Out::Whole(line.to_vec())).collect();
        let pieces = silent(&pieces);
        for taken in 0..=pieces.len() {
            assert_eq!(decode_unread(&pieces, taken), expected, "{pieces:?}, {taken} taken");
        }
    }
}

#[test]
fn only_bytes_of_an_unfinished_line_restart_the_silence() {
    let decoder = Decoder::default();
    for (unread, bytes, sounds) in [
        (&b""[..], &b"U"[..], true),
        (b"US", b"E", true),
        (b"US", b"\n", false),
        (b"US", b"\nX", true),
        (b"", b"US\nER\n", false),
        (b"US", b"\xff\xf1", false),
        (b"US\xff", b"\xf1", false),
        (b"US\xff", b"\xff", true),
        (b"US\xff\xfa", b"SMSG", false),
        (b"US\r", b"\0", true),
        (b"US", b"", false),
        // An IAC alone may be the beginning of a command, unless it is the whole line.
        (b"US", b"\xff", false),
        (b"", b"\xff", true),
        (b"US", b"\n\xff", true),
        (b"US", b"\xff\xf8\xff", true),
    ] {
        assert_eq!(decoder.lookahead(unread).observe(bytes), sounds, "{bytes:?} behind {unread:?}");
    }
}

#[test]
fn the_lookahead_is_after_all_unread_input() {
    let mut decoder = Decoder::default();
    assert!(decoder.lookahead(b"TERM\nX").awaits_terminator());
    assert!(!decoder.lookahead(b"TERM\nX\n").awaits_terminator());
    assert_eq!(drained(&mut decoder, &mut WipedBytes::concat(&[b"X"])), []);
    assert!([&b""[..], b"\xff\xf1", b"Y"].iter().all(|unread| decoder.lookahead(unread).awaits_terminator()));
    assert!(!decoder.lookahead(b"\n").awaits_terminator());
    assert_eq!(decoder.held, b"X", "looking ahead takes nothing");
}

#[test]
fn a_flood_is_not_ended_by_silence() {
    let mut decoder = Decoder::default();
    let mut unread = WipedBytes::concat(&[&[b'x'; UNTERMINATED_MAX_BYTES + 1]]);
    let mut lookahead = decoder.lookahead(&unread);
    assert!(!lookahead.awaits_terminator());
    decoder.end_queued_line(&mut lookahead, &mut unread);
    assert_eq!(unread.len(), UNTERMINATED_MAX_BYTES + 1);
    assert_eq!(decoder.peek(&mut &*unread), Found::Flood);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn silence_ends_unread_lines_like_lines_taken_at_once(pieces in stream(), taken in 0usize..24) {
        // Far less than a flood can be unread.
        let waits = |(piece, then): &(Vec<u8>, Interruption)| piece.len() < 2000 && *then != Interruption::GiveUp;
        let pieces: Vec<_> = pieces.into_iter().filter(waits).collect();
        prop_assert_eq!(decode_unread(&pieces, taken), model(&pieces));
    }
}
