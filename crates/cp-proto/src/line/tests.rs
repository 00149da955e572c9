//! The decoder, compared with a model that reads the stream byte by byte and was written from docs/protocol.md sections
//! 1, 2 and 10 alone.

mod model;
mod silence;
mod snapshot;

use proptest::prelude::*;

use self::model::{Interruption, Out, model};
use super::*;
use crate::telnet::IAC;

fn decode(pieces: &[(Vec<u8>, Interruption)]) -> Vec<Out> {
    let mut decoder = Decoder::default();
    let (mut out, mut unread) = (Vec::new(), Vec::new());
    for (piece, then) in pieces {
        unread.extend_from_slice(piece);
        let mut input: &[u8] = &unread;
        loop {
            // A line that is not taken stays the same.
            let twice = {
                let mut again = input;
                let found = format!("{:?}", decoder.peek(&mut again));
                input = again;
                found
            };
            if let Some(event) = twice.strip_prefix("Refuse") {
                let bytes: Vec<u8> =
                    event.trim_matches(['(', ')', '[', ']']).split(", ").map(|b| b.parse().expect("a byte")).collect();
                out.push(Out::Refuse(bytes.try_into().expect("three bytes")));
                continue;
            } else if twice == "AreYouThere" {
                out.push(Out::AreYouThere);
                continue;
            }
            if twice == "Flood" {
                out.push(Out::Flood);
                return out;
            }
            let token = match decoder.peek(&mut input) {
                Found::Line(line, token) => {
                    assert_eq!(twice, format!("{:?}", Found::Line(line, token)));
                    out.push(match line {
                        Line::Whole(line) => Out::Whole(line.to_vec()),
                        Line::Overlong(verb) => Out::Overlong(verb.to_vec()),
                    });
                    token
                }
                Found::NeedInput | Found::End => break,
                found @ (Found::Flood | Found::Refuse(_) | Found::AreYouThere) => panic!("{found:?} behind {twice}"),
            };
            decoder.take_line(token, &mut input);
            assert!(!decoder.has_finished_line());
        }
        assert!(input.is_empty(), "input is left behind More");
        unread.clear();
        assert!(decoder.held.len() <= PDU_MAX_BYTES + 5, "{} bytes", decoder.held.len());
        assert!(decoder.held.capacity() <= 2 * (PDU_MAX_BYTES + 5), "{} bytes", decoder.held.capacity());
        if !decoder.has_unfinished_line() {
            assert_eq!(decoder.held.capacity() * usize::from(decoder.held.is_empty()), 0, "memory between two lines");
        }
        match then {
            Interruption::GiveUp if decoder.has_unfinished_line() => out.push(Out::GaveUp(decoder.abandon_line())),
            Interruption::Silence => decoder.end_by_silence(),
            Interruption::GiveUp | Interruption::Nothing => {}
        }
    }
    // A line that a last silence has ended.
    match decoder.peek(&mut [].as_slice()) {
        Found::Line(Line::Whole(line), _) => out.push(Out::Whole(line.to_vec())),
        Found::Line(Line::Overlong(verb), _) => out.push(Out::Overlong(verb.to_vec())),
        Found::NeedInput | Found::End => {}
        found => panic!("{found:?}"),
    }
    out
}

fn lines_of(bytes: &[u8]) -> Vec<Out> {
    decode(&[(bytes.to_vec(), Interruption::Nothing)])
}

fn whole(lines: &[&str]) -> Vec<Out> {
    lines.iter().map(|line| Out::Whole(line.as_bytes().to_vec())).collect()
}

#[test]
fn lines_end_with_lf_and_lose_the_crs_before_it() {
    assert_eq!(lines_of(b"a\r\nb\n\n\r\nc\r\r\n d\re\n\rf\nrest"), whole(&["a", "b", "", "", "c", " d\re", "\rf"]));
    // These are the line ends that telnet in a pipe, plink and socat send.
    assert_eq!(lines_of(b"a\r\0\nb\r\0\r\nc\r\r\nd\r\0\r\0\r\r\n\r\0\n"), whole(&["a", "b", "c", "d", ""]));
}

