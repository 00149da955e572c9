//! An operator who speaks the control protocol without cpctl: many requests over one connection.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::running::PATIENCE;

pub struct Operator {
    socket: BufReader<UnixStream>,
}

impl Operator {
    #[track_caller]
    pub fn connect(socket: &Path) -> Operator {
        let stream = UnixStream::connect(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
        Operator::over(stream)
    }

    #[track_caller]
    pub fn over(stream: UnixStream) -> Operator {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Operator { socket: BufReader::new(stream) }
    }

    /// The answer to `request`, whatever it is.
    #[track_caller]
    pub fn asks(&mut self, request: &str) -> Value {
        self.socket.get_mut().write_all(format!("{request}\n").as_bytes()).expect("sent");
        self.hears()
    }

    /// The next answer.
    #[track_caller]
    pub fn hears(&mut self) -> Value {
        let mut line = String::new();
        self.socket.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// The answer to `request`, which must succeed.
    #[track_caller]
    pub fn does(&mut self, request: &str) -> Value {
        let answer = self.asks(request);
        assert_eq!(answer["ok"], true, "{request}: {answer}");
        answer
    }

    #[track_caller]
    pub fn add_user(&mut self, name: &str, password: &str) {
        self.does(&format!(r#"{{"v":1,"cmd":"user.add","name":"{name}","password":"{password}"}}"#));
    }

    /// One of the counters of `status`.
    #[track_caller]
    pub fn counter(&mut self, name: &str) -> u64 {
        let status = self.does(r#"{"v":1,"cmd":"status"}"#);
        status["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {status}"))
    }
}
