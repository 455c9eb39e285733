//! Whether polling for a halted vCPU's wake-up pays, out of KVM's statistics.

use std::fmt;

use serde::Serialize;

use crate::kvm::Statistic;

/// How vCPUs halted and were woken (Linux virt/kvm/kvm_main.c, kvm_vcpu_halt). Times are in
/// nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Halts {
    /// Exits because the guest halted.
    pub halts: u64,
    /// Of those, KVM polled for the wake-up.
    pub polls: u64,
    /// Of those, the wake-up came in time: the thread didn't sleep.
    pub polls_in_time: u64,
    /// Time in polls that came to something.
    pub polled_in_time_ns: u64,
    /// Time in polls that didn't: CPU for nothing.
    pub polled_in_vain_ns: u64,
    /// Time that the threads slept.
    pub slept_ns: u64,
}

impl Halts {
    /// What `statistics` of one vCPU say; zero for what a kernel doesn't count.
    pub fn of(statistics: &[Statistic]) -> Self {
        let value = |name: &str| {
            let found = statistics.iter().find(|statistic| statistic.name == name);
            found.and_then(|found| found.values.first().copied())
        };
        let any = |names: [&str; 2]| names.into_iter().find_map(value).unwrap_or(0);
        let one = |name| value(name).unwrap_or(0);
        Halts {
            halts: any(["halt_exits", "wfi_exit_stat"]),
            polls: one("halt_attempted_poll"),
            polls_in_time: one("halt_successful_poll"),
            polled_in_time_ns: one("halt_poll_success_ns"),
            polled_in_vain_ns: one("halt_poll_fail_ns"),
            slept_ns: one("halt_wait_ns"),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What there is since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.each(earlier, u64::saturating_sub)
    }

    fn each(self, other: Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Halts {
            halts: both(self.halts, other.halts),
            polls: both(self.polls, other.polls),
            polls_in_time: both(self.polls_in_time, other.polls_in_time),
            polled_in_time_ns: both(self.polled_in_time_ns, other.polled_in_time_ns),
            polled_in_vain_ns: both(self.polled_in_vain_ns, other.polled_in_vain_ns),
            slept_ns: both(self.slept_ns, other.slept_ns),
        }
    }

    /// The share of halts whose wake-up a poll saw in time, 0 to 1.
    pub fn share_in_time(self) -> f64 {
        ratio(self.polls_in_time, self.halts)
    }

    /// Microseconds of CPU polled in vain for each halt.
    pub fn vain_us(self) -> f64 {
        ratio(self.polled_in_vain_ns, self.halts) / 1000.0
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        _ => part as f64 / whole as f64,
    }
}

impl fmt::Display for Halts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} halts; ", self.halts)?;
        if self.polls == 0 {
            return write!(f, "KVM polled for none of them");
        }
        write!(
            f,
            "polling: {} of {} polls saw the wake-up in time ({:.0} % of the halts), {:.1} us \
             polled in vain for each halt",
            self.polls_in_time,
            self.polls,
            100.0 * self.share_in_time(),
            self.vain_us()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::StatisticKind;

    fn statistics(values: &[(&str, u64)]) -> Vec<Statistic> {
        let statistic = |(name, value): &(&str, u64)| Statistic {
            name: (*name).to_owned(),
            kind: StatisticKind::Cumulative,
            values: vec![*value],
        };
        values.iter().map(statistic).collect()
    }

    #[test]
    fn it_is_told_what_polling_brought_and_cost() {
        let first = Halts::of(&statistics(&[
            ("halt_exits", 8),
            ("halt_attempted_poll", 5),
            ("halt_successful_poll", 2),
            ("halt_poll_fail_ns", 80_000),
        ]));
        assert_eq!(
            first.to_string(),
            "8 halts; polling: 2 of 5 polls saw the wake-up in time (25 % of the halts), 10.0 us \
             polled in vain for each halt"
        );
        let both = first.plus(first);
        assert_eq!((both.halts, both.polled_in_vain_ns), (16, 160_000));
        assert_eq!(both.since(first), first);
        assert_eq!(first.since(both), Halts::default());
    }

    #[test]
    fn nothing_counted_is_nothing_and_no_division() {
        let none = Halts::of(&[]);
        assert_eq!(none, Halts::default());
        assert_eq!(none.to_string(), "0 halts; KVM polled for none of them");
        assert!(none.vain_us() == 0.0 && none.share_in_time() == 0.0);
        let arm = Halts::of(&statistics(&[("wfi_exit_stat", 3)]));
        assert_eq!(arm.halts, 3);
    }
}
