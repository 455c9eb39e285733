//! What a file costs in memory that several guests read, with and without DAX: real Linux guests,
//! all running at once, each of which has read the whole file.
//!
//!     cargo bench --bench dax_memory [-- --guests 8 --mib 64]
//!
//! It needs a KVM that can run Linux and the guest that `make guest` makes. Elsewhere:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/resources/on-kvm.sh -m 4096 --" \
//!         cargo bench --bench dax_memory

#[path = "common/guests.rs"]
mod guests;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use guests::{Guest, available};

fn main() {
    let (guests, mib) = (
        guests::argument("--guests", 8),
        guests::argument("--mib", 64),
    );
    if !guests::can_run("dax_memory") {
        return;
    }
    let folder = guests::folder();
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
        let start = |_| Guest::start(&["--memory", "160M", "--disk", &drive], &script);
        let running: Vec<_> = (0..guests).map(start).collect();
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
