//! Peers of all sorts at the socket, and a reader of the file.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::{Samples, Source};
use super::*;
use crate::devices::virtio::testing::leave_socket;
use crate::threads::Threads;

const PATIENCE: Duration = Duration::from_secs(120);

struct Lines(usize);

impl Source for Lines {
    fn collect(&self, samples: &mut Samples) {
        for index in 0..self.0 {
            let index = index.to_string();
            samples.counter("mote_test_total", "Tests.", &[("index", &index)], 7);
        }
    }
}

fn registry(lines: usize) -> Registry {
    let mut registry = Registry::new();
    registry.add(Arc::new(Lines(lines)));
    registry
}

struct Test {
    folder: tempfile::TempDir,
    exporting: Exporting,
    _threads: Threads,
    text: String,
}

fn start(lines: usize) -> Test {
    let folder = tempfile::tempdir().unwrap();
    let config = config::Metrics {
        file: Some(folder.path().join("file")),
        interval: Some(1),
        unix: Some(folder.path().join("socket")),
    };
    let registry = registry(lines);
    let threads = Threads::start(None).unwrap();
    Test {
        exporting: Exporter::open(&config)
            .unwrap()
            .start(registry.clone(), threads.member())
            .unwrap(),
        _threads: threads,
        text: registry.render(),
        folder,
    }
}

impl Test {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        self.ask_in_pieces(&[request])
    }

    /// The same with a request of HTTP, in pieces. On a busy host it may come so late that it passes
    /// for silence; then it is asked again.
    fn ask_http(&self, pieces: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask_in_pieces(pieces);
            if answer.starts_with("HTTP/") || Instant::now() > deadline {
                return answer;
            }
        }
    }

    fn ask_in_pieces(&self, pieces: &[&str]) -> String {
        let mut stream = self.connect();
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = stream.write_all(piece.as_bytes()); // who was silent has been answered
        }
        read(&mut stream)
    }
}

fn read(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    if let Err(error) = stream.read_to_string(&mut text) {
        // What was said too late is left unread.
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    text
}

#[test]
fn a_peer_that_only_listens_gets_plain_text() {
    let test = start(1);
    assert_eq!(read(&mut test.connect()), test.text);
    let mut stream = test.connect();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read(&mut stream), test.text);
    assert_eq!(test.ask("what's new?\n"), test.text);
}

#[test]
fn a_peer_that_speaks_http_gets_an_answer_in_kind() {
    let test = start(1);
    let length = test.text.len();
    let head = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let ask = |request: &str| test.ask_http(&[request]);
    let get = |path: &str| ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(get("/metrics"), format!("{head}{}", test.text));
    assert_eq!(get("/metrics?x=1"), format!("{head}{}", test.text));
    assert_eq!(ask("HEAD / HTTP/1.0\r\n\r\n"), head);
    assert!(get("/other").starts_with("HTTP/1.0 404 "));
    assert!(ask("POST /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 405 "));
    let pieces = ["G", "ET /metr", "ics HTTP/1.1\r\nHost", ": x\r\n\r", "\n"];
    assert!(test.ask_http(&pieces).starts_with(&head));
}

#[test]
fn bad_peers_do_not_keep_the_others_waiting() {
    let test = start(8_000); // about 320 KiB: more than a socket holds
    let stuck: Vec<UnixStream> = (0..MAX_CLIENTS / 2)
        .map(|index| {
            let mut stream = test.connect();
            match index % 2 {
                0 => drop(stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")), // never reads
                _ => drop(stream.write_all(b"GET /metr")), // never ends its question
            }
            stream
        })
        .collect();
    // One that sends without end is hung up on.
    let mut endless = test.connect();
    let junk = format!("GET /{}", "x".repeat(1 << 20));
    let _ = endless.write_all(junk.as_bytes());
    let _ = endless.read(&mut [0; 10]);
    // One that goes away in the middle.
    drop(test.connect());
    for _ in 0..3 {
        assert_eq!(read(&mut test.connect()), test.text);
    }
    drop(stuck);
}

#[test]
fn the_file_is_always_whole_and_last_written_at_the_end() {
    let test = start(500);
    let file = test.folder.path().join("file");
    let deadline = Instant::now() + PATIENCE;
    while fs::read_to_string(&file).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "not written at its interval");
    }
    for _ in 0..1000 {
        assert!(fs::read_to_string(&file).unwrap() == test.text);
    }
    fs::write(&file, "").unwrap();
    let Test {
        folder,
        exporting,
        text,
        ..
    } = test;
    drop(exporting);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["file"], "the socket is gone");
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let config = config::Metrics {
        unix: Some(path.clone()),
        ..Default::default()
    };
    let error = |config| Exporter::open(config).err().unwrap().to_string();
    fs::write(&path, "mine").unwrap();
    assert!(error(&config).contains("is no socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    assert!(error(&config).contains("another program listens there"));
    drop(listener);
    fs::remove_file(&path).unwrap();
    leave_socket(&path);
    drop(Exporter::open(&config).unwrap());
    assert!(!path.exists());
    let nowhere = config::Metrics {
        file: Some("/nonexistent/file".into()),
        ..Default::default()
    };
    assert!(error(&nowhere).starts_with("--metrics file=/nonexistent/file: "));
}

#[test]
fn a_link_that_someone_has_laid_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, theirs) = (folder.path().join("file"), folder.path().join("precious"));
    fs::write(&theirs, "precious").unwrap();
    for name in ["file", "file.new"] {
        std::os::unix::fs::symlink(&theirs, folder.path().join(name)).unwrap();
    }
    for text in ["one", "two"] {
        Target::open(&file).unwrap().write(text).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "precious");
}

#[test]
fn a_file_and_a_socket_that_were_handed_over_are_used_and_left_there() {
    let folder = tempfile::tempdir().unwrap();
    let (name, socket) = (folder.path().join("file"), folder.path().join("socket"));
    fs::write(&name, "x".repeat(100_000)).unwrap();
    let file = fs::File::options().write(true).open(&name).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let by_number = |fd: &dyn AsRawFd| Some(format!("fd={}", fd.as_raw_fd()).into());
    let config = config::Metrics {
        file: by_number(&file),
        interval: Some(1000),
        unix: by_number(&listener),
    };
    let _ = std::os::fd::IntoRawFd::into_raw_fd(listener); // taken over
    let registry = registry(3);
    let exporting = Exporter::open(&config).unwrap();
    assert_eq!(fs::read_to_string(&name).unwrap(), "");
    let threads = Threads::start(None).unwrap();
    let exporting = exporting.start(registry.clone(), threads.member()).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(&registry.render()), "{answer}");
    drop(exporting);
    assert_eq!(fs::read_to_string(&name).unwrap(), registry.render());
    assert!(socket.exists());
    let (_reader, pipe) = io::pipe().unwrap();
    let config = config::Metrics {
        file: by_number(&pipe),
        ..Default::default()
    };
    let error = Exporter::open(&config).err().unwrap().to_string();
    assert!(
        error.starts_with("--metrics file=fd=") && error.contains("regular"),
        "{error}"
    );
}
