//! Processes that end as nobody wants: the monitor, the shim, containerd.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::counts::processes;
use crate::ctr::finish;
use crate::task::{deleted, until};
use crate::world::{FOLDER, World, kill};

/// The monitor: the process that containerd knows as the task.
#[track_caller]
fn monitor(world: &World, id: &str) -> u32 {
    world.task_pid(id).unwrap()
}

/// The process that has the VM of the only container there is: the monitor's child that has a thread for each vCPU. With
/// runc there is only one process.
#[track_caller]
fn machine(world: &World, id: &str) -> u32 {
    if !World::is_mote() {
        return monitor(world, id);
    }
    // By the file, as it has another name for a process in a jail.
    let file = |path: &Path| {
        std::fs::metadata(path)
            .map(|file| (file.dev(), file.ino()))
            .ok()
    };
    let mote = file(&World::mote());
    let is = |pid: u32| file(Path::new(&format!("/proc/{pid}/exe"))) == mote;
    let threads =
        |pid: u32| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let all = processes()
        .into_iter()
        .map(|(pid, _)| pid)
        .filter(|pid| is(*pid));
    all.max_by_key(|pid| threads(*pid)).expect("a monitor")
}

/// The shim of a container.
#[track_caller]
fn shim(id: &str) -> u32 {
    let all = processes();
    let is = |line: &str| {
        let mut words = line.split(' ');
        let program = words
            .next()
            .and_then(|program| Path::new(program).file_name());
        program.is_some_and(|name| {
            name.to_str()
                .is_some_and(|name| name.starts_with("containerd-shim-"))
        }) && words
            .collect::<Vec<_>>()
            .windows(2)
            .any(|pair| pair == ["-id", id])
    };
    let found = all.iter().find(|(_, line)| is(line));
    found.unwrap_or_else(|| panic!("a shim: {all:#?}")).0
}

pub fn a_killed_monitor_is_an_exit(world: &World) {
    let detached = world.command(&["--detach", "--null-io"], "monitor", &["sleep", "1000"]);
    finish(detached, &[]).success();
    let (monitor, shim_before) = (monitor(world, "monitor"), shim("monitor"));
    kill(monitor, libc::SIGKILL);
    until("the end of the task", || {
        world.says(&["task", "ls"]).contains("STOPPED")
    });
    // The shim is still there to be asked, and gone once all is deleted.
    assert_eq!(shim("monitor"), shim_before);
    let ended = finish(world.ctr(&["task", "delete", "monitor"]), &[]);
    deleted(ended, 137);
    world.says(&["container", "rm", "monitor"]);
    world.nothing_is_left();
    // Whoever waits for it is told, whichever of its processes it was.
    let mut session = world.session(&[], "monitor2", "echo ready; exec sleep 1000");
    session.expect("ready");
    kill(machine(world, "monitor2"), libc::SIGKILL);
    assert_eq!(session.end().code, Some(137));
}

/// A guest whose agent doesn't hear that it is to kill: what it was is ended without it.
pub fn a_guest_that_does_not_answer_is_ended(world: &World) {
    let mut session = world.session(&[], "deaf", "echo ready; exec sleep 1000");
    session.expect("ready");
    kill(machine(world, "deaf"), libc::SIGSTOP);
    if !World::is_mote() {
        kill(machine(world, "deaf"), libc::SIGCONT);
    }
    let begin = Instant::now();
    let _ = finish(
        world.ctr(&["task", "kill", "--signal", "SIGKILL", "deaf"]),
        &[],
    );
    assert_eq!(session.end().code, Some(137));
    // 30 s for the guest, ten for the monitor, and none of the two minutes that an answer may take here.
    assert!(
        begin.elapsed() < Duration::from_secs(100),
        "{:?}",
        begin.elapsed()
    );
}

fn start(world: &World, options: &[&str]) {
    let options = [&["--detach", "--null-io"], options].concat();
    let detached = world.command(&options, "shim", &["sleep", "1000"]);
    finish(detached, &[]).success();
}

/// Nothing is left.
fn kill_shim(world: &World) {
    kill(shim("shim"), libc::SIGKILL);
    until("a list without the task", || {
        world.task_pid("shim").is_none()
    });
    world.says(&["container", "rm", "shim"]);
    // By any runtime, its socket stays: the next shim for such a container replaces it, and that is the end of it.
    let sockets = std::fs::read_dir("/run/containerd/s").unwrap().flatten();
    sockets.for_each(|socket| std::fs::remove_file(socket.path()).unwrap());
    world.nothing_is_left();
}

pub fn a_killed_shim_leaves_nothing(world: &World) {
    start(world, &[]);
    kill_shim(world);
    // Another one by the same name starts.
    assert_eq!(
        world.run(&[], "shim", &["echo", "again"]).success(),
        "again\n"
    );
}

/// By a configuration that only the container's creation knew of.
pub fn a_killed_shim_leaves_nothing_elsewhere(world: &World) {
    if !World::is_mote() {
        return;
    }
    let [state, config] = ["elsewhere", "elsewhere.toml"].map(|name| Path::new(FOLDER).join(name));
    let settings = World::shim_settings();
    let settings = settings.replace("\"/run/mote\"", &format!("{state:?}"));
    std::fs::write(&config, settings).unwrap();
    let vms = || std::fs::read_dir(&state).map_or(0, Iterator::count);
    start(world, &["--runtime-config-path", config.to_str().unwrap()]);
    assert_eq!(vms(), 1);
    kill_shim(world);
    assert_eq!(vms(), 0);
}

pub fn containerd_finds_it_again(world: &World) {
    let detached = world.command(
        &["--detach", "--null-io"],
        "again",
        &["sh", "-c", "echo 1 >/kept; exec sleep 1000"],
    );
    finish(detached, &[]).success();
    let before = world.task_pid("again").unwrap();
    world.daemon().kill();
    world.restart();
    let list = world.says(&["task", "ls"]);
    assert!(list.contains("RUNNING"), "{list}");
    assert_eq!(world.task_pid("again"), Some(before));
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "e",
        "again",
        "sh",
        "-c",
        "cat /kept; exit 3",
    ];
    let ended = finish(world.ctr(&exec), &[]);
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(3), "1\n"),
        "{ended:?}"
    );
    // One that ends while there is no containerd is found to have ended.
    let monitor = monitor(world, "again");
    world.daemon().kill();
    kill(monitor, libc::SIGKILL);
    world.restart();
    until("the end of the task", || {
        !world.says(&["task", "ls"]).contains("RUNNING")
    });
    let ended = finish(world.ctr(&["task", "delete", "again"]), &[]);
    deleted(ended, 137);
    world.says(&["container", "rm", "again"]);
}
