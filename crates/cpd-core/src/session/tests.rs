//! A session on its own, with services that only do what a test makes them do: the order of outcomes, full output, the
//! end of input, deadlines, and hand-overs.

mod classic;
mod handover;
mod time;

use cp_proto::limits::UNTERMINATED_MAX_BYTES;
use cp_proto::values::{Password, Username};

use super::*;
use crate::dfa::{Refusal, StateName};
use crate::download::PageMessage;
use crate::limits::OUTPUT_HIGH_WATER_BYTES;
use crate::services::{Admission, LeaseAnswer};

/// The outcome of a store of which it is not known whether it has succeeded.
const OUTCOME_UNKNOWN: Result<(), Refusal> = Err(Refusal::OutcomeUnknown);

/// A call of the services.
#[derive(Debug, PartialEq, Eq)]
enum ServiceCall {
    /// The value tells whether there was a password.
    Verify(bool),
    Store(String),
    Read(u32),
    Delete(u64),
    FlushDeletes,
    Close,
}

/// The services, settings and clock of a test.
struct World {
    now: Millis,
    settings: SessionSettings,
    asked: Vec<ServiceCall>,
    admission: Admission,
    opening: LeaseAnswer,
    /// How many messages were not admitted.
    refused: usize,
}

impl Services for World {
    fn verify(&mut self, _: Username, password: Option<Password>) {
        self.asked.push(ServiceCall::Verify(password.is_some()));
    }

    fn store(&mut self, _: Username, _: Username, body: &[u8]) -> Admission {
        self.refused += usize::from(self.admission != Admission::Admitted);
        if self.admission == Admission::Admitted {
            self.asked.push(ServiceCall::Store(String::from_utf8_lossy(body).into_owned()));
        }
        self.admission
    }

    fn open_download(&mut self, _: Username, _: bool) -> LeaseAnswer {
        self.opening
    }

    fn read_queue(&mut self, _: Username, serial: u32) -> bool {
        self.asked.push(ServiceCall::Read(serial));
        true
    }

    fn delete(&mut self, _: Username, id: MessageId) -> bool {
        self.asked.push(ServiceCall::Delete(id.0));
        true
    }

    fn flush_deletes(&mut self) {
        self.asked.push(ServiceCall::FlushDeletes);
    }

    fn count_reply(&mut self, _: Reply) {}

    fn logged_in(&mut self, _: Username) {}

    fn logged_out(&mut self, _: Username) {}

    fn close_download(&mut self, _: Username) {
        self.asked.push(ServiceCall::Close);
    }
}

/// A session and its surroundings.
struct Scene {
    session: Session,
    world: World,
}

/// Calls a method of the session with the context of its surroundings.
macro_rules! call {
    ($scene:expr, $method:ident $(, $argument:expr)*) => {{
        let Scene { session, world } = &mut $scene;
        let (now, settings) = (world.now, world.settings);
        session.$method($($argument,)* &mut SessionContext { now, settings: &settings, services: world })
    }};
}
use call;

impl Scene {
    fn new(dialect: Dialect) -> Scene {
        let settings = SessionSettings::default();
        let world = World {
            now: 0,
            settings,
            asked: Vec::new(),
            admission: Admission::Admitted,
            opening: LeaseAnswer::Granted,
            refused: 0,
        };
        Scene { session: Session::new(dialect, 0, &settings), world }
    }

    fn logged_in() -> Scene {
        let mut scene = Scene::new(Dialect::Cp);
        scene.receive(b"USERbob\r\nPASSsecret\r\n");
        call!(scene, verified, true);
        assert_eq!(scene.take_codes(), "220 230");
        scene.world.asked.clear();
        scene
    }

    /// A session with a download with this window, after a page has arrived whose messages have `bytes` bytes each.
    fn downloading(window: u16, ids: std::ops::RangeInclusive<u64>, bytes: usize) -> Scene {
        let mut scene = Scene::logged_in();
        scene.receive(format!("RMSG{window}\r\n").as_bytes());
        call!(scene, page, 1, Some(messages(ids, bytes)));
        scene.world.asked.clear();
        scene
    }

