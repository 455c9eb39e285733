//! What a VM counts apart from its devices: exits, times, memory.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::timings::{BootClock, Phase, Timeline};
use super::usage::{Smaps, Usage, cpu_time};
use crate::config::Size;
use crate::metrics::{Samples, Source};

/// Asked only when someone reads the metrics: nothing is counted for it.
pub(super) struct VmSource {
    pub clock: Arc<BootClock>,
    pub timeline: Timeline,
    pub memory: Size,
    pub cpus: u8,
    /// The host addresses of the guest's RAM.
    pub ranges: Vec<Range<u64>>,
    pub smaps: Arc<Smaps>,
}

impl Source for VmSource {
    fn collect(&self, samples: &mut Samples) {
        let version = env!("CARGO_PKG_VERSION");
        let help = "The program that runs the VM.";
        samples.gauge("mote_vm_info", help, &[("version", version)], 1.0);
        let help = "Virtual CPUs.";
        samples.gauge("mote_vm_cpus", help, &[], self.cpus.into());
        self.exits(samples);
        self.times(samples);
        self.usage(samples);
    }
}

impl VmSource {
    fn exits(&self, samples: &mut Samples) {
        let counts = self.clock.counts();
        let by = counts.by_reason;
        for (reason, count) in [
            ("mmio_read", by.mmio_read),
            ("mmio_write", by.mmio_write),
            ("pio_in", by.pio_in),
            ("pio_out", by.pio_out),
            ("interrupted", by.interrupted),
            ("other", by.other),
        ] {
            samples.counter(
                "mote_vm_exits_total",
                "Exits of the vCPUs to user space.",
                &[("reason", reason)],
                count,
            );
        }
        for count in &counts.by_device {
            for (op, value) in [("read", count.reads), ("write", count.writes)] {
                samples.counter(
                    "mote_device_exits_total",
                    "Exits that a device answered.",
                    &[("device", &count.device), ("op", op)],
                    value,
                );
            }
        }
    }

    fn times(&self, samples: &mut Samples) {
        let start = self.timeline.start;
        let first_run = self.clock.first_run.get().map(|(at, _)| *at);
        let init = self.clock.init.get().map(|(at, _)| *at);
        let seconds = |to: Instant, from: Instant| to.saturating_duration_since(from).as_secs_f64();
        for (phase, time) in [
            ("first_run", first_run.map(|at| seconds(at, start))),
            ("init", init.map(|at| seconds(at, start))),
        ] {
            if let Some(time) = time {
                samples.gauge(
                    "mote_boot_seconds",
                    "From exec to the first KVM_RUN, and to the guest's init.",
                    &[("until", phase)],
                    time,
                );
            }
        }
        for (name, phase) in [
            ("kvm_open", Phase::KvmOpen),
            ("create_vm", Phase::CreateVm),
            ("memory", Phase::Memory),
            ("kernel_load", Phase::KernelLoad),
            ("irqchip", Phase::Irqchip),
            ("vcpus", Phase::Vcpus),
            ("devices", Phase::Devices),
        ] {
            samples.gauge(
                "mote_boot_phase_seconds",
                "How long each step to the first KVM_RUN took.",
                &[("phase", name)],
                self.timeline.duration(phase) as f64 / 1e6,
            );
        }
        if let Some(at) = first_run {
            let help = "Since the first KVM_RUN.";
            samples.gauge(
                "mote_uptime_seconds",
                help,
                &[],
                seconds(Instant::now(), at),
            );
        }
    }

    fn usage(&self, samples: &mut Samples) {
        let help = "Guest memory, as configured.";
        samples.gauge("mote_memory_bytes", help, &[], self.memory.bytes() as f64);
        let usage = Usage::now(&self.smaps, &self.ranges);
        for (of, kib) in [("guest", usage.guest_kib), ("monitor", usage.resident_kib)] {
            samples.gauge(
                "mote_memory_resident_bytes",
                "Memory of the process that is resident: the guest's, and all else.",
                &[("of", of)],
                (kib * 1024) as f64,
            );
        }
        for (kind, faults) in [("minor", usage.minor_faults), ("major", usage.major_faults)] {
            samples.counter(
                "mote_process_page_faults_total",
                "Page faults of the process.",
                &[("kind", kind)],
                faults,
            );
        }
        let help = "CPU time of all threads of the process, the guest's included.";
        let seconds = cpu_time().as_secs_f64();
        samples.gauge("mote_process_cpu_seconds", help, &[], seconds);
    }
}
