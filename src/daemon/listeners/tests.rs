use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

fn config(dir: &tempfile::TempDir) -> Config {
    Config {
        cp: vec!["127.0.0.1:0".parse().unwrap()],
        control_socket: dir.path().join("control.sock"),
        control_group: String::new(),
        ..Config::default()
    }
}

fn handed(name: &str, fd: impl Into<OwnedFd>) -> Inherited {
    Inherited { name: name.into(), fd: fd.into() }
}

fn notes(listeners: Listeners) -> Vec<String> {
    listeners.notes.into_iter().map(|(_, line)| line.into_text()).collect()
}

#[test]
fn what_is_configured_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    config.classic = vec!["127.0.0.1:0".parse().unwrap()];
    let listeners = open(&config, Vec::new()).unwrap();
    let kinds: Vec<ListenerKind> = listeners.streams.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [ListenerKind::Cp, ListenerKind::Classic]);
    for one in &listeners.streams {
        assert!(one.address.port() != 0 && !one.inherited);
        assert!(TcpStream::connect(one.address).is_ok());
    }
    assert!(UnixStream::connect(&config.control_socket).is_ok());
    assert!(listeners.notes.is_empty());
}

#[test]
fn handed_over_sockets_are_used_instead_and_differences_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = UnixListener::bind(dir.path().join("other.sock")).unwrap();
    let (at, also) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    let inherited = vec![handed("cp", first), handed("control", control), handed("cp", second)];
    config.explicit_keys = ["listen.cp", "control.socket"].map(String::from).into();
    config.classic = vec!["127.0.0.1:0".parse().unwrap()];
    let listeners = open(&config, inherited).unwrap();
    let used: Vec<(ListenerKind, bool)> = listeners.streams.iter().map(|one| (one.kind, one.inherited)).collect();
    assert_eq!(used, [(ListenerKind::Cp, true), (ListenerKind::Cp, true), (ListenerKind::Classic, false)]);
    assert!(listeners.control.len() == 1 && listeners.control[0].inherited());
    assert!(!config.control_socket.exists(), "the configured one is not made");
    let error = listeners.streams[0].socket.accept().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "it does not block");
    let notes = notes(listeners);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("key=listen.cp") && notes[0].contains(&at.to_string()), "{notes:?}");
    assert!(notes[0].contains(&also.to_string()));
    assert!(notes[1].contains("key=control.socket") && notes[1].contains("other.sock"), "{notes:?}");
    assert!(dir.path().join("other.sock").exists(), "a socket that was handed over is not removed");
}

#[test]
fn unused_defaults_are_not_reported() {
    let dir = tempfile::tempdir().unwrap();
    let cp = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = UnixListener::bind(dir.path().join("other.sock")).unwrap();
    let listeners = open(&config(&dir), vec![handed("cp", cp), handed("control", control)]).unwrap();
    assert!(notes(listeners).is_empty());
}

#[test]
fn what_a_handed_over_socket_takes_is_not_bound_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    let cp = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = cp.local_addr().unwrap().port();
    config.classic = vec![format!("127.0.0.1:{port}").parse().unwrap()];
    let fatal = open(&config, vec![handed("cp", cp)]).unwrap_err();
    assert_eq!(fatal.code, ExitCode::Config);
    assert!(fatal.message.contains(&format!("127.0.0.1:{port} (listen.classic) and 0.0.0.0:{port}")), "{fatal}");
}

#[test]
fn the_same_addresses_are_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    let cp = TcpListener::bind("127.0.0.1:0").unwrap();
    config.cp = vec![cp.local_addr().unwrap()];
    let control = UnixListener::bind(&config.control_socket).unwrap();
    let listeners = open(&config, vec![handed("cp", cp), handed("control", control)]).unwrap();
    assert!(notes(listeners).is_empty());
}

#[test]
fn unknown_and_unsupported_names_are_closed_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let stray = TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [stray.local_addr().unwrap(), tls.local_addr().unwrap()];
    let listeners = open(&config(&dir), vec![handed("st\nray", stray), handed("tls", tls)]).unwrap();
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "closed");
    }
    let notes = notes(listeners);
    assert_eq!(notes[0], r#"inherited socket closed name="st\nray" reason="unknown name""#);
    assert_eq!(notes[1], r#"inherited socket closed name=tls reason="not supported in this version""#);
}

#[test]
fn a_descriptor_that_is_not_what_its_name_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
    let connected = || {
        let listener = tcp();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    };
    let file = std::fs::File::open("/dev/null").unwrap();
    let wrong: Vec<Inherited> = vec![
        handed("cp", file),
        handed("cp", UdpSocket::bind("127.0.0.1:0").unwrap()),
        handed("cp", connected()),
        handed("cp", unix("a")),
        handed("classic", unix("b")),
        handed("control", tcp()),
    ];
    for one in wrong {
        let name = one.name.clone();
        let fatal = open(&config(&dir), vec![one]).unwrap_err();
        assert_eq!(fatal.code, ExitCode::Config);
        assert!(fatal.message.contains(&format!("{name:?}")), "{fatal}");
    }
}

#[test]
fn what_the_kernel_keeps_for_a_connection_is_bounded_here_and_by_the_unit() {
    let bounds = |socket: &TcpStream| {
        (getsockopt(socket, sockopt::SndBuf).unwrap(), getsockopt(socket, sockopt::RcvBuf).unwrap())
    };
    let (socket, _) = tcp::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let connect = || TcpStream::connect(address).unwrap();
    let accept = |listener: &mio::net::TcpListener| loop {
        if let Ok((stream, _)) = listener.accept() {
            return TcpStream::from(OwnedFd::from(stream));
        }
    };
    let socket = mio::net::TcpListener::from_std(socket);
    let listener = StreamListener { socket, kind: ListenerKind::Cp, address, inherited: true };
    // A connection that was made before the listener's buffers were bounded.
    let _early = connect();
    set_connection_options(&listener).unwrap();
    let wanted = (2 * SEND_BUFFER_BYTES, 2 * RECEIVE_BUFFER_BYTES);
    let early = accept(&listener.socket);
    assert_ne!(bounds(&early), wanted, "the kernel has changed: a connection is bounded by its listener at any time");
    limit_kernel_buffers(&early).unwrap();
    assert_eq!(bounds(&early), wanted);
    let _late = connect();
    assert_eq!(bounds(&accept(&listener.socket)), wanted);

    let unit = include_str!("../../../packaging/systemd/cpd.socket");
    for (key, bytes) in [("SendBuffer", SEND_BUFFER_BYTES), ("ReceiveBuffer", RECEIVE_BUFFER_BYTES)] {
        let line = format!("{key}={}K", bytes / 1024);
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}
