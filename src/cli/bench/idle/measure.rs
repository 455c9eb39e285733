//! The asking side: think, ask, wait for the answer, and what that took.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use motevm::machine::Halts;

use super::guest::{Guest, GuestError, pin};

/// Longer than any answer: what is above counts as this.
const LONGEST_NS: u64 = 60_000_000_000;

/// This much of a pause is spun through, since a sleep ends late by some tens of microseconds.
const SPIN: Duration = Duration::from_micros(150);

/// What the requests of one window and think time took together.
pub struct Sample {
    /// From the request to the answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// From before the first pause to the last answer.
    pub wall: Duration,
    /// CPU time of the vCPU's thread.
    pub cpu: Duration,
    /// All pauses, as they were.
    pub thought: Duration,
    /// What KVM counted, where it does.
    pub halts: Option<Halts>,
}

impl Sample {
    pub fn new() -> Self {
        // Three digits; the bounds are valid ones.
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        Sample {
            latency: latency.expect("bounds that a histogram can have"),
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            thought: Duration::ZERO,
            halts: None,
        }
    }
}

/// The thread that asks.
pub struct Asker {
    spins: bool,
}

impl Asker {
    /// Makes the calling thread the one that asks; `cpu` is the host's CPU for it.
    pub fn new(cpu: Option<usize>) -> io::Result<Self> {
        // The threads of guests start with the CPUs that are allowed now; pinned ones set theirs.
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        if let Some(cpu) = cpu {
            pin(cpu)?;
        }
        // SAFETY: no pointers; sleeps of this thread end as soon as they can.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        // With one CPU, spinning would only keep the guest from halting.
        Ok(Asker { spins: cpus > 1 })
    }

    /// Asks `requests` times, each after a pause of `think`.
    pub fn ask(
        &self,
        guest: &Guest,
        think: Duration,
        requests: u32,
        sample: &mut Sample,
    ) -> Result<(), GuestError> {
        let (halts, cpu) = (guest.halts()?, guest.cpu_time());
        let start = Instant::now();
        let mut answered = start;
        for _ in 0..requests {
            self.think(answered + think);
            let asked = Instant::now();
            guest.request()?;
            guest.wait()?;
            let before = answered;
            answered = Instant::now();
            sample.thought += asked - before;
            let ns = (answered - asked).as_nanos();
            sample
                .latency
                .saturating_record(u64::try_from(ns).unwrap_or(u64::MAX));
        }
        sample.wall += answered - start;
        sample.cpu += guest.cpu_time().saturating_sub(cpu);
        if let Some((now, before)) = guest.halts()?.zip(halts) {
            let more = now.since(before);
            sample.halts = Some(sample.halts.unwrap_or_default().plus(more));
        }
        Ok(())
    }

    fn think(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let asleep = match self.spins {
            true => left.saturating_sub(SPIN),
            false => left,
        };
        if !asleep.is_zero() {
            thread::sleep(asleep);
        }
        while self.spins && Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}
