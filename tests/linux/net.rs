//! Networks: a tap in a network namespace of each test's own, with a real guest at the other end.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::peers::{peer, test_rootfs};
use motevm::config::{Disk, Net};
use motevm::{BuildOptions, Exit, Host, Vm, VmConfig, build};

/// The guest's part of every script: the host is 10.0.0.1.
const UP: &str = "ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0";

/// A network namespace, with a tap in it.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// `None` (said aloud) where it can't be had. `tap` is what follows `ip tuntap add tap0`; if
    /// it's empty, mote is to make the tap.
    pub fn new(tap: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mote-{}-{number}", std::process::id());
        let added = Command::new("ip").args(["netns", "add", &name]).output();
        let obstacle = match added {
            Ok(output) if output.status.success() => {
                let missing = !Path::new("/dev/net/tun").exists();
                missing.then(|| "there is no /dev/net/tun".to_owned())
            }
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(e) => Some(format!("ip: {e}")),
        };
        let namespace = Namespace { name };
        // There, whatever is needed is.
        let emulated = std::env::var_os("MOTE_EMULATED").is_some();
        assert!(!emulated || obstacle.is_none(), "{obstacle:?}");
        if !can_run("tap", obstacle) {
            return None;
        }
        namespace.run("ip link set lo up");
        if !tap.is_empty() {
            namespace.run(&format!("ip tuntap add tap0 {tap}"));
            namespace.run("ip link set tap0 up");
            namespace.run("ip addr add 10.0.0.1/24 dev tap0");
        }
        Some(namespace)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a shell command in it; what it printed.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let output = self.command("sh").args(["-c", script]).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let out = text(&output.stdout);
        assert!(
            output.status.success(),
            "{script}: {out}{}",
            text(&output.stderr)
        );
        out
    }

    /// Runs `work` on a thread that is in the namespace, as are the threads that it starts.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: a descriptor and a flag.
                let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
                work()
            });
            thread.join().unwrap()
        })
    }

    /// `mote run` in it.
    fn mote(&self, arguments: &[&str], script: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_mote"));
        on_a_leash(command.arg("run").args(arguments));
        command.args(["--cmdline", &format!("quiet mote.run=\"{UP}; {script}\"")]);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// A VM whose console is `folder`/out, on the root file system with the tests' programs.
fn vm(guests: &Guests, rootfs: &Path, folder: &Path, net: Net, script: &str) -> Vm {
    let mut config = VmConfig {
        console: motevm::config::Console::File(folder.join("out")),
        rootfs: Some(Disk {
            path: rootfs.into(),
            read_only: true,
            ..Disk::default()
        }),
        nets: vec![net],
        ..VmConfig::default()
    };
    config.boot.kernel = Some(guests.kernel.clone());
    config.boot.cmdline = Some(format!("quiet mote.run=\"{UP}; {script}\""));
    let host = Host::open().unwrap();
    build(&host, &config, BuildOptions::default()).unwrap()
}

fn tap() -> Net {
    Net {
        tap: Some("tap0".to_owned()),
        ..Net::default()
    }
}

/// Waits until the guest has said `text`.
fn heard(folder: &Path, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = fs::read_to_string(folder.join("out")).unwrap_or_default();
        if said.contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "no `{text}` in {said}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Sends `size` bytes to the first connection, and checks that the same come back by the second.
/// Both are the guest's, and what it does in between is to copy.
fn echo(listeners: [TcpListener; 2], size: usize) {
    const BLOCK: usize = 1 << 20;
    let noise = noise(BLOCK);
    // Each block of 4 KiB has its number in it, so that none can stand for another.
    let fill = |block: &mut Vec<u8>, number: usize| {
        block.clear();
        block.extend_from_slice(&noise);
        for (index, part) in block.chunks_mut(4096).enumerate() {
            part[..8].copy_from_slice(&(number * BLOCK / 4096 + index).to_le_bytes());
        }
    };
    let accept = |listener: &TcpListener| -> TcpStream {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let (mut to, mut from) = (accept(&listeners[0]), accept(&listeners[1]));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut block = Vec::with_capacity(BLOCK);
            for number in 0..size / BLOCK {
                fill(&mut block, number);
                to.write_all(&block).unwrap();
            }
            to.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut expected = Vec::with_capacity(BLOCK);
        let mut block = vec![0; BLOCK];
        for number in 0..size / BLOCK {
            from.read_exact(&mut block).unwrap();
            fill(&mut expected, number);
            assert!(block == expected, "block {number} differs");
        }
        assert_eq!(from.read(&mut block).unwrap(), 0);
    });
}

/// The guest's part of [`echo`].
const ECHO: &str = "socat -b 262144 -u TCP4:10.0.0.1:5001 TCP4:10.0.0.1:5002";

/// A VM that sends back what it's sent, `size` bytes; the VM when it has ended.
fn echo_through(net: Net, tap: &str, size: usize) -> Option<Vm> {
    let guests = guests()?;
    let rootfs = test_rootfs()?;
    let namespace = Namespace::new(tap)?;
    let folder = tempfile::tempdir().unwrap();
    let vm = namespace.inside(|| {
        let listeners = [5001, 5002].map(|port| TcpListener::bind(("10.0.0.1", port)).unwrap());
        let mut vm = vm(&guests, &rootfs, folder.path(), net, ECHO);
        let stopper = vm.stopper();
        let exit = thread::scope(|scope| {
            let echo = scope.spawn(|| {
                let start = Instant::now();
                // A failure must end the VM too.
                let result = std::panic::catch_unwind(|| echo(listeners, size));
                if result.is_err() {
                    stopper.stop();
                }
                eprintln!("{} MiB there and back: {:.1?}", size >> 20, start.elapsed());
                result.unwrap();
            });
            let exit = vm.run().unwrap();
            echo.join().unwrap();
            exit
        });
        assert!(matches!(exit, Exit::Reset), "{exit:?}");
        vm
    });
    Some(vm)
}

/// Exits of the guest because of its network device.
fn exits_of_net(vm: &Vm) -> u64 {
    let exits = vm.exits();
    let device = exits.by_device.iter().find(|d| d.device == "virtio-net0");
    device.map_or(0, |device| device.reads + device.writes)
}

#[test]
fn what_is_sent_comes_back_the_same_and_takes_no_exits() {
    // A gibibyte there and another one back, where that doesn't take minutes; else a part of each.
    let emulated = std::env::var_os("MOTE_EMULATED").is_some();
    let whole = std::env::var_os("MOTE_LONG").is_some() || !emulated;
    let size = match whole {
        true => 1 << 30,
        false => native::EMULATED_BULK,
    };
    let Some(vm) = echo_through(tap(), "mode tap", size) else {
        return;
    };
    // Setting the device up is some 40.
    assert!(exits_of_net(&vm) < 100, "{:?}", vm.exits());
    assert!(vm.exits().total < 1000, "{:?}", vm.exits());
}

#[test]
fn the_kernel_moves_packets_by_itself() {
    if !can_run("tap", vhost_obstacle()) {
        return;
    }
    let net = Net {
        vhost: true,
        ..tap()
    };
    let Some(vm) = echo_through(net, "mode tap", 128 << 20) else {
        return;
    };
    assert!(exits_of_net(&vm) < 100, "{:?}", vm.exits());
    // None of them has come by mote.
    let counts = vm.metrics().render();
    assert!(
        counts.contains("mote_net_packets_total{device=\"net0\",direction=\"rx\"} 0"),
        "{counts}"
    );
}

fn vhost_obstacle() -> Option<String> {
    let opened = File::options()
        .read(true)
        .write(true)
        .open("/dev/vhost-net");
    opened.err().map(|e| format!("/dev/vhost-net: {e}"))
}

#[test]
fn the_cable_is_pulled_and_plugged_in_and_pings_go_both_ways() {
    let Some(guests) = guests() else { return };
    // mote makes the tap, and it's gone with the VM.
    let Some(namespace) = Namespace::new("") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = "until ping -c 1 -W 1 10.0.0.1 >/dev/null; do true; done; echo ping-passes; \
        cd /sys/class/net/eth0; until [ $(cat carrier) = 0 ]; do sleep 0.1; done; echo went-down; \
        until [ $(cat carrier) = 1 ]; do sleep 0.1; done; \
        until ping -c 1 -W 1 10.0.0.1 >/dev/null; do true; done; echo passes-again; sleep 1000";
    namespace.inside(|| {
        let net = Net {
            mtu: Some(1400),
            ..tap()
        };
        let mut vm = vm(&guests, &guests.rootfs, folder.path(), net, script);
        namespace.run("ip addr add 10.0.0.1/24 dev tap0");
        let (stopper, link) = (vm.stopper(), vm.link(0).unwrap().clone());
        thread::scope(|scope| {
            scope.spawn(|| {
                // A failure must end the VM too.
                let result = std::panic::catch_unwind(|| {
                    heard(folder.path(), "ping-passes");
                    namespace.run("busybox ping -c 3 -W 100 -s 1372 10.0.0.2");
                    link.set(false);
                    heard(folder.path(), "went-down");
                    // Linux may take a second to say so, here and below.
                    let state = || namespace.run("ip link show tap0");
                    until("a lost carrier", || state().contains("NO-CARRIER"));
                    link.set(true);
                    heard(folder.path(), "passes-again");
                    until("a carrier", || !state().contains("NO-CARRIER"));
                    let state = state();
                    assert!(state.contains("LOWER_UP"), "{state}");
                    assert!(state.contains("mtu 1400"), "{state}");
                });
                stopper.stop();
                result.unwrap();
            });
            assert!(matches!(vm.run().unwrap(), Exit::Stopped));
        });
    });
    until("the tap to vanish", || {
        !namespace.run("ip link").contains("tap0")
    });
}

#[test]
fn iperf_runs_both_ways_on_two_queue_pairs() {
    let Some(_) = guests() else { return };
    let (Some(_), Some(rootfs)) = (peer("iperf3"), test_rootfs()) else {
        return;
    };
    let Some(namespace) = Namespace::new("mode tap multi_queue") else {
        return;
    };
    let rootfs = format!("{},ro", path(&rootfs));
    let arguments = [
        "--rootfs",
        &rootfs,
        "--cpus",
        "2",
        "--net",
        "tap=tap0,queues=2,mac=02:00:00:00:00:07",
    ];
    let script = "cat /sys/class/net/eth0/address; ls /sys/class/net/eth0/queues; \
        for reverse in '' -R; do \
        until iperf3 -c 10.0.0.1 -P 2 -n 32M -i 0 $reverse; do sleep 1; done; done";
    let mut server = namespace.command("iperf3");
    let mut server = server.args(["-s"]).stdout(Stdio::null()).spawn().unwrap();
    until("iperf3 to listen", || listens_at(server.id(), 5201));
    // Between two tests it is busy for a moment.
    let ended = finish(namespace.mote(&arguments, script));
    server.kill().unwrap();
    server.wait().unwrap();
    let out = ended.success();
    for text in ["02:00:00:00:00:07", "rx-1", "tx-1"] {
        assert!(out.contains(text), "{out}");
    }
    assert_eq!(out.matches("iperf Done.").count(), 2, "{out}");
}

#[test]
fn a_rate_limit_holds_in_both_directions() {
    let Some(guests) = guests() else { return };
    let Some(rootfs) = test_rootfs() else { return };
    let Some(namespace) = Namespace::new("mode tap") else {
        return;
    };
    const SIZE: usize = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let net = Net {
        tx_bw: Some(motevm::config::Size::mib(1)),
        tx_bw_burst: Some(motevm::config::Size::new(256 << 10)),
        rx_bw: Some(motevm::config::Size::mib(1)),
        rx_bw_burst: Some(motevm::config::Size::new(256 << 10)),
        ..tap()
    };
    // To the host, once that has said so, and then from it.
    let script = "socat TCP4:10.0.0.1:5001 \
        SYSTEM:'head -n 1 >/dev/null; dd if=/dev/zero bs=64k count=64 2>/dev/null'; \
        socat -u TCP4:10.0.0.1:5002 - | wc -c";
    let times = namespace.inside(|| {
        let listeners = [5001, 5002].map(|port| TcpListener::bind(("10.0.0.1", port)).unwrap());
        let mut vm = vm(&guests, &rootfs, folder.path(), net, script);
        thread::scope(|scope| {
            let peer = scope.spawn(move || {
                let (mut stream, _) = listeners[0].accept().unwrap();
                let start = Instant::now();
                stream.write_all(b"now\n").unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                assert_eq!(all.len(), SIZE);
                let first = start.elapsed();
                let (mut stream, _) = listeners[1].accept().unwrap();
                let start = Instant::now();
                stream.write_all(&all).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                // The guest closes when it has all.
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                [first, start.elapsed()]
            });
            let exit = vm.run().unwrap();
            assert!(matches!(exit, Exit::Reset), "{exit:?}");
            peer.join().unwrap()
        })
    });
    heard(folder.path(), &SIZE.to_string());
    for time in times {
        // 4 MiB less the burst and one large packet, at 1 MiB/s.
        assert!(time >= Duration::from_millis(3600), "{times:?}");
    }
}

#[test]
fn a_tap_that_someone_else_has_opened_is_used_by_its_descriptor() {
    let Some(_) = guests() else { return };
    let Some(namespace) = Namespace::new("") else {
        return;
    };
    // A macvtap's end is a device node; its other side is an interface of the namespace.
    namespace.run(
        "ip link add v0 type veth peer name v1 && ip link set v1 up && ip link set v0 up && \
         ip addr add 10.0.0.1/24 dev v1 && \
         ip link add link v0 name m0 address 02:00:00:00:00:09 type macvtap mode bridge && \
         ip link set m0 up",
    );
    let numbers = namespace.run("cat /sys/class/net/m0/macvtap/*/dev /sys/class/net/m0/ifindex");
    let mut lines = numbers.lines();
    let (major, minor) = lines.next().unwrap().split_once(':').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let node = folder.path().join("tap");
    let made = Command::new("mknod")
        .arg(&node)
        .args(["c", major, minor])
        .status();
    assert!(made.unwrap().success());
    let command = format!(
        "exec {} run --net fd=3,mac=02:00:00:00:00:09 \
         --cmdline 'quiet mote.run=\"{UP}; ping -c 3 -W 100 10.0.0.1\"' 3<>{}",
        env!("CARGO_BIN_EXE_mote"),
        path(&node)
    );
    let mut shell = namespace.command("sh");
    shell.args(["-c", &command]).stdin(Stdio::null());
    shell.stdout(Stdio::piped()).stderr(Stdio::piped());
    let out = finish(shell).success();
    assert!(out.contains("3 packets received"), "{out}");
}