#[test]
fn a_cr_that_no_lf_follows_and_a_nul_are_bytes_of_the_line() {
    assert_eq!(lines_of(b"a\r\0b\nc\0\n\r\0\0\n\0\r\n"), whole(&["a\rb", "c\0", "\r\0", "\0"]));
    assert_eq!(lines_of(b"a\r\r\0\rb\r\n"), whole(&["a\r\r\rb"]));
}

#[test]
fn removed_bytes_do_not_separate_a_cr_from_its_lf() {
    let nop = [IAC, 241];
    let stream =
        [b"a\r".as_slice(), &nop, b"\nb\r", &nop, b"\0", &nop, b"\r", &[IAC, 250, 1, IAC, 240], b"\n"].concat();
    assert_eq!(lines_of(&stream), whole(&["a", "b"]));
    // Erasing does separate them: of a CR, of a character after CRs that are then at the end again, of the whole line.
    for (stream, line) in [
        ([b"a\rb".as_slice(), &[IAC, 247], b"\n"].concat(), "a"),
        ([b"a\r\r".as_slice(), &[IAC, 247], b"b\n"].concat(), "a\rb"),
        ([b"a\r".as_slice(), &[IAC, 247], b"\0\n"].concat(), "a\0"),
        ([b"ab\r\0\r\0".as_slice(), &[IAC, 247, IAC, 247, IAC, 247], b"c\r\n"].concat(), "ac"),
        ([b"a\r\r".as_slice(), &[IAC, 248], b"\n"].concat(), ""),
        ([b"a\r".as_slice(), &[IAC, 244], b"\0\n"].concat(), "\0"),
    ] {
        assert_eq!(lines_of(&stream), whole(&[line]), "{stream:?}");
    }
}

#[test]
fn an_iac_that_begins_no_command_is_a_byte_and_what_follows_is_looked_at_anew() {
    let line = |text: &[u8]| Out::Whole(text.to_vec());
    // The text of a client that sends 8-bit characters, with each kind of byte after the 255.
    assert_eq!(lines_of(b"SMSGbob:caf\xff b\n"), [line(b"SMSGbob:caf\xff b")]);
    assert_eq!(
        lines_of(b"a\xff\nb\xff\r\nc\xff\r\0\nd\xff\0\n"),
        [line(b"a\xff"), line(b"b\xff"), line(b"c\xff"), line(b"d\xff\0")]
    );
    for follower in 0..=255u8 {
        let out = lines_of(&[b"a".as_slice(), &[IAC, follower], b"1\nb\n"].concat());
        let expected = match follower {
            b'\n' => vec![line(b"a\xff"), line(b"1"), line(b"b")],
            0..236 => vec![line(&[b'a', 255, follower, b'1']), line(b"b")],
            236 => vec![],
            246 => vec![Out::AreYouThere, line(b"a1"), line(b"b")],
            247 | 248 | 244 => vec![line(b"1"), line(b"b")],
            250 => vec![],
            251 => vec![Out::Refuse([255, 254, b'1']), line(b"a"), line(b"b")],
            253 => vec![Out::Refuse([255, 252, b'1']), line(b"a"), line(b"b")],
            252 | 254 => vec![line(b"a"), line(b"b")],
            255 => vec![line(b"a\xff1"), line(b"b")],
            237..=243 | 245 | 249 => vec![line(b"a1"), line(b"b")],
        };
        assert_eq!(out, expected, "{follower}");
    }
    // Of three IACs, two are one byte of data, and the third begins something else.
    assert_eq!(lines_of(b"\xff\xff\xffa\n"), [line(b"\xff\xffa")]);
}

