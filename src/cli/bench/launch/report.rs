//! The figures of `mote bench launch`, as `--json` has them.

use motevm::VmConfig;
use motevm::footprint::{Amounts, Footprint, What};
use serde::Serialize;

use super::Until;
use super::child::Moment;
use super::crowd::{Measured, Plan};

/// All figures.
#[derive(Debug, Serialize)]
pub struct LaunchReport {
    pub mote: &'static str,
    pub count: u32,
    pub parallel: u32,
    pub until: Until,
    /// From the first start until the last VM was up.
    pub seconds: f64,
    pub vms_per_second: f64,
    /// By each VM's own clock.
    pub exec_to_first_run_us: Option<Spread>,
    pub exec_to_init_us: Option<Spread>,
    /// From before its process was started until it was heard of.
    pub start_to_up_us: Option<Spread>,
    pub memory: Option<Memory>,
    pub config: VmConfig,
}

/// How a figure differs between the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
    pub mean: u64,
}

/// Memory of all VMs, when all were up.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// For each use, the mean of all VMs.
    pub uses: Vec<Use>,
    /// The mean of the totals.
    pub total: Amounts,
    pub private_guest_kib: Spread,
    /// What a VM costs besides the pages that its guest touches.
    pub private_besides_kib: Spread,
    pub proportional_kib: Spread,
    /// How much less memory the host had available for each VM: what the kernel keeps for it included.
    pub host_kib: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A use of memory.
#[derive(Debug, Serialize)]
pub struct Use {
    pub what: What,
    #[serde(flatten)]
    pub amounts: Amounts,
}

impl LaunchReport {
    pub fn new(plan: &Plan, config: VmConfig, measured: Measured) -> Self {
        let seconds = measured.took.as_secs_f64();
        let up = match plan.until {
            Until::Init => &measured.init,
            Until::Run => &measured.running,
        };
        let own = |moments: &[Moment]| Spread::of(moments.iter().map(|m| micros(m.own)));
        LaunchReport {
            mote: env!("CARGO_PKG_VERSION"),
            count: plan.count,
            parallel: plan.parallel,
            until: plan.until,
            seconds,
            vms_per_second: f64::from(plan.count) / seconds.max(f64::MIN_POSITIVE),
            exec_to_first_run_us: own(&measured.running),
            exec_to_init_us: own(&measured.init),
            start_to_up_us: Spread::of(up.iter().map(|moment| micros(moment.seen))),
            memory: Memory::of(&measured.footprints, measured.host_kib),
            config,
        }
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Spread {
    /// Of any figures; `None` of none.
    pub fn of(figures: impl Iterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<_> = figures.collect();
        sorted.sort_unstable();
        // The least figure that so many percent are not above.
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).max(1) - 1;
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Spread {
            min,
            p50: sorted[rank(50)],
            p90: sorted[rank(90)],
            p99: sorted[rank(99)],
            max,
            mean: sorted.iter().sum::<u64>() / sorted.len() as u64,
        })
    }
}

impl Memory {
    fn of(footprints: &[Footprint], host_kib: Option<i64>) -> Option<Self> {
        let spread = |of: fn(&Footprint) -> u64| Spread::of(footprints.iter().map(of));
        let count = footprints.len() as u64;
        let mean = |of: &dyn Fn(&Footprint) -> Amounts| {
            let mut sum = Amounts::default();
            footprints.iter().for_each(|f| sum += &of(f));
            sum.divided(count)
        };
        let uses = What::ALL.into_iter().map(|what| Use {
            what,
            amounts: mean(&|footprint| footprint.of_use(what)),
        });
        let mut notes: Vec<_> = footprints.iter().flat_map(|f| f.notes.clone()).collect();
        notes.dedup();
        Some(Memory {
            private_guest_kib: spread(|f| f.private_guest_kib)?,
            private_besides_kib: spread(|f| f.private_besides_kib)?,
            proportional_kib: spread(|f| f.total.proportional_kib)?,
            uses: uses.filter(|of| of.amounts != Amounts::default()).collect(),
            total: mean(&|footprint| footprint.total),
            host_kib: host_kib.map(|kib| kib / count as i64),
            notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let spread = Spread::of((1..=200).rev()).unwrap();
        assert_eq!((spread.min, spread.p50, spread.p90), (1, 100, 180));
        assert_eq!((spread.p99, spread.max, spread.mean), (198, 200, 100));
        let one = Spread::of([7].into_iter()).unwrap();
        assert_eq!((one.min, one.p50, one.p99, one.max), (7, 7, 7, 7));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn memory_is_the_mean_of_all() {
        let footprint = |kib| {
            let mut footprint = Footprint {
                private_besides_kib: kib,
                ..Footprint::default()
            };
            footprint.total.resident_kib = kib;
            footprint
        };
        let memory = Memory::of(&[footprint(100), footprint(300)], Some(1000)).unwrap();
        assert_eq!(memory.total.resident_kib, 200);
        assert_eq!(memory.private_besides_kib.max, 300);
        assert_eq!((memory.host_kib, memory.uses.len()), (Some(500), 0));
        assert!(Memory::of(&[], None).is_none());
    }
}
