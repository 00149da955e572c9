//! The hand-over of a decoder from one process to the next.

use super::*;
use crate::proto::record::{RecordFormat, RecordReader, RecordWriter};

/// The decoder that a successor reads from this one's record. The record must be read to its end.
fn handed_over(decoder: &Decoder) -> Option<Decoder> {
    let mut record = RecordWriter::default();
    decoder.freeze(&mut record);
    let record = record.into_bytes();
    let mut reader = RecordReader::new(&record);
    let decoder = Decoder::thaw(&mut reader, RecordFormat::Current)?;
    reader.expect_end()?;
    Some(decoder)
}

#[test]
fn a_successor_reads_the_rest_of_the_stream_as_the_predecessor_would() {
    let text = |count: usize| vec![b'a'; count];
    let negotiated = [&b"a"[..], &[IAC, 250, 1, IAC, 255, IAC, 240, IAC, 253, 3], b"b\n"].concat();
    let erased = [&[b'a', IAC, 247].repeat(40_000)[..], &text(30_000)].concat();
    let stray = b"a\r\r\0\rb\r\xff\r\0\r\n\xff\xffc\r\0\r\0\xff\xf1\r\n\xff\nd\r\n\xff\xece\n".to_vec();
    let lines = [
        [text(1024), b"\r\r\0\r\n".to_vec()].concat(),
        [text(1025), b"\r\n".to_vec()].concat(),
        [text(1023), vec![CR, 0, CR, LF]].concat(),
    ];
    for stream in [&negotiated, &stray, &erased, &lines[0], &lines[1], &lines[2]] {
        let expected = lines_of(stream);
        for at in (0..stream.len()).filter(|at| stream.len() < 5000 || at % 5000 == 0) {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            for part in [&stream[..at], &stream[at..]] {
                let mut input = part;
                loop {
                    // A hand-over may also come after a line has ended and before it is taken.
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
                        Found::NeedInput | Found::End => break,
                    };
                    decoder = handed_over(&decoder).expect("a line that waits is read again");
                    decoder.take_line(token, &mut input);
                }
                decoder = handed_over(&decoder).unwrap_or_else(|| panic!("behind {at} of {} bytes", stream.len()));
            }
            assert_eq!(out, expected, "{at} of {} bytes", stream.len());
        }
    }
}

#[test]
fn a_password_is_not_moved_while_its_rest_arrives() {
    let line = format!("PASS {}", "x".repeat(PASSWORD_MAX_BYTES));
    for begun in 1..line.len() {
        let mut decoder = Decoder::default();
        decoder.push(&line.as_bytes()[..begun]);
        for mut later in [handed_over(&decoder).expect("its record"), decoder.lookahead(b"")] {
            let room = later.held.capacity();
            line.bytes().skip(begun).for_each(|byte| later.push(&[byte]));
            later.push(b"\r");
            assert_eq!(
                (later.held.as_slice(), later.held.capacity()),
                (line.as_bytes(), room),
                "{begun} bytes had come"
            );
        }
    }
    let none = handed_over(&Decoder::default()).expect("its record");
    assert_eq!(none.held.capacity(), 0, "a connection at rest costs nothing more");
}

#[test]
fn a_successor_skips_the_lf_of_a_line_ended_by_silence() {
    for begun in [&b"a\r"[..], b"a\r\0", b"a\xff", b"a"] {
        let read = |decoder: &mut Decoder| {
            let (mut input, mut out) = (&b"\0\nb\n"[..], Vec::new());
            while let Found::Line(Line::Whole(line), token) = decoder.peek(&mut input) {
                out.push(Out::Whole(line.to_vec()));
                decoder.take_line(token, &mut input);
            }
            out
        };
        let mut decoder = Decoder::default();
        assert_eq!(decoder.peek(&mut &*begun), Found::NeedInput);
        let mut heir = handed_over(&decoder).expect("its record");
        decoder.end_by_silence();
        heir.end_by_silence();
        let mut heir = handed_over(&heir).expect("its record");
        assert_eq!(read(&mut heir), read(&mut decoder), "{begun:?}");
    }
}

