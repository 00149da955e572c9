//! A crowd of logged-in clients in every state, and restarts that none of them may notice. One thread, so that what a
//! client waits for is the server and not its neighbours; the ledger judges what was sent and received.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::client::{Book, Client, Goal, Role};
use crate::ledger::{Counts, Ledger};
use crate::running;

/// How long anything may take on a busy machine where one thread serves all clients.
const PATIENCE: Duration = running::PATIENCE.saturating_mul(2);
/// Clients that log in at the same time: password hashes are dear, and the server's login deadline is short.
const LOGINS_AT_ONCE: usize = 50;
/// Source addresses, so that no limit of one of them is met.
const SOURCES: usize = 20;
/// Users that active clients share.
const ACTIVE_USERS: usize = 40;
/// Of those who need no user of their own; a user has no more sessions than are allowed by default.
const COMMON_USERS: usize = 40;
pub const PASSWORD: &str = "secret-1";

/// How many clients of a hundred are in which state.
const SHARES: [(Role, usize); 7] = [
    (Role::Idle, 20),
    (Role::Half, 15),
    (Role::Downloading, 12),
    (Role::Waiting, 12),
    (Role::InError, 12),
    (Role::Unread, 9),
    (Role::Active, 20),
];

/// Which roles there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// All of them, in the shares above.
    Every,
    /// Idle clients, and one active one among fifty: for large numbers.
    Quiet,
}

/// The users that a crowd of so many clients needs.
pub fn users(mix: Mix, clients: usize) -> Vec<String> {
    let own = (0..clients).map(|number| user_of(mix.role_of(number), number));
    let mut names: Vec<String> = own.chain((0..ACTIVE_USERS).map(|number| format!("a{number}"))).collect();
    names.sort();
    names.dedup();
    names
}

impl Mix {
    fn role_of(self, number: usize) -> Role {
        if self == Mix::Quiet {
            return if number.is_multiple_of(50) { Role::Active } else { Role::Idle };
        }
        let mut place = number * 37 % 100;
        for (role, share) in SHARES {
            if place < share {
                return role;
            }
            place -= share;
        }
        unreachable!("the shares are a hundred")
    }
}

fn user_of(role: Role, number: usize) -> String {
    match role {
        Role::Active => format!("a{}", number % ACTIVE_USERS),
        Role::Downloading => format!("d{number}"),
        Role::Waiting => format!("w{number}"),
        Role::Idle | Role::Half | Role::InError | Role::Unread => format!("c{}", number % COMMON_USERS),
    }
}

/// What a round of restarts showed.
#[derive(Debug, Default)]
pub struct Figures {
    /// The longest that each active client waited for a reply around each restart.
    pub pauses: Vec<Duration>,
    /// How long new connections waited for their first reply.
    pub newcomers: Vec<Duration>,
    pub counts: Counts,
}

/// The time below which `part` of a hundred lie.
pub fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * part).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

pub struct Crowd {
    address: SocketAddrV4,
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    book: Book,
    round: usize,
    figures: Figures,
}

impl Crowd {
    /// Connects and logs in. The users of [`users`] must be there, with [`PASSWORD`].
    pub fn new(address: SocketAddrV4, mix: Mix, size: usize) -> Crowd {
        let mut crowd = Crowd {
            address,
            poll: Poll::new().expect("a poll"),
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            book: Book { ledger: Ledger::default(), bodies: 0 },
            round: 0,
            figures: Figures::default(),
        };
        for number in 0..size {
            let role = mix.role_of(number);
            let source = Ipv4Addr::new(127, 77, 1, u8::try_from(number % SOURCES + 1).expect("few"));
            let mut stream = connect(source, address, role == Role::Unread);
            let interest = Interest::READABLE | Interest::WRITABLE;
            crowd.poll.registry().register(&mut stream, Token(number), interest).expect("registered");
            // Every one of their users has a session in the end, if there are enough of them.
            let actives = crowd.clients.iter().filter(|client| client.role == Role::Active).count();
            let user = user_of(role, if role == Role::Active { actives } else { number });
            let session = crowd.book.ledger.session(&user);
            crowd.clients.push(Client::new(stream, role, user, session, PASSWORD));
            if number % LOGINS_AT_ONCE == LOGINS_AT_ONCE - 1 || number + 1 == size {
                crowd.until("logins", |crowd| crowd.clients.iter().all(Client::is_settled));
            }
        }
        for number in 0..crowd.clients.len() {
            crowd.clients[number].take_place(&mut crowd.book);
        }
        crowd.settle("every client in its state");
        crowd
    }

