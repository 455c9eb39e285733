//! What a file costs in memory that several guests read, with and without DAX: real Linux guests,
//! all running at once, each of which has read the whole file.
//!
//!     cargo bench --bench dax_memory [-- --guests 8 --mib 64]
//!
//! It needs a KVM that can run Linux and the guest that `make guest` makes. Elsewhere:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/resources/on-kvm.sh -m 4096 --" \
//!         cargo bench --bench dax_memory

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn main() {
    let argument = |name: &str, default: u64| {
        let mut arguments = std::env::args()
            .skip_while(|argument| argument != name)
            .skip(1);
        arguments
            .next()
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (guests, mib) = (argument("--guests", 8), argument("--mib", 64));
    let hardware = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !hardware
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm")
    {
        println!("this host's KVM can't run Linux: see the head of benches/dax_memory.rs");
        return;
    }
    // On tmpfs where there is one, so that what the host itself caches doesn't change meanwhile.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("a temporary folder");
    let image = make_image(folder.path(), mib);
    println!("{guests} guests of 160 MiB, each has read the same file of {mib} MiB; MiB:\n");
    println!("| | Rss, one | Pss, one | Pss, all | less MemAvailable |");
    println!("|---|---|---|---|---|");
    for (name, options, mount) in [
        ("no file read", "dax,ro", "true"),
        ("virtio-blk", "ro", "mount -o ro /dev/vdb /mnt"),
        ("DAX", "dax,ro", "mount -o ro,dax /dev/pmem0 /mnt"),
    ] {
        let drive = format!("path={},{options}", image.display());
        let script = match mount {
            "true" => mount.to_owned(),
            mount => format!("{mount}; cat /mnt/file | wc -c"),
        };
        let before = available();
        let running: Vec<_> = (0..guests).map(|_| Guest::start(&drive, &script)).collect();
        let read = mount == "true" || running.iter().all(|g| g.said(&(mib << 20).to_string()));
        assert!(read, "a guest has not read the file");
        let after = available();
        let sum = |key| running.iter().map(|guest| guest.memory(key)).sum::<u64>();
        let (rss, pss) = (sum("Rss:"), sum("Pss:"));
        let used = before.saturating_sub(after);
        let [rss, one, all, used] =
            [rss / guests, pss / guests, pss, used].map(|kib| kib as f64 / 1024.0);
        println!("| {name} | {rss:.1} | {one:.1} | {all:.1} | {used:.1} |");
        running.into_iter().for_each(Guest::end);
    }
}

/// An ext4 image with one file of bytes that don't repeat.
fn make_image(folder: &Path, mib: u64) -> std::path::PathBuf {
    let (tree, image) = (folder.join("tree"), folder.join("image"));
    fs::create_dir(&tree).expect("a folder");
    let mut random = fs::File::open("/dev/urandom")
        .expect("/dev/urandom")
        .take(mib << 20);
    let mut file = fs::File::create(tree.join("file")).expect("a file");
    std::io::copy(&mut random, &mut file).expect("writing the file");
    let room = fs::File::create(&image).and_then(|f| f.set_len((mib + mib / 4 + 16) << 20));
    room.expect("an image");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-b", "4096", "-d"])
        .args([&tree, &image])
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mke2fs failed");
    fs::remove_dir_all(tree).expect("removing the folder");
    image
}

/// A guest that has done what it was told and waits for a line.
struct Guest {
    child: Child,
    said: String,
}

impl Guest {
    fn start(drive: &str, script: &str) -> Self {
        let cmdline = format!("mote.run=\"{script}; echo ready; head -n 1\"");
        let mut child = Command::new(env!("CARGO_BIN_EXE_mote"))
            .args([
                "run",
                "--memory",
                "160M",
                "--disk",
                drive,
                "--cmdline",
                &cmdline,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("mote");
        let mut out = BufReader::new(child.stdout.as_mut().expect("its output"));
        let mut said = String::new();
        while !said.trim_end().ends_with("ready") {
            let read = out.read_line(&mut said).expect("reading its output");
            assert!(read > 0, "a guest has ended: {said}");
        }
        Guest { child, said }
    }

    fn said(&self, text: &str) -> bool {
        self.said.contains(text)
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
