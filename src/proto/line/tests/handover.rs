//! A decoder from one process to the next.

use super::*;
use crate::proto::codec::{Reader, Writer};

/// What a successor makes of the decoder; it has to use up what is written.
fn succeeded(decoder: &Decoder) -> Option<Decoder> {
    let mut record = Writer::default();
    decoder.freeze(&mut record);
    let record = record.finish();
    let mut reader = Reader::new(&record);
    let decoder = Decoder::thaw(&mut reader)?;
    reader.end()?;
    Some(decoder)
}

#[test]
fn a_successor_reads_the_rest_of_the_stream_as_the_predecessor_would() {
    let text = |count: usize| vec![b'a'; count];
    let negotiated = [&b"a"[..], &[IAC, 250, 1, IAC, 255, IAC, 240, IAC, 253, 3], b"b\n"].concat();
    let erased = [&[b'a', IAC, 247].repeat(40_000)[..], &text(30_000)].concat();
    let lines = [
        [text(1024), b"\r\n".to_vec()].concat(),
        [text(1025), b"\r\n".to_vec()].concat(),
        [text(1023), vec![CR, 0, CR, LF]].concat(),
    ];
    for stream in [&negotiated, &erased, &lines[0], &lines[1], &lines[2]] {
        let expected = lines_of(stream);
        for at in (0..stream.len()).filter(|at| stream.len() < 5000 || at % 5000 == 0) {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            for part in [&stream[..at], &stream[at..]] {
                let mut input = part;
                loop {
                    // Also between a line's end and its taking.
                    let token = match decoder.peek(&mut input) {
                        Found::Line(Line::Whole(line), token) => (out.push(Out::Whole(line.to_vec())), token).1,
                        Found::Line(Line::Overlong(verb), token) => (out.push(Out::Overlong(verb.to_vec())), token).1,
                        Found::Refuse(bytes) => {
                            out.push(Out::Refuse(bytes));
                            continue;
                        }
                        Found::AreYouThere => panic!("nobody asked"),
                        Found::Flood => {
                            out.push(Out::Flood);
                            break;
                        }
                        Found::More => break,
                    };
                    decoder = succeeded(&decoder).expect("a line that waits is read again");
                    decoder.take(token, &mut input);
                }
                decoder = succeeded(&decoder).unwrap_or_else(|| panic!("behind {at} of {} bytes", stream.len()));
            }
            assert_eq!(out, expected, "{at} of {} bytes", stream.len());
        }
    }
}

#[test]
fn a_password_stays_where_it_is_while_the_rest_of_it_comes() {
    let line = format!("PASS {}\r", "x".repeat(PASSWORD_MAX_BYTES));
    for begun in 1..line.len() {
        let mut decoder = Decoder::default();
        decoder.push(&line.as_bytes()[..begun]);
        for mut later in [succeeded(&decoder).expect("its record"), decoder.tail(b"")] {
            let room = later.held.capacity();
            line.bytes().skip(begun).for_each(|byte| later.push(&[byte]));
            assert_eq!(
                (later.held.as_slice(), later.held.capacity()),
                (line.as_bytes(), room),
                "{begun} bytes had come"
            );
        }
    }
    let none = succeeded(&Decoder::default()).expect("its record");
    assert_eq!(none.held.capacity(), 0, "a connection at rest costs nothing more");
}

#[test]
fn a_record_that_no_decoder_writes_is_refused() {
    // Telnet's place, mode, verb, total, the held line, bytes swallowed, a CR that is data.
    let thawed = |mode: u8, verb: &[u8; 4], total: u32, held: &[u8], data_cr: bool| {
        let mut record = Writer::default();
        (0..2).for_each(|_| record.u8(0));
        record.u8(mode);
        record.bytes(verb);
        record.u32(total);
        record.bytes(held);
        record.u32(0);
        record.bool(data_cr);
        Decoder::thaw(&mut Reader::new(&record.finish())).is_some()
    };
    let (none, verb, full) = ([0; 4], *b"SMSG", vec![b'a'; 1025]);
    for mode in [0, 3] {
        assert!(thawed(mode, &none, 0, &full, false) && thawed(mode, &none, 0, b"a\r", true));
        assert!(!thawed(mode, &none, 0, &[b'a'; 1026], false), "longer than any line");
        assert!(!thawed(mode, &none, 0, b"a", true), "no CR there");
        assert!(!thawed(mode, &verb, 0, b"a", false) && !thawed(mode, &none, 1, b"a", false));
    }
    for (mode, verb, total) in [(1, verb, 2000), (2, none, 2000), (4, verb, 0)] {
        assert!(thawed(mode, &verb, total, b"", false), "{mode}");
        assert!(!thawed(mode, &verb, total, b"a", false), "{mode}: it holds nothing");
        assert!(!thawed(mode, &verb, total, b"", true), "{mode}: no CR there");
    }
    assert!(
        !thawed(2, &verb, 2000, b"", false) && !thawed(4, &verb, 1, b"", false) && !thawed(5, &none, 0, b"", false)
    );
}
