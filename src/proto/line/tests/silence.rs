//! Silence behind lines that wait means what it means behind lines that are taken at once.

use super::*;
use crate::proto::waiting::Waiting;

/// What comes of `pieces` when all behind the first `taken` of them wait until the last has come.
fn decode_late(pieces: &[(Vec<u8>, Interruption)], taken: usize) -> Vec<Out> {
    let mut decoder = Decoder::default();
    let (mut out, mut waiting) = (Vec::new(), Waiting::default());
    let mut tail = decoder.tail(&waiting);
    for (index, (piece, then)) in pieces.iter().enumerate() {
        if waiting.is_empty() {
            tail.hears(piece);
            waiting.append(piece);
        } else {
            tail.hears_behind(&decoder, piece, &mut waiting);
        }
        if index < taken {
            out.extend(drained(&mut decoder, &mut waiting));
            decoder.catch_up(&tail);
        }
        match (then, waiting.is_empty()) {
            (Interruption::Silence, true) => {
                decoder.end_by_silence();
                out.extend(drained(&mut decoder, &mut waiting));
                tail = decoder.tail(&waiting);
            }
            (Interruption::Silence, false) => decoder.end_tail(&mut tail, &mut waiting),
            _ => {}
        }
        // Where the tail was led to is where the decoder would be now.
        assert_eq!(tail.waits_for_end(), decoder.tail(&waiting).waits_for_end());
    }
    out.extend(drained(&mut decoder, &mut waiting));
    out
}

/// Every line that has come.
fn drained(decoder: &mut Decoder, waiting: &mut Waiting) -> Vec<Out> {
    let (mut out, mut input) = (Vec::new(), &**waiting);
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
            Found::More | Found::End => break,
        };
        decoder.take(token, &mut input);
    }
    let used = waiting.len() - input.len();
    waiting.consume(used);
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
        // CRs belong to the end that silence makes, and an LF to a CR.
        (vec![b"ab\r", b"\ncd\r\r", b"\n", b"\n"], vec!["ab", "cd", ""]),
        (vec![b"ab\r", b"\0\xff\xf1", b"\ncd"], vec!["ab", "cd"]),
        (vec![b"ab\r", b"\xff\xf1", b"\r\ncd"], vec!["ab", "", "cd"]),
        (vec![b"ab", b"\ncd"], vec!["ab", "", "cd"]),
        // A NUL behind a CR that was erased is a bad byte; the LF still belongs to the end by silence, if it comes first.
        (vec![b"\r", b"\xff\xf4\0\n"], vec!["", "\0"]),
        (vec![b"ab\r", b"\xff\xf8\n", b"cd\n"], vec!["ab", "cd"]),
        // The client's end.
        (vec![b"ab", b"cd\xff\xecef\n", b"gh"], vec!["ab", "cd"]),
    ] {
        let expected: Vec<Out> = expected.iter().map(|line| Out::Whole(line.as_bytes().to_vec())).collect();
        let pieces = silent(&pieces);
        for taken in 0..=pieces.len() {
            assert_eq!(decode_late(&pieces, taken), expected, "{pieces:?}, {taken} taken");
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
            assert_eq!(decode_late(&pieces, taken), expected, "{pieces:?}, {taken} taken");
        }
    }
}

#[test]
fn only_bytes_of_an_unfinished_line_are_a_sound() {
    let decoder = Decoder::default();
    for (waiting, bytes, sounds) in [
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
    ] {
        assert_eq!(decoder.tail(waiting).hears(bytes), sounds, "{bytes:?} behind {waiting:?}");
    }
}

#[test]
fn the_tail_is_behind_all_that_waits() {
    let mut decoder = Decoder::default();
    assert!(decoder.tail(b"TERM\nX").waits_for_end());
    assert!(!decoder.tail(b"TERM\nX\n").waits_for_end());
    assert_eq!(drained(&mut decoder, &mut Waiting::of(&[b"X"])), []);
    assert!([&b""[..], b"\xff\xf1", b"Y"].iter().all(|waiting| decoder.tail(waiting).waits_for_end()));
    assert!(!decoder.tail(b"\n").waits_for_end());
    assert_eq!(decoder.held, b"X", "looking ahead takes nothing");
}

#[test]
fn a_flood_is_not_ended_by_silence() {
    let mut decoder = Decoder::default();
    let mut waiting = Waiting::of(&[&[b'x'; UNTERMINATED_MAX_BYTES + 1]]);
    let mut tail = decoder.tail(&waiting);
    assert!(!tail.waits_for_end());
    decoder.end_tail(&mut tail, &mut waiting);
    assert_eq!(waiting.len(), UNTERMINATED_MAX_BYTES + 1);
    assert_eq!(decoder.peek(&mut &*waiting), Found::Flood);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn lines_that_wait_end_where_lines_that_are_taken_end(pieces in stream(), taken in 0usize..24) {
        // Far less than a flood can wait.
        let waits = |(piece, then): &(Vec<u8>, Interruption)| piece.len() < 2000 && *then != Interruption::GiveUp;
        let pieces: Vec<_> = pieces.into_iter().filter(waits).collect();
        prop_assert_eq!(decode_late(&pieces, taken), model(&pieces));
    }
}
