//! The ledger is believed by other tests: here it is fed each kind of violation, and histories in which nothing is wrong.

use std::collections::BTreeSet;

use cpd_testing::ledger;
use ledger::{Answer, Counts, End, Kind, Ledger, Parting, SessionNo};

/// A ledger with a connection of `ann` and two of `bob`.
struct Scene {
    ledger: Ledger,
    ann: SessionNo,
    bob: SessionNo,
    bob2: SessionNo,
}

impl Scene {
    fn new() -> Scene {
        let mut ledger = Ledger::default();
        let [ann, bob, bob2] = ["ann", "bob", "bob"].map(|name| ledger.session(name));
        Scene { ledger, ann, bob, bob2 }
    }

    fn send(&mut self, body: &str) {
        self.ledger.sending(self.ann, "bob", body.as_bytes());
    }

    /// Sends and gets 240.
    fn keep(&mut self, body: &str) {
        self.send(body);
        self.ledger.answered(self.ann, Answer::Kept);
    }

    /// Bob begins a download and reads `bodies`.
    fn read(&mut self, window: usize, bodies: &[&str]) {
        self.ledger.downloading(self.bob, window);
        bodies.iter().for_each(|body| self.ledger.received(self.bob, "ann", body.as_bytes()));
    }

    /// Bob downloads `bodies`, acknowledges each, and reads 255.
    fn take_all(&mut self, bodies: &[&str]) {
        self.ledger.downloading(self.bob, 1);
        bodies.iter().for_each(|body| self.take(body));
        self.ledger.ended(self.bob, End::All);
    }

    /// Reads and acknowledges.
    fn take(&mut self, body: &str) {
        self.ledger.received(self.bob, "ann", body.as_bytes());
        self.ledger.acknowledging(self.bob);
    }

    fn kill(&mut self) {
        self.ledger.ending();
        self.close_all(Parting::Torn);
    }

    fn close_all(&mut self, parting: Parting) {
        for session in [self.ann, self.bob, self.bob2] {
            self.ledger.closed(session, parting);
        }
        self.ledger.next_life(parting);
        [self.ann, self.bob, self.bob2] = ["ann", "bob", "bob"].map(|name| self.ledger.session(name));
    }
}

