use std::io::{self, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::*;

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A sink whose text tests can read, and which can be blocked or made to fail.
#[derive(Clone, Default)]
struct RecordingSink {
    text: Arc<Mutex<Vec<u8>>>,
    gate: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    failing: Arc<std::sync::atomic::AtomicBool>,
}

impl RecordingSink {
    fn sink(&self) -> Sink {
        Sink::Stream { out: Box::new(self.clone()), prefixed: true }
    }

    fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

impl Write for RecordingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(gate) = &*self.gate.lock().unwrap() {
            let _ = gate.recv();
        }
        if self.failing.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_come_out_whole_in_order_and_by_level() {
    let recording = RecordingSink::default();
    let (logger, thread) = Logger::start_with(recording.sink(), Level::Info).unwrap();
    logger.info(LogLine::new("start").field("version", "0.1.0"));
    logger.debug(LogLine::new("hidden"));
    logger.set_level(Level::Debug);
    logger.debug(LogLine::new("shown"));
    logger.set_level(Level::Error);
    logger.warn(LogLine::new("hidden"));
    logger.error(LogLine::new("end").field("cause", "a\nb"));
    assert!(thread.finish(TEST_TIMEOUT));
    assert_eq!(recording.text(), "<6>start version=0.1.0\n<7>shown\n<3>end cause=\"a\\nb\"\n");
}

#[test]
fn a_log_that_hangs_stops_nobody_and_what_is_dropped_is_counted() {
    let recording = RecordingSink::default();
    let (open, gate) = mpsc::channel();
    *recording.gate.lock().unwrap() = Some(gate);
    let (logger, thread) = Logger::start_with(recording.sink(), Level::Info).unwrap();
    let sent = 3 * QUEUE_MAX_LINES;
    for number in 0..sent {
        logger.info(LogLine::new("x").field("number", number));
    }
    drop(open);
    assert!(thread.finish(TEST_TIMEOUT));
    let text = recording.text();
    let written = text.lines().filter(|line| line.starts_with("<6>x ")).count();
    let dropped: usize = text
        .lines()
        .filter_map(|line| line.strip_prefix("<4>log overflow dropped="))
        .map(|n| n.parse::<usize>().unwrap())
        .sum();
    assert!(written >= QUEUE_MAX_LINES && dropped > 0);
    assert_eq!(written + dropped, sent);
}

#[test]
fn a_hanging_log_does_not_keep_the_daemon_from_ending() {
    let recording = RecordingSink::default();
    let (_open, gate) = mpsc::channel();
    *recording.gate.lock().unwrap() = Some(gate);
    let (logger, thread) = Logger::start_with(recording.sink(), Level::Info).unwrap();
    logger.info(LogLine::new("x"));
    assert!(!thread.finish(Duration::from_millis(20)));
}

#[test]
fn lines_that_the_service_did_not_take_are_counted() {
    let mut sink_lost = 0;
    let recording = RecordingSink::default();
    let mut sink = recording.sink();
    recording.failing.store(true, Ordering::SeqCst);
    write_line(&mut sink, &mut sink_lost, Level::Info, "one");
    write_line(&mut sink, &mut sink_lost, Level::Info, "two");
    assert_eq!(sink_lost, 2);
    recording.failing.store(false, Ordering::SeqCst);
    write_line(&mut sink, &mut sink_lost, Level::Info, "three");
    assert_eq!(recording.text(), "<4>log service was unreachable lost=2\n<6>three\n");
    assert_eq!(sink_lost, 0);
}

#[test]
fn the_number_of_dropped_lines_is_logged_when_the_service_is_back() {
    let shared = LoggerShared {
        level: AtomicU8::new(Level::Info as u8),
        dropped: AtomicU64::new(7),
        same_reader_as_stderr: true,
    };
    let recording = RecordingSink::default();
    let mut sink = recording.sink();
    recording.failing.store(true, Ordering::SeqCst);
    log_dropped_count(&mut sink, &shared);
    recording.failing.store(false, Ordering::SeqCst);
    log_dropped_count(&mut sink, &shared);
    log_dropped_count(&mut sink, &shared);
    assert_eq!(recording.text(), "<4>log overflow dropped=7\n");
}

#[test]
fn floods_are_logged_once_then_counted() {
    let mut limit = RepeatSuppressor::new(1000);
    assert_eq!(limit.take_suppressed(0), None);
    assert_eq!(limit.note(5), Some(0));
    assert_eq!(limit.note(6), None);
    assert_eq!(limit.note(1004), None);
    assert_eq!(limit.take_suppressed(1004), None, "still quiet");
    assert_eq!(limit.note(1005), Some(2));
    assert_eq!(limit.note(1006), None);
    assert_eq!(limit.take_suppressed(2005), Some(1));
    assert_eq!(limit.take_suppressed(2006), None);
    assert_eq!(limit.note(2007), Some(0));
}

#[test]
fn levels_are_named_and_ordered() {
    for (number, level) in Level::ALL.into_iter().enumerate() {
        assert_eq!(level as usize, number);
    }
    assert!(Level::Error < Level::Debug);
}
