//! What a kernel costs that is copied into guest memory, or mapped there (`--kernel-load`): several
//! real Linux guests at once, each of which has just reached its init.
//!
//!     cargo bench --bench kernel_memory [-- --guests 8]
//!
//! It needs a KVM that can run Linux and the guest that `make guest` makes. Elsewhere:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/resources/on-kvm.sh -m 4096 --" \
//!         cargo bench --bench kernel_memory

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--guests");
    let guests: u64 = arguments
        .nth(1)
        .map_or(8, |text| text.parse().expect("a number"));
    let hardware = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !hardware
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm")
    {
        println!(
            "NOT RUN: this host's KVM can't run Linux: see the head of benches/kernel_memory.rs"
        );
        return;
    }
    // On tmpfs where there is one, so that what the host itself caches doesn't change meanwhile.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("a temporary folder");
    let [kernel, rootfs] = ["vmlinux", "rootfs.ext4"].map(|name| {
        let copy = folder.path().join(name);
        fs::copy(guest_folder().join(name), &copy).expect("the default guest");
        copy
    });
    // What the host reads the first time doesn't count.
    Guest::start(&kernel, &rootfs, "128M", "map").end();
    println!("{guests} guests of 128 MiB that have reached init; per guest, and in all:\n");
    println!("| | page faults | CPU ms | Rss MiB | Pss MiB | less MemAvailable, all |");
    println!("|---|---|---|---|---|---|");
    for (name, memory, load) in [
        ("copied, huge pages", "128M", "copy"),
        ("mapped, huge pages for the rest", "128M", "map"),
        ("copied, small pages", "128M,thp=off", "copy"),
        ("mapped, small pages", "128M,thp=off", "map"),
    ] {
        let before = available();
        let start = |_| Guest::start(&kernel, &rootfs, memory, load);
        let running: Vec<_> = (0..guests).map(start).collect();
        let used = before.saturating_sub(available()) as f64 / 1024.0;
        let mean =
            |of: &dyn Fn(&Guest) -> u64| running.iter().map(of).sum::<u64>() as f64 / guests as f64;
        let faults = mean(&|guest| guest.stat(10) + guest.stat(12));
        // In ticks of 10 ms (USER_HZ).
        let cpu = mean(&|guest| guest.stat(14) + guest.stat(15)) * 10.0;
        let [rss, pss] = ["Rss:", "Pss:"].map(|key| mean(&|guest| guest.memory(key)) / 1024.0);
        println!("| {name} | {faults:.0} | {cpu:.0} | {rss:.1} | {pss:.1} | {used:.1} |");
        running.into_iter().for_each(Guest::end);
    }
}

/// Where `make guest` puts it.
fn guest_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("MOTE_CACHE").unwrap_or_else(|| {
        let home = || variable("HOME").unwrap_or_default().join(".cache");
        variable("XDG_CACHE_HOME").unwrap_or_else(home).join("mote")
    });
    cache.join("guest/x86_64")
}

/// A guest that is up and waits for a line.
struct Guest {
    child: Child,
}

impl Guest {
    fn start(kernel: &Path, rootfs: &Path, memory: &str, load: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        command.args(["run", "--memory", memory, "--kernel-load", load]);
        command.arg("--kernel").arg(kernel);
        command
            .arg("--rootfs")
            .arg(format!("{},ro", rootfs.display()));
        command.args(["--cmdline", "mote.run=\"echo ready; head -n 1\""]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("mote");
        let mut out = BufReader::new(child.stdout.as_mut().expect("its output"));
        let mut said = String::new();
        while !said.trim_end().ends_with("ready") {
            let read = out.read_line(&mut said).expect("reading its output");
            assert!(read > 0, "a guest has ended: {said}");
        }
        Guest { child }
    }

    /// A field of /proc/PID/stat, by its number in proc_pid_stat(5).
    fn stat(&self, field: usize) -> u64 {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(path).expect("stat");
        // The second field, a name in parentheses, may hold spaces.
        let rest = text.rsplit(") ").next().unwrap_or_default();
        let word = rest.split_whitespace().nth(field - 3);
        word.and_then(|word| word.parse().ok()).expect("a number")
    }

    /// A value of /proc/PID/smaps_rollup, in KiB.
    fn memory(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        value(&fs::read_to_string(path).expect("smaps_rollup"), key)
    }

    fn end(mut self) {
        let mut input = self.child.stdin.take().expect("its input");
        input.write_all(b"\n").expect("writing to it");
        assert!(self.child.wait().expect("its end").success());
    }
}

/// Memory that the host can still give, in KiB.
fn available() -> u64 {
    value(
        &fs::read_to_string("/proc/meminfo").expect("meminfo"),
        "MemAvailable:",
    )
}

fn value(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(key));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no {key}"))
}
