//! The hand-over of a decoder from one process to the next.

use super::super::snapshot::DecoderSnapshot;
use super::*;

/// The decoder that continues from this one's snapshot.
fn handed_over(decoder: &Decoder) -> Option<Decoder> {
    Decoder::from_snapshot(decoder.snapshot())
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

#[test]
fn a_state_that_no_decoder_is_in_is_refused() {
    let fresh = Decoder::default();
    let plain = fresh.snapshot();
    let accepted = |mode, held: &[u8], dropped_bytes, trailing_crs| {
        Decoder::from_snapshot(DecoderSnapshot { mode, held, dropped_bytes, trailing_crs, ..plain }).is_some()
    };
    let (full, verb) = (vec![b'a'; 1024], *b"SMSG");
    assert!(accepted(LineMode::Collect, &full, 0, 65_536) && accepted(LineMode::Whole, &full, 0, 0));
    assert!(!accepted(LineMode::Collect, &full, 0, 65_537) && !accepted(LineMode::Whole, &full, 0, 1));
    for mode in [LineMode::Collect, LineMode::Whole] {
        assert!(!accepted(mode, &[b'a'; 1025], 0, 0), "longer than any line");
        assert!(!accepted(mode, b"a\r", 0, 0), "CRs at the end are counted");
        assert!(!accepted(mode, b"a", 1, 0));
    }
    for mode in [LineMode::Overlong { verb }, LineMode::Skip] {
        assert!(accepted(mode, b"", 2000, 7) && !accepted(mode, b"a", 2000, 7) && !accepted(mode, b"", 65_537, 0));
    }
    let ended = LineMode::WholeOverlong { verb };
    assert!(accepted(ended, b"", 0, 0) && !accepted(ended, b"", 1, 0) && !accepted(ended, b"", 0, 1));
}