    /// One restart: everybody into the middle of something, `restart`, and everybody goes on.
    pub fn restart(&mut self, restart: impl FnOnce() + Send) {
        self.round += 1;
        let friends = self.round * 7;
        for number in 0..self.clients.len() {
            let friend = format!("a{}", (number + friends) % ACTIVE_USERS);
            self.clients[number].before(&mut self.book, &friend, self.round);
        }
        self.settle("every client in the middle of something");
        // From here on it counts.
        self.clients.iter_mut().for_each(|client| _ = client.take_longest());
        let (over, address) = (AtomicBool::new(false), self.address);
        let newcomers = thread::scope(|scope| {
            // Also if this thread panics: a scope waits for its threads.
            let no_more = SetOnDrop(&over);
            let newcomers = scope.spawn(|| knock(address, &over));
            let restarting = scope.spawn(restart);
            self.until("the restart", |_| restarting.is_finished());
            restarting.join().expect("the restart");
            let begun = Instant::now();
            self.until("a reply for each active client", |crowd| {
                crowd.clients.iter().filter(|client| client.role == Role::Active).all(|c| c.has_done_one_since(begun))
            });
            drop(no_more);
            newcomers.join().expect("every new connection is served")
        });
        self.figures.newcomers.extend(newcomers);
        self.figures.pauses.extend(self.clients.iter_mut().filter_map(Client::take_longest));
        let wakes = self.wake_some();
        for client in &mut self.clients {
            client.after(&mut self.book);
        }
        for (number, waiter) in wakes {
            self.clients[number].send(&mut self.book, &waiter);
        }
        self.settle("every client to go on");
    }

    /// Everybody downloads what is left and leaves; what all this showed.
    pub fn finish(mut self) -> Figures {
        for client in &mut self.clients {
            client.stop_acting();
        }
        self.settle("active clients at rest");
        for client in &mut self.clients {
            client.wind_up(&mut self.book);
        }
        self.settle("all downloads at their end");
        // One session for each user, one after another: what is left, and the proof that nothing is.
        let mut last: HashMap<String, usize> = HashMap::new();
        last.extend(self.clients.iter().enumerate().map(|(number, client)| (client.user.clone(), number)));
        for _ in 0..2 {
            last.values().for_each(|number| self.clients[*number].download(&mut self.book, 64));
            self.settle("the last downloads");
        }
        let violations = self.book.ledger.violations();
        assert!(
            violations.is_empty(),
            "{} violations: {:#?}",
            violations.len(),
            &violations[..violations.len().min(5)]
        );
        let counts = self.book.ledger.counts();
        assert_eq!(counts.delivered, counts.kept, "every message that got its 240 was delivered");
        assert_eq!((counts.given_back, counts.duplicates, counts.unconfirmed), (0, 0, 0), "and once only");
        self.figures.counts = counts;
        self.figures
    }

    /// Idle clients that wake a third of the waiters, each time another third.
    fn wake_some(&mut self) -> Vec<(usize, String)> {
        let clients = &self.clients;
        let of_role = |role: Role| (0..clients.len()).filter(move |number| clients[*number].role == role);
        let waiters = of_role(Role::Waiting).filter(|number| number % 3 == self.round % 3);
        let pairs: Vec<(usize, usize)> = of_role(Role::Idle).zip(waiters).collect();
        pairs
            .into_iter()
            .map(|(waker, waiter)| {
                self.clients[waiter].goal = Goal::Woken;
                (waker, self.clients[waiter].user.clone())
            })
            .collect()
    }

    fn settle(&mut self, what: &str) {
        self.until(what, |crowd| crowd.clients.iter().all(Client::is_settled));
    }

    /// Serves all clients until `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Crowd) -> bool) {
        let begun = Instant::now();
        // What was asked since: a socket that was ready all the time is not reported again.
        for client in &mut self.clients {
            client
                .serve(&mut self.book)
                .unwrap_or_else(|fault| panic!("{what}, round {}: {fault}: {client:#?}", self.round));
        }
        while !done(self) {
            if begun.elapsed() > PATIENCE {
                let open: Vec<&Client> = self.clients.iter().filter(|client| !client.is_settled()).take(5).collect();
                panic!("waited {PATIENCE:?} in vain for {what}, round {}: {open:#?}", self.round);
            }
            match self.poll.poll(&mut self.events, Some(Duration::from_millis(5))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => panic!("poll: {error}"),
                _ => {}
            }
            for event in &self.events {
                let Some(client) = self.clients.get_mut(event.token().0) else { continue };
                let served = client.serve(&mut self.book);
                served.unwrap_or_else(|fault| panic!("{what}, round {}: {fault}: {client:#?}", self.round));
            }
            let now = Instant::now();
            for client in &mut self.clients {
                client.act(&mut self.book, now, ACTIVE_USERS);
            }
        }
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients that come while the server restarts: each must be served. How long each waited.
fn knock(address: SocketAddrV4, over: &AtomicBool) -> Vec<Duration> {
    use std::io::{Read, Write};
    let mut waits = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut stream = std::net::TcpStream::connect(address).expect("a new connection is not refused");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(b"USERnewcomer\r\n").expect("written");
        let mut code = [0; 3];
        stream.read_exact(&mut code).expect("a new connection gets its reply");
        assert_eq!(&code, b"220", "a new connection is served");
        waits.push(begun.elapsed());
        thread::sleep(Duration::from_millis(4));
    }
    waits
}

fn connect(source: Ipv4Addr, address: SocketAddrV4, small: bool) -> mio::net::TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
    let flags = SockFlag::SOCK_CLOEXEC;
    let link = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    if small {
        setsockopt(&link, sockopt::RcvBuf, &4096).expect("set");
    }
    use std::os::fd::AsRawFd;
    bind(link.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0))).expect("bound");
    connect(link.as_raw_fd(), &SockaddrIn::from(address)).expect("connected");
    let stream = std::net::TcpStream::from(link);
    stream.set_nodelay(true).expect("set");
    stream.set_nonblocking(true).expect("set");
    mio::net::TcpStream::from_std(stream)
}
