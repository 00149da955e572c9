//! The replies against docs/protocol.md section 4.

use std::collections::BTreeSet;

use super::*;
use crate::proto::limits::PDU_MAX_BYTES;

/// The codes and texts of the contract's table.
fn contract() -> Vec<String> {
    let text = include_str!("../../../docs/protocol.md");
    let section = text.split("\n## ").find(|section| section.starts_with("4. ")).expect("section 4");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let mut columns = row.trim_matches('|').split(" | ").map(str::trim);
        format!("{} {}", columns.next().expect("a code"), columns.next().expect("a text"))
    })
    .collect()
}

#[test]
fn codes_and_texts_are_those_of_the_contract() {
    let code: Vec<&str> = ALL.iter().map(|reply| reply.text()).collect();
    assert_eq!(code, contract());
}

#[test]
fn each_is_one_pdu() {
    let mut codes = BTreeSet::new();
    for reply in ALL {
        assert!(codes.insert(reply.code()), "{reply:?} shares its code");
        assert!(reply.code().len() == 3 && reply.code().bytes().all(|b| b.is_ascii_digit()));
        for into_error in [false, true] {
            let mut out = b"before".to_vec();
            reply.write(into_error, &mut out);
            let line = out.strip_prefix(b"before").and_then(|l| l.strip_suffix(b"\r\n")).expect("appended, with CRLF");
            assert!(line.starts_with(format!("{} ", reply.code()).as_bytes()));
            assert!(line.len() <= PDU_MAX_BYTES && line.iter().all(|b| (0x20..0x7f).contains(b)));
        }
    }
}

#[test]
fn the_longest_message_fits_a_pdu() {
    let mut out = Vec::new();
    write_message(Username::parse(b"abcdefghij").expect("a name"), &[b'm'; 1009], &mut out);
    assert_eq!(out.len(), PDU_MAX_BYTES + 2);
    assert!(out.starts_with(b"RMSGabcdefghij:mmm") && out.ends_with(b"m\r\n"));
}
