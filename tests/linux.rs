//! Real Linux guests, run by the `mote` command as a user runs it. They need a KVM with hardware
//! (or emulated hardware) behind it and the guest that `make guest` makes; `make test` sees to
//! both (resources/test.sh, docs/testing.md).

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::can_run;

/// The files of the default guest and of the stock kernel.
struct Guests {
    vmlinux: PathBuf,
    bzimage: PathBuf,
    rootfs: PathBuf,
    initrd: PathBuf,
    debian_kernel: PathBuf,
    debian_initrd: PathBuf,
}

/// The guests, or `None` (said aloud) where these tests can't run.
fn guests() -> Option<Guests> {
    let cache = std::env::var_os("MOTE_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home =
                || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
            base.unwrap_or_else(home).join("mote")
        });
    let (guest, debian) = (cache.join("guest/x86_64"), cache.join("debian"));
    let guests = Guests {
        vmlinux: guest.join("vmlinux"),
        bzimage: guest.join("bzImage"),
        rootfs: guest.join("rootfs.ext4"),
        initrd: guest.join("initrd.cpio.gz"),
        debian_kernel: debian.join("vmlinuz"),
        debian_initrd: debian.join("initrd.cpio.gz"),
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hardware = info
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm");
    let obstacle = if !hardware {
        Some("this host's CPU shows neither vmx nor svm; run this through resources/on-kvm.sh")
    } else if !guests.vmlinux.exists() || !guests.debian_kernel.exists() {
        Some("the guests aren't built: resources/guest.sh and resources/debian-kernel.sh do that")
    } else {
        None
    };
    can_run("linux", obstacle.map(str::to_owned)).then_some(guests)
}

/// How long a guest may take: emulated hardware is slow, and several run at once.
const PATIENCE: Duration = Duration::from_secs(240);

/// `mote run` with these arguments.
fn mote(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.arg("run").args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run left.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out
    }
}

/// Runs to the end; a guest that doesn't come to one is a failure, not a hang.
fn finish(mut command: Command) -> Ended {
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |stream: &mut dyn Read| -> String {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        // Said by Linux whatever its log level: "[    1.2] reboot: Restarting system".
        let of_the_guest = |line: &&str| !line.contains("] reboot: ");
        text.split_inclusive('\n').filter(of_the_guest).collect()
    };
    let (out, err) = std::thread::scope(|scope| {
        let (out, err) = (
            scope.spawn(move || read(&mut out)),
            scope.spawn(move || read(&mut err)),
        );
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        (out.join().unwrap(), err.join().unwrap())
    });
    Ended {
        code: child.wait().unwrap().code(),
        out,
        err,
    }
}

/// Runs a shell command in the default guest, on its root file system; what it printed.
#[track_caller]
fn in_guest(more: &[&str], script: &str) -> String {
    boot(more, script).success()
}

fn boot(more: &[&str], script: &str) -> Ended {
    assert!(
        !script.contains('"'),
        "the kernel's command line has no way to quote a quote"
    );
    let cmdline = format!("mote.run=\"{script}\"");
    finish(mote(&[&["--cmdline", &cmdline], more].concat()))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An empty disk image.
fn image(folder: &Path, name: &str, size: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// Bytes that don't repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn elf_boots_by_pvh_and_by_the_64_bit_protocol() {
    let Some(guests) = guests() else { return };
    let rootfs = format!("{},ro", path(&guests.rootfs));
    for protocol in ["auto", "linux64"] {
        let more = [
            "--kernel",
            path(&guests.vmlinux),
            "--rootfs",
            &rootfs,
            "--protocol",
            protocol,
        ];
        let out = in_guest(&more, "uname -m; dmesg");
        assert!(out.starts_with("x86_64\n"), "{out}");
        // Linux says which kind of memory map it was given.
        let e820 = out.contains("BIOS-e820: [mem 0x0000000000100000-0x0000000007ffffff] usable");
        assert!(e820, "{out}");
    }
}

#[test]
fn bzimage_boots_also_from_the_cache_and_in_spite_of_a_damaged_one() {
    let Some(guests) = guests() else { return };
    let cache = tempfile::tempdir().unwrap();
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let kernel = path(&guests.bzimage);
    for round in 0..3 {
        let mut command = mote(&["--kernel", kernel, "--rootfs", &rootfs, "--acpi", "off"]);
        command
            .args(["--cmdline", "mote.run=\"echo up\""])
            .env("XDG_CACHE_HOME", cache.path());
        assert_eq!(finish(command).success(), "up\n", "round {round}");
        let entries: Vec<_> = fs::read_dir(cache.path().join("mote/kernels"))
            .unwrap()
            .collect();
        assert_eq!(entries.len(), 1, "the unpacked kernel is kept, once");
        if round == 1 {
            let entry = entries[0].as_ref().unwrap().path();
            let mut bytes = fs::read(&entry).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&entry, bytes).unwrap();
        }
    }
}

