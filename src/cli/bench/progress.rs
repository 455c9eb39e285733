//! How far a bench is, on standard error, where that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How wide the bar is.
const WIDTH: u32 = 30;

/// A line that is written anew after each step. Dropping it takes the line away.
pub struct Progress {
    what: &'static str,
    total: u32,
    start: Instant,
    visible: bool,
    done: Mutex<u32>,
}

impl Progress {
    /// Of `total` steps, which are called `what`.
    pub fn of(total: u32, what: &'static str) -> Self {
        let progress = Progress {
            what,
            total,
            start: Instant::now(),
            visible: io::stderr().is_terminal(),
            done: Mutex::new(0),
        };
        progress.write(0);
        progress
    }

    /// One more step is done; from any thread.
    pub fn step(&self) {
        let mut done = self.lock();
        *done += 1;
        self.write(*done);
    }

    /// Says what is done besides the steps.
    pub fn say(&self, what: &str) {
        if self.visible {
            let _ = write!(io::stderr(), "\r\x1b[K{what}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, done: u32) {
        if self.visible {
            self.say(&line(self.what, done, self.total, self.start.elapsed()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.say("");
    }
}

/// A bar, numbers, and how long the rest will take if it goes on like this.
fn line(what: &str, done: u32, total: u32, taken: Duration) -> String {
    let filled = u64::from(done) * u64::from(WIDTH) / u64::from(total.max(1));
    let filled = filled as usize;
    let (full, empty) = ("#".repeat(filled), "-".repeat(WIDTH as usize - filled));
    let left = match done {
        0 => String::new(),
        _ => {
            let left = taken.as_secs_f64() / f64::from(done) * f64::from(total - done);
            format!(", {left:.0} s left")
        }
    };
    format!("[{full}{empty}] {done}/{total} {what}{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_and_how_long() {
        let line = |done| line("boots", done, 4, Duration::from_secs(u64::from(done) * 3));
        let (bars, gaps) = ("#".repeat(15), "-".repeat(15));
        assert_eq!(line(0), format!("[{gaps}{gaps}] 0/4 boots"));
        assert_eq!(line(2), format!("[{bars}{gaps}] 2/4 boots, 6 s left"));
        assert_eq!(line(4), format!("[{bars}{bars}] 4/4 boots, 0 s left"));
    }
}
