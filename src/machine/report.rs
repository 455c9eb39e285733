//! Where the boot time went, and what the boot cost in exact counts, for people and for scripts.

use std::fmt;

use serde::Serialize;

use super::kvm_stats::KvmReport;
use super::timings::{BootClock, Counts, Phase, Timeline, micros};
use super::usage::Usage;
use crate::arch::cpu;
use crate::footprint::Footprint;
use crate::kvm::SLOW_CREATE_VM;

/// Where the boot time went. Times are in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// From exec until KVM was open and checked.
    pub exec_to_kvm_open_us: u64,
    /// KVM_CREATE_VM.
    pub create_vm_us: u64,
    /// Reserving and registering guest memory.
    pub memory_us: u64,
    /// Reading the kernel and the initrd into guest memory.
    pub kernel_load_us: u64,
    /// Making the interrupt controllers.
    pub irqchip_us: u64,
    /// Making the vCPUs.
    pub vcpus_us: u64,
    /// Opening devices and writing boot tables.
    pub devices_us: u64,
    /// Waiting for guest memory after that, with `prefault=on`.
    pub prefault_us: u64,
    /// Making up what the VM's threads may do.
    pub sandbox_us: u64,
    /// From exec to the first KVM_RUN: all of the monitor's part, and starting the threads.
    pub exec_to_first_run_us: Option<u64>,
    /// CPU time of all threads from exec to the first KVM_RUN.
    pub exec_to_first_run_cpu_us: Option<u64>,
    /// From the first KVM_RUN until the guest's init wrote to the boot timer.
    pub first_run_to_init_us: Option<u64>,
    /// From exec until the guest's init wrote to the boot timer.
    pub exec_to_init_us: Option<u64>,
    /// From exec until the console had printed what was waited for ([`super::Until`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_to_marker_us: Option<u64>,
    /// Exits to user space until init; where init did not signal, until the marker, or until now.
    pub exits: Counts,
    /// Bytes read into guest memory before the first KVM_RUN.
    pub bytes_loaded: u64,
    /// Bytes of the kernel's file that are guest memory as they are (`--kernel-load map`).
    pub bytes_mapped: u64,
    /// How often KVM_GET_SUPPORTED_CPUID was called in this process.
    pub supported_cpuid_calls: u32,
    /// What the process used.
    pub process: Usage,
    /// What the process's memory is used for, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Footprint>,
    /// What KVM counted until now, where its kernel does (Linux 5.14).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kvm: Option<KvmReport>,
}