#[test]
fn nothing_follows_the_clients_end() {
    let mut decoder = Decoder::default();
    let mut input: &[u8] = b"a\nb\xff\xecc\nd\n\xff\xf6";
    let Found::Line(Line::Whole(b"a"), token) = decoder.peek(&mut input) else { panic!("a line") };
    decoder.take_line(token, &mut input);
    assert_eq!((decoder.peek(&mut input), input), (Found::End, b"".as_slice()));
    assert_eq!(decoder.peek(&mut b"e\n".as_slice()), Found::End);
    assert!(decoder.has_unfinished_line());
    decoder.end_by_silence();
    assert!(matches!(decoder.peek(&mut b"f".as_slice()), Found::Line(Line::Whole(b"b"), _)), "what silence ends");
}

#[test]
fn commands_are_taken_out_of_the_stream() {
    let stream = [b"ab".as_slice(), &[IAC, 247], b"c", &[IAC, 241], b"\n", &[IAC, 253, 1], b"x", &[IAC, 248], b"y\n"];
    let expected = [whole(&["ac"]), vec![Out::Refuse([255, 252, 1])], whole(&["y"])].concat();
    assert_eq!(lines_of(&stream.concat()), expected);
    // Two IACs are one byte of data; a subnegotiation is ignored, whatever is in it.
    let stream = [b"a".as_slice(), &[255, 255], &[255, 250, 31, 10, 255, 255, 13, 10, 255, 240], b"b\n", &[255, 246]];
    assert_eq!(lines_of(&stream.concat()), [Out::Whole(b"a\xffb".to_vec()), Out::AreYouThere]);
}

#[test]
fn erasing_takes_back_a_whole_character_and_never_more_than_the_line() {
    let stream = ["aé€😀".as_bytes(), &[IAC, 247], &[IAC, 247], b"b\n", &[IAC, 247], b"c\n"].concat();
    assert_eq!(lines_of(&stream), whole(&["aéb", "c"]));
}

#[test]
fn both_sides_of_every_bound() {
    for (bytes, out) in [
        (1024, Out::Whole(vec![b'a'; 1024])),
        (1025, Out::Overlong(b"aaaa".to_vec())),
        (65_535, Out::Overlong(b"aaaa".to_vec())),
        (65_536, Out::Overlong(b"aaaa".to_vec())),
        (65_537, Out::Flood),
    ] {
        for step in [1, 7, 1024, 4096, 70_000] {
            let stream = [vec![b'a'; bytes], b"\n".to_vec()].concat();
            let pieces: Vec<_> = stream.chunks(step).map(|c| (c.to_vec(), Interruption::Nothing)).collect();
            assert_eq!(decode(&pieces), std::slice::from_ref(&out), "{bytes} bytes by {step}");
        }
    }
}

#[test]
fn any_kind_of_bytes_can_make_a_flood() {
    // The last two are a character that is erased again, and a line of four bytes that is erased as a whole.
    for byte in [&[0, 0][..], &[IAC, IAC], &[b'a', IAC, 247], &[b'a', b'b', b'c', b'd', IAC, 248]] {
        let stream = [byte.repeat(65_537), b"\n".to_vec()].concat();
        assert_eq!(lines_of(&stream), [Out::Flood]);
    }
    let subnegotiation = [&[IAC, 250][..], &[b'a'; 65_537]].concat();
    assert_eq!(lines_of(&subnegotiation), [Out::Flood]);
}

#[test]
fn erased_bytes_count_once() {
    // Two characters of three bytes together, 60,000 bytes in all.
    let erased = [&[&b"a\xc3\xa9"[..], &[IAC, 247, IAC, 247]].concat().repeat(20_000)[..], b"TERM\n"].concat();
    assert_eq!(lines_of(&erased), whole(&["TERM"]));
    // Commands other than subnegotiations are not part of a line, and clients send them to keep a connection alive.
    let kept_alive = [&[IAC, 241].repeat(70_000)[..], b"TERM\n"].concat();
    assert_eq!(lines_of(&kept_alive), whole(&["TERM"]));
}

