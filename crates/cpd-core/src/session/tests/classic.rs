//! The classic dialect: silence ends a PDU, whatever work is under way meanwhile.

use proptest::prelude::*;

use super::*;

const QUIET: Millis = 50;

/// A session of the classic dialect whose login is being verified.
fn logging_in() -> Scene {
    let mut scene = Scene::new(Dialect::Classic);
    scene.world.opening = LeaseAnswer::Nothing;
    scene.receive(b"USERbob\nPASSsecret\n");
    assert_eq!(scene.take_codes(), "220");
    scene.world.asked.clear();
    scene
}

/// Does the work that the session has requested, and all that follows from it. The bodies are appended to `stored`.
fn work(scene: &mut Scene, stored: &mut Vec<String>) {
    while !scene.world.asked.is_empty() {
        match scene.world.asked.remove(0) {
            ServiceCall::Verify(_) => call!(*scene, verified, true),
            ServiceCall::Store(body) => {
                stored.push(body);
                call!(*scene, stored, Ok(()));
            }
            ServiceCall::Read(_) | ServiceCall::Delete(_) | ServiceCall::FlushDeletes | ServiceCall::Close => {}
        }
    }
}

/// A few long lines, of `bytes` bytes in all.
fn lines(bytes: usize) -> Vec<u8> {
    let mut lines = vec![b'X'; bytes];
    lines.iter_mut().skip(1023).step_by(1024).for_each(|byte| *byte = b'\n');
    lines[bytes - 1] = b'\n';
    lines
}

#[test]
fn silence_counts_during_a_login() {
    let mut scene = logging_in();
    for piece in [&b"SMSGbob:on"[..], b"e", b"RMSG"] {
        assert!(scene.session.wants_input());
        scene.receive(piece);
        let patience = if piece == b"SMSGbob:on" { QUIET - 1 } else { QUIET };
        scene.wait(patience);
    }
    assert_eq!(scene.take_output(), "");
    call!(scene, verified, true);
    assert_eq!(scene.world.asked, [ServiceCall::Store("one".into())], "two segments, one message, and no RMSG in it");
    call!(scene, stored, Ok(()));
    assert_eq!(scene.take_codes(), "230 240 256");
}

#[test]
fn silence_is_counted_from_the_last_byte_of_a_line_that_waits() {
    let mut scene = logging_in();
    scene.receive(b"TE");
    assert_eq!(scene.session.deadline(), QUIET);
    scene.world.now = 30;
    scene.receive(b"R");
    assert_eq!(scene.session.deadline(), 30 + QUIET);
    scene.world.now = 40;
    scene.receive(b"\xff\xf1");
    assert_eq!(scene.session.deadline(), 30 + QUIET, "an NVT command is no sound");
    // The end of the work before it does not restart the timer either.
    scene.world.now = 60;
    call!(scene, verified, true);
    assert_eq!(scene.session.deadline(), 30 + QUIET);
    scene.wait(20);
    assert_eq!(scene.take_codes(), "230 500");
    assert!(scene.session.deadline() > 30 + QUIET, "nothing is left to end");
}

#[test]
fn a_line_that_has_its_end_waits_without_a_deadline_for_silence() {
    let mut scene = logging_in();
    let login = scene.session.deadline();
    scene.receive(b"TERM\n");
    assert_eq!(scene.session.deadline(), login);
    scene.receive(b"X");
    scene.receive(b"\n");
    assert_eq!(scene.session.deadline(), login);
}

#[test]
fn unread_input_is_bounded() {
    let mut scene = logging_in();
    scene.receive(&b"X\n".repeat(CLASSIC_UNREAD_MAX_BYTES / 2 - 1));
    assert!(scene.session.wants_input());
    scene.receive(b"X\n");
    assert!(!scene.session.wants_input());
    call!(scene, verified, true);
    assert!(scene.session.wants_input());
    scene.session.stop();
    assert!(!scene.session.wants_input());
}

