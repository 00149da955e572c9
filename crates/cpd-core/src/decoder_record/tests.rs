//! The record of a decoder, in the current format and in that of 0.1.0.

use cp_proto::command::Line;
use cp_proto::line::Found;

use super::*;

#[test]
fn a_decoder_is_read_as_it_was_written() {
    for stream in
        [&b"USERb"[..], b"USER\xff\xfd", b"a\r\r\0", b"\xff\xfa\x01", b"x\xff\xec", &[b'a'; 1025], &[b'a'; 3000]]
    {
        let mut decoder = Decoder::default();
        while matches!(decoder.peek(&mut &*stream), Found::Refuse(_)) {}
        let mut record = RecordWriter::default();
        freeze(&decoder, &mut record);
        let record = record.into_bytes();
        let mut reader = RecordReader::new(&record);
        let read = thaw(&mut reader, RecordFormat::Current).expect("a decoder");
        assert_eq!((read.snapshot(), reader.expect_end()), (decoder.snapshot(), Some(())), "{stream:?}");
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
    record.into_bytes().to_vec()
}

#[test]
fn a_record_that_no_decoder_writes_is_refused() {
    let thawed = |mode: u8, verb: &[u8; 4], dropped_bytes: u32, held: &[u8], trailing_crs: u32| {
        let record = written(mode, verb, dropped_bytes, held, |record| {
            record.u32(trailing_crs);
            record.bool(false);
            record.bool(false);
        });
        thaw(&mut RecordReader::new(&record), RecordFormat::Current).is_some()
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
        let decoder = thaw(&mut reader, RecordFormat::Previous)?;
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
    let longest = [vec![b'a'; 1024], vec![b'\r']].concat();
    assert!(thawed(0, &longest, false).is_some() && thawed(3, &longest, false).is_some());
    assert!(thawed(0, &[b'a'; 1025], false).is_none() && thawed(0, b"a", true).is_none());
}