#[test]
fn erased_bytes_also_count_for_a_line_that_arrives_whole() {
    let erased = [&[b'a'; 65_529][..], &[IAC, 248]].concat();
    for (line, out) in [("SMSGb:x\n", Out::Whole(b"SMSGb:x".to_vec())), ("SMSGb:xy\n", Out::Flood)] {
        let pieces = [erased.as_slice(), line.as_bytes()].map(|piece| (piece.to_vec(), Interruption::Nothing));
        assert_eq!(decode(&pieces), [out], "{line:?}");
    }
}

#[test]
fn the_crs_of_the_end_do_not_count_among_the_1024_but_among_the_64_kib() {
    let line = |text: usize, end: &[u8]| [vec![b'a'; text], end.to_vec()].concat();
    for end in [b"\r\r\n".as_slice(), b"\r\0\r\n", b"\r\0\n", &[&[CR; 64_512], b"\n".as_slice()].concat()] {
        for step in [1, 1000, 70_000] {
            let pieces = |stream: Vec<u8>| -> Vec<_> {
                stream.chunks(step).map(|c| (c.to_vec(), Interruption::Nothing)).collect()
            };
            assert_eq!(decode(&pieces(line(1024, end))), [Out::Whole(vec![b'a'; 1024])], "{step}");
        }
        let long = lines_of(&line(1025, end));
        assert!(long == [Out::Overlong(b"aaaa".to_vec())] || (end.len() > 60_000 && long == [Out::Flood]), "{long:?}");
    }
    assert_eq!(lines_of(&line(1024, &[&[CR; 64_513], b"\n".as_slice()].concat())), [Out::Flood]);
    // CR NUL is two bytes of the 64 KiB.
    assert_eq!(lines_of(&[&[CR, 0].repeat(32_768)[..], b"\n"].concat()), whole(&[""]));
    assert_eq!(lines_of(&[&[CR, 0].repeat(32_768)[..], b"\r\n"].concat()), [Out::Flood]);
    // CRs that no LF follows are bytes of the line.
    assert_eq!(lines_of(b"\r\0".repeat(1024).as_slice()), []);
    assert_eq!(
        lines_of(&[&b"\r\0".repeat(1023)[..], b"x\n"].concat()),
        [Out::Whole([vec![CR; 1023], vec![b'x']].concat())]
    );
    assert_eq!(lines_of(&[&b"\r\0".repeat(1024)[..], b"x\n"].concat()), [Out::Overlong(vec![CR; 4])]);
}

#[test]
fn a_line_that_took_too_long_is_thrown_away_to_its_end() {
    let pieces = [(b"SMSGbob:x".to_vec(), Interruption::GiveUp), (b"USERbob\nTERM\n".to_vec(), Interruption::Nothing)];
    assert_eq!(decode(&pieces), [Out::GaveUp(Some(Verb::Smsg)), Out::Whole(b"TERM".to_vec())]);
    let pieces = [(vec![b'a'; 2000], Interruption::GiveUp)];
    assert_eq!(decode(&pieces), [Out::GaveUp(None)]);
}

