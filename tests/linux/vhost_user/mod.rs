//! Devices that other processes serve: how those are started.

mod drive;
mod folder;
mod network;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use motevm::config::{Boot, Console, Disk, Fs};
use motevm::{BuildOptions, Exit, Host, VmConfig, build};

use crate::common::can_run;
use crate::peers::peer;
use crate::{
    Guests, PATIENCE, boot, finish, guests, image, listens, listens_at, mote, noise, on_a_leash,
    path,
};

/// A program that runs until this is dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Running(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A drive served by qemu-storage-daemon.
fn storage_daemon(program: &Path, image: &Path, socket: &Path, queues: u16) -> Running {
    let _ = fs::remove_file(socket); // left by one that was killed
    let mut command = Command::new(program);
    command.arg("--blockdev").arg(format!(
        "driver=file,node-name=f0,filename={},discard=unmap",
        path(image)
    ));
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={},writable=on,\
         num-queues={queues}",
        path(socket)
    ));
    let daemon = Running::start(command);
    wait_until("qemu-storage-daemon", || listens(socket));
    daemon
}

fn virtiofsd(program: &Path, folder: &Path, socket: &Path) -> Running {
    let mut command = Command::new(program);
    command.arg(format!("--socket-path={}", path(socket)));
    command.args(["--shared-dir", path(folder), "--sandbox", "none"]);
    command.stderr(Stdio::null());
    let _ = fs::remove_file(socket);
    let daemon = Running::start(command);
    wait_until("virtiofsd", || listens(socket));
    daemon
}

/// A disk with a script on it, which may have quotes: `sh /home/run`.
fn script_disk(folder: &Path, script: &str) -> PathBuf {
    let (tree, disk) = (folder.join("tree"), folder.join("script.img"));
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("run"), script).unwrap();
    let made = Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-d",
            path(&tree),
            path(&disk),
            "2M",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    disk
}
