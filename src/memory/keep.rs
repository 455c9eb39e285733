//! What the host may do with guest memory: nothing (locked), or keep one copy of equal pages (KSM).

use std::fs;
use std::io;
use std::path::Path;

use super::MemoryError;

/// Keeps a range in memory from when it is touched on; it is not touched here.
pub(super) fn lock(start: *mut u8, bytes: usize) -> Result<(), MemoryError> {
    // SAFETY: the caller's mapping; locking changes nothing in it.
    let result = unsafe { libc::mlock2(start.cast(), bytes, libc::MLOCK_ONFAULT) };
    match result {
        0 => Ok(()),
        _ => Err(lock_refused(bytes as u64, io::Error::last_os_error())),
    }
}

/// What to say where locking `bytes` was refused.
fn lock_refused(bytes: u64, source: io::Error) -> MemoryError {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid struct.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    MemoryError::Lock {
        size: bytes >> 20,
        limit: match limit.rlim_cur {
            libc::RLIM_INFINITY => "unlimited".to_owned(),
            bytes => format!("{} KiB", bytes >> 10),
        },
        source,
    }
}

/// Lets the host's kernel merge equal pages in a range.
pub(super) fn merge(start: *mut u8, bytes: usize) -> Result<(), MemoryError> {
    // SAFETY: the caller's mapping; what is in it stays as it is.
    match unsafe { libc::madvise(start.cast(), bytes, libc::MADV_MERGEABLE) } {
        0 => Ok(()),
        _ => Err(MemoryError::Merge(io::Error::last_os_error())),
    }
}

/// Says so where the host's kernel merges nothing now.
pub(super) fn warn_of_no_merging(root: &Path) {
    const RUN: &str = "sys/kernel/mm/ksm/run";
    let run = fs::read_to_string(root.join(RUN)).unwrap_or_default();
    if run.trim() != "1" {
        log::warn!("--ksm: the host merges no pages now: write 1 to /{RUN}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Memory, Size};
    use crate::memory::{Backing, GuestRam};
    use vm_memory::GuestAddress;

    /// The flags of the mapping that `address` is in (proc_pid_smaps(5), VmFlags).
    fn flags(address: u64) -> Vec<String> {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut here = false;
        for line in smaps.lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if let Some((start, end)) = first.split_once('-') {
                let number = |text| u64::from_str_radix(text, 16).unwrap();
                here = (number(start)..number(end)).contains(&address);
            } else if here && first == "VmFlags:" {
                return line.split(' ').skip(1).map(str::to_owned).collect();
            }
        }
        panic!("nothing is mapped at {address:#x}");
    }

    #[test]
    fn memory_is_as_it_was_asked_for() {
        let default = Memory::from(Size::mib(4));
        let has = |how: &Memory, backing| {
            let ram = GuestRam::with(&[(GuestAddress(0), 4 << 20)], backing, how).unwrap();
            let flags = flags(ram.host_ranges()[0].start);
            move |flag: &str| flags.iter().any(|f| f == flag)
        };
        for backing in [Backing::Anonymous, Backing::Shared] {
            let by_default = has(&default, backing);
            assert!(by_default("hg") && !by_default("mg") && !by_default("lo"));
            let small = Memory {
                thp: false,
                ..default
            };
            let small = has(&small, backing);
            assert!(small("nh") && !small("hg"));
        }
        // Within the limit on locked memory of most systems (8 MiB).
        let locked = Memory {
            mlock: true,
            ..default
        };
        match GuestRam::with(&[(GuestAddress(0), 1 << 20)], Backing::Anonymous, &locked) {
            Ok(ram) => assert!(flags(ram.host_ranges()[0].start).contains(&"lo".to_owned())),
            Err(error) => assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}"),
        }
        let merged = Memory {
            ksm: true,
            ..default
        };
        if Path::new("/sys/kernel/mm/ksm").exists() {
            assert!(has(&merged, Backing::Anonymous)("mg"));
        }
    }

    #[test]
    fn a_refused_lock_names_the_limit_and_who_can_raise_it() {
        let source = io::Error::from_raw_os_error(libc::ENOMEM);
        let text = lock_refused(2 << 30, source).to_string();
        for part in ["--mlock", "2048 MiB", "RLIMIT_MEMLOCK", "ulimit -l"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
