//! The control socket while no descriptor is left. Alone in its binary, because the limit is the whole process's.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cpd::daemon::control_hub::{ACCEPT_PAUSE_MS, Hub, HubEvent, TOKENS};
use mio::net::UnixListener;
use mio::{Events, Poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn without_descriptors_accepting_pauses_and_goes_on_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.sock");
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(16);
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut hub = Hub::new(vec![listener], poll.registry(), 0..TOKENS).expect("a hub");
    let mut client = UnixStream::connect(&path).expect("room in the backlog");
    client.set_nonblocking(true).expect("a socket");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    // So low that not even a descriptor that is given up makes room.
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("a lower limit");

    poll.poll(&mut events, Some(Duration::ZERO)).expect("a poll");
    events.iter().for_each(|event| hub.handle_event(event, poll.registry(), 0));
    assert!(matches!(hub.next_event(), Some(HubEvent::AcceptFailed(_))));
    assert_eq!(hub.next_deadline(), ACCEPT_PAUSE_MS, "no spinning");
    hub.expire(poll.registry(), ACCEPT_PAUSE_MS - 1);
    assert!(hub.next_event().is_none());
    hub.expire(poll.registry(), ACCEPT_PAUSE_MS);
    assert!(hub.next_event().is_none(), "told once");
    assert_eq!(hub.next_deadline(), 2 * ACCEPT_PAUSE_MS);

    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("the limit of before");
    client.write_all(b"{\"v\":1,\"cmd\":\"status\"}\n").expect("room in the socket");
    hub.expire(poll.registry(), 2 * ACCEPT_PAUSE_MS);
    poll.poll(&mut events, Some(Duration::ZERO)).expect("a poll");
    events.iter().for_each(|event| hub.handle_event(event, poll.registry(), 2 * ACCEPT_PAUSE_MS));
    let incoming = hub.next_request().expect("the request of who waited");
    hub.answer(incoming.id, b"{\"ok\":true}\n".to_vec(), 2 * ACCEPT_PAUSE_MS);
    let mut heard = [0; 64];
    let count = client.read(&mut heard).expect("an answer");
    assert_eq!(&heard[..count], b"{\"ok\":true}\n");
}