    fn receive(&mut self, bytes: &[u8]) {
        call!(*self, receive, bytes);
    }

    /// Sends the output and returns it.
    fn take_output(&mut self) -> String {
        let output = String::from_utf8_lossy(self.session.output()).into_owned();
        call!(*self, output_sent, output.len());
        output
    }

    /// Sends the output and returns the codes in it.
    fn take_codes(&mut self) -> String {
        let output = self.take_output();
        output.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
    }

    /// Lets time pass, and then handles the deadlines.
    fn wait(&mut self, millis: Millis) {
        self.world.now += millis;
        call!(*self, expire);
    }

    fn stores(&self) -> usize {
        self.world.asked.iter().filter(|asked| matches!(asked, ServiceCall::Store(_))).count()
    }
}

fn messages(ids: std::ops::RangeInclusive<u64>, bytes: usize) -> Page {
    let sender = Username::parse(b"bob").expect("a name");
    let body = 0..u32::try_from(bytes).expect("a length");
    let messages = ids.map(|id| PageMessage { id: MessageId(id), sender, body: body.clone() }).collect();
    Page { messages, bytes: vec![b'x'; bytes], more: false }
}

#[test]
fn a_malformed_password_is_answered_only_after_a_dummy_verification() {
    let mut scene = Scene::new(Dialect::Cp);
    for attempt in 1..=3 {
        scene.receive(b"USERbob\r\nPASS\r\nUSERalice\r\n");
        assert_eq!(scene.take_codes(), "220", "section 7: nothing before the work is done");
        assert_eq!(scene.world.asked.pop(), Some(ServiceCall::Verify(false)));
        assert_eq!(scene.session.next_close_step(), Closing::Open);
        call!(scene, verified, false);
        if attempt == 3 {
            break;
        }
        assert_eq!(scene.take_codes(), "565 220");
        scene.receive(b"PASSsecret\r\n");
        call!(scene, verified, true);
        assert_eq!(scene.take_codes(), "230");
        scene = Scene { session: Session { state: State::Idle, ..scene.session }, ..scene };
    }
    assert_eq!(scene.session.output(), b"565 error authenticating user\r\n");
    assert_eq!(scene.session.next_close_step(), Closing::Stopping, "three failures: closed when that is sent");
    scene.take_output();
    assert_eq!(scene.session.next_close_step(), Closing::Flush);
}

#[test]
fn discarded_outcomes_never_answer_a_later_message() {
    let mut scene = Scene::logged_in();
    scene.receive(b"SMSGbob:a\r\nSMSGbob:b\r\nSMSGbob:c\r\n");
    assert_eq!(scene.stores(), 3);
    call!(scene, stored, OUTCOME_UNKNOWN);
    assert_eq!(scene.take_codes(), "540 500 500");
    scene.receive(b"201\r\nSMSGbob:d\r\n");
    assert_eq!((scene.take_codes().as_str(), scene.stores()), ("201", 4));
    call!(scene, stored, Ok(()));
    call!(scene, stored, Ok(()));
    assert_eq!(scene.take_codes(), "", "a 240 for what is not stored yet");
    call!(scene, stored, Ok(()));
    assert_eq!(scene.take_codes(), "240");
}

#[test]
fn messages_under_way_at_once_are_bounded() {
    let mut scene = Scene::logged_in();
    scene.receive(&b"SMSGbob:a\r\n".repeat(200));
    assert_eq!(scene.stores(), usize::from(PIPELINE_MAX_STORES) + 1);
    for _ in 0..200 {
        call!(scene, stored, Ok(()));
    }
    assert_eq!((scene.take_codes(), scene.stores()), (["240"; 200].join(" "), 200));
}