#[test]
fn an_initrd_is_enough_to_boot() {
    let Some(guests) = guests() else { return };
    let more = [
        "--kernel",
        path(&guests.vmlinux),
        "--initrd",
        path(&guests.initrd),
    ];
    let out = in_guest(&more, "ls /dev/vda 2>/dev/null; grep -w / /proc/mounts");
    assert!(out.contains("rootfs / "), "{out}");
}

#[test]
fn all_cpus_come_online() {
    let Some(_) = guests() else { return };
    for cpus in ["1", "4", "32"] {
        let out = in_guest(
            &["--cpus", cpus],
            "nproc; cat /sys/devices/system/cpu/online",
        );
        let last = cpus.parse::<u32>().unwrap() - 1;
        let online = if last == 0 {
            "0".to_owned()
        } else {
            format!("0-{last}")
        };
        assert_eq!(out, format!("{cpus}\n{online}\n"));
    }
}

#[test]
fn the_cpus_are_one_package_of_cores() {
    let Some(_) = guests() else { return };
    let script =
        "cd /sys/devices/system/cpu; cat cpu*/topology/core_id cpu*/topology/physical_package_id";
    let out = in_guest(&["--cpus", "4"], script);
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "0", "0", "0", "0"]
    );
}

#[test]
fn the_guest_sees_all_memory_also_above_4_gib() {
    let Some(_) = guests() else { return };
    for (size, mib) in [("128M", 128), ("5G", 5120)] {
        let out = in_guest(
            &["--memory", size],
            "grep MemTotal /proc/meminfo; dmesg | grep Memory:",
        );
        let total: u64 = out.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(
            total / 1024 <= mib && total / 1024 > mib * 85 / 100,
            "{size}: {out}"
        );
        // "Memory: 1234K/5242352K available": the latter is all RAM but what the BIOS area takes.
        let all = out
            .split(['/', 'K'])
            .find_map(|w| w.parse::<u64>().ok().filter(|n| *n > total));
        assert!(
            all.is_some_and(|all| mib * 1024 - all < 1024),
            "{size}: {out}"
        );
    }
}