#[test]
fn a_line_whose_rest_is_not_read_is_not_ended() {
    // One read that ends in the middle of a message, exactly at the bound of unread input or after it.
    for before in [CLASSIC_UNREAD_MAX_BYTES - b"SMSGbob:he".len(), CLASSIC_UNREAD_MAX_BYTES] {
        let mut scene = logging_in();
        let login = scene.session.deadline();
        scene.receive(&[lines(before), b"SMSGbob:he".to_vec()].concat());
        assert!(!scene.session.wants_input());
        assert_eq!(scene.session.deadline(), login);
        scene.wait(10 * QUIET);
        call!(scene, verified, true);
        assert!(scene.session.wants_input());
        // From now on the socket is read, so silence counts.
        assert_eq!(scene.session.deadline(), 11 * QUIET);
        scene.wait(QUIET - 1);
        scene.receive(b"llo\n");
        assert_eq!(scene.world.asked, [ServiceCall::Store("hello".into())]);
    }
}

#[test]
fn after_a_fin_silence_counts_whatever_is_unread() {
    let mut scene = logging_in();
    scene.receive(&lines(CLASSIC_UNREAD_MAX_BYTES - 1));
    scene.receive(b"SMSGbob:hello");
    call!(scene, end_of_input);
    scene.wait(QUIET);
    call!(scene, verified, true);
    assert_eq!(scene.world.asked, [ServiceCall::Store("hello".into())]);
}

#[test]
fn silence_does_not_count_during_a_pause() {
    let mut scene = logging_in();
    scene.receive(b"SMSGbob:he");
    scene.session.pause();
    scene.wait(QUIET);
    assert!(scene.session.deadline() > scene.world.now);
    call!(scene, verified, true);
    let mut next = handover::handed_over(scene, 1000);
    assert_eq!(next.session.deadline(), 1000 + QUIET);
    next.receive(b"llo\n");
    assert_eq!(next.world.asked, [ServiceCall::Store("hello".into())]);
}

#[test]
fn input_after_a_message_without_room_does_not_offer_it_again() {
    let mut scene = logging_in();
    call!(scene, verified, true);
    scene.world.admission = Admission::Full;
    scene.receive(b"SMSGbob:one\n");
    let asked = scene.world.refused;
    assert_eq!(asked, 1);
    for _ in 0..100 {
        scene.receive(b"X");
        scene.wait(QUIET);
    }
    assert_eq!(scene.world.refused, asked);
    scene.world.admission = Admission::Admitted;
    call!(scene, resume);
    assert_eq!(scene.world.asked, [ServiceCall::Store("one".into())]);
    call!(scene, stored, Ok(()));
    assert_eq!(scene.take_codes(), format!("230 240{}", " 500".repeat(100)));
}

#[test]
fn a_line_without_a_deadline_for_silence_gets_one() {
    let mut scene = logging_in();
    scene.receive(b"TERM");
    // This is how an older version leaves it.
    scene.session.classic.as_mut().expect("a classic session").silence = NEVER;
    call!(scene, verified, true);
    assert_eq!(scene.session.deadline(), QUIET);
}

const PIECES: &[&[u8]] = &[
    b"SMSGbob:one",
    b"SMSGbob:two\r\n",
    b"SMSGbob:",
    b"three",
    b"RMSG",
    b"201\n",
    b"250",
    b"TERM",
    b"X",
    b"\r",
    b"\n",
    b"\xff",
    b"\xf1",
    b"\xff\xf7",
    b"\xff\xf8",
    b"\xff\xfa\x01",
    b"\xff\xf0",
];

fn piece() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let bytes = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        // Options and AYT are left out, because the order of their answers among the replies may differ.
        1 => prop::collection::vec(any::<u8>().prop_filter("no answer", |b| !matches!(b, 0xf6 | 0xfb..=0xfe)), 0..6),
    ];
    (bytes, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn how_long_the_work_takes_changes_no_pdu(pieces in prop::collection::vec(piece(), 0..20), busy in 0usize..20) {
        // No work is done before the piece `busy` has come.
        let play = |busy: usize| {
            let (mut scene, mut stored) = (logging_in(), Vec::new());
            scene.world.asked.push(ServiceCall::Verify(true));
            for (index, (bytes, silence)) in pieces.iter().enumerate() {
                if scene.session.closing != Closing::Open || scene.session.input_ended {
                    break; // After TERM or the client's end, nothing more is handled.
                }
                assert!(scene.session.wants_input());
                scene.receive(bytes);
                if index >= busy {
                    work(&mut scene, &mut stored);
                }
                scene.wait(if *silence { QUIET } else { 1 });
                if index >= busy {
                    work(&mut scene, &mut stored);
                }
            }
            scene.wait(QUIET);
            work(&mut scene, &mut stored);
            (stored, scene.take_output())
        };
        prop_assert_eq!(play(busy), play(0));
    }
}
