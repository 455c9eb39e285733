//! When this process was started, for an honest boot time.

use std::time::{Duration, Instant};

/// The moment of exec, to be called first thing in main.
///
/// The kernel tells a process's start only in ticks of 10 ms. What it does count exactly is the
/// CPU time that the process has used, which at this point is that of exec itself, of the
/// start-up code, and of the little that the parent's fork did here before. So exec is taken to
/// have been that long ago. If the process had to wait for a CPU or for its pages to come from
/// disk, that is not in it.
pub fn of_this_process() -> Instant {
    let now = Instant::now();
    let mut used = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) } != 0 {
        return now;
    }
    let used = Duration::new(used.tv_sec as u64, used.tv_nsec as u32);
    now.checked_sub(used).unwrap_or(now)
}
