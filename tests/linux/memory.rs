//! A real guest boots on memory of every kind, and what it is made of is what was asked for.

use std::process::Child;

use motevm::config::{HugePages, Memory, Size};
use motevm::memory::prefault::Prefault;
use motevm::memory::release::release;
use motevm::memory::{Backing, GuestRam};
use vm_memory::{Bytes, GuestAddress};

use super::*;

/// The sum of a field of /proc/PID/smaps in KiB, over the mappings whose first line is `wanted`.
fn smaps(pid: u32, field: &str, wanted: impl Fn(&str) -> bool) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut sum, mut here) = (0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !first.ends_with(':') {
            here = wanted(line);
        } else if here && first == field {
            sum += words.next().unwrap().parse::<u64>().unwrap();
        }
    }
    sum
}

/// A guest that says "up" and then waits.
struct Waiting {
    child: Child,
    _out: std::thread::JoinHandle<()>,
}

impl Waiting {
    fn start(more: &[&str]) -> Self {
        let script = "--cmdline=mote.run=\"echo up; sleep 1000\"";
        let mut child = mote(&[more, &[script]].concat()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (tell, up) = std::sync::mpsc::channel();
        let out = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut byte = [0];
            while out.read(&mut byte).unwrap() > 0 {
                text.push(byte[0]);
                if text.ends_with(b"up\r\n") || text.ends_with(b"up\n") {
                    let _ = tell.send(());
                }
            }
        });
        if up.recv_timeout(PATIENCE).is_err() {
            child.kill().unwrap();
            let mut said = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut said);
            panic!("no guest came up: {said}");
        }
        Waiting { child, _out: out }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So many pages of 2 MiB in the host's pool, as long as this value lives.
