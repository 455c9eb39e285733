//! Linux over pauses: its clocks, its disks and networks; a medium that is exchanged, limits that change, and
//! Ctrl-Alt-Del.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::net::Namespace;
use super::*;
use motevm::config::{Console, Cpus, Disk, Engine, Net, RateLimit, Size};
use motevm::machine::{Button, ControlError};
use motevm::{BuildOptions, Control, Exit, Host, State, VmConfig, build};

/// Has a guest do what is typed, line by line.
const SHELL: &str = "stty -echo; echo =READY=; while read -r l; do eval $l; echo =DONE=; done";

/// A VM in this process, and a shell in its guest.
struct Guest {
    control: Control,
    terminal: File,
    seen: String,
    thread: Option<JoinHandle<Exit>>,
}

fn config(guests: &Guests) -> VmConfig {
    let mut config = VmConfig {
        memory: Size::mib(256).into(),
        console: Console::Pty,
        rootfs: Some(Disk {
            path: guests.rootfs.clone(),
            read_only: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    config.boot.kernel = Some(guests.kernel.clone());
    config.boot.cmdline = Some(format!("mote.run=\"{SHELL}\""));
    config
}

impl Guest {
    fn start(config: &VmConfig) -> Self {
        let mut vm = build(&Host::open().unwrap(), config, BuildOptions::default()).unwrap();
        let mut terminal = File::options();
        terminal.read(true).write(true);
        let terminal = terminal
            .custom_flags(libc::O_NOCTTY)
            .open(vm.pty().unwrap());
        let control = vm.control();
        let mut guest = Guest {
            control,
            terminal: terminal.unwrap(),
            seen: String::new(),
            thread: Some(thread::spawn(move || vm.run().unwrap())),
        };
        guest.wait_for("=READY=");
        guest
    }

    /// What was printed up to this.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let before = self.seen.drain(..at + text.len()).collect::<String>();
                return before[..at].replace("\r\n", "\n").trim().to_owned();
            }
            let mut bytes = [0; 1024];
            let count = self.terminal.read(&mut bytes).unwrap_or(0);
            assert!(count > 0, "waited for {text:?}, and saw {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    /// What the guest says to this.
    #[track_caller]
    fn shell(&mut self, command: &str) -> String {
        writeln!(self.terminal, "{command}").unwrap();
        self.wait_for("=DONE=")
    }

    fn uptime(&mut self) -> f64 {
        let text = self.shell("cat /proc/uptime");
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The same, while the VM is paused again and again.
    fn shell_under_pauses(&mut self, command: &str) -> (String, u32) {
        let (end, control) = (AtomicBool::new(false), self.control.clone());
        thread::scope(|scope| {
            let pauses = scope.spawn(|| {
                let mut count = 0;
                while !end.load(Ordering::Relaxed) {
                    control.pause().unwrap();
                    control.resume().unwrap();
                    count += 1;
                    thread::sleep(Duration::from_millis(3));
                }
                count
            });
            let said = self.shell(command);
            end.store(true, Ordering::Relaxed);
            (said, pauses.join().unwrap())
        })
    }

    fn end(mut self) -> Exit {
        self.control.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.control.stop();
    }
}

#[test]
fn the_guests_clock_stands_still_and_no_watchdog_barks() {
    let Some(guests) = guests() else { return };
    let mut config = config(&guests);
    config.cpus = Cpus(2);
    let mut guest = Guest::start(&config);
    let source = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = guest.shell(source);
    let before = guest.uptime();
    let start = Instant::now();
    guest.control.pause().unwrap();
    assert_eq!(guest.control.state(), State::Paused);
    thread::sleep(Duration::from_secs(30));
    guest.control.resume().unwrap();
    let passed = guest.uptime() - before;
    let really = start.elapsed().as_secs_f64();
    let _ = writeln!(std::io::stderr(), "{source}: {passed} s of {really} s");
    assert!(
        passed < 10.0 && really > 30.0,
        "{source}: {passed} s of {really} s"
    );
    // It goes on as fast as before.
    let (before, start) = (guest.uptime(), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let (passed, really) = (guest.uptime() - before, start.elapsed().as_secs_f64());
    assert!((passed - really).abs() < 1.0, "{passed} s of {really} s");
    let complaints = guest.shell("dmesg | grep -iE 'lockup|stall|unstable|hung'");
    assert_eq!(complaints, "");
    assert_eq!(guest.end(), Exit::Stopped);
}

#[test]
fn disks_and_entropy_go_on_over_many_pauses() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&guests);
    config.cpus = Cpus(2);
    let data = noise(24 << 20);
    let mut sums = Vec::new();
    for engine in [Engine::Threads, Engine::IoUring] {
        let (from, to) = (format!("from-{engine:?}"), format!("to-{engine:?}"));
        let (from, to) = (
            folder.path().join(from),
            image(folder.path(), &to, 24 << 20),
        );
        fs::write(&from, &data).unwrap();
        for path in [from, to.clone()] {
            config.disks.push(Disk {
                engine,
                ..Disk::at(path)
            });
        }
        sums.push(to);
    }
    let mut guest = Guest::start(&config);
    let copy = "dd if=/dev/vdb of=/dev/vdc bs=64k conv=fsync 2>/dev/null & \
                dd if=/dev/vdd of=/dev/vde bs=64k conv=fsync 2>/dev/null; wait; \
                head -c 4096 /dev/hwrng | wc -c";
    let (said, pauses) = guest.shell_under_pauses(copy);
    let _ = writeln!(std::io::stderr(), "{pauses} pauses");
    assert_eq!(said, "4096");
    assert!(pauses > 20, "{pauses}");
    assert_eq!(guest.shell("dmesg | grep -iE 'error|lockup|stall'"), "");
    assert_eq!(guest.end(), Exit::Stopped);
    for copy in sums {
        assert!(fs::read(copy).unwrap() == data, "the copy is another");
    }
}

#[test]
fn a_network_goes_on_over_many_pauses() {
    let Some(guests) = guests() else { return };
    let Some(namespace) = Namespace::new("mode tap") else {
        return;
    };
    let mut config = config(&guests);
    config.nets = vec![Net {
        tap: Some("tap0".to_owned()),
        ..Default::default()
    }];
    // A tap is found in the namespace of the thread that builds the VM.
    let mut guest = namespace.inside(|| Guest::start(&config));
    guest.shell("ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0");
    let ping = "ping -c 20 -i 0.2 -W 20 10.0.0.1 | grep received";
    let (said, pauses) = guest.shell_under_pauses(ping);
    let _ = writeln!(std::io::stderr(), "{pauses} pauses: {said}");
    assert!(said.contains("20 packets received"), "{said}");
    // Cables and limits, by name.
    let control = guest.control.clone();
    assert_eq!(control.nets().collect::<Vec<_>>(), ["net0"]);
    let limits = RateLimit::default();
    control.set_net_limits("net0", Some(limits), None).unwrap();
    control.link("net0").unwrap().set(false);
    until("the guest to see it", || {
        guest.shell("cat /sys/class/net/eth0/carrier") == "0"
    });
    assert_eq!(guest.end(), Exit::Stopped);
}

#[test]
fn the_guest_sees_another_medium_in_its_drive() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    fs::write(&first, vec![b'a'; 1 << 20]).unwrap();
    fs::write(&second, vec![b'b'; 3 << 20]).unwrap();
    let mut config = config(&guests);
    config.disks = vec![Disk::at(&first)];
    let mut guest = Guest::start(&config);
    let look = "blockdev --flushbufs /dev/vdb; cat /sys/block/vdb/size; head -c 3 /dev/vdb; \
                tail -c 3 /dev/vdb";
    assert_eq!(guest.shell(look), "2048\naaaaaa");
    let control = guest.control.clone();
    assert_eq!(control.drives().collect::<Vec<_>>(), ["vda", "vdb"]);
    assert_eq!(control.replace_drive("vdb", &*second).unwrap(), 3 << 20);
    until("the guest to be told", || {
        guest.shell("cat /sys/block/vdb/size") == "6144"
    });
    assert_eq!(guest.shell(look), "6144\nbbbbbb");
    // The same file, which has grown; and the first one, which nobody holds any more.
    File::options()
        .write(true)
        .open(&second)
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    assert_eq!(control.replace_drive("vdb", &*second).unwrap(), 4 << 20);
    until("the guest to be told", || {
        guest.shell("cat /sys/block/vdb/size") == "8192"
    });
    control.replace_drive("vdb", &*first).unwrap();
    until("the guest to be told", || {
        guest.shell("cat /sys/block/vdb/size") == "2048"
    });
    let refused = control.replace_drive("vdb", "/nowhere");
    assert!(
        matches!(refused, Err(ControlError::Medium(_))),
        "{refused:?}"
    );
    let refused = control
        .replace_drive("vdz", &*first)
        .unwrap_err()
        .to_string();
    assert_eq!(refused, "there is no drive \"vdz\": the VM has vda, vdb");
    assert_eq!(guest.shell(look), "2048\naaaaaa");
    assert_eq!(guest.end(), Exit::Stopped);
}

/// The default guest has no driver for a keyboard, and who presses is told.
#[test]
fn ctrl_alt_del_restarts_a_stock_kernel() {
    let Some(guests) = guests() else { return };
    let mut config = config(&guests);
    let guest = Guest::start(&config);
    let refused = guest.control.press(Button::CtrlAltDel);
    assert!(
        matches!(refused, Err(ControlError::NoButton { .. })),
        "{refused:?}"
    );
    assert_eq!(guest.end(), Exit::Stopped);
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    config.boot.kernel = Some(guests.debian_kernel.clone());
    config.boot.initrd = Some(guests.debian_initrd.clone());
    config.memory = Size::mib(512).into();
    config.rootfs = None;
    let mut guest = Guest::start(&config);
    until("its keyboard's driver", || {
        guest.control.press(Button::CtrlAltDel).is_ok()
    });
    let end = Instant::now() + Duration::from_secs(60);
    while guest.control.state() != State::Ended && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    let state = guest.control.state();
    if state != State::Ended {
        let seen = guest.shell(
            "dmesg | tail -3; grep 8042 /proc/interrupts; cat /proc/sys/kernel/ctrl-alt-del",
        );
        panic!("{state:?}: {seen}");
    }
    let exit = guest.thread.take().unwrap().join().unwrap();
    assert_eq!(exit, Exit::Reset, "{}", guest.seen);
}