/// A decoder's record outside of any NVT command, with no bytes removed from the line. `end` writes the fields about
/// CRs, which depend on the format.
fn written(mode: u8, verb: &[u8; 4], dropped_bytes: u32, held: &[u8], end: impl FnOnce(&mut RecordWriter)) -> Vec<u8> {
    let mut record = RecordWriter::default();
    (0..2).for_each(|_| record.u8(0));
    record.u8(mode);
    record.bytes(verb);
    record.u32(dropped_bytes);
    record.bytes(held);
    record.u32(0);
    end(&mut record);
    record.into_bytes()
}

#[test]
fn a_record_that_no_decoder_writes_is_refused() {
    let thawed = |mode: u8, verb: &[u8; 4], dropped_bytes: u32, held: &[u8], trailing_crs: u32| {
        let record = written(mode, verb, dropped_bytes, held, |record| {
            record.u32(trailing_crs);
            record.bool(false);
            record.bool(false);
        });
        Decoder::thaw(&mut RecordReader::new(&record), RecordFormat::Current).is_some()
    };
    let (none, verb, full) = ([0; 4], *b"SMSG", vec![b'a'; 1024]);
    assert!(thawed(0, &none, 0, &full, 65_536) && thawed(3, &none, 0, &full, 0));
    assert!(!thawed(0, &none, 0, &full, 65_537) && !thawed(3, &none, 0, &full, 1));
    for mode in [0, 3] {
        assert!(!thawed(mode, &none, 0, &[b'a'; 1025], 0), "longer than any line");
        assert!(!thawed(mode, &none, 0, b"a\r", 0), "CRs at the end are counted");
        assert!(!thawed(mode, &verb, 0, b"a", 0) && !thawed(mode, &none, 1, b"a", 0));
    }
    for (mode, verb, dropped_bytes) in [(1, verb, 2000), (2, none, 2000), (4, verb, 0)] {
        assert!(thawed(mode, &verb, dropped_bytes, b"", 0), "{mode}");
        assert!(!thawed(mode, &verb, dropped_bytes, b"a", 0), "{mode}: it holds nothing");
    }
    assert!(!thawed(2, &verb, 2000, b"", 0) && !thawed(4, &verb, 1, b"", 0) && !thawed(5, &none, 0, b"", 0));
}

#[test]
fn records_of_0_1_0_are_read() {
    let thawed = |mode: u8, held: &[u8], has_nul: bool| {
        let record = written(mode, &[0; 4], 0, held, |record| record.bool(has_nul));
        let mut reader = RecordReader::new(&record);
        let decoder = Decoder::thaw(&mut reader, RecordFormat::Previous)?;
        reader.expect_end()?;
        Some(decoder)
    };
    let line = |mode: u8, held: &[u8], has_nul: bool, behind: &[u8]| {
        let mut decoder = thawed(mode, held, has_nul).expect("a record of 0.1.0");
        match decoder.peek(&mut &*behind) {
            Found::Line(Line::Whole(line), _) => line.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    // An unfinished line, which may end after CR, CR NUL and further ones.
    for (held, has_nul, behind, expected) in [
        (&b"PASSx"[..], false, &b"y\r\n"[..], &b"PASSxy"[..]),
        (b"PASSx\r", false, b"\n", b"PASSx"),
        (b"PASSx\r", false, b"\0\r\n", b"PASSx"),
        (b"PASSx\r", true, b"\n", b"PASSx"),
        (b"PASSx\r", true, b"\0\n", b"PASSx\r\0"),
        (b"PASSx\r\r", false, b"\n", b"PASSx"),
        (b"PASSx\r", false, b"y\n", b"PASSx\ry"),
    ] {
        assert_eq!(line(0, held, has_nul, behind), expected, "{held:?}, then {behind:?}");
    }
    // A finished line, with the CRs of its terminator.
    for (held, has_nul) in [(&b"PASSx"[..], false), (b"PASSx\r", false), (b"PASSx\r\r", true), (b"PASSx\r\r", false)] {
        assert_eq!(line(3, held, has_nul, b"z"), b"PASSx", "{held:?}");
    }
    let longest = [vec![b'a'; 1024], vec![CR]].concat();
    assert!(thawed(0, &longest, false).is_some() && thawed(3, &longest, false).is_some());
    assert!(thawed(0, &[b'a'; 1025], false).is_none() && thawed(0, b"a", true).is_none());
}
