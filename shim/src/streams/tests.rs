use super::*;
use std::ffi::CString;
use std::io::{Read, Write};

fn fifo(folder: &Path, name: &str) -> String {
    let path = folder.join(name).to_str().unwrap().to_owned();
    let c = CString::new(path.clone()).unwrap();
    // SAFETY: a string that lives through the call.
    assert_eq!(unsafe { libc::mkfifo(c.as_ptr(), 0o600) }, 0);
    path
}

struct Fake {
    folder: tempfile::TempDir,
    streams: Streams,
    expected: Arc<Expected>,
}

fn fake() -> Fake {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths {
        stdin: fifo(folder.path(), "0"),
        stdout: fifo(folder.path(), "1"),
        stderr: fifo(folder.path(), "2"),
        ..Paths::default()
    };
    Fake {
        folder,
        streams: Streams::new(paths).unwrap(),
        expected: Arc::default(),
    }
}

/// With one stream that the guest has made a connection for; the others never come.
fn one(which: fn(Numbers) -> Option<u64>) -> (Fake, Opening, UnixStream) {
    let fake = fake();
    let opening = fake.streams.open(&fake.expected).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let number = which(opening.numbers()).unwrap();
    fake.expected.came(number, theirs);
    fake.expected.end();
    (fake, opening, ours)
}

#[test]
fn streams_reach_their_pipes_whole() {
    let Fake {
        folder,
        streams,
        expected,
    } = fake();
    let opening = streams.open(&expected).unwrap();
    let numbers = opening.numbers();
    let connect = |number: Option<u64>| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        expected.came(number.unwrap(), theirs);
        ours
    };
    let (mut input, mut output, mut error) = (
        connect(numbers.input),
        connect(numbers.output),
        connect(numbers.error),
    );
    opening.run(&streams);
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = content.clone();
    // As containerd's client does, before there is anything to read.
    let [mut out_end, mut err_end] =
        ["1", "2"].map(|name| File::open(folder.path().join(name)).unwrap());
    let reader = thread::spawn(move || {
        let mut out = Vec::new();
        out_end.read_to_end(&mut out).unwrap();
        let mut err = String::new();
        err_end.read_to_string(&mut err).unwrap();
        (out, err)
    });
    let writer = content.clone();
    let path = folder.path().join("0");
    let typing = thread::spawn(move || {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(&writer).unwrap();
    });
    error.write_all(b"oh").unwrap();
    let echo = thread::spawn(move || {
        let mut got = Vec::new();
        input.read_to_end(&mut got).unwrap();
        got
    });
    output.write_all(&content).unwrap();
    drop((output, error));
    assert_eq!(echo.join().unwrap(), expected);
    typing.join().unwrap();
    streams.finish(Duration::from_secs(60));
    let (out, err) = reader.join().unwrap();
    assert!(out == expected);
    assert_eq!(err, "oh");
}

#[test]
fn closing_input_passes_on_what_came_before_it() {
    let (
        Fake {
            folder, streams, ..
        },
        opening,
        mut ours,
    ) = one(|of| of.input);
    let path = folder.path().join("0");
    // It stays open, as containerd's client keeps it.
    let mut typed = OpenOptions::new().write(true).open(path).unwrap();
    typed.write_all(&[7; 40_000]).unwrap();
    streams.close_input();
    opening.run(&streams);
    let mut got = Vec::new();
    ours.read_to_end(&mut got).unwrap();
    assert_eq!(got, [7; 40_000]);
    drop(typed);
}

#[test]
fn a_number_is_good_once_and_foreign_ones_never() {
    let Fake {
        folder: _folder,
        streams,
        expected,
    } = fake();
    let opening = streams.open(&expected).unwrap();
    let number = opening.numbers().output.unwrap();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    expected.came(number, theirs);
    for wrong in [number, 0, 99] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        expected.came(wrong, theirs);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "closed");
    }
    drop(opening);
    assert!(lock(&expected.waiting).is_empty());
}

#[test]
fn output_that_nobody_takes_is_given_up_in_time() {
    let (
        Fake {
            folder: _folder,
            streams,
            ..
        },
        opening,
        mut ours,
    ) = one(|of| of.output);
    opening.run(&streams);
    let writer = thread::spawn(move || ours.write_all(&vec![0; 4 << 20]));
    streams.finish(Duration::from_millis(50));
    // The guest learns of it.
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn output_that_the_guest_keeps_open_ends_soon_after_its_process() {
    let (
        Fake {
            folder, streams, ..
        },
        opening,
        mut ours,
    ) = one(|of| of.output);
    let mut reader = File::open(folder.path().join("1")).unwrap();
    opening.run(&streams);
    ours.write_all(b"before, ").unwrap();
    streams.process_ended();
    ours.write_all(b"after").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before, after");
    assert!(ours.write_all(b"x").is_err(), "the guest learns of it");
}

#[test]
fn output_without_end_ends_soon_after_its_process() {
    let (fake, opening, mut ours) = one(|of| of.output);
    let mut reader = File::open(fake.folder.path().join("1")).unwrap();
    opening.run(&fake.streams);
    let endless = thread::spawn(move || while ours.write_all(&[b'x'; 4096]).is_ok() {});
    fake.streams.process_ended();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all.len() < 64 << 20, "{}", all.len());
    endless.join().unwrap();
}

#[test]
fn input_that_the_guest_never_takes_is_given_up() {
    let (
        Fake {
            folder, streams, ..
        },
        opening,
        mut ours,
    ) = one(|of| of.input);
    opening.run(&streams);
    let path = folder.path().join("0");
    let mut typed = OpenOptions::new().write(true).open(path).unwrap();
    let writer = thread::spawn(move || typed.write_all(&vec![0; 4 << 20]));
    thread::sleep(Duration::from_millis(50)); // for it to be stuck
    streams.give_up();
    assert!(writer.join().unwrap().is_err(), "nobody reads the pipe");
    assert!(ours.read_to_end(&mut Vec::new()).is_ok());
}

#[test]
fn what_is_no_pipe_is_refused() {
    for (given, part) in [
        ("ftp://a/b", "only pipes"),
        ("binary:///nowhere/logger", "/nowhere/logger"),
        ("/nowhere/out", "/nowhere/out"),
    ] {
        let paths = Paths {
            stdout: given.to_owned(),
            ..Paths::default()
        };
        let streams = Streams::new(paths).unwrap();
        let error = streams.open(&Arc::default()).err().unwrap();
        assert!(error.to_string().contains(part), "{error}");
    }
}
