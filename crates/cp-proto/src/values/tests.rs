//! Values on both sides of every limit of docs/protocol.md section 2.

use proptest::prelude::*;

use super::*;

#[test]
fn names() {
    for good in ["a", "Z", "0", "9", "bob", "a.b_c-d", "0.", "x-", "abcdefghij", "A_........"] {
        let name = Username::parse(good.as_bytes()).unwrap_or_else(|| panic!("{good}"));
        assert_eq!((name.as_str(), name.to_string().as_str()), (good, good));
        assert_eq!(format!("{name:?}"), format!("{good:?}"));
    }
    for bad in [
        "",
        ".",
        "_",
        "-",
        ".a",
        "_a",
        "-a",
        "abcdefghijk",
        "a b",
        " a",
        "a ",
        "a:b",
        "a\tb",
        "é",
        "aé",
        "a\0",
        "a/b",
        "a@b",
        "a\u{7f}",
        "[a]",
        "a`",
        "a{",
        "²",
    ] {
        assert!(Username::parse(bad.as_bytes()).is_none(), "{bad:?}");
    }
    assert!(Username::parse(b"a\xff").is_none());
    assert!(Username::parse(&[b'a'; 256 + 3]).is_none(), "a length that fits a byte only when cut");
}

#[test]
fn names_are_case_sensitive_and_in_order() {
    let name = |text: &str| Username::parse(text.as_bytes()).expect("a name");
    assert_ne!(name("bob"), name("Bob"));
    let mut names = ["b", "a.", "a", "B", "10", "9"].map(name);
    names.sort();
    assert_eq!(names.map(|n| n.to_string()), ["10", "9", "B", "a", "a.", "b"]);
    assert_eq!(format!("[{:<5}]", name("bob")), "[bob  ]");
}

#[test]
fn passwords() {
    for good in ["a", "123456789012345", "a b", "é", "ééééééé1", ":", "::", "😀😀😀123", "\u{a0}", "~", "p\u{200b}"]
    {
        let password = Password::parse(good.as_bytes()).unwrap_or_else(|| panic!("{good}"));
        assert_eq!(password.as_bytes(), good.as_bytes());
        assert_eq!(format!("{password:?}"), "Password(…)");
    }
    for bad in [
        "",
        " ",
        " a",
        "a ",
        "  ",
        "1234567890123456",
        "éééééééé",
        "😀😀😀😀",
        "a\tb",
        "a\0b",
        "\u{1f}",
        "a\u{7f}",
        "a\u{80}",
        "a\u{9f}b",
        "\r",
    ] {
        assert!(Password::parse(bad.as_bytes()).is_none(), "{bad:?}");
    }
    for bad in [b"\xff".as_slice(), b"a\xc3", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"] {
        assert!(Password::parse(bad).is_none(), "{bad:?}");
    }
}

#[test]
fn messages() {
    let at_most = "m".repeat(1009);
    let two_bytes = format!("{}m", "é".repeat(504));
    for good in ["a", " ", "\t", "a\tb", "~", "é", "\u{a0}", "\u{2028}", "\u{feff}", "😀", &at_most, &two_bytes] {
        assert!(is_valid_message(good.as_bytes()), "{good:?}");
    }
    assert!(
        !is_valid_message(b"") && !is_valid_message(&[b'm'; 1010]) && !is_valid_message("é".repeat(505).as_bytes())
    );
    for control in (0..0x20u8).chain([0x7f]).filter(|c| *c != b'\t') {
        assert!(!is_valid_message(&[control]) && !is_valid_message(&[b'a', control, b'b']), "{control:#x}");
    }
    for control in 0x80..=0x9fu32 {
        let control = char::from_u32(control).expect("a character");
        assert!(!is_valid_message(format!("a{control}").as_bytes()), "{control:?}");
        assert!(!is_valid_message(format!("é{control}").as_bytes()), "{control:?}");
    }
    for bad in [b"\xff".as_slice(), b"\xc3", b"a\xe2\x82", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
        assert!(!is_valid_message(bad), "{bad:?}");
    }
}

#[test]
fn names_spread_over_a_table() {
    let hash = |name: &str| {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&Username::parse(name.as_bytes()).expect("a name"), &mut hasher);
        std::hash::Hasher::finish(&hasher)
    };
    assert_eq!(hash("bob"), hash("bob"));
    assert!(hash("bob") != hash("bobs") && hash("bob") != hash("Bob"));
}

proptest! {
    #[test]
    fn messages_are_text_without_control_characters(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..24),
        any::<String>().prop_map(String::into_bytes),
        "[ -~\t\u{7f}-\u{a1}]{0,40}".prop_map(String::into_bytes),
    ]) {
        let allowed = |c: char| c == '\t' || !matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f);
        let expected = !bytes.is_empty()
            && bytes.len() <= 1009
            && std::str::from_utf8(&bytes).is_ok_and(|text| text.chars().all(allowed));
        prop_assert_eq!(is_valid_message(&bytes), expected);
    }

    #[test]
    fn names_are_what_the_rule_says(bytes in prop_oneof![
        "[A-Za-z0-9._-]{0,12}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..12),
    ]) {
        let first = |b: u8| b.is_ascii_alphanumeric();
        let rest = |b: u8| first(b) || b"._-".contains(&b);
        let expected = (1..=10).contains(&bytes.len()) && first(bytes[0]) && bytes.iter().all(|b| rest(*b));
        let name = Username::parse(&bytes);
        prop_assert_eq!(name.is_some(), expected);
        if let Some(name) = name {
            prop_assert_eq!(name.as_str().as_bytes(), &bytes[..]);
        }
    }
}
