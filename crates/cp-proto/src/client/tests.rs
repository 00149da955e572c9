//! What a client makes of a server's lines, and what it sends.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

/// The events of `lines`, as text.
fn events(client: &mut Client, lines: &str) -> Vec<String> {
    client.input(lines.as_bytes());
    let mut all = Vec::new();
    while let Some(event) = client.next_event() {
        all.push(match event {
            Event::Message { sender, body } => format!("{sender}: {}", String::from_utf8_lossy(body)),
            other => format!("{other:?}"),
        });
    }
    all
}

/// What the client has to send, and has sent then.
fn sends(client: &mut Client) -> String {
    let output = String::from_utf8(client.output().to_vec()).expect("text").replace("\r\n", " ");
    client.output_sent(client.output().len());
    output
}

fn logged_in() -> Client {
    let mut client = Client::new();
    client.log_in(name("ann"), &Password::parse(b"hunter2").expect("a password"));
    assert_eq!(sends(&mut client), "USERann PASShunter2 ");
    assert_eq!(events(&mut client, "220 received\r\n230 in\r\n"), ["LoggedIn"]);
    client
}

#[test]
fn a_login_has_one_event_whatever_fails() {
    let mut client = Client::new();
    let password = Password::parse(b"x").expect("a password");
    client.log_in(name("ann"), &password);
    assert_eq!(events(&mut client, "220 a\r\n565 no\r\n"), [r#"LoginFailed { code: 565, text: "no" }"#]);
    client.log_in(name("ann"), &password);
    let first = events(&mut client, "560 error\r\n500 bad\r\n");
    assert_eq!(first, [r#"LoginFailed { code: 560, text: "error" }"#]);
    client.log_in(name("ann"), &password);
    assert_eq!(events(&mut client, "220 a\r\n230\r\n"), ["LoggedIn"], "the ones before left nothing behind");
}

#[test]
fn what_was_sent_behind_a_failure_is_known_not_to_be_stored() {
    let mut client = logged_in();
    for body in [&b"one"[..], b"two", b"three"] {
        client.send(name("bob"), body).expect("sent");
    }
    assert_eq!(sends(&mut client), "SMSGbob:one SMSGbob:two SMSGbob:three ");
    let found = events(&mut client, "240 kept\r\n540 error sending message: no room\r\n");
    let unknown = r#"NotSent { request: 1, fate: Unknown, code: 540, text: "error sending message: no room" }"#;
    assert_eq!(found, ["Sent(0)", unknown]);
    assert_eq!(sends(&mut client), "201 ", "by itself, and once");
    client.send(name("bob"), b"four").expect("sent");
    let found = events(&mut client, "500 bad command: send 201 first\r\n201 recovered\r\n240 kept\r\n");
    let behind = r#"NotSent { request: 2, fate: NotStored, code: 500, text: "bad command: send 201 first" }"#;
    assert_eq!(found, [behind, "Sent(3)"]);
    assert_eq!(sends(&mut client), "SMSGbob:four ");
    client.send(name("nobody"), b"five").expect("sent");
    let found = events(&mut client, "545 no such user\r\n201 recovered\r\n");
    assert_eq!(found, [r#"NotSent { request: 4, fate: NotStored, code: 545, text: "no such user" }"#]);
}

#[test]
fn a_download_ends_in_each_way() {
    let mut client = logged_in();
    client.receive(2).expect("sent");
    assert_eq!(sends(&mut client), "RMSG2 ");
    assert_eq!(events(&mut client, "RMSGbob:hello: you\r\nRMSGeve:x\r\n"), ["bob: hello: you", "eve: x"]);
    assert_eq!(client.send(name("bob"), b"x"), Err(NotNow::Downloading));
    client.acknowledge_all();
    assert!(!client.acknowledge(), "nothing is left to acknowledge");
    assert_eq!(sends(&mut client), "250 250 ");
    assert_eq!(events(&mut client, "255 end\r\n"), ["DownloadEnded(Complete)"]);
    client.wait(300).expect("sent");
    assert_eq!(
        (sends(&mut client), events(&mut client, "256 none\r\n")),
        ("WMSG300 ".to_owned(), vec!["DownloadEnded(Empty)".to_owned()])
    );
    client.receive(1).expect("sent");
    let found = events(&mut client, "RMSGbob:a\r\n550 error: no 250 came in time\r\n");
    assert_eq!(found[1], r#"DownloadEnded(Failed { code: 550, text: "error: no 250 came in time" })"#);
    assert_eq!(sends(&mut client), "RMSG 201 ");
    assert!(!client.acknowledge(), "too late");
    assert_eq!(events(&mut client, "201 recovered\r\n"), [""; 0]);
    client.receive(1).expect("sent");
    assert_eq!(
        events(&mut client, "500 bad command\r\n"),
        [r#"DownloadEnded(Failed { code: 500, text: "bad command" })"#]
    );
    assert_eq!(sends(&mut client), "RMSG ", "500 leads to no Error Processing");
}

#[test]
fn a_rejected_download_drops_what_was_on_its_way() {
    let mut client = logged_in();
    assert!(!client.reject(), "there is nothing to reject");
    client.receive(3).expect("sent");
    assert_eq!(events(&mut client, "RMSGbob:a\r\n"), ["bob: a"]);
    client.help();
    assert!(client.reject());
    assert_eq!(sends(&mut client), "RMSG3 HELP 550\r\n201 ".replace("\r\n", " "));
    let found = events(&mut client, "RMSGbob:b\r\n214 help\r\nRMSGbob:c\r\n201 recovered\r\n");
    assert_eq!(found, [r#"Help("help")"#, "DownloadEnded(Rejected)"]);
    // The server's own 550 was on its way as well.
    client.receive(1).expect("sent");
    events(&mut client, "RMSGbob:a\r\n");
    assert!(client.reject());
    assert_eq!(events(&mut client, "550 too late\r\n201 recovered\r\n"), ["DownloadEnded(Rejected)"]);
}

#[test]
fn what_ends_a_wait_is_answered_behind_it() {
    let mut client = logged_in();
    client.wait(10).expect("sent");
    client.send(name("bob"), b"hello").expect("nothing has come");
    assert_eq!(events(&mut client, "256 none\r\n240 kept\r\n"), ["DownloadEnded(Empty)", "Sent(0)"]);
    // A message was faster.
    client.wait(10).expect("sent");
    client.send(name("bob"), b"hello").expect("nothing has come");
    let found = events(&mut client, "RMSGeve:x\r\n500 bad command: answer with 250 or 550 first\r\n");
    assert_eq!(found[0], "eve: x");
    assert!(found[1].starts_with("NotSent { request: 1, fate: NotStored, code: 500"), "{found:?}");
    client.acknowledge_all();
    assert_eq!(events(&mut client, "255 end\r\n"), ["DownloadEnded(Complete)"]);
}

#[test]
fn the_end_says_what_is_not_known() {
    let mut client = logged_in();
    for body in [&b"one"[..], b"two", b"three"] {
        client.send(name("bob"), body).expect("sent");
    }
    client.terminate();
    assert_eq!(client.send(name("bob"), b"x"), Err(NotNow::Ended));
    assert_eq!(events(&mut client, "240 kept\r\n240 ke"), ["Sent(0)"]);
    client.input_ended();
    assert_eq!(events(&mut client, ""), ["Closed { unanswered: 1..3 }"]);
    assert_eq!(events(&mut client, "240 kept\r\n"), [""; 0]);
    let mut client = logged_in();
    client.input_ended();
    assert_eq!(events(&mut client, ""), ["Closed { unanswered: 0..0 }"]);
}

#[test]
fn what_no_server_sends_ends_the_connection() {
    for (lines, violation) in [
        ("SSH-2.0-OpenSSH\r\n", "NotCp"),
        ("RMSGbob\r\n", "NotCp"),
        ("RMSG-bob:x\r\n", "NotCp"),
        ("2400\r\n", "NotCp"),
        ("RMSGbob:x\r\n", "UnexpectedMessage"),
        ("240 kept\r\n", "UnexpectedReply(240)"),
        (&format!("{}\r\n", "2".repeat(1025)), "Overlong"),
        (&"2".repeat(1026), "Overlong"),
    ] {
        let mut client = logged_in();
        assert_eq!(
            events(&mut client, lines),
            [format!("Violation({violation})"), "Closed { unanswered: 0..0 }".to_owned()],
            "{lines}"
        );
        assert_eq!(client.receive(1), Err(NotNow::Ended));
    }
    let mut client = logged_in();
    client.receive(2).expect("sent");
    let found = events(&mut client, "RMSGa:1\r\nRMSGa:2\r\nRMSGa:3\r\n");
    assert_eq!(found[2..], ["Violation(UnexpectedMessage)", "Closed { unanswered: 0..0 }"], "more than the window");
    let found = events(&mut Client::new(), "500 bad command: too many connections\r\n");
    assert_eq!(found, [r#"Unasked { code: 500, text: "bad command: too many connections" }"#]);
}

#[test]
fn what_no_request_may_be_is_refused() {
    let mut client = logged_in();
    for bad in [&b""[..], b"a\nb", b"\xff", &[b'a'; 1010]] {
        assert_eq!(client.send(name("bob"), bad), Err(NotNow::BadMessage));
    }
    assert_eq!((client.receive(0), client.receive(257)), (Err(NotNow::OutOfRange), Err(NotNow::OutOfRange)));
    assert_eq!((client.wait(0), client.wait(301)), (Err(NotNow::OutOfRange), Err(NotNow::OutOfRange)));
    assert_eq!(sends(&mut client), "");
}

proptest! {
    /// However the bytes are cut, the same events come.
    #[test]
    fn events_do_not_depend_on_how_the_stream_is_cut(cuts in proptest::collection::vec(1_usize..9, 1..40)) {
        let lines = "240 kept\r\n545 no\r\n500 x\r\n201 ok\nRMSGbob:a\r\nRMSGeve:b:c\r\n214 help\r\n255 end\r\n";
        let run = |cuts: &mut dyn Iterator<Item = usize>| {
            let mut client = logged_in();
            for body in [&b"1"[..], b"2", b"3"] {
                client.send(name("bob"), body).expect("sent");
            }
            let (mut rest, mut all) = (lines, Vec::new());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
                all.extend(events(&mut client, piece));
                rest = behind;
                // Where the download begins, whatever the pieces.
                if all.len() == 3 && client.unanswered.is_empty() {
                    client.receive(2).expect("sent");
                    client.help();
                }
            }
            all
        };
        // The line that ends the error stands alone, so that the download is asked for in front of its messages.
        let begin = lines.find("RMSG").expect("a download");
        let whole = run(&mut [begin, lines.len()].into_iter());
        prop_assert_eq!(whole.len(), 7);
        let mut at = 0;
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if at >= lines.len() {
                break;
            }
            let end = if at < begin { begin.min(at + cut) } else { lines.len().min(at + cut) };
            pieces.push(end - at);
            at = end;
        }
        prop_assert_eq!(run(&mut pieces.into_iter()), whole);
    }
}
