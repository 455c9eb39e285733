//! What the jailed process sees and has, read from outside.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn it_has_nothing_but_what_its_vm_needs() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    let disk = place.folder.path().join("disk.img");
    fs::write(&disk, [0; 4096]).unwrap();
    let disk = disk.to_str().unwrap();
    let limits = ",nofile=300,nproc=500,memlock=1M,fsize=1G,gid=64124";
    let mut command = place.command(limits, &["--disk", disk]);
    command.env("A_SECRET", "swordfish");
    let secret = fs::File::open("/etc/passwd").unwrap();
    let fd = secret.as_raw_fd();
    // SAFETY: takes no pointer.
    unsafe {
        command.pre_exec(move || match libc::dup2(fd, 77) {
            77 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    let mut vm = Running::start(command);
    // Who it is, and what it may.
    for (key, expected) in [
        ("Uid", "64123 64123 64123 64123"),
        ("Gid", "64124 64124 64124 64124"),
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Umask", "0077"),
    ] {
        assert_eq!(vm.status(key), expected, "{key}");
    }
    assert_eq!(vm.status("NSpid"), format!("{} 2", vm.jailed));
    for name in ["mnt", "pid", "ipc", "uts", "net"] {
        let theirs = link(format!("/proc/{}/ns/{name}", vm.jailed));
        assert_ne!(theirs, link(format!("/proc/self/ns/{name}")), "{name}");
    }
    let sysctl = |what| fs::read_to_string(format!("/proc/{}/net/{what}", vm.jailed)).unwrap();
    let networks = sysctl("dev");
    assert!(
        networks
            .lines()
            .skip(2)
            .all(|line| line.trim().starts_with("lo:")),
        "{networks}"
    );
    // Its files.
    let root = format!("/proc/{}/root", vm.jailed);
    let names = |path: &str| -> Vec<_> {
        let entries = fs::read_dir(path).unwrap().flatten();
        entries.map(|entry| entry.file_name()).collect()
    };
    assert_eq!(names(&root), ["run"]);
    assert!(names(&format!("{root}/run")).is_empty());
    let mounts = vm.proc("mountinfo");
    let mounts: Vec<Vec<_>> = mounts
        .lines()
        .map(|line| line.split(' ').collect())
        .collect();
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    assert_eq!(mounts[0][4..6], ["/", "ro,nosuid,nodev,noexec,relatime"]);
    assert_eq!(mounts[1][4], "/run");
    assert!(
        mounts[1][5].starts_with("rw,nosuid,nodev,noexec"),
        "{mounts:?}"
    );
    // Its descriptors: what was named, the kernel's, and the streams.
    for (number, target) in open_files(vm.jailed) {
        let target = target.to_string_lossy().into_owned();
        let pid = place.vm().join("pid");
        let files = [
            "/dev/kvm",
            "/dev/null",
            &place.kernel,
            disk,
            pid.to_str().unwrap(),
        ];
        let own = ["anon_inode:", "pipe:", "socket:"];
        let known = files.contains(&&target[..]) || own.iter().any(|own| target.starts_with(own));
        assert!(known || number == "2", "{number:?}: {target}");
    }
    assert!(!vm.proc("environ").contains("swordfish"));
    let limits = vm.proc("limits");
    for (limit, value) in [
        ("Max core file size", "1"),
        ("Max open files", "300"),
        ("Max processes", "500"),
        ("Max locked memory", "1048576"),
        ("Max file size", "1073741824"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let values: Vec<_> = line[limit.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [value, value], "{line}");
    }
    // Process 1 has no more than that.
    let first = fs::read_to_string(format!("/proc/{}/status", vm.first)).unwrap();
    assert!(first.contains("CapBnd:\t0000000000000000") && first.contains("Uid:\t64123\t64123"));
    assert_eq!(names(&format!("/proc/{}/root", vm.first)), ["run"]);
    let first = fs::read_dir(format!("/proc/{}/fd", vm.first)).unwrap();
    assert_eq!(first.count(), 2, "the supervisor's pipe and the lock");
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
    place.assert_clean();
}

#[test]
fn sockets_that_mote_makes_are_in_the_folder_of_the_jail() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    let metrics = "unix=m.sock,file=vm.prom";
    let options = ["--vsock", "cid=3,socket=v.sock", "--metrics", metrics];
    let mut vm = Running::start(place.command("", &options));
    let run = place.vm().join("run");
    let mut stream = UnixStream::connect(run.join("m.sock")).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("mote_vm_info"), "{answer}");
    assert!(UnixStream::connect(run.join("v.sock")).is_ok());
    assert!(run.join("vm.prom").exists());
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
    place.assert_clean();
    let elsewhere = place.folder.path().join("v.sock");
    let vsock = format!("cid=3,socket={}", elsewhere.display());
    let (code, said) = place.run("", &["--vsock", &vsock]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("--vsock socket=") && said.contains("jails/vm/run/NAME"),
        "{said}"
    );
}

#[test]
fn a_tap_is_opened_before_and_its_network_stays_outside() {
    if !can_jail() {
        return;
    }
    if !can_run(
        "tap",
        fs::metadata("/dev/net/tun").err().map(|e| e.to_string()),
    ) {
        return;
    }
    let place = Place::new(endless());
    let mut command = place.command("", &["--net", "tap=jailtap,queues=2"]);
    // SAFETY: takes no pointer. Taps of the tests are in a network of their own.
    unsafe {
        command.pre_exec(|| match libc::unshare(libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut vm = Running::start(command);
    let files = open_files(vm.jailed);
    let tuns = files.filter(|(_, file)| file.ends_with("net/tun")).count();
    assert!(tuns >= 2, "{tuns}");
    let networks = vm.proc("net/dev");
    assert!(!networks.contains("jailtap"), "{networks}");
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
}

#[test]
fn it_is_in_the_network_that_was_asked_for() {
    if !can_jail() {
        return;
    }
    // A network with something of its own in it, as long as this process lives.
    let mut sleep = Command::new("sleep");
    // SAFETY: takes no pointer.
    unsafe {
        sleep.pre_exec(|| match libc::unshare(libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut sleep = sleep.arg("600").spawn().unwrap();
    let network = format!("/proc/{}/ns/net", sleep.id());
    let place = Place::new(endless());
    let key = format!(",netns={network}");
    let mut vm = Running::start(place.command(&key, &["--net", "tap=jailtap"]));
    assert_eq!(link(format!("/proc/{}/ns/net", vm.jailed)), link(&network));
    assert!(vm.proc("net/dev").contains("jailtap"));
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    let (code, said) = place.run(",netns=no-such-network", &[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--jail netns=no-such-network: "), "{said}");
}

#[test]
fn files_that_are_open_already_reach_the_jail() {
    if !can_jail() {
        return;
    }
    let place = Place::new(Code::new().print("ready").reset());
    let kernel = fs::File::open(&place.kernel).unwrap();
    fs::remove_file(&place.kernel).unwrap();
    let log = fs::File::create(place.folder.path().join("log")).unwrap();
    let place = Place {
        kernel: "fd=30".to_owned(),
        ..place
    };
    let mut command = place.command("", &["--console", "file=fd=31"]);
    let fds = [(kernel.as_raw_fd(), 530, 30), (log.as_raw_fd(), 531, 31)];
    // SAFETY: take no pointers.
    unsafe {
        command.pre_exec(move || {
            for (from, over, to) in fds {
                let copy = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, over);
                libc::dup2(copy, to);
            }
            Ok(())
        });
    }
    let (code, said) = outcome(&mut command);
    assert_eq!(code, 0, "{said}");
    let printed = fs::read_to_string(place.folder.path().join("log")).unwrap();
    assert_eq!(printed, "ready", "{said}");
}