struct Pool {
    before: String,
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl Pool {
    /// `None`, said aloud, where the host gives none.
    fn of(pages: u64) -> Option<Self> {
        let before = fs::read_to_string(POOL).unwrap_or_default();
        let pool = Pool { before };
        let there: u64 = pool.before.trim().parse().unwrap_or(0);
        let _ = fs::write(POOL, (there + pages).to_string());
        let now = fs::read_to_string(POOL).unwrap_or_default();
        let enough = now.trim().parse::<u64>().unwrap_or(0) >= there + pages;
        let obstacle = (!enough).then(|| format!("{POOL} can't be set to {}", there + pages));
        can_run("huge-pages", obstacle).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(POOL, &self.before);
    }
}

#[test]
fn a_guest_boots_on_pages_of_the_hosts_pool_or_is_refused_in_time() {
    let Some(_) = guests() else { return };
    let too_much = boot(&["--memory", "512G,hugepages=2M"], "true");
    assert_eq!(too_much.code, Some(3), "{too_much:?}");
    assert!(too_much.err.contains(POOL), "{too_much:?}");
    assert!(too_much.err.contains("262144 huge pages"), "{too_much:?}");
    let Some(pool) = Pool::of(64) else { return };
    let memory = ["--memory", "128M,hugepages=2M"];
    let guest = Waiting::start(&memory);
    let huge = smaps(guest.pid(), "Private_Hugetlb:", |_| true);
    assert!(huge >= 16 << 10, "{huge} KiB");
    // All of it is set aside for this guest, also what it hasn't touched.
    if pool.before.trim() == "0" {
        let second = boot(&memory, "true");
        assert_eq!(second.code, Some(3), "{second:?}");
    }
    drop(guest);
    let guest = Waiting::start(&["--memory", "128M,hugepages=2M,prefault=on"]);
    let huge = smaps(guest.pid(), "Private_Hugetlb:", |_| true);
    assert_eq!(huge, 128 << 10);
    drop(guest);
    // As another process maps it too.
    let how = Memory {
        hugepages: Some(HugePages::Size2M),
        ..Memory::from(Size::mib(64))
    };
    let ranges = [(GuestAddress(0), 64 << 20)];
    let ram = GuestRam::with(&ranges, Backing::Shared, &how).unwrap();
    Prefault::start(ram.memory()).unwrap().finish().unwrap();
    let huge = smaps(std::process::id(), "Shared_Hugetlb:", |_| true)
        + smaps(std::process::id(), "Private_Hugetlb:", |_| true);
    assert_eq!(huge, 64 << 10);
    // A part of a huge page can't be given back, and is kept.
    ram.memory().write_obj(7u8, GuestAddress(0x1000)).unwrap();
    assert_eq!(
        release(ram.memory(), GuestAddress(0x1000), 0x1000).unwrap(),
        0
    );
    let kept: u8 = ram.memory().read_obj(GuestAddress(0x1000)).unwrap();
    assert_eq!(kept, 7);
    let given = release(ram.memory(), GuestAddress(0), 2 << 20).unwrap();
    assert_eq!(given, 2 << 20);
}

#[test]
fn a_guest_boots_on_memory_that_is_there_from_the_start() {
    let Some(_) = guests() else { return };
    for memory in ["96M,prefault=on", "96M,prefault=on,thp=off"] {
        let guest = Waiting::start(&["--memory", memory]);
        let resident = smaps(guest.pid(), "Rss:", |_| true);
        assert!(resident >= 96 << 10, "{memory}: {resident} KiB");
        let huge = smaps(guest.pid(), "AnonHugePages:", |_| true);
        assert!(huge == 0 || !memory.contains("thp=off"), "{huge} KiB");
    }
}

#[test]
fn locked_and_mergeable_memory_is_so_and_the_guest_runs() {
    let Some(_) = guests() else { return };
    let guest = Waiting::start(&["--memory", "96M", "--mlock"]);
    let status = fs::read_to_string(format!("/proc/{}/status", guest.pid())).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let locked: u64 = locked
        .and_then(|text| text.split_whitespace().next())
        .and_then(|text| text.parse().ok())
        .unwrap();
    assert!(locked >= 96 << 10, "{status}");
    drop(guest);
    // Without the host's ksmd there is a word of warning, and nothing is merged.
    let guest = Waiting::start(&["--memory", "96M,thp=off", "--ksm", "--log=error"]);
    let of_guest = fs::read_to_string(format!("/proc/{}/smaps", guest.pid())).unwrap();
    let flags = of_guest.lines().filter(|line| line.starts_with("VmFlags:"));
    assert!(
        flags.into_iter().any(|line| line.contains(" mg")),
        "{of_guest}"
    );
}

#[test]
fn guests_share_the_pages_of_a_mapped_kernel_and_each_has_it_whole() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("mapped-kernel");
    fs::copy(&guests.kernel, &kernel).unwrap();
    let before = fs::read(&kernel).unwrap();
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let more = [
        "--kernel",
        path(&kernel),
        "--rootfs",
        &rootfs,
        "--kernel-load",
        "map",
    ];
    let (one, two) = (Waiting::start(&more), Waiting::start(&more));
    let of_kernel = |line: &str| line.ends_with("mapped-kernel");
    for pid in [one.pid(), two.pid()] {
        let field = |name| smaps(pid, name, of_kernel);
        // A page of tmpfs is always dirty, one of a disk's file mostly clean.
        let (resident, shared) = (
            field("Rss:"),
            field("Shared_Clean:") + field("Shared_Dirty:"),
        );
        assert!(
            resident > 1 << 10 && shared > 1 << 10,
            "{resident} {shared}"
        );
        // Counted half for each of the two.
        assert!(field("Pss:") + shared / 4 < resident, "{}", field("Pss:"));
        // What the guest has changed is its own.
        assert!(field("Anonymous:") > 0);
    }
    drop((one, two));
    assert!(
        fs::read(&kernel).unwrap() == before,
        "no guest writes to the file"
    );
    assert_eq!(in_guest(&more, "uname -s"), "Linux\n");
}
