//! One peer: hyper's connection on a socket that never waits, and how long its requests take.

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::{Response, StatusCode};

use super::body::{self, Whole};
use super::{Answer, MAX_HEAD, PATIENCE, Reply, Request, Service};
use crate::polling::polled;

/// A peer.
pub struct Connection {
    http: http1::Connection<Socket, Handler>,
    progress: Shared,
    fd: RawFd,
}

/// Where a peer is between a question and its answer.
#[derive(Debug)]
struct Progress {
    wants_read: bool,
    wants_write: bool,
    /// When the first byte of the request came that is not answered yet.
    asking_since: Option<Instant>,
    idle_since: Instant,
    /// The answer takes its time, which is not the peer's fault.
    is_thinking: bool,
    is_answered: bool,
}

#[derive(Clone, Debug)]
struct Shared(Arc<Mutex<Progress>>);

impl Shared {
    fn get(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    pub fn new(stream: UnixStream, service: Arc<dyn Service>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let fd = stream.as_raw_fd();
        let progress = Shared(Arc::new(Mutex::new(Progress {
            wants_read: true,
            wants_write: false,
            asking_since: None,
            idle_since: Instant::now(),
            is_thinking: false,
            is_answered: false,
        })));
        let socket = Socket {
            stream,
            progress: progress.clone(),
        };
        let handler = Handler {
            service,
            progress: progress.clone(),
        };
        let mut http = http1::Builder::new();
        let http = (http.max_header_size(MAX_HEAD).max_buf_size(2 * MAX_HEAD))
            .writev(false)
            .auto_date_header(false);
        Ok(Connection {
            http: http.serve_connection(socket, handler),
            progress,
            fd,
        })
    }

    /// What to wait for. A peer that has gone, and from which nothing is wanted, must not wake
    /// anybody: poll(2) tells of it whether asked or not.
    pub fn polled(&self) -> libc::pollfd {
        let progress = self.progress.get();
        let event = |wanted, event| if wanted { event } else { 0 };
        let events =
            event(progress.wants_read, libc::POLLIN) | event(progress.wants_write, libc::POLLOUT);
        polled(if events == 0 { -1 } else { self.fd }, events)
    }

    /// When it has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        let progress = self.progress.get();
        let since = progress.asking_since.filter(|_| !progress.is_thinking);
        since.map(|since| since + PATIENCE)
    }

    /// Since when it has asked nothing.
    pub fn idle_since(&self) -> Option<Instant> {
        let progress = self.progress.get();
        let is_idle = progress.asking_since.is_none();
        is_idle.then_some(progress.idle_since)
    }

    /// Whether an answer isn't sent to its end.
    pub fn is_sending(&self) -> bool {
        self.progress.get().wants_write
    }

    /// After the answer that is being made, if any, nothing more is taken.
    pub fn hang_up(&mut self) {
        Pin::new(&mut self.http).graceful_shutdown();
    }

    /// Does what can be done without waiting; false once it's done with the peer.
    pub fn go_on(&mut self, now: Instant, waker: &Waker) -> bool {
        if self.deadline().is_some_and(|at| now >= at) {
            return false;
        }
        {
            let mut progress = self.progress.get();
            (progress.wants_read, progress.wants_write) = (false, false);
        }
        let http = Pin::new(&mut self.http);
        if let Poll::Ready(result) = http.poll(&mut Context::from_waker(waker)) {
            if let Err(error) = result {
                log::debug!("--api: a peer: {error}");
            }
            return false;
        }
        let mut progress = self.progress.get();
        if progress.is_answered && !progress.wants_write {
            (progress.asking_since, progress.is_answered) = (None, false);
            progress.idle_since = now;
        }
        true
    }
}

/// Hands requests on, and answers back.
struct Handler {
    service: Arc<dyn Service>,
    progress: Shared,
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<Whole>, hyper::Error>> + Send>>;

impl hyper::service::Service<hyper::Request<Incoming>> for Handler {
    type Response = Response<Whole>;
    type Error = hyper::Error;
    type Future = Answered;

    fn call(&self, request: hyper::Request<Incoming>) -> Answered {
        let (service, progress) = (self.service.clone(), self.progress.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let reply = match body::read(body).await? {
                Some(body) => service.answer(Request {
                    method: head.method.as_str().to_owned(),
                    path: head.uri.path().to_owned(),
                    body,
                }),
                None => Reply::Now(service.too_long()),
            };
            let answer = match reply {
                Reply::Now(answer) => answer,
                Reply::Later(later) => {
                    progress.get().is_thinking = true;
                    poll_fn(|_| later.poll()).await
                }
            };
            let mut progress = progress.get();
            (progress.is_thinking, progress.is_answered) = (false, true);
            // The peer's time to take it starts now.
            progress.asking_since = Some(Instant::now());
            Ok(response(answer))
        })
    }
}

fn response(answer: Answer) -> Response<Whole> {
    let has_body = !answer.body.is_empty();
    let mut response = Response::new(Whole::from(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(SERVER, HeaderValue::from_static("mote"));
    if has_body {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(answer.media_type));
    }
    response
}

/// A socket that never waits, as hyper reads and writes it.
struct Socket {
    stream: UnixStream,
    progress: Shared,
}

impl hyper::rt::Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = bytes.len().min(to.remaining());
        let read = without_waiting(|| self.stream.read(&mut bytes[..room]));
        let mut progress = self.progress.get();
        match read {
            Poll::Ready(Ok(count)) => {
                if count > 0 && progress.asking_since.is_none() {
                    progress.asking_since = Some(Instant::now());
                }
                to.put_slice(&bytes[..count]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                progress.wants_read = true;
                Poll::Pending
            }
        }
    }
}

impl hyper::rt::Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Not SIGPIPE if the peer has gone: Rust ignores that signal from the start.
        let written = without_waiting(|| self.stream.write(bytes));
        self.progress.get().wants_write |= written.is_pending();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}

fn without_waiting(mut work: impl FnMut() -> io::Result<usize>) -> Poll<io::Result<usize>> {
    loop {
        return match work() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        };
    }
}
