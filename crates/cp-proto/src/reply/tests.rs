//! The replies, compared with docs/protocol.md section 4.

use std::collections::BTreeSet;

use super::*;

/// The codes and texts of the table in section 4, each as a code, a space and a text.
fn contract() -> Vec<String> {
    let text = include_str!("../../../../docs/protocol.md");
    let section = text.split("\n## ").find(|section| section.starts_with("4. ")).expect("section 4");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let texts = rows.map(|row| {
        let mut columns = row.trim_matches('|').split(" | ").map(str::trim);
        format!("{} {}", columns.next().expect("a code"), columns.next().expect("a text"))
    });
    // Rows that are marked so are not implemented yet.
    texts.filter(|text| !text.contains("[not yet]")).map(|text| text.replace(" **[ext]**", "")).collect()
}

#[test]
fn codes_and_texts_are_those_of_the_contract() {
    let code: Vec<&str> = ALL.iter().map(|reply| reply.heading()).collect();
    assert_eq!(code, contract());
    let codes: BTreeSet<&str> = ALL.iter().map(|reply| reply.code()).collect();
    assert_eq!(codes.len(), ALL.len());
    assert!(codes.iter().all(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit())));
}

#[test]
fn the_longest_message_fits_a_pdu() {
    let mut out = Vec::new();
    write_message(Username::parse(b"abcdefghij").expect("a name"), &[b'm'; 1009], &mut out);
    assert_eq!(out.len(), crate::limits::PDU_MAX_BYTES + 2);
    assert!(out.starts_with(b"RMSGabcdefghij:mmm") && out.ends_with(b"m\r\n"));
}
