use std::io::{self, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A sink that tests read, and that can be held up or made to fail.
#[derive(Clone, Default)]
struct Paper {
    text: Arc<Mutex<Vec<u8>>>,
    gate: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    failing: Arc<std::sync::atomic::AtomicBool>,
}

impl Paper {
    fn sink(&self) -> Sink {
        Sink::Stream { out: Box::new(self.clone()), prefixed: true }
    }

    fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
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
    let paper = Paper::default();
    let (logger, thread) = Logger::start_with(paper.sink(), Level::Info).unwrap();
    logger.info(Line::new("start").field("version", "0.1.0"));
    logger.debug(Line::new("hidden"));
    logger.set_level(Level::Debug);
    logger.debug(Line::new("shown"));
    logger.set_level(Level::Error);
    logger.warn(Line::new("hidden"));
    logger.error(Line::new("end").field("cause", "a\nb"));
    assert!(thread.finish(PATIENCE));
    assert_eq!(paper.text(), "<6>start version=0.1.0\n<7>shown\n<3>end cause=\"a\\nb\"\n");
}

#[test]
fn a_log_that_hangs_stops_nobody_and_what_is_dropped_is_counted() {
    let paper = Paper::default();
    let (open, gate) = mpsc::channel();
    *paper.gate.lock().unwrap() = Some(gate);
    let (logger, thread) = Logger::start_with(paper.sink(), Level::Info).unwrap();
    let sent = 3 * QUEUE_MAX_LINES;
    for number in 0..sent {
        logger.info(Line::new("x").field("number", number));
    }
    drop(open);
    assert!(thread.finish(PATIENCE));
    let text = paper.text();
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
    let paper = Paper::default();
    let (_open, gate) = mpsc::channel();
    *paper.gate.lock().unwrap() = Some(gate);
    let (logger, thread) = Logger::start_with(paper.sink(), Level::Info).unwrap();
    logger.info(Line::new("x"));
    assert!(!thread.finish(Duration::from_millis(20)));
}

#[test]
fn lines_that_the_service_did_not_take_are_counted() {
    let mut sink_lost = 0;
    let paper = Paper::default();
    let mut sink = paper.sink();
    paper.failing.store(true, Ordering::SeqCst);
    write_one(&mut sink, &mut sink_lost, Level::Info, "one");
    write_one(&mut sink, &mut sink_lost, Level::Info, "two");
    assert_eq!(sink_lost, 2);
    paper.failing.store(false, Ordering::SeqCst);
    write_one(&mut sink, &mut sink_lost, Level::Info, "three");
    assert_eq!(paper.text(), "<4>log service was away lost=2\n<6>three\n");
    assert_eq!(sink_lost, 0);
}

#[test]
fn what_was_dropped_is_told_when_the_service_is_back() {
    let shared = Shared { level: AtomicU8::new(Level::Info as u8), dropped: AtomicU64::new(7), read_with_stderr: true };
    let paper = Paper::default();
    let mut sink = paper.sink();
    paper.failing.store(true, Ordering::SeqCst);
    tell_dropped(&mut sink, &shared);
    paper.failing.store(false, Ordering::SeqCst);
    tell_dropped(&mut sink, &shared);
    tell_dropped(&mut sink, &shared);
    assert_eq!(paper.text(), "<4>log overflow dropped=7\n");
}

#[test]
fn floods_are_logged_once_then_counted() {
    let mut limit = Repeated::new(1000);
    assert_eq!(limit.settle(0), None);
    assert_eq!(limit.hit(5), Some(0));
    assert_eq!(limit.hit(6), None);
    assert_eq!(limit.hit(1004), None);
    assert_eq!(limit.settle(1004), None, "still quiet");
    assert_eq!(limit.hit(1005), Some(2));
    assert_eq!(limit.hit(1006), None);
    assert_eq!(limit.settle(2005), Some(1));
    assert_eq!(limit.settle(2006), None);
    assert_eq!(limit.hit(2007), Some(0));
}

#[test]
fn levels_are_named_and_ordered() {
    for (number, level) in Level::ALL.into_iter().enumerate() {
        assert_eq!(level as usize, number);
    }
    assert!(Level::Error < Level::Debug);
}
