//! One peer on the metrics socket. It gets plain text, or an answer of HTTP/1.0 if it asks by HTTP,
//! as Prometheus and curl do.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::Registry;

/// How long a peer has to say that it speaks HTTP; one that says nothing gets plain text.
const SILENCE: Duration = Duration::from_millis(200);
/// How long a peer may take in all. It is dropped then.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request that is read.
const MAX_REQUEST: usize = 8 * 1024;
/// Of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A peer on its way from a question to its answer.
pub(super) struct Client {
    stream: UnixStream,
    since: Instant,
    request: Vec<u8>,
    answer: Option<Answer>,
}

struct Answer {
    bytes: Vec<u8>,
    sent: usize,
}

/// What is known of a request.
enum Asked {
    /// More is to come.
    NotYet,
    /// Nothing that looks like HTTP.
    Plain,
    /// A method and a path.
    Http(String, String),
}

impl Client {
    pub fn new(stream: UnixStream) -> Self {
        Client {
            stream,
            since: Instant::now(),
            request: Vec::new(),
            answer: None,
        }
    }

    /// What to wait for.
    pub fn events(&self) -> i16 {
        match self.answer {
            None => libc::POLLIN,
            Some(_) => libc::POLLOUT,
        }
    }

    /// When to go on in any case.
    pub fn deadline(&self) -> Instant {
        let silent = self.answer.is_none() && self.request.is_empty();
        self.since + if silent { SILENCE } else { PATIENCE }
    }

    /// Does what can be done now without waiting; false once it's done with the peer.
    pub fn go_on(&mut self, ready: bool, now: Instant, registry: &Registry) -> bool {
        let late = now >= self.deadline();
        if !ready && !late {
            return true;
        }
        if self.answer.is_none() {
            let asked = match self.read() {
                Ok(Asked::NotYet) if late && self.request.is_empty() => Asked::Plain,
                Ok(asked) => asked,
                Err(_) => return false,
            };
            self.answer = match asked {
                Asked::NotYet => None,
                Asked::Plain => Some(Answer::plain(registry)),
                Asked::Http(method, path) => Some(Answer::http(&method, &path, registry)),
            };
        }
        match &mut self.answer {
            None => !late,
            Some(answer) => match answer.send(&mut self.stream) {
                Ok(false) => now < self.since + PATIENCE,
                Ok(true) => {
                    let _ = self.stream.shutdown(Shutdown::Both);
                    false
                }
                Err(_) => false,
            },
        }
    }

    /// Reads what there is.
    fn read(&mut self) -> io::Result<Asked> {
        let mut part = [0; 1024];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Ok(Asked::Plain), // it only listens
                Ok(count) => self.request.extend_from_slice(&part[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
            if self.request.len() > MAX_REQUEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(understand(&self.request))
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// The request line of HTTP (RFC 9112 §3), once all header fields are there.
fn understand(request: &[u8]) -> Asked {
    if request.is_empty() {
        return Asked::NotYet;
    }
    // A method is capital letters and a space.
    let method: Vec<u8> = request
        .iter()
        .copied()
        .take_while(u8::is_ascii_uppercase)
        .collect();
    match request.get(method.len()) {
        None if method.len() < 16 => return Asked::NotYet,
        Some(b' ') if !method.is_empty() => {}
        _ => return Asked::Plain,
    }
    let ended =
        request.windows(4).any(|w| w == b"\r\n\r\n") || request.windows(2).any(|w| w == b"\n\n");
    if !ended {
        return Asked::NotYet;
    }
    let line = request
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    Asked::Http(word(), word())
}

impl Answer {
    fn plain(registry: &Registry) -> Self {
        Answer {
            bytes: registry.render().into_bytes(),
            sent: 0,
        }
    }

    fn http(method: &str, path: &str, registry: &Registry) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        let (status, mut text) = match (method, path) {
            ("GET" | "HEAD", "/metrics" | "/") => ("200 OK", registry.render()),
            ("GET" | "HEAD", _) => ("404 Not Found", "try /metrics\n".to_owned()),
            _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
        };
        let length = text.len();
        if method == "HEAD" {
            text.clear();
        }
        let allow = if status.starts_with("405") {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let head = format!(
            "HTTP/1.0 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n\
             {allow}Connection: close\r\n\r\n"
        );
        Answer {
            bytes: (head + &text).into_bytes(),
            sent: 0,
        }
    }

    /// Sends what goes now; true when all has gone.
    fn send(&mut self, stream: &mut UnixStream) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            // Not SIGPIPE if the peer has gone: Rust ignores that signal from the start.
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}