#[test]
fn what_the_guest_writes_is_on_the_hosts_image() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "data.img", 64 << 20);
    assert!(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4"])
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    );
    let drive = format!("path={},id=DATA-1", path(&disk));
    let out = in_guest(
        &["--disk", &drive],
        "cat /sys/block/vdb/serial; echo; mkdir -p /tmp/m; mount /dev/vdb /tmp/m; \
         dd if=/dev/urandom of=/tmp/m/f bs=64k count=160 2>/dev/null; \
         md5sum < /tmp/m/f; umount /tmp/m",
    );
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("DATA-1"), "{out}");
    let expected = lines.next().unwrap();
    let copy = folder.path().join("copy");
    let dump = format!("dump /f {}", path(&copy));
    assert!(
        Command::new("debugfs")
            .args(["-R", &dump])
            .arg(&disk)
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(fs::metadata(&copy).unwrap().len(), 160 << 16);
    let sum = Command::new("md5sum")
        .stdin(File::open(&copy).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&sum.stdout).trim(), expected);
    let check = Command::new("e2fsck")
        .args(["-fn"])
        .arg(&disk)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn a_drive_holds_byte_for_byte_what_it_is_given_with_and_without_the_page_cache() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir_in(".")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    for cache in ["writeback", "none"] {
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        let bytes = noise(8 << 20);
        fs::write(&source, &bytes).unwrap();
        fs::write(&target, noise(8 << 20)).unwrap();
        let drives = [
            format!("path={},ro,cache={cache}", path(&source)),
            format!("path={},cache={cache}", path(&target)),
        ];
        let more = ["--disk", &drives[0], "--disk", &drives[1]];
        let ended = boot(
            &more,
            "dd if=/dev/vdb of=/dev/vdc bs=256k 2>/dev/null; sync",
        );
        if cache == "none" && ended.err.contains("O_DIRECT") {
            // tmpfs has no O_DIRECT on older kernels: refused in words, which is right too.
            can_run("o_direct", Some(ended.err.trim().to_owned()));
            continue;
        }
        ended.success();
        assert!(
            fs::read(&target).unwrap() == bytes,
            "cache={cache}: the copy differs"
        );
    }
}

#[test]
fn many_requests_at_once_arrive_intact() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = image(folder.path(), "target", 16 << 20);
    let drive = format!("path={}", path(&target));
    // Eight writers side by side, each to its own part, past the guest's page cache.
    let out = in_guest(
        &["--cpus", "2", "--disk", &drive],
        "for i in 0 1 2 3 4 5 6 7; do (yes line-$i | head -c 2097152 > /tmp/$i; \
         dd if=/tmp/$i of=/dev/vdb bs=64k seek=$((i*32)) conv=notrunc oflag=direct 2>/dev/null) & \
         done; wait; cat /sys/block/vdb/inflight",
    );
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "0"]);
    let bytes = fs::read(&target).unwrap();
    for (index, part) in bytes.chunks(2 << 20).enumerate() {
        let line = format!("line-{index}\n");
        let expected: Vec<u8> = line.bytes().cycle().take(2 << 20).collect();
        assert!(part == expected, "part {index} differs");
    }
}

#[test]
fn a_read_only_drive_refuses_writes() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "ro.img", 1 << 20);
    let drive = format!("path={},ro", path(&disk));
    let script = "cat /sys/block/vdb/ro; echo x > /dev/vdb && echo written || echo refused";
    let out = in_guest(&["--disk", &drive], script);
    assert!(
        out.starts_with("1\n") && out.ends_with("refused\n"),
        "{out}"
    );
    assert!(fs::read(&disk).unwrap().iter().all(|&b| b == 0));
}

#[test]
fn discard_gives_space_back_to_the_host() {
    use std::os::unix::fs::MetadataExt;
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::write(&disk, noise(8 << 20)).unwrap();
    let before = fs::metadata(&disk).unwrap().blocks();
    let drive = format!("path={}", path(&disk));
    in_guest(&["--disk", &drive], "blkdiscard /dev/vdb");
    let after = fs::metadata(&disk).unwrap();
    assert!(
        after.blocks() * 4 < before,
        "{before} blocks before, {} after",
        after.blocks()
    );
    assert_eq!(after.len(), 8 << 20);
}

#[test]
fn a_full_host_disk_is_an_io_error_in_the_guest_and_no_more() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(folder.path())
        .status()
        .is_ok_and(|status| status.success());
    if !can_run(
        "mount",
        (!mounted).then(|| "a tmpfs can't be mounted (not root?)".to_owned()),
    ) {
        return;
    }
    let disk = image(folder.path(), "big.img", 16 << 20);
    let drive = format!("path={}", path(&disk));
    let ended = boot(
        &["--disk", &drive],
        "dd if=/dev/zero of=/dev/vdb bs=64k oflag=direct 2>/dev/null && echo wrote || echo failed; \
         dd if=/dev/vdb of=/dev/null bs=64k count=4 2>/dev/null && echo reads",
    );
    assert!(
        Command::new("umount")
            .arg(folder.path())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.out.contains("failed\n") && ended.out.contains("reads\n"),
        "{ended:?}"
    );
    assert!(
        ended.err.contains("big.img"),
        "the host's log names the file: {ended:?}"
    );
}

