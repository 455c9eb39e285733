//! What is noted on the way to the guest's init: when each phase ended, and exits by their cause.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bus::{Bus, Count};
use crate::vcpu::{ExitCounters, ExitCounts};

/// The steps from exec to the first KVM_RUN, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// /dev/kvm is open, its capabilities are checked.
    KvmOpen,
    /// KVM_CREATE_VM has returned.
    CreateVm,
    /// Guest memory is reserved and registered.
    Memory,
    /// Kernel and initrd are in guest memory.
    KernelLoad,
    /// The interrupt controllers exist.
    Irqchip,
    /// All vCPUs exist, and the interrupt controllers are ready.
    Vcpus,
    /// All devices are open and on their bus; boot tables are written, and the first vCPU's registers.
    Devices,
    /// All of guest memory is there, where that was asked for.
    Prefault,
    /// What the VM's threads may do is made up; each takes it on as it starts.
    Sandbox,
}

/// When each phase ended.
#[derive(Clone, Debug)]
pub struct Timeline {
    pub(super) start: Instant,
    pub(super) ends: Vec<(Phase, Instant)>,
}

impl Timeline {
    /// A timeline from `start`, the moment of exec.
    pub fn starting_at(start: Instant) -> Self {
        Timeline {
            start,
            ends: Vec::with_capacity(9),
        }
    }

    /// Says that `phase` has ended now.
    pub fn mark(&mut self, phase: Phase) {
        self.ends.push((phase, Instant::now()));
    }

    /// How long a phase took, in microseconds; 0 for one that did not happen.
    pub(super) fn duration(&self, phase: Phase) -> u64 {
        let Some(index) = self.ends.iter().position(|(p, _)| *p == phase) else {
            return 0;
        };
        let before = index.checked_sub(1).map_or(self.start, |i| self.ends[i].1);
        micros(before, self.ends[index].1)
    }
}

/// The microseconds from one moment to another, 0 where it is not after the first.
pub(super) fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

/// The two moments that the guest decides, and the counters, from the running VM.
#[derive(Default)]
pub(super) struct BootClock {
    /// With the CPU time that the process had used by then.
    pub first_run: OnceLock<(Instant, Duration)>,
    pub init: OnceLock<(Instant, Counts)>,
    /// When the console had printed what was waited for.
    pub marker: OnceLock<(Instant, Counts)>,
    vcpus: Vec<Arc<ExitCounters>>,
    buses: OnceLock<[Weak<Bus>; 2]>,
}

/// Exits so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By reason, for all vCPUs together.
    pub by_reason: ExitCounts,
    /// By device; only those that were used.
    pub by_device: Vec<DeviceCount>,
    /// All exits to user space.
    pub total: u64,
}

/// Accesses to one device that the monitor answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceCount {
    /// The device's name.
    pub device: String,
    /// Exits for a read.
    pub reads: u64,
    /// Exits for a write.
    pub writes: u64,
}

impl BootClock {
    /// Whether the guest's init has signalled, or its console printed what was waited for.
    pub fn has_signalled(&self) -> bool {
        self.init.get().is_some() || self.marker.get().is_some()
    }

    pub fn new(vcpus: Vec<Arc<ExitCounters>>) -> Self {
        BootClock {
            vcpus,
            ..Default::default()
        }
    }

    /// Tells which buses to count accesses of.
    pub fn watch(&self, mmio: &Arc<Bus>, ports: &Arc<Bus>) {
        let _ = self.buses.set([mmio, ports].map(Arc::downgrade));
    }

    /// The counters of vCPU `index`.
    pub fn vcpu(&self, index: usize) -> Arc<ExitCounters> {
        self.vcpus[index].clone()
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        let mut by_reason = ExitCounts::default();
        self.vcpus
            .iter()
            .for_each(|vcpu| by_reason += vcpu.snapshot());
        let mut by_device = Vec::new();
        let buses = self.buses.get().into_iter().flatten();
        for (bus, nobody) in buses.zip(["unclaimed MMIO", "unclaimed ports"]) {
            let Some(bus) = bus.upgrade() else { continue };
            let Count { reads, writes, .. } = bus.unclaimed();
            let unclaimed = Count {
                name: nobody,
                reads,
                writes,
            };
            let used = bus
                .counts()
                .chain([unclaimed])
                .filter(|count| count.reads + count.writes > 0);
            by_device.extend(used.map(|count| DeviceCount {
                device: count.name.to_owned(),
                reads: count.reads,
                writes: count.writes,
            }));
        }
        Counts {
            by_reason,
            total: by_reason.total(),
            by_device,
        }
    }
}
