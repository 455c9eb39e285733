//! What a kernel costs that is copied into guest memory, or mapped there (`--kernel-load`): several
//! real Linux guests at once, each of which has just reached its init.
//!
//!     cargo bench --bench kernel_memory [-- --guests 8]
//!
//! It needs a KVM that can run Linux and the guest that `make guest` makes. Elsewhere:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/resources/on-kvm.sh -m 4096 --" \
//!         cargo bench --bench kernel_memory

#[path = "common/guests.rs"]
mod guests;

use std::fs;
use std::path::PathBuf;

use guests::{Guest, available};

/// The default guest's.
const KERNEL: &str = match cfg!(target_arch = "aarch64") {
    true => "Image",
    false => "vmlinux",
};

fn main() {
    let guests = guests::argument("--guests", 8);
    if !guests::can_run("kernel_memory") {
        return;
    }
    let folder = guests::folder();
    let [kernel, rootfs] = [KERNEL, "rootfs.ext4"].map(|name| {
        let copy = folder.path().join(name);
        fs::copy(guest_folder().join(name), &copy).expect("the default guest");
        copy
    });
    let rootfs = format!("{},ro", rootfs.display());
    let kernel = kernel.to_str().expect("a path in UTF-8");
    let start = |memory: &str, load: &str| {
        let arguments = [
            "--memory",
            memory,
            "--kernel-load",
            load,
            "--kernel",
            kernel,
        ];
        Guest::start(&[&arguments[..], &["--rootfs", &rootfs]].concat(), "true")
    };
    // What the host reads the first time doesn't count.
    start("128M", "map").end();
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
        let running: Vec<_> = (0..guests).map(|_| start(memory, load)).collect();
        let used = before.saturating_sub(available()) as f64 / 1024.0;
        let mean =
            |of: &dyn Fn(&Guest) -> u64| running.iter().map(of).sum::<u64>() as f64 / guests as f64;
        let faults = mean(&|guest| stat(guest, 10) + stat(guest, 12));
        // In ticks of 10 ms (USER_HZ).
        let cpu = mean(&|guest| stat(guest, 14) + stat(guest, 15)) * 10.0;
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
    cache.join("guest").join(std::env::consts::ARCH)
}

/// A field of /proc/PID/stat, by its number in proc_pid_stat(5).
fn stat(guest: &Guest, field: usize) -> u64 {
    let text = guest.proc("stat");
    // The second field, a name in parentheses, may hold spaces.
    let rest = text.rsplit(") ").next().unwrap_or_default();
    let word = rest.split_whitespace().nth(field - 3);
    word.and_then(|word| word.parse().ok()).expect("a number")
}