impl Report {
    pub(super) fn new(
        timeline: &Timeline,
        clock: &BootClock,
        (bytes_loaded, bytes_mapped): (u64, u64),
        supported_cpuid_calls: u32,
        process: Usage,
        memory: Option<Footprint>,
    ) -> Self {
        let first_run = clock.first_run.get().map(|(at, _)| *at);
        let cpu = clock.first_run.get().map(|(_, cpu)| cpu.as_micros());
        let init = clock.init.get();
        let marker = clock.marker.get();
        let exits = init.or(marker);
        let exits = exits.map_or_else(|| clock.counts(), |(_, counts)| counts.clone());
        Report {
            exec_to_kvm_open_us: timeline.duration(Phase::KvmOpen),
            create_vm_us: timeline.duration(Phase::CreateVm),
            memory_us: timeline.duration(Phase::Memory),
            kernel_load_us: timeline.duration(Phase::KernelLoad),
            irqchip_us: timeline.duration(Phase::Irqchip),
            vcpus_us: timeline.duration(Phase::Vcpus),
            devices_us: timeline.duration(Phase::Devices),
            prefault_us: timeline.duration(Phase::Prefault),
            sandbox_us: timeline.duration(Phase::Sandbox),
            exec_to_first_run_us: first_run.map(|at| micros(timeline.start, at)),
            exec_to_first_run_cpu_us: cpu.map(|us| u64::try_from(us).unwrap_or(u64::MAX)),
            first_run_to_init_us: first_run.zip(init).map(|(run, (at, _))| micros(run, *at)),
            exec_to_init_us: init.map(|(at, _)| micros(timeline.start, *at)),
            exec_to_marker_us: marker.map(|(at, _)| micros(timeline.start, *at)),
            exits,
            bytes_loaded,
            bytes_mapped,
            supported_cpuid_calls,
            process,
            memory,
            kvm: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, us: Option<u64>, note: &str| match us {
            Some(us) => {
                let ms = us as f64 / 1000.0;
                let gap = if note.is_empty() { "" } else { "  " };
                writeln!(f, "  {name:<26}{ms:>10.3} ms{gap}{note}")
            }
            None => writeln!(f, "  {name:<26}{:>10}     {note}", "-"),
        };
        line("exec to KVM open", Some(self.exec_to_kvm_open_us), "")?;
        line("KVM_CREATE_VM", Some(self.create_vm_us), "(host)")?;
        line("memory", Some(self.memory_us), "")?;
        line("kernel load", Some(self.kernel_load_us), "")?;
        line("irqchip", Some(self.irqchip_us), "(host)")?;
        line("vCPUs", Some(self.vcpus_us), "")?;
        line("devices", Some(self.devices_us), "")?;
        if self.prefault_us > 0 {
            line("prefault", Some(self.prefault_us), "(what was left of it)")?;
        }
        line("sandbox", Some(self.sandbox_us), "")?;
        line("exec to first KVM_RUN", self.exec_to_first_run_us, "= mote")?;
        let unsignalled = "the guest's init did not write to the boot timer (docs/boot.md)";
        let guest = if self.first_run_to_init_us.is_some() {
            "= guest"
        } else {
            unsignalled
        };
        line("first KVM_RUN to init", self.first_run_to_init_us, guest)?;
        line("exec to init", self.exec_to_init_us, "")?;
        if self.exec_to_marker_us.is_some() {
            line("exec to marker", self.exec_to_marker_us, "(--until)")?;
        }
        let when = match (self.exec_to_init_us, self.exec_to_marker_us) {
            (Some(_), _) => "until init",
            (None, Some(_)) => "until the marker",
            (None, None) => "until the end",
        };
        let exits = &self.exits;
        write!(f, "  exits to user space {when}: {}", exits.total)?;
        for (index, count) in exits.by_device.iter().enumerate() {
            let start = if index == 0 { " (" } else { ", " };
            write!(f, "{start}{} {}", count.device, count.reads + count.writes)?;
        }
        writeln!(f, "{}", if exits.by_device.is_empty() { "" } else { ")" })?;
        write!(f, "  loaded {} KiB", self.bytes_loaded >> 10)?;
        if self.bytes_mapped > 0 {
            write!(f, ", mapped {} KiB", self.bytes_mapped >> 10)?;
        }
        writeln!(f, "; {}", self.process)?;
        if let Some(memory) = &self.memory {
            writeln!(f, "  resident KiB (of that private): {}", memory.short())?;
        }
        if let Some(kvm) = &self.kvm {
            write!(f, "{kvm}")?;
        }
        if u128::from(self.create_vm_us) > SLOW_CREATE_VM.as_micros() {
            writeln!(
                f,
                "  KVM_CREATE_VM took over {} ms. That time is the host's. On real hardware an \
                 administrator can mount cgroup2 with favordynmods{} (`mote check` tells).",
                SLOW_CREATE_VM.as_millis(),
                cpu::SLOW_CREATE_VM
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::ExitCounters;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn phases_follow_one_another_from_exec() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let ends = vec![(Phase::KvmOpen, at(100)), (Phase::CreateVm, at(6100))];
        let timeline = Timeline { start, ends };
        let clock = BootClock::new(vec![Arc::new(ExitCounters::default())]);
        clock
            .first_run
            .set((at(7000), Duration::from_micros(6500)))
            .unwrap();
        clock.init.set((at(57_000), clock.counts())).ok().unwrap();
        let report = Report::new(&timeline, &clock, (0, 0), 1, Default::default(), None);
        assert_eq!(report.exec_to_kvm_open_us, 100);
        assert_eq!(report.create_vm_us, 6000);
        assert_eq!(report.memory_us, 0);
        assert_eq!(report.exec_to_first_run_us, Some(7000));
        assert_eq!(report.exec_to_first_run_cpu_us, Some(6500));
        assert_eq!(report.first_run_to_init_us, Some(50_000));
        assert_eq!(report.exec_to_init_us, Some(57_000));
        let text = report.to_string();
        assert!(text.contains("KVM_CREATE_VM took over 5 ms"), "{text}");
        assert!(text.contains("57.000 ms"), "{text}");
    }

    #[test]
    fn a_guest_that_never_signals_is_told_so() {
        let clock = BootClock::new(Vec::new());
        let timeline = Timeline::starting_at(Instant::now());
        let report = Report::new(&timeline, &clock, (0, 0), 0, Default::default(), None);
        assert_eq!(report.exec_to_init_us, None);
        assert!(
            report
                .to_string()
                .contains("did not write to the boot timer")
        );
    }
}