#[test]
fn input_is_not_read_while_output_or_input_is_full() {
    let mut scene = Scene::logged_in();
    assert!(scene.session.wants_input());
    scene.receive(&b"X\r\n".repeat(3000));
    let full = scene.session.output().len();
    assert!((OUTPUT_HIGH_WATER_BYTES..OUTPUT_HIGH_WATER_BYTES + 78).contains(&full), "{full} bytes");
    assert!(!scene.session.wants_input());
    let mut replies = 0;
    while !scene.session.output().is_empty() {
        assert!(scene.session.output().len() < OUTPUT_HIGH_WATER_BYTES + 78);
        replies += scene.take_codes().split(' ').filter(|code| *code == "500").count();
    }
    assert_eq!(replies, 3000, "what was full goes on when there is room");
    assert!(scene.session.wants_input());

    // Each of these alone stops the reading.
    scene.world.admission = Admission::Full;
    scene.receive(b"SMSGbob:a\r\n");
    assert!(!scene.session.wants_input(), "a PDU waits");
    scene.world.admission = Admission::Admitted;
    call!(scene, resume);
    assert!(scene.session.wants_input());
    scene.session.output = Output::restored(vec![b'x'; OUTPUT_HIGH_WATER_BYTES], NEVER);
    assert!(!scene.session.wants_input(), "the output is full");
    scene.session.output = Output::default();
    scene.session.stop();
    assert!(!scene.session.wants_input(), "it stops");
    let mut ended = Scene::logged_in();
    ended.receive(b"SMSGbob:a\r\n");
    call!(ended, end_of_input);
    assert!(ended.session.next_close_step() == Closing::Open && !ended.session.wants_input(), "nothing more comes");
}

#[test]
fn messages_stop_where_the_output_is_full() {
    // With sender and line end each has 512 bytes, so 32 of them are exactly the high-water mark.
    let mut scene = Scene::downloading(40, 1..=40, 502);
    assert_eq!(scene.session.output().len(), OUTPUT_HIGH_WATER_BYTES);
    assert_eq!(scene.take_output().len() + scene.take_output().len(), 40 * 512);
}

#[test]
fn the_next_deadline_is_the_first_of_all() {
    let mut scene = Scene::new(Dialect::Classic);
    assert_eq!(scene.session.dialect(), Dialect::Classic);
    assert_eq!(scene.session.deadline(), 60_000, "a login");
    scene.receive(b"US");
    assert_eq!(scene.session.deadline(), 50, "silence");
    let mut scene = Scene::logged_in();
    assert_eq!(scene.session.deadline(), 30 * 60_000, "idle");
    scene.world.now = 5;
    scene.receive(b"US");
    assert_eq!(scene.session.deadline(), 30_005, "a PDU");
    assert_eq!(scene.session.idle_for(1005), 1005, "half a PDU is not one");
    scene.receive(b"ER\r\n");
    assert_eq!((scene.session.idle_for(1005), scene.session.idle_for(0)), (1000, 0));
}

#[test]
fn a_deadline_ends_with_its_cause() {
    let mut scene = Scene::logged_in();
    scene.receive(b"SMSGbob\r\n");
    assert_eq!(scene.take_codes(), "540");
    assert_eq!(scene.session.deadlines.state, 60_000);
    scene.wait(59_000);
    scene.receive(b"201\r\nRMSG\r\n");
    scene.wait(2000);
    assert_eq!(scene.take_codes(), "201", "a queue that is being read is not late because a recovery would be");
    call!(scene, page, 1, Some(messages(1..=1, 1)));
    scene.take_output();
    assert_eq!(scene.session.deadlines.state, 61_000 + 30_000);
    scene.receive(b"250\r\n");
    assert_eq!(scene.world.asked.pop(), Some(ServiceCall::FlushDeletes));
    scene.wait(40_000);
    assert_eq!(scene.take_codes(), "", "all is acknowledged: a slow store is not the client's time");
    call!(scene, deleted, 1, true);
    assert_eq!(scene.take_codes(), "255");
}

#[test]
fn a_pdu_that_is_late_while_wmsg_waits_ends_the_wait_first() {
    let mut scene = Scene::logged_in();
    scene.world.opening = LeaseAnswer::Waiting;
    scene.receive(b"WMSG300\r\nSMSGbob:");
    scene.wait(30_000);
    assert_eq!(scene.take_codes(), "256 540");
    assert_eq!(scene.session.state().name(), StateName::ErrorProcessing);
}

