//! A client of its own, which says each byte as the test wants it, and a mote behind the socket.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::Value;

use crate::common::{Code, PATIENCE};

/// A `mote` with an API.
pub struct Mote {
    pub child: Child,
    pub folder: tempfile::TempDir,
    /// What the guest prints, as it comes.
    printed: Receiver<Vec<u8>>,
    so_far: Vec<u8>,
}

/// An answer's status and body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        match self.body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self}")),
        }
    }

    /// What is wrong, in the form that all answers of that sort have.
    pub fn fault(&self) -> String {
        let json = self.json();
        assert_eq!(self.status, 400, "{self}");
        json["fault_message"]
            .as_str()
            .unwrap_or_else(|| panic!("{self}"))
            .to_owned()
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.head, String::from_utf8_lossy(&self.body))
    }
}

impl Mote {
    /// `mote serve`, once it listens.
    pub fn serve(options: &[&str]) -> Self {
        Self::start("serve", Code::new(), options)
    }

    /// `mote run` with this guest.
    pub fn run(code: Code, options: &[&str]) -> Self {
        Self::start("run", code, options)
    }

    fn start(command: &str, code: Code, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, code.kernel()).unwrap();
        let mut mote = Command::new(env!("CARGO_BIN_EXE_mote"));
        mote.arg(command)
            .arg("--api")
            .arg(folder.path().join("socket"));
        if command == "run" {
            mote.arg("--kernel").arg(&kernel);
        }
        mote.args(options).current_dir(folder.path());
        mote.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = mote.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, printed) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 512];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                let _ = sender.send(bytes[..count].to_vec());
            }
        });
        let mut mote = Mote {
            child,
            folder,
            printed,
            so_far: Vec::new(),
        };
        mote.wait_for_socket();
        mote
    }

    fn wait_for_socket(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("mote has ended: {status}: {}", self.errors());
            }
            assert!(Instant::now() < deadline, "nobody listens");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// Puts another guest there.
    pub fn set_kernel(&self, code: Code) -> PathBuf {
        let kernel = self.path("kernel");
        fs::write(&kernel, code.kernel()).unwrap();
        kernel
    }

    /// Waits until the guest has printed this.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !String::from_utf8_lossy(&self.so_far).contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.printed.recv_timeout(left) {
                Ok(bytes) => self.so_far.extend(bytes),
                Err(_) => {
                    let printed = String::from_utf8_lossy(&self.so_far).into_owned();
                    panic!("{text:?} wasn't printed: {printed:?} {}", self.errors());
                }
            }
        }
    }

    /// All that was printed up to the end.
    pub fn output(&mut self) -> String {
        while let Ok(bytes) = self.printed.recv() {
            self.so_far.extend(bytes);
        }
        String::from_utf8_lossy(&self.so_far).into_owned()
    }

    pub fn connect(&self) -> UnixStream {
        connect(&self.socket())
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        ask(&self.socket(), method, path, body)
    }

    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, None);
        assert_eq!(answer.status, 200, "{path}: {answer}");
        answer.json()
    }

    /// Does it, and it must be done.
    pub fn put(&self, path: &str, body: Value) {
        let answer = self.ask("PUT", path, Some(body));
        assert_eq!(answer.status, 204, "{path}: {answer}");
    }

    pub fn patch(&self, path: &str, body: Value) {
        let answer = self.ask("PATCH", path, Some(body));
        assert_eq!(answer.status, 204, "{path}: {answer}");
    }

    /// It must be refused.
    pub fn fault(&self, method: &str, path: &str, body: Value) -> String {
        self.ask(method, path, Some(body)).fault()
    }

    pub fn state(&self) -> String {
        self.get("/")["state"].as_str().unwrap().to_owned()
    }

    /// Describes the guest and starts it.
    pub fn boot(&self, code: Code) {
        let kernel = self.set_kernel(code);
        self.put(
            "/boot-source",
            serde_json::json!({ "kernel_image_path": kernel }),
        );
        self.put(
            "/actions",
            serde_json::json!({ "action_type": "InstanceStart" }),
        );
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "mote doesn't end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// What mote has said; it has to have ended.
    pub fn errors(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Mote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn ask(socket: &Path, method: &str, path: &str, body: Option<Value>) -> Answer {
    let mut stream = connect(socket);
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    read(&mut BufReader::new(stream)).expect("an answer")
}

/// One answer; `None` at the end of the connection.
pub fn read(from: &mut impl BufRead) -> Option<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match from.read_line(&mut head) {
            Ok(1..) => {}
            _ if head.is_empty() => return None,
            other => panic!("{other:?} within {head:?}"),
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Answer { status, head, body })
}