#[test]
fn silence_ends_a_line_whose_terminator_may_still_come() {
    let silent = |pieces: &[&[u8]]| -> Vec<Out> {
        decode(&pieces.iter().map(|piece| (piece.to_vec(), Interruption::Silence)).collect::<Vec<_>>())
    };
    assert_eq!(silent(&[b"RMSG\r", b"250"]), whole(&["RMSG", "250"]));
    // Only an LF that comes first after a CR belongs to the end by silence.
    assert_eq!(silent(&[b"RMSG\r", b"\n250", b"\n"]), whole(&["RMSG", "250", ""]));
    assert_eq!(silent(&[b"RMSG\r\r\0\r", b"\0", b"\xff\xf1\n\n250"]), whole(&["RMSG", "", "250"]));
    assert_eq!(silent(&[b"RMSG", b"\n250\r", b"x\n"]), whole(&["RMSG", "", "250", "x"]));
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => Just(b'\n'),
        6 => Just(b'\r'),
        2 => Just(0),
        8 => Just(IAC),
        6 => prop_oneof![Just(244u8), Just(246), Just(247), Just(248), Just(250), Just(240), 251u8..=254],
        10 => b'a'..=b'z',
        3 => 0x80u8..=0xff,
        2 => any::<u8>(),
    ];
    prop_oneof![
        8 => prop::collection::vec(byte, 0..12),
        3 => prop_oneof![Just("USERbob\r\n"), Just("PASSsecret"), Just("SMSGbob:hé😀"), Just("\r\n")]
            .prop_map(|text| text.as_bytes().to_vec()),
        2 => (1010usize..1035, b'a'..=b'b').prop_map(|(count, byte)| vec![byte; count]),
        1 => (64_500usize..65_540, prop_oneof![Just(b'a'), Just(0u8), Just(b'\r')]).prop_map(|(n, b)| vec![b; n]),
    ]
}

fn stream() -> impl Strategy<Value = Vec<(Vec<u8>, Interruption)>> {
    let then = prop_oneof![
        6 => Just(Interruption::Nothing),
        1 => Just(Interruption::GiveUp),
        1 => Just(Interruption::Silence),
    ];
    prop::collection::vec((piece(), then), 0..24)
}

/// The same stream cut into pieces of other lengths; interruptions stay where they are.
fn cut(pieces: &[(Vec<u8>, Interruption)], lengths: &[usize]) -> Vec<(Vec<u8>, Interruption)> {
    let (mut cut, mut bytes, mut lengths) = (Vec::new(), Vec::new(), lengths.iter().cycle());
    for (piece, then) in pieces {
        bytes.extend_from_slice(piece);
        if *then == Interruption::Nothing {
            continue;
        }
        while !bytes.is_empty() {
            let rest = bytes.split_off(bytes.len().min(*lengths.next().expect("a cycle")));
            cut.push((std::mem::replace(&mut bytes, rest), Interruption::Nothing));
        }
        cut.push((Vec::new(), *then));
    }
    while !bytes.is_empty() {
        let rest = bytes.split_off(bytes.len().min(*lengths.next().expect("a cycle")));
        cut.push((std::mem::replace(&mut bytes, rest), Interruption::Nothing));
    }
    cut
}

#[test]
fn a_password_is_not_moved_while_it_arrives() {
    let mut decoder = Decoder::default();
    let line = format!("PASS {}", "x".repeat(PASSWORD_MAX_BYTES));
    decoder.push(&line.as_bytes()[..1]);
    let room = decoder.held.capacity();
    line.bytes().skip(1).for_each(|byte| decoder.push(&[byte]));
    decoder.push(b"\r\r");
    assert_eq!((decoder.held.as_slice(), decoder.held.capacity()), (line.as_bytes(), room));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_stream_is_read_as_the_model_reads_it(pieces in stream(), lengths in prop::collection::vec(1usize..3000, 1..6)) {
        let expected = model(&pieces);
        prop_assert_eq!(&decode(&pieces), &expected);
        prop_assert_eq!(&decode(&cut(&pieces, &lengths)), &expected);
    }

    #[test]
    fn any_small_stream_is_read_byte_by_byte(pieces in prop::collection::vec(piece().prop_filter("small", |p| p.len() < 2000), 0..12)) {
        let bytes = pieces.concat();
        let one_by_one: Vec<_> = bytes.iter().map(|b| (vec![*b], Interruption::Nothing)).collect();
        prop_assert_eq!(decode(&one_by_one), lines_of(&bytes));
    }
}