#[test]
fn a_lease_that_is_asked_for_is_awaited_before_anything_is_read_or_answered() {
    let asks = |command: &[u8]| {
        let mut scene = Scene::logged_in();
        scene.world.opening = LeaseAnswer::Asked;
        scene.receive(command);
        assert_eq!((scene.take_codes().as_str(), scene.world.asked.len()), ("", 0));
        scene
    };
    let mut granted = asks(b"RMSG\r\nNOOP\r\n");
    call!(granted, granted);
    assert_eq!(granted.world.asked.pop(), Some(ServiceCall::Read(1)));
    call!(granted, page, 1, Some(messages(1..=1, 1)));
    assert_eq!(granted.take_codes(), "RMSGbob:x 500", "the PDU behind it had to wait");

    let mut nothing = asks(b"RMSG\r\nNOOP\r\n");
    call!(nothing, nothing);
    assert_eq!((nothing.take_codes().as_str(), nothing.world.asked.pop()), ("256 500", Some(ServiceCall::Close)));

    // A wait ends without an answer, too, when its time is over.
    let mut waits = asks(b"WMSG2\r\n");
    waits.wait(2000);
    assert_eq!((waits.take_codes().as_str(), waits.world.asked.pop()), ("256", Some(ServiceCall::Close)));
}

#[test]
fn a_client_whose_pdu_waits_for_the_store_is_not_idle() {
    let mut scene = Scene::logged_in();
    scene.world.admission = Admission::Full;
    scene.wait(29 * 60_000);
    scene.receive(b"SMSGbob:a\r\n");
    scene.wait(31 * 60_000);
    assert_eq!(scene.session.next_close_step(), Closing::Open);
    scene.world.admission = Admission::Admitted;
    call!(scene, resume);
    call!(scene, stored, Ok(()));
    assert_eq!(scene.take_codes(), "240");
    scene.wait(91 * 60_000);
    assert_eq!(scene.session.next_close_step(), Closing::Flush);
}

#[test]
fn what_the_server_says_does_not_prolong_idle_time() {
    let mut scene = Scene::downloading(1, 1..=1, 1);
    assert_eq!(scene.take_codes(), "RMSGbob:x");
    scene.wait(30_000);
    assert_eq!((scene.take_codes().as_str(), scene.session.deadlines.idle), ("550", 30 * 60_000));
}

/// Idle time stands still during WMSG (section 6), but not after it.
#[test]
fn idle_time_restarts_when_a_failing_delete_ends_a_wait() {
    let mut scene = Scene::downloading(1, 1..=2, 1);
    scene.world.opening = LeaseAnswer::Waiting;
    scene.receive(b"250\r\n550\r\n201\r\nWMSG300\r\n");
    assert_eq!((scene.take_codes().as_str(), scene.session.deadlines.idle), ("RMSGbob:x RMSGbob:x 201", NEVER));
    scene.world.now = 1000;
    call!(scene, deleted, 1, false);
    assert_eq!((scene.take_codes().as_str(), scene.session.deadlines.idle), ("550", 1000 + 30 * 60_000));
    scene.receive(b"201\r\n");
    assert_eq!((scene.take_codes().as_str(), scene.session.next_close_step()), ("201", Closing::Open));
    scene.wait(30 * 60_000);
    assert_eq!((scene.take_codes().as_str(), scene.session.next_close_step()), ("", Closing::Flush));
}

#[test]
fn what_was_purged_is_not_sent_and_the_download_ends() {
    let mut scene = Scene::downloading(1, 1..=3, 1);
    assert_eq!(scene.take_output(), "RMSGbob:x\r\n");
    call!(scene, purged, |id| id.0 > 1);
    scene.receive(b"250\r\n");
    call!(scene, deleted, 1, true);
    assert_eq!(scene.take_codes(), "255");
    // The download also ends if nothing was sent that could be acknowledged.
    let mut scene = Scene::logged_in();
    scene.receive(b"RMSG\r\n");
    scene.session.output = Output::restored(vec![b'x'; OUTPUT_HIGH_WATER_BYTES], NEVER);
    call!(scene, page, 1, Some(messages(1..=3, 1)));
    call!(scene, purged, |_| true);
    assert!(scene.session.output().ends_with(b"256 no new messages\r\n"));
}