#[test]
fn input_reaches_the_guests_shell() {
    let Some(_) = guests() else { return };
    let mut command = mote(&[]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The input must survive the time before the guest's shell reads it.
    input
        .write_all(b"echo answer-$((40 + 2))\necho $(tty)\nexit\n")
        .unwrap();
    drop(input);
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&stdout);
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("answer-42"), "{text}");
}

#[test]
fn each_way_to_end_has_its_exit_status() {
    let Some(_) = guests() else { return };
    assert_eq!(
        boot(&[], "true").code,
        Some(0),
        "init's own end is a reboot"
    );
    assert_eq!(boot(&[], "reboot; sleep 20").code, Some(0));
    assert_eq!(boot(&[], "poweroff; sleep 20").code, Some(0));
    let panic = boot(&[], "echo c > /proc/sysrq-trigger");
    assert_eq!(panic.code, Some(4), "{panic:?}");
    assert!(panic.err.contains("kernel panicked"), "{panic:?}");
    // A user's own reboot= takes away what tells a panic from a reboot, as docs/boot.md says;
    // through the keyboard controller the guest still ends.
    let keyboard = finish(mote(&["--cmdline", "reboot=k mote.run=\"true\""]));
    assert_eq!(keyboard.code, Some(0), "{keyboard:?}");
}

#[test]
fn a_damaged_kernel_is_a_crash_with_its_registers() {
    use motevm::boot::{Entry, KernelOptions, load_kernel};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
    let Some(guests) = guests() else { return };
    // An undefined instruction at the entry point, where no handler for it exists yet: a triple
    // fault that no kernel announced.
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
    let loaded = load_kernel(&guests.vmlinux, &memory, &KernelOptions::default()).unwrap();
    let Entry::Pvh(entry) = loaded.entry else {
        panic!("{loaded:?}")
    };
    let mut code = [0; 64];
    memory.read_slice(&mut code, entry).unwrap();
    let mut kernel = fs::read(&guests.vmlinux).unwrap();
    let at = kernel
        .windows(code.len())
        .position(|window| window == code)
        .unwrap();
    kernel[at..at + 2].copy_from_slice(&[0x0f, 0x0b]);
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("vmlinux");
    fs::write(&damaged, kernel).unwrap();
    let ended = finish(mote(&["--kernel", path(&damaged)]));
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.contains("triple fault"), "{ended:?}");
    // On AMD hosts KVM resets the vCPU before anyone can look at it, and mote says so.
    if !ended.err.contains("registers: lost (on AMD") {
        let rip = format!("rip {:#018x}", entry.0);
        assert!(ended.err.contains(&rip), "{ended:?}");
        assert!(ended.err.contains("code: 0f 0b"), "{ended:?}");
    }
}

#[test]
fn the_entropy_device_gives_entropy() {
    let Some(_) = guests() else { return };
    let script = "cat /sys/class/misc/hw_random/rng_current; \
                  dd if=/dev/hwrng bs=64 count=2 2>/dev/null | od -An -v -tx1 | sort -u | wc -l";
    assert_eq!(in_guest(&[], script), "virtio_rng.0\n8\n");
}

