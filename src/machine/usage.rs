//! What the process uses: page faults, and memory besides the guest's.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde::Serialize;

/// What the process has used so far. Zero where the host doesn't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Page faults that needed no I/O (getrusage(2) ru_minflt).
    pub minor_faults: u64,
    /// Page faults that did (ru_majflt).
    pub major_faults: u64,
    /// Guest memory that is resident, in KiB.
    pub guest_kib: u64,
    /// Everything else that is resident, in KiB: code, heap, stacks, shared or not.
    pub resident_kib: u64,
    /// Of that, what this process alone has written to, in KiB.
    pub private_dirty_kib: u64,
}

/// The CPU time that all threads of this process have used so far.
pub(super) fn cpu_time() -> Duration {
    let mut used = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid timespec; where the call fails it stays zero.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) };
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// /proc/self/smaps, opened before the process may open no more files.
#[derive(Debug)]
pub struct Smaps(Option<File>);

impl Smaps {
    /// Opens it; where the host has no such file, what it says is empty.
    pub fn open() -> Self {
        Smaps(File::open("/proc/self/smaps").ok())
    }

    fn read(&self) -> String {
        let mut text = Vec::new();
        let mut part = [0; 4096];
        while let Some(file) = &self.0
            && let Ok(count @ 1..) = file.read_at(&mut part, text.len() as u64)
        {
            text.extend_from_slice(&part[..count]);
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

impl Usage {
    /// Reads it from the kernel; `guest` are the host addresses of guest memory.
    pub fn now(smaps: &Smaps, guest: &[Range<u64>]) -> Self {
        let mut usage = Usage::default();
        // SAFETY: an all-zero rusage is a valid value, filled in by the call.
        let mut rusage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: a valid rusage.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut rusage) } == 0 {
            usage.minor_faults = rusage.ru_minflt as u64;
            usage.major_faults = rusage.ru_majflt as u64;
        }
        usage.add_mappings(&smaps.read(), guest);
        usage
    }

    /// Sums up the mappings of /proc/self/smaps.
    fn add_mappings(&mut self, smaps: &str, guest: &[Range<u64>]) {
        let mut of_guest = false;
        for line in smaps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else {
                continue;
            };
            if !key.ends_with(':') {
                // The first line of a mapping: "start-end permissions ...".
                let start = key
                    .split('-')
                    .next()
                    .and_then(|s| u64::from_str_radix(s, 16).ok());
                of_guest = start.is_some_and(|start| guest.iter().any(|r| r.contains(&start)));
                continue;
            }
            let kib = value.parse().unwrap_or(0);
            match (key, of_guest) {
                ("Rss:", true) => self.guest_kib += kib,
                ("Rss:", false) => self.resident_kib += kib,
                ("Private_Dirty:", false) => self.private_dirty_kib += kib,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} page faults; resident {} KiB of the guest and {} KiB besides ({} KiB of it \
             private and written to)",
            self.minor_faults + self.major_faults,
            self.guest_kib,
            self.resident_kib,
            self.private_dirty_kib
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_from_the_rest() {
        let smaps = "\
            1000-2000 rw-p 00000000 00:00 0\nRss: 8 kB\nPrivate_Dirty: 4 kB\n\
            7000-9000 rw-p 00000000 00:00 0 [heap]\nRss: 100 kB\nPrivate_Dirty: 100 kB\n\
            a000-b000 r-xp 00000000 00:00 0 /bin/mote\nRss: 20 kB\nPrivate_Dirty: 0 kB\n";
        let mut usage = Usage::default();
        usage.add_mappings(smaps, &[0x6000..0x9000, 0xf000..0xf000]);
        assert_eq!(
            (usage.guest_kib, usage.resident_kib, usage.private_dirty_kib),
            (100, 28, 4)
        );
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::now(&Smaps::open(), &[]);
        assert!(usage.minor_faults > 0 && usage.resident_kib > 0 && usage.guest_kib == 0);
    }
}
