//! HTTP/1.1 over a Unix socket: connections, and what each may cost. What is asked and answered is not looked
//! at here ([`Service`]).
//!
//! The protocol is hyper's. Its connections are futures; the loop here polls them when poll(2) has
//! something for them, so there is neither a runtime nor a thread but the one that calls
//! [`Server::serve`], and that one makes six system calls.

mod body;
mod connection;

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::polling::{poll, polled, raw};
use crate::sockets::{ListenError, Made, listen};
pub(super) use connection::Connection;

/// The most peers at a time. For a further one, the one goes that has asked nothing for the longest time.
pub const MAX_CONNECTIONS: usize = 10;
/// The longest body of a request, in bytes.
pub const MAX_BODY: usize = 51_200;
/// The longest head of a request: its first line and its fields.
pub const MAX_HEAD: usize = 8 << 10;
/// How long a request may take from its first byte to the last one of the answer, but for the time that
/// the answer itself takes.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long peers wait where the host has no descriptor for one.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the last answers may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// In capital letters.
    pub method: String,
    /// Without what follows a question mark.
    pub path: String,
    /// As it came.
    pub body: Vec<u8>,
}

/// What is said to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, such as 204.
    pub status: u16,
    /// Of the body.
    pub media_type: &'static str,
    /// Nothing with 204.
    pub body: Vec<u8>,
}

/// When it is said.
#[derive(Debug)]
pub enum Reply {
    /// At once.
    Now(Answer),
    /// When it is known.
    Later(Later),
}

/// An answer that is still to come.
#[derive(Clone, Debug, Default)]
pub struct Later(Arc<Mutex<Option<Answer>>>);

impl Later {
    /// Here it is. Who serves has to be woken, if it is another thread.
    pub fn is(&self, answer: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    /// Whether somebody waits for it still.
    pub fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn poll(&self) -> Poll<Answer> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.map_or(Poll::Pending, Poll::Ready)
    }
}

/// Who answers.
pub trait Service: Send + Sync {
    /// Answers one request; the others wait meanwhile.
    fn answer(&self, request: Request) -> Reply;

    /// The same, of a body that is longer than [`MAX_BODY`].
    fn too_long(&self) -> Answer;
}

/// A socket with all that are connected to it.
pub struct Server {
    listener: UnixListener,
    service: Arc<dyn Service>,
    connections: Vec<Connection>,
    again: Arc<Again>,
    /// No peer is accepted before: the host had no descriptor for one.
    not_before: Option<Instant>,
    made: Option<Made>,
}

impl Server {
    /// Makes the socket, which only this user may connect to, or takes over the one of `fd=N`.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn open(path: &Path, service: Arc<dyn Service>) -> Result<Self, ListenError> {
        let (listener, made) = listen(path, Some(0o600))?;
        Ok(Server {
            listener,
            service,
            connections: Vec::new(),
            again: Arc::default(),
            not_before: None,
            made,
        })
    }

    /// Answers until `enough` says so or `wake` is readable; true in the latter case.
    ///
    /// # Errors
    ///
    /// Waiting failed.
    pub fn serve(&mut self, wake: RawFd, enough: impl Fn() -> bool) -> io::Result<bool> {
        let mut fds = Vec::new();
        loop {
            let now = Instant::now();
            self.go_on(now);
            if enough() {
                return Ok(false);
            }
            if self.again.0.swap(false, Ordering::AcqRel) {
                continue;
            }
            self.not_before = self.not_before.filter(|at| *at > now);
            let full = self.connections.len() >= MAX_CONNECTIONS && self.longest_idle().is_none();
            let closed = full || self.not_before.is_some();
            let listener = Some(&self.listener).filter(|_| !closed);
            fds.clear();
            fds.push(polled(wake, libc::POLLIN));
            fds.push(polled(raw(listener), libc::POLLIN));
            fds.extend(self.connections.iter().map(Connection::polled));
            let deadlines = self.connections.iter().filter_map(Connection::deadline);
            poll(&mut fds, deadlines.chain(self.not_before).min())?;
            if fds[1].revents != 0 {
                self.accept();
            }
            if fds[0].revents != 0 {
                self.go_on(Instant::now());
                return Ok(true);
            }
        }
    }

    /// The socket's name, which is then removed when that is dropped, and not with this.
    pub fn take_name(&mut self) -> Option<Made> {
        self.made.take()
    }

    /// Sends what has been answered, and hangs up.
    pub fn finish(mut self) {
        let end = Instant::now() + FAREWELL;
        self.connections.iter_mut().for_each(Connection::hang_up);
        self.go_on(Instant::now());
        while self.connections.iter().any(Connection::is_sending) && Instant::now() < end {
            let mut fds: Vec<_> = self.connections.iter().map(Connection::polled).collect();
            if poll(&mut fds, Some(end)).is_err() {
                return;
            }
            self.go_on(Instant::now());
        }
    }

    fn go_on(&mut self, now: Instant) {
        let waker = Waker::from(self.again.clone());
        self.connections
            .retain_mut(|connection| connection.go_on(now, &waker));
    }

    /// Which peer is to go first.
    fn longest_idle(&self) -> Option<usize> {
        let idle = self.connections.iter().map(Connection::idle_since);
        let idle = idle.enumerate().filter_map(|(at, idle)| Some((idle?, at)));
        idle.min().map(|(_, at)| at)
    }

    fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            // Another process, which has the same socket, was faster.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // The peer has gone again, or there is no descriptor left for it.
            Err(error) => {
                log::debug!("--api: accepting a peer: {error}");
                self.not_before = Some(Instant::now() + PAUSE);
                return;
            }
        };
        if self.connections.len() >= MAX_CONNECTIONS
            && let Some(longest) = self.longest_idle()
        {
            self.connections.remove(longest);
        }
        match Connection::new(stream, self.service.clone()) {
            Ok(connection) => self.connections.push(connection),
            Err(error) => log::debug!("--api: a peer: {error}"),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

/// A connection wants to go on at once.
#[derive(Debug, Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