#[test]
fn after_the_end_of_input_everything_under_way_is_still_answered() {
    let ended = |mut scene: Scene| {
        call!(scene, end_of_input);
        assert_eq!(scene.session.next_close_step(), Closing::Open, "too early");
        scene
    };
    let over = |scene: &mut Scene, said: &str| {
        assert_eq!(scene.take_codes(), said);
        assert_eq!(scene.session.next_close_step(), Closing::Flush);
    };
    let mut idle = Scene::logged_in();
    call!(idle, end_of_input);
    over(&mut idle, "");

    let mut login = Scene::new(Dialect::Cp);
    login.receive(b"USERbob\r\nPASS\r\n");
    login.take_codes();
    let mut login = ended(login);
    call!(login, verified, false);
    over(&mut login, "565");

    let mut waiting = Scene::logged_in();
    waiting.world.admission = Admission::Full;
    waiting.receive(b"SMSGbob:a\r\n");
    let mut waiting = ended(waiting);
    waiting.world.admission = Admission::Refused(Refusal::NoSuchUser);
    call!(waiting, resume);
    over(&mut waiting, "545");

    let mut deleting = Scene::downloading(1, 1..=1, 1);
    deleting.receive(b"250\r\n");
    deleting.take_output();
    let mut deleting = ended(deleting);
    call!(deleting, deleted, 1, true);
    over(&mut deleting, "255");

    // The whole window is sent, as far as the client reads it.
    let mut full = ended(Scene::downloading(20, 1..=20, 1000));
    assert_eq!(full.take_output().len() + full.take_output().len(), 20 * 1010);
    over(&mut full, "");
}

#[test]
fn a_stopping_session_handles_no_pdu_and_answers_work_under_way() {
    let mut scene = Scene::logged_in();
    scene.receive(b"SMSGbob:a\r\nX\r\n");
    scene.session.stop();
    assert_eq!(scene.session.next_close_step(), Closing::Stopping);
    call!(scene, stored, Ok(()));
    assert_eq!(scene.take_codes(), "240", "and not the PDU behind it");
    assert_eq!(scene.session.next_close_step(), Closing::Flush);
    // The delete of an acknowledged message is under way as well.
    let mut scene = Scene::downloading(1, 1..=1, 1);
    scene.receive(b"250\r\n");
    scene.take_output();
    assert!(scene.session.has_store_work());
    scene.session.stop();
    assert_eq!(scene.session.next_close_step(), Closing::Stopping);
    call!(scene, deleted, 1, true);
    assert_eq!(scene.take_codes(), "255");
    assert!(!scene.session.has_store_work());
    assert_eq!(scene.session.next_close_step(), Closing::Flush);
}

/// Whatever ends a session while an SMSG is at the store waits for the reply to that SMSG.
#[test]
fn a_closing_session_first_answers_messages_at_the_store() {
    let flood = [b"SMSGbob:a\r\nSMSGbob:b\r\n".to_vec(), b"X".repeat(UNTERMINATED_MAX_BYTES + 1)].concat();
    for (first, second, codes) in
        [(Ok(()), Ok(()), "240 240"), (Ok(()), OUTCOME_UNKNOWN, "240 540"), (OUTCOME_UNKNOWN, Ok(()), "540 500")]
    {
        let mut scene = Scene::logged_in();
        scene.receive(&flood);
        assert_eq!((scene.stores(), scene.session.wants_input()), (2, false));
        assert_eq!((scene.session.output(), scene.session.next_close_step()), (&b""[..], Closing::Stopping));
        call!(scene, stored, first);
        call!(scene, stored, second);
        assert_eq!((scene.take_codes().as_str(), scene.session.next_close_step()), (codes, Closing::Flush));
    }
    let mut scene = Scene::logged_in();
    scene.receive(b"SMSGbob:a\r\n");
    scene.wait(scene.world.settings.timeouts.idle);
    assert_eq!(scene.session.next_close_step(), Closing::Stopping);
    call!(scene, stored, Ok(()));
    assert_eq!((scene.take_codes().as_str(), scene.session.next_close_step()), ("240", Closing::Flush));
}
