//! The other end of the API: one request on a connection of its own, and its answer.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::{CliError, Status};

/// How long mote may take to answer what it can answer at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// Far more than an answer has.
const MOST_ANSWER: u64 = 64 << 20;
/// More fields than an answer of mote's has.
const MOST_FIELDS: usize = 32;

/// The socket of a VM.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A question that was asked, and whose answer may take its time.
pub struct Asked<'a> {
    client: &'a Client,
    stream: UnixStream,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        Client { socket }
    }

    /// The answer's body.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, CliError> {
        self.ask("GET", path, None)?.answer(Some(PATIENCE))
    }

    /// The same, as JSON.
    pub fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let body = self.get(path)?;
        serde_json::from_slice(&body)
            .map_err(|e| self.no_mote(&format!("answered {path} with {e}")))
    }

    /// Has something done.
    pub fn tell(&self, method: &str, path: &str, body: &impl Serialize) -> Result<(), CliError> {
        let body = serde_json::to_string(body).map_err(|e| CliError::new(Status::Internal, e))?;
        let answer = self.ask(method, path, Some(&body))?.answer(Some(PATIENCE));
        answer.map(drop)
    }

    /// Asks, and waits for nothing.
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<Asked<'_>, CliError> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|e| self.unreachable(&e))?;
        let length = body.map(|body| {
            let length = body.len();
            format!("Content-Type: application/json\r\nContent-Length: {length}\r\n")
        });
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n{}",
            length.unwrap_or_default(),
            body.unwrap_or_default()
        );
        let sent = stream.write_all(request.as_bytes());
        sent.map_err(|e| self.unreachable(&e))?;
        Ok(Asked {
            client: self,
            stream,
        })
    }

    fn unreachable(&self, error: &io::Error) -> CliError {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket; is the VM running with --api?",
            io::ErrorKind::ConnectionRefused => "nobody listens there any more: the VM has ended",
            io::ErrorKind::PermissionDenied => "only the user who runs the VM may connect",
            _ => return CliError::usage(format!("{}: {error}", self.socket.display())),
        };
        CliError::usage(format!("{}: {why}", self.socket.display()))
    }

    fn no_mote(&self, what: &str) -> CliError {
        CliError::usage(format!(
            "{}: what listens there is no mote: it {what}",
            self.socket.display()
        ))
    }
}

impl Asked<'_> {
    /// Waits for the answer, and gives its body.
    pub fn answer(mut self, patience: Option<Duration>) -> Result<Vec<u8>, CliError> {
        match self.read(patience)? {
            Some(bytes) => self.understand(&bytes),
            None => Err(self.client.no_mote("doesn't answer")),
        }
    }

    /// The same of one that is given when the VM has ended: false if it hasn't within that time.
    pub fn comes_within(&mut self, patience: Duration) -> Result<bool, CliError> {
        Ok(self.read(Some(patience))?.is_some())
    }

    /// All bytes of the answer; `None` if it took too long.
    fn read(&mut self, patience: Option<Duration>) -> Result<Option<Vec<u8>>, CliError> {
        let set = self.stream.set_read_timeout(patience);
        set.map_err(|e| CliError::new(Status::Internal, e))?;
        let mut bytes = Vec::new();
        match (&self.stream).take(MOST_ANSWER).read_to_end(&mut bytes) {
            // A process that is ending may hang up as it likes.
            Ok(_) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(self.client.unreachable(&e)),
        }
    }

    fn understand(&self, bytes: &[u8]) -> Result<Vec<u8>, CliError> {
        if bytes.is_empty() {
            let socket = self.client.socket.display();
            return Err(CliError::new(
                Status::Refused,
                format_args!("{socket}: it hung up without an answer; the VM may have ended"),
            ));
        }
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else {
            return Err(self.client.no_mote("doesn't speak HTTP"));
        };
        let body = bytes[head..].to_vec();
        match response.code {
            Some(200..300) => Ok(body),
            code => {
                let fault = serde_json::from_slice::<Value>(&body).ok();
                let text = fault
                    .as_ref()
                    .and_then(|fault| fault["fault_message"].as_str());
                Err(match text {
                    Some(text) => CliError::new(Status::Refused, text),
                    None => self
                        .client
                        .no_mote(&format!("answered {}", code.unwrap_or_default())),
                })
            }
        }
    }
}
