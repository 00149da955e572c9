//! The runner against a server whose every word is fixed.

use std::collections::VecDeque;
use std::path::Path;

use super::super::parser::parse;
use super::*;

/// Says what it is given, whatever the client does. Time passes by 100 ms at each read.
struct Fixed {
    words: VecDeque<Got>,
    sent: Vec<u8>,
    now: Duration,
}

impl Peer for Fixed {
    fn open(&mut self, _: usize) -> Result<(), String> {
        Ok(())
    }
    fn send(&mut self, _: usize, bytes: &[u8]) -> Result<(), String> {
        self.sent.extend(bytes);
        Ok(())
    }
    fn fin(&mut self, _: usize) -> Result<(), String> {
        Ok(())
    }
    fn drop_connection(&mut self, _: usize, _: bool) -> Result<(), String> {
        Ok(())
    }
    fn flood(&mut self, _: usize, _: &[u8]) -> Result<(), String> {
        Err("for ever".into())
    }
    fn read(&mut self, _: usize) -> Result<Got, String> {
        self.now += Duration::from_millis(100);
        Ok(self.words.pop_front().unwrap_or(Got::Nothing))
    }
    fn poll(&mut self, _: usize) -> Result<Got, String> {
        Ok(self.words.pop_front().unwrap_or(Got::Nothing))
    }
    fn wait(&mut self, time: Duration) -> Result<(), String> {
        self.now += time;
        Ok(())
    }
    fn now(&self) -> Duration {
        self.now
    }
    fn is_virtual(&self) -> bool {
        true
    }
    fn admin(&mut self, _: &[String], _: Option<&str>) -> Result<(), String> {
        Err("refused".into())
    }
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn bytes(text: &str) -> Got {
    Got::Bytes(text.as_bytes().to_vec())
}

/// `Ok`, or the line and what was got.
fn run(body: &str, words: Vec<Got>) -> Result<(), (usize, String)> {
    let script = parse(Path::new("test.txt"), &format!("# a title\n{body}\n")).unwrap();
    let mut peer = Fixed { words: words.into(), sent: Vec::new(), now: Duration::ZERO };
    play(&script, &mut peer).map_err(|failure| (failure.line, failure.got.clone()))
}

#[test]
fn a_line_may_come_in_pieces_and_two_at_once() {
    let words = vec![bytes("22"), bytes("0 fi"), bytes("ne\r\n230 x\r\nRMSGann"), bytes(":hi\r\n"), Got::Closed];
    assert_eq!(run("C: x\nS: 220\nS: 230\nS: RMSGann:hi\nS: <close>", words), Ok(()));
}

#[test]
fn a_code_stands_before_one_space_and_a_text() {
    for line in ["221 x", "2200 x", "220", "220 ", "220x", "220  \u{1b}", "RMSG220 x"] {
        let got = run("C: x\nS: 220", vec![bytes(&format!("{line}\r\n"))]);
        assert_eq!(got.map_err(|(line, _)| line), Err(3), "{line}");
    }
}

#[test]
fn a_line_ends_with_crlf() {
    assert_eq!(run("C: x\nS: 220", vec![bytes("220 fine\n")]), Err((3, "220 fine\\n".into())));
}

#[test]
fn bytes_are_compared_as_they_are() {
    assert_eq!(run("S raw: \"\\xff\\xfe\\x01\"", vec![Got::Bytes(vec![255, 254]), Got::Bytes(vec![1])]), Ok(()));
    let got = run("S raw: \"\\xff\\xfe\\x01\"", vec![Got::Bytes(vec![255, 252, 1])]);
    assert_eq!(got, Err((2, "\\xff\\xfc\\u{1}".into())));
}

#[test]
fn a_close_is_a_close_and_nothing_before_it() {
    assert_eq!(run("S: <close>\nS: <close>", vec![Got::Closed]), Ok(()));
    assert_eq!(run("S: <close>", vec![Got::Reset]), Err((2, "a reset".into())));
    assert_eq!(run("S: <close>", vec![bytes("500 x\r\n")]), Err((2, "500 x\\r\\n".into())));
    assert_eq!(run("S: 500\nS: <close>", vec![bytes("500 x\r\n256 y\r\n")]), Err((3, "256 y\\r\\n".into())));
    assert_eq!(run("S: 500", vec![bytes("50"), Got::Closed]), Err((2, "50, then the server closed".into())));
}

#[test]
fn quiet_is_quiet_and_the_end_is_too() {
    assert_eq!(run("S: <quiet>\nC: x", vec![]), Ok(()));
    assert_eq!(run("S: <quiet>\nC: x", vec![bytes("220 hello\r\n")]), Err((2, "220 hello\\r\\n".into())));
    assert_eq!(run("S: 220", vec![bytes("220 x\r\n230 y\r\n")]), Err((2, "230 y\\r\\n".into())));
    assert_eq!(run("S: 220", vec![bytes("220 x\r\n"), Got::Closed]), Err((2, "the server closed".into())));
}

#[test]
fn a_time_is_measured_from_the_mark_to_the_last_answer() {
    let words = || vec![bytes("220 x\r\n")];
    assert_eq!(run("wait: 2s\nmark:\nC: x\nS: 220\nwait: 5s\nafter: 100ms", words()), Ok(()));
    assert!(run("mark:\nC: x\nS: 220\nafter: 150ms", words()).is_err());
    assert!(run("mark:\nC: x\nS: 220\nafter: 20ms", words()).is_err());
}

#[test]
fn nothing_is_done_with_a_connection_that_was_left() {
    assert_eq!(run("C: <gone>\nC: x", vec![]).map_err(|(line, _)| line), Err(3));
}

#[test]
fn a_refused_command_is_a_failure() {
    assert_eq!(run("C: x\nadmin: user lock bob", vec![]), Err((3, "refused".into())));
}
