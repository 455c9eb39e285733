//! Tasks that go on: programs beside them, signals, pauses, figures.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::ctr::{Ended, Session, finish};
use crate::world::World;

/// A shell that waits, and can be told to end by SIGTERM.
const WAITS: &str = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.2; done";

pub fn a_second_program_runs_beside_the_first(world: &World) {
    let mut first = world.session(&["--env", "A=1"], "two", WAITS);
    first.expect("ready");
    let exec = |id: &str, program: &[&str]| {
        let arguments = ["task", "exec", "--exec-id", id, "two"];
        finish(world.ctr(&[&arguments, program].concat()), b"line\n")
    };
    let ended = exec(
        "one",
        &["sh", "-c", "read x; echo $x $A; echo err >&2; exit 3"],
    );
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(3), "line 1\n"),
        "{ended:?}"
    );
    assert_eq!(ended.err, "err\n");
    // It sees the first one's processes and files.
    let ended = exec(
        "see",
        &[
            "sh",
            "-c",
            "tr '\\0' ' ' </proc/1/cmdline; echo kept >/tmp/kept",
        ],
    );
    assert!(ended.text().contains("trap"), "{ended:?}");
    let ended = exec("again", &["cat", "/tmp/kept"]);
    assert_eq!(ended.success(), "kept\n");
    // One that isn't there is an error, and the first one goes on.
    let ended = exec("none", &["/no/such/program"]);
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("/no/such/program"), "{ended:?}");
    // One is killed without the other.
    let arguments = [
        "task",
        "exec",
        "--exec-id",
        "long",
        "two",
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    ];
    let mut long = Session::of(world.ctr(&arguments));
    long.expect("up");
    world.says(&[
        "task",
        "kill",
        "--exec-id",
        "long",
        "--signal",
        "SIGTERM",
        "two",
    ]);
    assert_eq!(long.end().code, Some(128 + 15));
    world.says(&["task", "kill", "--signal", "SIGTERM", "two"]);
    let ended = first.end();
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(5), "caught\n"),
        "{ended:?}"
    );
}

pub fn a_signal_reaches_the_program(world: &World) {
    let script = "trap 'echo usr1' USR1; trap 'echo hup; exit 4' HUP; echo ready; while :; do sleep 0.1; done";
    let mut session = world.session(&[], "signal", script);
    session.expect("ready");
    world.says(&["task", "kill", "--signal", "SIGUSR1", "signal"]);
    session.expect("usr1");
    world.says(&["task", "kill", "--signal", "SIGHUP", "signal"]);
    session.expect("hup");
    assert_eq!(session.end().code, Some(4));
}

pub fn a_killed_program_has_a_status(world: &World) {
    let mut session = world.session(&[], "killed", "echo ready; sleep 1000");
    session.expect("ready");
    world.says(&["task", "kill", "--signal", "SIGKILL", "killed"]);
    assert_eq!(session.end().code, Some(128 + 9));
    // One that nobody waits for keeps its status until it is deleted.
    let detached = world.command(&["--detach", "--null-io"], "detached", &["sleep", "1000"]);
    finish(detached, &[]).success();
    world.says(&["task", "kill", "--signal", "SIGKILL", "detached"]);
    until("the end of it", || {
        world.says(&["task", "ls"]).contains("STOPPED")
    });
    deleted(finish(world.ctr(&["task", "delete", "detached"]), &[]), 137);
    world.says(&["container", "rm", "detached"]);
}

pub fn it_is_listed_and_measured(world: &World) {
    let script =
        "echo ready; head -c 20000000 /dev/zero | sha256sum >/dev/null; echo done; sleep 1000";
    let mut session = world.session(&[], "listed", script);
    session.expect("ready");
    session.expect("done");
    let list = world.says(&["task", "ls"]);
    let line = list
        .lines()
        .find(|line| line.starts_with("listed "))
        .expect(&list);
    assert!(line.ends_with("RUNNING"), "{list}");
    // What it uses of the host is its own cgroup's, where there is version 2.
    let pid = world.task_pid("listed").expect(&list);
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let has_version_2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    assert!(!has_version_2 || groups.contains("/listed"), "{groups}");
    let processes = world.says(&["task", "ps", "listed"]);
    assert!(processes.lines().count() > 1, "{processes}");
    let metrics = world.says(&["task", "metrics", "listed"]);
    let value = |name: &str| -> f64 {
        let mut lines = metrics.lines().map(str::split_whitespace);
        let line = lines.find_map(|mut words| {
            words
                .next()
                .is_some_and(|word| word.starts_with(name))
                .then(|| words.next())
        });
        line.flatten()
            .and_then(|word| word.parse().ok())
            .expect(&metrics)
    };
    assert!(value("memory.usage") > 100_000.0, "{metrics}");
    assert!(value("cpu") > 1000.0, "{metrics}");
    assert!(value("pids.current") >= 1.0, "{metrics}");
    world.says(&["task", "kill", "--signal", "SIGKILL", "listed"]);
    assert_eq!(session.end().code, Some(137));
}

pub fn it_stands_still_while_paused(world: &World) {
    let mut session = world.session(&[], "paused", "while :; do echo on; sleep 0.05; done");
    session.expect("on");
    world.says(&["task", "pause", "paused"]);
    let list = world.says(&["task", "ls"]);
    assert!(list.contains("PAUSED"), "{list}");
    // What was on its way comes; then nothing does.
    while arrives(&mut session, Duration::from_secs(1)) {}
    assert!(!arrives(&mut session, Duration::from_secs(1)));
    world.says(&["task", "resume", "paused"]);
    session.expect("on");
    assert!(world.says(&["task", "ls"]).contains("RUNNING"));
    world.says(&["task", "kill", "--signal", "SIGKILL", "paused"]);
    assert_eq!(session.end().code, Some(137));
}

/// Whether it prints something in this time; that is taken away.
fn arrives(session: &mut Session, time: Duration) -> bool {
    let out = session.out();
    let mut ready = libc::pollfd {
        fd: out.get_ref().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    if !out.buffer().is_empty() {
        let length = out.buffer().len();
        std::io::BufRead::consume(out, length);
        return true;
    }
    // SAFETY: one valid pollfd.
    let count = unsafe { libc::poll(&raw mut ready, 1, i32::try_from(time.as_millis()).unwrap()) };
    count == 1 && out.get_mut().read(&mut [0; 4096]).unwrap() > 0
}

/// What `ctr task delete` has said of a task that ended with this status.
#[track_caller]
pub fn deleted(ended: Ended, status: u32) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.err.contains(&format!("non-zero exit code {status}")),
        "{ended:?}"
    );
}

/// Waits until `what` holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(crate::ctr::PATIENCE.into());
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
