//! Configurations and arguments that are bombs, or have no end.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use crate::files::fifo;
use crate::monitor::{Ended, Monitor};

fn config(folder: &Path, name: &str, content: &[u8]) -> Ended {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    // If the file should be taken for one, this is what there is to say.
    let words = [
        "run",
        "--kernel",
        "/nonexistent",
        "--config",
        path.to_str().unwrap(),
    ];
    Monitor::new(&words).run()
}

fn refused(ended: &Ended, text: &str) {
    let start = &text[..text.floor_char_boundary(100)];
    assert_eq!(ended.status.code(), Some(2), "{start}: {}", ended.err);
    assert!(
        !ended.err.contains("/nonexistent"),
        "{start} is taken for a VM"
    );
}

#[test]
fn configurations_that_are_bombs() {
    let folder = tempfile::tempdir().unwrap();
    let deep = |open: &str, close: &str, count: usize| open.repeat(count) + &close.repeat(count);
    let toml = [
        format!("cpus = {}", deep("[", "]", 100_000)),
        format!("cpus = {}", deep("{a=", "}", 100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        "[[disks]]\n".repeat(90_000),
        format!("cpus = {}", "9".repeat(500_000)),
        format!("memory = \"{}\"", "9".repeat(500_000)),
        "memory = 99999999999999999999999".to_owned(),
        "memory = -1".to_owned(),
        "memory = 1e400".to_owned(),
        "cpus = nan".to_owned(),
        "cpus = 4294967297".to_owned(),
        "cpus = \"1\"".to_owned(),
        "cpus = 1\ncpus = 2".to_owned(),
        "cpus = []".to_owned(),
        "memory = { size = { size = 1 } }".to_owned(),
        "[boot]\nkernel = 5".to_owned(),
        "console = { file = [] }".to_owned(),
        "\u{feff}\u{202e}cpus = 1".to_owned(),
        "cpus = 1 \0".to_owned(),
    ];
    for text in toml {
        let ended = config(folder.path(), "vm.toml", text.as_bytes());
        refused(&ended, &text);
    }
    let json = [
        deep("[", "]", 100_000),
        format!("{{\"cpus\": {}}}", deep("[", "]", 100_000)),
        deep("{\"boot\":", "}", 100_000),
        "{\"cpus\": 1e999}".to_owned(),
        "{\"memory\": 1e999}".to_owned(),
        "{\"cpus\": 1".to_owned(),
        "null".to_owned(),
    ];
    for text in json {
        refused(&config(folder.path(), "vm.json", text.as_bytes()), &text);
    }
    config(folder.path(), "vm.toml", &[0xff, 0xfe, 0, 0x80]).refused(&["vm.toml", "UTF-8"]);
}

#[test]
fn configurations_without_end() {
    let folder = tempfile::tempdir().unwrap();
    Monitor::new(&["run", "--config", "/dev/zero"])
        .run()
        .refused(&["/dev/zero", "1 MiB"]);
    let large = folder.path().join("large.toml");
    File::create(&large).unwrap().set_len(100 << 20).unwrap();
    let large = large.to_str().unwrap();
    Monitor::new(&["run", "--config", large])
        .run()
        .refused(&[large, "1 MiB"]);
    for path in ["/", "/proc/self/mem", "/nonexistent"] {
        Monitor::new(&["run", "--config", path])
            .run()
            .refused(&[path]);
    }
    // Whoever gives a pipe means to write to it: mote waits, as cat would, and ends when it is told to.
    let fifo = fifo(folder.path());
    let running = Monitor::new(&["run", "--config", fifo.to_str().unwrap()]).start();
    std::thread::sleep(Duration::from_millis(200));
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status.signal(), Some(libc::SIGTERM));
}

#[test]
fn arguments_that_are_bombs() {
    let long = "9".repeat(100_000);
    for (option, value) in [
        ("--memory", &long[..]),
        ("--cpus", &long),
        ("--disk", &",".repeat(100_001)),
        ("--disk", &"a=b,".repeat(20_000)),
        ("--net", &long),
        ("--pin", &"0=0,".repeat(20_000)),
        ("--pin", "0-18446744073709551615"),
        ("--io-cpus", "0-4294967295"),
        ("--vsock", "cid=18446744073709551616,socket=v"),
        ("--balloon", "99999999999999999999T"),
        ("--numa", "node=4294967295,cpus=0-4294967295,memory=1M"),
        ("--cmdline", &long),
        ("--metrics", "file=x,interval=99999999999999999999"),
    ] {
        let ended = Monitor::new(&["run", "--kernel", "/nonexistent", option, value]).run_loudly();
        ended.has_status(2);
    }
}