#[test]
fn a_missing_root_panics_with_advice() {
    let Some(guests) = guests() else { return };
    let ended = finish(mote(&[
        "--kernel",
        path(&guests.vmlinux),
        "--cmdline",
        "root=/dev/vdx",
    ]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("hint: "), "{ended:?}");
    // An ACPI-only way of finding devices, and a kernel without ACPI: the advice is to the point.
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let kernel = path(&guests.vmlinux);
    let ended = finish(mote(&[
        "--kernel", kernel, "--rootfs", &rootfs, "--acpi", "on",
    ]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("--acpi off"), "{ended:?}");
}

#[test]
fn sigterm_ends_a_running_guest() {
    let Some(_) = guests() else { return };
    let mut child = mote(&["--cmdline", "mote.run=\"echo up; sleep 1000\""])
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"up") {
        assert_eq!(
            out.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn masked_features_are_hidden_from_linux() {
    let Some(_) = guests() else { return };
    let flags = |mask: &[&str]| {
        let out = in_guest(mask, "grep -m1 ^flags /proc/cpuinfo");
        out.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (all, masked) = (flags(&[]), flags(&["--cpu-mask", "cx16,popcnt,rdrand"]));
    let has = |flags: &[String], name: &str| flags.iter().any(|flag| flag == name);
    for name in ["cx16", "popcnt"] {
        assert!(has(&all, name) && !has(&masked, name), "{name}: {masked:?}");
    }
    assert!(
        has(&masked, "hypervisor") && has(&masked, "tsc_deadline_timer"),
        "{masked:?}"
    );
}

#[test]
fn linux_calibrates_nothing() {
    let Some(_) = guests() else { return };
    let out = in_guest(&[], "dmesg");
    assert!(out.contains("Calibrating delay loop (skipped)"), "{out}");
    assert!(!out.contains("Calibrating APIC timer"), "{out}");
    assert!(
        out.contains("clocksource: Switched to clocksource kvm-clock"),
        "{out}"
    );
}

#[test]
fn the_timings_are_complete_and_exits_are_few() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("t.json");
    let timings = format!("json={}", path(&json));
    finish(mote(&[
        "--console",
        "none",
        "--timings",
        &timings,
        "--cmdline",
        "mote.run=true",
    ]))
    .success();
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let number = |pointer: &str| {
        report
            .pointer(pointer)
            .and_then(|v| v.as_u64())
            .unwrap_or_else(|| panic!("{pointer}: {report}"))
    };
    let phases = [
        "exec_to_kvm_open",
        "create_vm",
        "memory",
        "kernel_load",
        "irqchip",
        "devices",
        "vcpus",
    ];
    let sum: u64 = phases
        .iter()
        .map(|phase| number(&format!("/{phase}_us")))
        .sum();
    assert!(sum <= number("/exec_to_first_run_us"), "{report}");
    let total = number("/exec_to_first_run_us") + number("/first_run_to_init_us");
    assert!(total.abs_diff(number("/exec_to_init_us")) <= 1, "{report}");
    assert!(number("/bytes_loaded") > 1 << 20, "{report}");
    assert!(number("/process/minor_faults") > 0, "{report}");
    assert_eq!(number("/supported_cpuid_calls"), 1);
    // The figures of docs/performance.md that are exact on any machine.
    assert!(number("/exits/total") < 200, "{report}");
    assert!(number("/process/resident_kib") < 3 << 10, "{report}");
    assert!(number("/process/private_dirty_kib") < 1 << 10, "{report}");
}

#[test]
fn a_stock_debian_kernel_boots_over_acpi_with_its_own_modules() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "d", 1 << 20);
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let drive = format!("path={},id=STOCK", path(&disk));
    let more = [
        "--kernel",
        path(&guests.debian_kernel),
        "--initrd",
        path(&guests.debian_initrd),
        "--rootfs",
        &rootfs,
        "--disk",
        &drive,
        "--memory",
        "512M",
        "--cpus",
        "2",
    ];
    let script = "uname -r; nproc; cat /sys/block/vdb/serial; echo; \
                  ls /sys/bus/acpi/devices | grep -c LNRO0005; grep -w / /proc/mounts";
    let out = in_guest(&more, script);
    // Switched off by ACPI: without it, this guest would hang and be killed.
    let off = boot(&more, "busybox poweroff -f; sleep 1000");
    assert_eq!(off.code, Some(0), "{off:?}");
    let lines = out.lines().skip_while(|line| line.starts_with('['));
    let lines: Vec<_> = lines.collect();
    assert!(lines[0].contains("cloud-amd64"), "{out}");
    assert_eq!(lines[1..4], ["2", "STOCK", "3"], "{out}");
    assert!(lines[4].starts_with("/dev/vda / ext4"), "{out}");
}
