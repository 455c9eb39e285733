//! How a jailed VM ends, and what is left of it.

use std::os::unix::process::CommandExt;

use super::*;

#[test]
fn the_exit_status_is_that_of_the_vm() {
    if !can_jail() {
        return;
    }
    for (code, status) in [
        (Code::new().reset(), 0),
        (Code::new().crash(), 5),
        (Code::new().panic(), 4),
    ] {
        let place = Place::new(code);
        let (got, said) = place.run("", &[]);
        assert_eq!(got, status, "{said}");
        assert!(
            !said.contains("no hardware"),
            "of a host that isn't seen: {said}"
        );
        place.assert_clean();
    }
    // What is wrong is found inside, and still named by its path.
    let place = Place::new(Code::new().reset());
    fs::write(&place.kernel, "no kernel").unwrap();
    let (got, said) = place.run("", &[]);
    assert_eq!(got, 2, "{said}");
    assert!(
        said.contains(&place.kernel) && said.lines().count() == 1,
        "{said}"
    );
    place.assert_clean();
    let (got, said) = place.run("", &["--disk", "/nonexistent.img"]);
    assert!(
        got == 2 && said.contains("--disk=/nonexistent.img"),
        "{said}"
    );
    place.assert_clean();
}

#[test]
fn what_makes_no_sense_is_refused() {
    if !can_jail() {
        return;
    }
    let place = Place::new(Code::new().reset());
    let root = format!("root={}", place.root().display());
    let refused = |jail: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        let jail = format!("{jail},{root}");
        command.args(["run", "--kernel", &place.kernel, "--jail", &jail]);
        let (code, said) = outcome(command.args(more).stdin(Stdio::null()));
        assert!(matches!(code, 2 | 3), "{jail}: {code}: {said}");
        said
    };
    for (jail, more, expected) in [
        ("id=a", [].as_slice(), "it needs uid=N"),
        ("id=a/b,uid=5", &[], "--jail id=a/b: "),
        ("id=a,uid=0", &[], "--jail uid=0: "),
        ("uid=5", &[], "missing `id`"),
        ("id=a,uid=5,pids=9", &[], "give cgroup=PATH"),
        (
            "id=a,uid=5,cpu=none,cgroup=x",
            &[],
            "`none` is no number of CPUs",
        ),
        (
            "id=a,uid=5,nofile=99999999999",
            &[],
            "--jail nofile=99999999999: ",
        ),
        ("id=a,uid=5", &["--net", "user"], "passt --vhost-user"),
        (
            "id=a,uid=5",
            &["--console", "pty"],
            "--console pty: not in a jail",
        ),
        (
            "id=a,uid=5,cgroup=/nonexistent/group",
            &[],
            "--jail cgroup=",
        ),
    ] {
        let said = refused(jail, more);
        assert!(said.contains(expected), "{jail} {more:?}: {said}");
    }
    if place.root().exists() {
        place.assert_clean();
    }
}

#[test]
fn signals_are_passed_on() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    for (number, status) in [
        (libc::SIGINT, 130),
        (libc::SIGHUP, 129),
        (libc::SIGTERM, 143),
    ] {
        let mut vm = Running::start(place.command("", &[]));
        vm.signal(number);
        assert_eq!(vm.wait().code(), Some(status));
        place.assert_clean();
    }
    // Stopped and continued, as one; a group of its own, since one that nobody waits for can't be stopped so.
    let mut command = place.command("", &[]);
    command.process_group(0);
    let mut vm = Running::start(command);
    let outside = vm.supervisor.id() as i32;
    vm.signal(libc::SIGTSTP);
    let stopped = |process| state(process) == Some('T');
    wait_until("both to stop", || stopped(outside) && stopped(vm.jailed));
    vm.signal(libc::SIGCONT);
    wait_until("both to go on", || !stopped(outside) && !stopped(vm.jailed));
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
}

