//! What containerd tells of a container to whoever listens.

use std::io::BufRead;
use std::sync::mpsc;
use std::time::Duration;

use crate::ctr::{PATIENCE, Session, finish};
use crate::world::World;

pub fn they_come_once_and_in_order(world: &World) {
    let mut listener = Session::of(world.ctr(&["events"]));
    let pid = listener.pid();
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        while listener
            .out()
            .read_line(&mut line)
            .is_ok_and(|length| length > 0)
        {
            let _ = sender.send(std::mem::take(&mut line));
        }
        listener.stop();
    });
    // It doesn't say when it listens: it has to hear of something.
    let mut heard = false;
    for number in 0..PATIENCE {
        world.says(&["namespace", "create", &format!("heard-{number}")]);
        world.says(&["namespace", "rm", &format!("heard-{number}")]);
        heard = lines.recv_timeout(Duration::from_millis(500)).is_ok();
        if heard {
            break;
        }
    }
    assert!(heard, "it hears nothing");

    let mut first = world.session(
        &[],
        "told",
        "echo ready; read x </dev/zero & while :; do sleep 0.1; done",
    );
    first.expect("ready");
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "second",
        "told",
        "sh",
        "-c",
        "exit 3",
    ];
    assert_eq!(finish(world.ctr(&exec), &[]).code, Some(3));
    world.says(&["task", "pause", "told"]);
    world.says(&["task", "resume", "told"]);
    world.says(&["task", "kill", "--signal", "SIGKILL", "told"]);
    assert_eq!(first.end().code, Some(137));

    let mut all = Vec::new();
    // The container is removed last of all.
    let mut text = String::new();
    while !text.contains("/containers/delete") {
        text = lines
            .recv_timeout(Duration::from_secs(PATIENCE.into()))
            .expect("the container's end");
        all.push(text.clone());
    }
    crate::world::kill(pid, libc::SIGTERM);
    reader.join().unwrap();
    let topics: Vec<_> = all
        .iter()
        .filter(|line| line.contains("\"told\""))
        .collect();
    let topics: Vec<_> = topics
        .iter()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with("/tasks/"))
        })
        .collect();
    // What was deleted after its end is told by containerd for the task alone.
    let wanted = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "paused",
        "resumed",
        "exit",
        "delete",
    ];
    let wanted = wanted.map(|name| format!("/tasks/{name}"));
    assert_eq!(
        topics,
        wanted.iter().map(String::as_str).collect::<Vec<_>>(),
        "{}",
        all.concat()
    );
    let exits: Vec<_> = all
        .iter()
        .filter(|line| line.contains("/tasks/exit"))
        .collect();
    assert!(
        exits[0].contains("\"second\"") && exits[0].contains("\"exit_status\":3"),
        "{}",
        exits[0]
    );
    assert!(exits[1].contains("\"exit_status\":137"), "{}", exits[1]);
}
