//! Memory that the guest gives up, or frees, is the host's again.

use std::io::{BufRead, BufReader};
use std::sync::mpsc;

use motevm::config::{Balloon, Console, Disk, Size};
use motevm::{BuildOptions, Host, VmConfig, build};

use super::*;

/// A VM in this process, whose guest runs `script`; what it prints goes to `out`.
fn config(guests: &Guests, out: &Path, memory: Size, script: &str) -> VmConfig {
    let mut config = VmConfig {
        memory: memory.into(),
        console: Console::File(out.into()),
        rootfs: Some(Disk {
            path: guests.rootfs.clone(),
            read_only: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    config.boot.kernel = Some(guests.kernel.clone());
    config.boot.cmdline = Some(format!("mote.run=\"{script}\""));
    config
}

/// Resident memory of a process, in MiB.
fn resident(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        >> 10
}

#[test]
fn what_the_guest_frees_goes_back_to_the_host() {
    let Some(_) = guests() else { return };
    // It waits for a line before it frees what it has filled.
    let script = "dd if=/dev/zero of=/tmp/f bs=1M count=200 2>/dev/null; echo full; read line; \
                  rm /tmp/f; echo gone; read forever";
    let cmdline = format!("mote.run=\"{script}\"");
    let mut command = mote(&["--memory", "400M", "--balloon", "--cmdline", &cmdline]);
    let mut mote = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = mote.stdin.take().unwrap();
    let mut printed = BufReader::new(mote.stdout.take().unwrap()).lines();
    let mut wait_for = |word: &str| {
        let found = printed.find(|line| line.as_ref().unwrap().trim_end() == word);
        assert!(found.is_some(), "the guest has ended without: {word}");
    };
    wait_for("full");
    let full = resident(mote.id());
    assert!(full > 200, "{full} MiB");
    input.write_all(b"free it\n").unwrap();
    wait_for("gone");
    until("the memory to be the host's", || {
        resident(mote.id()) < full / 2
    });
    let _ = writeln!(
        std::io::stderr(),
        "resident: {full} MiB full, {} MiB freed",
        resident(mote.id())
    );
    // SAFETY: a child that was not waited for.
    unsafe { libc::kill(mote.id() as i32, libc::SIGTERM) };
    assert_eq!(mote.wait().unwrap().code(), Some(143));
}

#[test]
fn a_running_guest_follows_the_balloons_target() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let script = "read forever";
    let mut config = config(&guests, &out, Size::mib(512), script);
    config.balloon = Some(Balloon {
        size: Size::mib(384),
        stats: Some(1),
        ..Default::default()
    });
    let host = Host::open().unwrap();
    let mut vm = build(&host, &config, BuildOptions::default()).unwrap();
    let (balloon, stopper) = (vm.balloon().unwrap(), vm.stopper());
    let (sender, ended) = mpsc::channel();
    let runner = std::thread::spawn(move || {
        sender.send(vm.run().unwrap()).unwrap();
        vm
    });
    until("the initial size", || balloon.actual() == Size::mib(384));
    let total = || balloon.stats().total().unwrap_or(u64::MAX);
    // Less by what the guest keeps for itself, and for its table of pages.
    until("statistics of then", || total() < 128 << 20);
    assert!(balloon.released() >= 384 << 20);
    // More memory for the guest, as one would for a program that needs it.
    balloon.set_target(Size::mib(64)).unwrap();
    until("deflation", || balloon.actual() == Size::mib(64));
    until("statistics of now", || total() > 384 << 20);
    balloon.set_target(Size::mib(128)).unwrap();
    until("inflation", || balloon.actual() == Size::mib(128));
    assert!(balloon.set_target(Size::mib(512)).is_err());
    stopper.stop();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), motevm::Exit::Stopped);
    let vm = runner.join().unwrap();
    let text = vm.metrics().render();
    assert!(
        text.contains("mote_balloon_target_bytes 134217728\n"),
        "{text}"
    );
    assert!(text.contains("mote_guest_memory_total_bytes "), "{text}");
}

#[test]
fn a_guest_out_of_memory_deflates_the_balloon_if_it_may() {
    let Some(_) = guests() else { return };
    // dd reads into a buffer larger than what the balloon leaves.
    let script = "while grep -q 'MemFree: *[12]' /proc/meminfo; do sleep 0.2; done; \
                  dd if=/dev/zero of=/dev/null bs=140M count=1 2>&1; echo end";
    let run = |balloon: &str| {
        let more = ["--memory", "256M", "--balloon", balloon];
        boot(&more, script).out
    };
    let may = run("150M,deflate-on-oom=on");
    assert!(may.contains("1+0 records out"), "{may}");
    let may_not = run("150M");
    assert!(!may_not.contains("records out"), "{may_not}");
}
