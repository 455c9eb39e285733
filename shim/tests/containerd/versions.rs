//! The same by other versions of containerd.

use std::path::Path;

use crate::ctr::finish;
use crate::daemon::Daemon;
use crate::place::release;
use crate::runner::not_run;
use crate::world::{FOLDER, World};
use crate::{image, world};

pub fn containerd_1_7_runs_it(_: &World) {
    smoke("trixie", " 1.7.");
}

pub fn containerd_2_runs_it(_: &World) {
    smoke("forky", " 2.");
}

/// Hello and a status, a second program, a kill.
fn smoke(name: &str, version: &str) {
    let program = release(name).join("usr/bin/containerd");
    if !program.exists() {
        let obstacle = "there is no such containerd: resources/containerd.sh gets it";
        return not_run("containerd-versions", name, obstacle);
    }
    let mut asked = std::process::Command::new(program);
    asked.arg("--version");
    let told = finish(asked, &[]).success();
    assert!(told.contains(version), "{told}");
    let folder = Path::new(FOLDER).join("c").join(name);
    let daemon = Daemon::start(name, &folder);
    let ctr = |arguments: &[&str]| {
        let mut command = daemon.ctr();
        command.args(arguments);
        finish(command, &[])
    };
    let archive = Path::new(FOLDER).join("image/image.tar");
    ctr(&["image", "import", archive.to_str().unwrap()]).success();
    let runtime = World::runtime();
    let run = ["run", "--runtime", &runtime];
    let hello = [
        "--rm",
        image::NAME,
        "hello",
        "sh",
        "-c",
        "echo hello; exit 7",
    ];
    let ended = ctr(&[&run[..], &hello].concat());
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(7), "hello\n"),
        "{ended:?}\n{}",
        daemon.log()
    );
    let waits = [
        "--detach",
        "--null-io",
        image::NAME,
        "waits",
        "sleep",
        "1000",
    ];
    ctr(&[&run[..], &waits].concat()).success();
    let ended = ctr(&[
        "task",
        "exec",
        "--exec-id",
        "e",
        "waits",
        "sh",
        "-c",
        "echo beside; exit 3",
    ]);
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(3), "beside\n"),
        "{ended:?}"
    );
    ctr(&["task", "kill", "--signal", "SIGKILL", "waits"]).success();
    crate::task::until("its end", || {
        ctr(&["task", "ls"]).success().contains("STOPPED")
    });
    crate::task::deleted(ctr(&["task", "delete", "waits"]), 137);
    ctr(&["container", "rm", "waits"]).success();
    // It made a namespace of cgroups and a few folders of its own; its processes and mounts are looked at by all.
    let left = ctr(&["task", "ls", "-q"]).success() + &ctr(&["container", "ls", "-q"]).success();
    assert_eq!(left, "");
    world::kill(daemon.pid(), libc::SIGTERM);
}
