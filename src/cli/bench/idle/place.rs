//! Where it was measured: the host, and what else it had to do meanwhile.

use std::time::{Duration, Instant};

use motevm::check::{Identity, Root, has_hardware};
use serde::Serialize;

/// What the figures depend on.
#[derive(Debug, Serialize)]
pub struct HostFacts {
    pub kernel: String,
    pub cpu: String,
    /// All of the host's, whichever may be used here.
    pub cpus: usize,
    /// Whether KVM has hardware behind it.
    pub hardware: bool,
    /// KVM's own window, in nanoseconds, where it tells.
    pub halt_poll_ns: Option<u64>,
    /// In which part of the time some task waited for a CPU, where the kernel tells.
    pub pressure_percent: Option<f64>,
}

/// How long tasks have waited for a CPU (Linux Documentation/accounting/psi.rst), from its start on.
pub struct Pressure(Option<(Instant, u64)>);

impl Pressure {
    /// From now on.
    pub fn start() -> Self {
        Pressure(waited_us().map(|us| (Instant::now(), us)))
    }

    #[cfg(test)]
    pub fn unknown() -> Self {
        Pressure(None)
    }

    /// In which part of the time since then, in percent.
    fn percent(&self) -> Option<f64> {
        let (start, before) = self.0?;
        let waited = waited_us()?.saturating_sub(before) as f64;
        Some(100.0 * ratio(waited, us(start.elapsed())))
    }
}

/// The sum of all times in which some task waited.
fn waited_us() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.parse().ok()
}

impl HostFacts {
    /// Read from /proc and /sys.
    pub fn read(pressure: &Pressure) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let Identity { kernel, cpu, .. } = Identity::of(&Root::default());
        HostFacts {
            kernel,
            cpu,
            cpus: info
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            hardware: has_hardware(&Root::default()),
            halt_poll_ns: read("/sys/module/kvm/parameters/halt_poll_ns")
                .trim()
                .parse()
                .ok(),
            pressure_percent: pressure.percent(),
        }
    }
}

/// In microseconds.
pub fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// Nothing of nothing is 0.
pub fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_kernel_and_cpus() {
        let facts = HostFacts::read(&Pressure::start());
        assert!(!facts.kernel.is_empty() && facts.cpus > 0, "{facts:?}");
        let percent = facts.pressure_percent;
        assert!(percent.is_none_or(|percent| percent >= 0.0));
    }
}
