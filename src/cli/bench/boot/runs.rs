//! The runs: warm-up, measured ones, one after the other or several at a time, in turn with another
//! monitor's; and those in which system calls are counted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::monitor::{Mote, Other};
use super::report::{Plan, Report, Versus};
use super::samples::{SEEN, Sample, Series, series};
use super::{interrupted, versus};
use crate::cli::bench::progress::Progress;
use crate::cli::{CliError, signals};

/// How often system calls are counted: the main thread and the first vCPU's race to KVM_RUN, so
/// that one count isn't always the other.
const COUNTED: u32 = 3;

/// What is run, and how.
pub struct Runs<'a> {
    pub mote: &'a Mote,
    pub other: Option<&'a Other>,
    pub plan: Plan,
    pub limit: Duration,
    /// Readable when all is to end.
    pub stop: i32,
    /// Looks at the first sample: whether there is all that is asked for.
    pub check: &'a (dyn Fn(&Sample) -> Result<(), CliError> + Sync),
}

/// One run of each monitor.
struct Turn {
    number: u32,
    sample: Sample,
    other: Option<u64>,
}

impl Runs<'_> {
    /// Runs all, and puts the figures into the report.
    pub fn measure(&self, report: &mut Report) -> Result<(), CliError> {
        let Plan {
            runs,
            warmup,
            parallel,
        } = self.plan;
        let progress = Progress::of(warmup + runs, "boots");
        let (next, failed) = (AtomicU32::new(0), AtomicBool::new(false));
        let done = Mutex::new((Vec::new(), None));
        let lock = || {
            done.lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        std::thread::scope(|scope| {
            for _ in 0..parallel.min(warmup + runs) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= warmup + runs || failed.load(Ordering::Relaxed) {
                            return;
                        }
                        match self.turn(number) {
                            Ok(turn) => lock().0.push(turn),
                            Err(error) => {
                                failed.store(true, Ordering::Relaxed);
                                lock().1.get_or_insert((number, error));
                            }
                        }
                        progress.step();
                    }
                });
            }
        });
        let (mut turns, error) = done
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, error)) = error {
            return Err(error);
        }
        progress.say("counting system calls");
        turns.retain(|turn| turn.number >= warmup);
        turns.sort_unstable_by_key(|turn| turn.number);
        let samples = turns.iter().map(|turn| &turn.sample);
        report.phases = series(samples.clone().map(|sample| sample.phases.as_slice()));
        report.counts = series(samples.map(|sample| sample.counts.as_slice()));
        self.count_system_calls(report);
        drop(progress);
        if signals::received().is_some() {
            return Err(interrupted());
        }
        if let Some(other) = self.other {
            report.versus = versus(other, &turns, report);
        }
        Ok(())
    }

    fn turn(&self, number: u32) -> Result<Turn, CliError> {
        let sample = self.mote.boot(self.limit, self.stop)?;
        if number == 0 {
            (self.check)(&sample)?;
        }
        let other = self
            .other
            .map(|other| other.boot(self.limit, self.stop))
            .transpose()?;
        Ok(Turn {
            number,
            sample,
            other,
        })
    }

    fn count_system_calls(&self, report: &mut Report) {
        let counts: Result<Vec<_>, _> = (0..COUNTED)
            .map(|_| self.mote.count_system_calls(self.limit, self.stop))
            .collect();
        match counts {
            Ok(values) => {
                let name = "syscalls".to_owned();
                report.counts.push(Series { name, values });
            }
            Err(error) => report.not_counted = Some(error.to_string()),
        }
    }
}

fn versus(other: &Other, turns: &[Turn], report: &Report) -> Option<Versus> {
    let values: Vec<u64> = turns.iter().filter_map(|turn| turn.other).collect();
    let (ratio, interval) = versus::ratio(&report.phase(SEEN)?.values, &values);
    Some(Versus {
        command: other.command.clone(),
        marker: other.marker.clone(),
        seen: Series {
            name: SEEN.to_owned(),
            values,
        },
        ratio,
        interval,
    })
}