#[test]
fn a_signal_that_comes_at_any_moment_of_the_start_ends_it() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    for step in 0..30 {
        let mut command = place.command("", &[]);
        let mut mote = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(step * 700));
        signal(mote.id() as i32, libc::SIGTERM);
        let mut ended = None;
        wait_until("its end", || {
            ended = mote.try_wait().unwrap();
            ended.is_some()
        });
        // What comes before there is anything to clear away just ends it.
        use std::os::unix::process::ExitStatusExt;
        let ended = ended.unwrap();
        let status = (ended.code(), ended.signal());
        assert!(
            matches!(status, (Some(143), None) | (None, Some(15))),
            "{status:?}"
        );
    }
    let (code, said) = Place {
        kernel: place.kernel.clone(),
        ..Place::new(Code::new().reset())
    }
    .run("", &["--until", "serial:ready"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn nothing_outlives_a_supervisor_that_is_killed() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    for _ in 0..3 {
        let mut vm = Running::start(place.command("", &["--vsock", "cid=3,socket=v.sock"]));
        vm.signal(libc::SIGKILL);
        vm.wait();
        // At once: it waits for what is still ending, and takes over what was left.
        let again = ["--vsock", "cid=3,socket=v.sock", "--until", "serial:ready"];
        let (code, said) = place.run("", &again);
        assert_eq!(code, 0, "{said}");
        place.assert_clean();
        for process in [vm.jailed, vm.first] {
            wait_until("its end", || matches!(state(process), None | Some('Z')));
        }
    }
}

#[test]
fn a_jailed_process_that_is_killed_is_cleared_away() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    for which in 0..2 {
        let mut command = place.command("", &[]);
        command.stderr(Stdio::piped());
        let mut vm = Running::start(command);
        let process = if which == 0 { vm.jailed } else { vm.first };
        signal(process, libc::SIGKILL);
        assert_eq!(vm.wait().code(), Some(137));
        let mut said = String::new();
        vm.supervisor
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(said.contains("killed by signal 9"), "{said}");
        place.assert_clean();
    }
}

#[test]
fn two_vms_of_one_name_are_not_run_at_once() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    let mut vm = Running::start(place.command("", &[]));
    let (code, said) = place.run("", &[]);
    assert_eq!(code, 2, "{said}");
    let holder = format!("in use by process {}", vm.supervisor.id());
    assert!(
        said.contains("jails/vm") && said.contains(&holder),
        "{said}"
    );
    // The first one isn't disturbed.
    assert!(place.vm().join("run").exists() && state(vm.jailed).is_some());
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
    place.assert_clean();
}

#[test]
fn a_cgroup_is_made_joined_and_removed() {
    if !can_jail() {
        return;
    }
    // Of version 2, with controllers or without.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = mount.and_then(|line| line.split(' ').nth(4));
    let obstacle = mount
        .is_none()
        .then(|| "no cgroups of version 2".to_owned());
    if !can_run("cgroup2", obstacle) {
        return;
    }
    let parent = Path::new(mount.unwrap()).join(format!("mote-test-{}", std::process::id()));
    fs::create_dir(&parent).unwrap();
    let place = Place::new(endless());
    let key = format!(",cgroup={}", parent.display());
    let mut vm = Running::start(place.command(&key, &[]));
    let members = || fs::read_to_string(parent.join("vm/cgroup.procs")).unwrap();
    let members: std::collections::BTreeSet<i32> = members()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(members, [vm.first, vm.jailed].into());
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
    assert!(!parent.join("vm").exists());
    // And after a supervisor that had no time for it.
    let mut vm = Running::start(place.command(&key, &[]));
    vm.signal(libc::SIGKILL);
    vm.wait();
    let (code, said) = place.run(&key, &["--until", "serial:ready"]);
    assert_eq!(code, 0, "{said}");
    assert!(!parent.join("vm").exists());
    fs::remove_dir(&parent).unwrap();
}