type Play = fn(&mut Scene);
type History = (Kind, &'static str, Play);

fn kinds(history: Play) -> Vec<Kind> {
    let mut scene = Scene::new();
    history(&mut scene);
    scene.ledger.violations().iter().map(|violation| violation.kind).collect()
}

/// Histories with exactly one thing wrong.
const WRONG: &[History] = &[
    (Kind::Invented, "an altered body", |s| {
        s.keep("hello");
        s.read(1, &["hellp"]);
    }),
    (Kind::Invented, "two bodies mixed", |s| {
        s.keep("one two");
        s.keep("three four");
        s.read(1, &["one four"]);
    }),
    (Kind::WrongSender, "another sender's name", |s| {
        s.keep("a");
        s.ledger.downloading(s.bob, 1);
        s.ledger.received(s.bob, "cyd", b"a");
    }),
    (Kind::WrongRecipient, "another user's message", |s| {
        s.keep("a");
        s.ledger.downloading(s.ann, 1);
        s.ledger.received(s.ann, "ann", b"a");
    }),
    (Kind::Refused, "stored after a refusal", |s| {
        s.send("a");
        s.ledger.answered(s.ann, Answer::NotStored);
        s.read(1, &["a"]);
    }),
    (Kind::Refused, "refused after it was delivered", |s| {
        s.send("a");
        s.read(1, &["a"]);
        s.ledger.answered(s.ann, Answer::NotStored);
    }),
    (Kind::Refused, "stored by an orderly stop without an answer", |s| {
        s.send("a");
        s.close_all(Parting::Orderly);
        s.read(1, &["a"]);
    }),
    (Kind::FromNowhere, "an unknown one that was shown not to be there", |s| {
        s.send("a");
        s.kill();
        // One of the same sender would make it out of order too.
        s.ledger.sending(s.bob2, "bob", b"b");
        s.ledger.answered(s.bob2, Answer::Kept);
        s.ledger.downloading(s.bob, 1);
        s.ledger.received(s.bob, "bob", b"b");
        s.ledger.acknowledging(s.bob);
        s.ledger.ended(s.bob, End::All);
        s.kill();
        s.read(1, &["a"]);
    }),
    (Kind::FromNowhere, "the same, shown by 256", |s| {
        s.send("a");
        s.kill();
        s.ledger.downloading(s.bob, 1);
        s.ledger.ended(s.bob, End::Nothing);
        s.kill();
        s.read(1, &["a"]);
    }),
    (Kind::Again, "after its 255", |s| {
        s.keep("a");
        s.take_all(&["a"]);
        s.kill();
        s.read(1, &["a"]);
    }),
    (Kind::Again, "after a later 255", |s| {
        s.keep("a");
        s.keep("b");
        s.read(1, &[]);
        s.take("a");
        s.ledger.closed(s.bob, Parting::Torn);
        s.bob = s.ledger.session("bob");
        s.take_all(&["b"]);
        s.kill();
        s.read(1, &["a"]);
    }),
    (Kind::Again, "after a start that did not have it", |s| {
        s.keep("a");
        s.read(1, &[]);
        s.take("a");
        s.kill();
        s.ledger.downloading(s.bob, 1);
        s.ledger.ended(s.bob, End::Nothing);
        s.kill();
        s.read(1, &["a"]);
    }),
    (Kind::Again, "in the life that took its 250", |s| {
        s.keep("a");
        s.keep("b");
        s.read(1, &[]);
        s.take("a");
        // Without the 250 for a there is no room for b.
        s.ledger.received(s.bob, "ann", b"b");
        s.ledger.closed(s.bob, Parting::Torn);
        s.bob = s.ledger.session("bob");
        s.read(1, &["a"]);
    }),
    (Kind::Again, "in the life that answered the 201 behind its 250", |s| {
        s.keep("a");
        s.read(1, &[]);
        s.take("a");
        s.ledger.stopping(s.bob);
        s.ledger.recovered(s.bob);
        s.read(1, &["a"]);
    }),
    (Kind::Again, "after an orderly stop that had taken its 250", |s| {
        s.keep("a");
        s.keep("b");
        s.read(1, &[]);
        s.take("a");
        s.ledger.received(s.bob, "ann", b"b");
        s.close_all(Parting::Orderly);
        s.read(1, &["a"]);
    }),
    (Kind::TwiceInDownload, "twice in one download", |s| {
        s.keep("a");
        s.read(2, &["a", "a"]);
    }),
    (Kind::Order, "one connection's, swapped", |s| {
        s.send("a");
        s.send("b");
        s.read(2, &["b", "a"]);
    }),
    (Kind::Order, "two connections', swapped", |s| {
        s.send("a");
        s.ledger.answered(s.ann, Answer::Kept);
        let other = s.ledger.session("ann");
        s.ledger.sending(other, "bob", b"b");
        s.read(2, &["b"]);
    }),
    (Kind::Order, "an unanswered one after a later one, in another download", |s| {
        s.send("a");
        s.send("b");
        s.read(1, &["b"]);
        s.ledger.stopping(s.bob);
        s.ledger.recovered(s.bob);
        s.read(1, &["a"]);
    }),
    (Kind::Order, "an unknown one of the life before, late", |s| {
        s.send("a");
        s.kill();
        s.send("b");
        s.read(1, &["b"]);
        s.ledger.stopping(s.bob);
        s.ledger.recovered(s.bob);
        s.read(1, &["a"]);
    }),
    (Kind::Order, "one that was given back, passed over", |s| {
        s.keep("a");
        s.keep("b");
        s.read(1, &["a"]);
        s.ledger.stopping(s.bob);
        s.ledger.recovered(s.bob);
        s.read(1, &["b"]);
    }),
    (Kind::Lost, "not in a complete download", |s| {
        s.keep("a");
        let cyd = s.ledger.session("cyd");
        s.ledger.sending(cyd, "bob", b"c");
        s.ledger.answered(cyd, Answer::Kept);
        s.take_all(&["a"]);
    }),
    (Kind::Lost, "256 for a queue that is not empty", |s| {
        s.keep("a");
        s.ledger.downloading(s.bob, 1);
        s.ledger.ended(s.bob, End::Nothing);
    }),
    (Kind::Lost, "gone without a 250", |s| {
        s.keep("a");
        s.read(1, &["a"]);
        s.kill();
        s.ledger.downloading(s.bob, 1);
        s.ledger.ended(s.bob, End::Nothing);
    }),
    (Kind::Lost, "no 240, but once delivered", |s| {
        s.send("a");
        s.read(1, &["a"]);
        s.kill();
        s.ledger.downloading(s.bob, 1);
        s.ledger.ended(s.bob, End::Nothing);
    }),
    (Kind::Lost, "came again, and is gone without a new 250", |s| {
        s.keep("a");
        s.read(1, &[]);
        s.take("a");
        s.kill();
        s.read(1, &["a"]);
        s.kill();
        s.ledger.drained();
    }),
    (Kind::Lost, "never delivered", |s| {
        s.keep("a");
        s.ledger.drained();
    }),
    (Kind::TooLate, "sent during the download", |s| {
        s.keep("a");
        s.read(2, &["a"]);
        s.send("b");
        s.ledger.received(s.bob, "ann", b"b");
    }),
    (Kind::TwoDownloads, "two sessions hold one queue", |s| {
        s.keep("a");
        s.read(1, &["a"]);
        s.ledger.downloading(s.bob2, 1);
        s.ledger.received(s.bob2, "ann", b"a");
    }),
    (Kind::Window, "more than the window", |s| {
        s.keep("a");
        s.keep("b");
        s.read(1, &["a", "b"]);
    }),
    (Kind::EarlyEnd, "255 before the last 250", |s| {
        s.keep("a");
        s.read(1, &["a"]);
        s.ledger.ended(s.bob, End::All);
    }),
    (Kind::Unasked, "240 for nothing", |s| s.ledger.answered(s.ann, Answer::Kept)),
    (Kind::Unasked, "255 for nothing", |s| s.ledger.ended(s.bob, End::All)),
    (Kind::Unasked, "a message for nothing", |s| {
        s.keep("a");
        s.ledger.received(s.bob, "ann", b"a");
    }),
    (Kind::Count, "fewer than there must be", |s| {
        s.keep("a");
        s.ledger.counted("bob", 0);
    }),
    (Kind::Count, "more than there can be", |s| {
        s.send("a");
        s.ledger.counted("bob", 2);
    }),
];

/// Every kind, so that a new one gets its history.
const KINDS: [Kind; 15] = [
    Kind::Invented,
    Kind::WrongSender,
    Kind::WrongRecipient,
    Kind::Refused,
    Kind::FromNowhere,
    Kind::Again,
    Kind::TwiceInDownload,
    Kind::Order,
    Kind::Lost,
    Kind::TooLate,
    Kind::TwoDownloads,
    Kind::Window,
    Kind::EarlyEnd,
    Kind::Unasked,
    Kind::Count,
];

#[test]
fn each_violation_is_caught_and_nothing_else() {
    for (kind, what, history) in WRONG {
        assert_eq!(kinds(*history), [*kind], "{what}");
    }
    let fed: BTreeSet<Kind> = WRONG.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(fed, KINDS.into());
}

/// Histories with nothing wrong.
const RIGHT: &[(&str, Play)] = &[
    ("there and gone", |s| {
        s.keep("a");
        s.keep("b");
        s.take_all(&["a", "b"]);
        s.ledger.drained();
    }),
    ("given back to the next download, in its place", |s| {
        s.keep("a");
        s.keep("b");
        s.read(2, &["a", "b"]);
        s.ledger.stopping(s.bob);
        s.ledger.recovered(s.bob);
        s.take_all(&["a", "b"]);
        s.ledger.drained();
    }),
    ("again, because the server died with the 250", |s| {
        s.keep("a");
        s.keep("b");
        s.read(1, &[]);
        s.take("a");
        s.ledger.received(s.bob, "ann", b"b");
        s.kill();
        s.ledger.counted("bob", 1);
        s.ledger.counted("bob", 2);
        s.take_all(&["a", "b"]);
    }),
    ("again in the same life, because the 250 was lost with the connection", |s| {
        s.keep("a");
        s.read(1, &[]);
        s.take("a");
        s.ledger.closed(s.bob, Parting::Torn);
        s.bob = s.ledger.session("bob");
        s.take_all(&["a"]);
    }),
    ("unknown ones, there or not", |s| {
        s.send("a");
        s.ledger.answered(s.ann, Answer::Unknown);
        s.send("b");
        s.send("c");
        s.kill();
        s.ledger.counted("bob", 0);
        s.ledger.counted("bob", 3);
        s.take_all(&["b"]);
        s.ledger.drained();
    }),
    ("unanswered ones of two connections, in either order", |s| {
        s.send("a");
        let other = s.ledger.session("ann");
        s.ledger.sending(other, "bob", b"b");
        s.take_all(&["b", "a"]);
        s.ledger.closed(other, Parting::Torn);
    }),
    ("kept after the download began", |s| {
        s.ledger.downloading(s.bob, 1);
        s.keep("a");
        s.ledger.ended(s.bob, End::Nothing);
    }),
    ("256 while another session downloads", |s| {
        s.keep("a");
        s.read(1, &["a"]);
        s.ledger.downloading(s.bob2, 1);
        s.ledger.ended(s.bob2, End::Nothing);
        // Nor once it was dropped: the server may learn of that later.
        s.ledger.closed(s.bob, Parting::Torn);
        s.ledger.downloading(s.bob2, 1);
        s.ledger.ended(s.bob2, End::Nothing);
        s.bob = s.ledger.session("bob");
    }),
    ("read after the client's own 550, while another has it", |s| {
        s.keep("a");
        s.keep("b");
        s.read(2, &["a"]);
        s.ledger.stopping(s.bob);
        s.ledger.downloading(s.bob2, 1);
        s.ledger.received(s.bob2, "ann", b"a");
        s.ledger.acknowledging(s.bob2);
        s.ledger.received(s.bob, "ann", b"b");
        s.ledger.recovered(s.bob);
        s.ledger.received(s.bob2, "ann", b"b");
        s.ledger.acknowledging(s.bob2);
        s.ledger.ended(s.bob2, End::All);
    }),
    ("a failed download", |s| {
        s.keep("a");
        s.read(1, &["a"]);
        s.ledger.ended(s.bob, End::Failed);
        s.take_all(&["a"]);
    }),
];

#[test]
fn what_the_contract_allows_is_no_violation() {
    for (what, history) in RIGHT {
        assert_eq!(kinds(*history), [], "{what}");
    }
}

#[test]
fn what_happened_is_counted() {
    let mut scene = Scene::new();
    scene.keep("a");
    scene.keep("b");
    scene.send("c");
    scene.read(1, &[]);
    scene.take("a");
    scene.ledger.received(scene.bob, "ann", b"b");
    scene.kill();
    scene.take_all(&["a", "b", "c"]);
    let expected = Counts { sent: 3, kept: 2, delivered: 3, given_back: 1, duplicates: 1, unconfirmed: 1 };
    assert_eq!(scene.ledger.counts(), expected);
    assert_eq!(scene.ledger.violations(), []);
}

#[test]
#[should_panic(expected = "twice")]
fn a_body_is_sent_once() {
    let mut scene = Scene::new();
    scene.send("a");
    scene.send("a");
}
