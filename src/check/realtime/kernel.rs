//! How the host's kernel preempts itself, what it allows, and what it does by itself on each CPU.

use super::{Check, Target};
use crate::check::{Root, native};

pub(super) fn check(target: &Target) -> Vec<Check> {
    let root = target.root;
    let mut checks = vec![preemption(root)];
    checks.extend(throttling(target));
    checks.extend(priorities(root));
    checks.extend(switches(root));
    checks.extend(halt_polling(root));
    checks.extend(clock(root));
    checks
}

/// The preemption model.
fn preemption(root: &Root) -> Check {
    let (id, subject) = ("rt.preemption", "kernel preemption");
    let version = root.read("proc/version").unwrap_or_default();
    let has = |word| version.split_whitespace().any(|other| other == word);
    if root.read("sys/kernel/realtime").as_deref() == Some("1") || has("PREEMPT_RT") {
        return Check::ok(id, subject, "PREEMPT_RT");
    }
    let found = match (has("PREEMPT_DYNAMIC"), has("PREEMPT")) {
        (true, _) => {
            "PREEMPT_DYNAMIC: interrupts and locks of the host delay a guest by up to milliseconds"
        }
        (_, true) => {
            "PREEMPT: interrupts and locks of the host delay a guest by up to milliseconds"
        }
        _ => "voluntary or none: any system call of the host delays a guest by up to milliseconds",
    };
    let remedy = format!(
        "use a kernel with PREEMPT_RT (Debian: sudo apt install {})",
        native::REALTIME_KERNEL
    );
    Check::jitter(id, subject, found, remedy)
}

/// What the kernel takes back from real-time threads.
fn throttling(target: &Target) -> Option<Check> {
    let (id, subject) = ("rt.throttling", "real-time throttling");
    let runtime = target.root.read("proc/sys/kernel/sched_rt_runtime_us")?;
    let period = target.root.number("proc/sys/kernel/sched_rt_period_us")?;
    let Ok(runtime) = runtime.parse::<u64>() else {
        return Some(Check::ok(id, subject, "off"));
    };
    let lost = period.saturating_sub(runtime) / 1000;
    let found = format!(
        "on: a vCPU with --sched fifo or rr that never waits loses {lost} ms of each {} ms",
        period / 1000
    );
    let remedy = format!(
        "sudo sysctl kernel.sched_rt_runtime_us=-1, once CPUs {} are isolated and not before",
        target.cpus
    );
    Some(Check::jitter(id, subject, found, remedy))
}

/// Whether this process may have real-time threads.
fn priorities(root: &Root) -> Option<Check> {
    const CAP_SYS_NICE: u64 = 1 << 23;
    let (id, subject) = ("rt.priority", "real-time priorities");
    let status = root.read("proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    if u64::from_str_radix(mask.trim(), 16).ok()? & CAP_SYS_NICE != 0 {
        return Some(Check::ok(id, subject, "any (CAP_SYS_NICE)"));
    }
    let limits = root.read("proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max realtime priority"))?;
    let most: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(match most {
        0 => Check::jitter(
            id,
            subject,
            "none for this process: --sched fifo and rr will be refused",
            "raise rtprio in /etc/security/limits.conf to 49 and log in again, or give CAP_SYS_NICE",
        ),
        most => Check::ok(id, subject, format!("up to {most}")),
    })
}

/// One of the kernel's switches: a file, the value that it should have, what else means, and how to
/// set it.
struct Switch {
    id: &'static str,
    subject: &'static str,
    file: &'static str,
    good: fn(u64) -> bool,
    bad: &'static str,
    remedy: &'static str,
}

const SWITCHES: &[Switch] = &[
    Switch {
        id: "rt.timer_migration",
        subject: "timer migration",
        file: "proc/sys/kernel/timer_migration",
        good: |value| value != 0,
        bad: "off: timers stay on the CPU that armed them, isolated or not",
        remedy: "sudo sysctl kernel.timer_migration=1",
    },
    Switch {
        id: "rt.nmi_watchdog",
        subject: "NMI watchdog",
        file: "proc/sys/kernel/nmi_watchdog",
        good: |value| value == 0,
        bad: "on: each CPU is interrupted every few seconds",
        remedy: "sudo sysctl kernel.nmi_watchdog=0",
    },
    Switch {
        id: "rt.vmstat",
        subject: "memory statistics",
        file: "proc/sys/vm/stat_interval",
        good: |seconds| seconds >= 10,
        bad: "gathered from each CPU every few seconds, by a kworker there",
        remedy: "sudo sysctl vm.stat_interval=120",
    },
];

fn switches(root: &Root) -> impl Iterator<Item = Check> {
    SWITCHES.iter().filter_map(|switch| {
        let value = root.number(switch.file)?;
        Some(match (switch.good)(value) {
            true => Check::ok(switch.id, switch.subject, format!("{value}")),
            false => Check::jitter(switch.id, switch.subject, switch.bad, switch.remedy),
        })
    })
}

/// Whether a halted vCPU is waited for on its CPU.
fn halt_polling(root: &Root) -> Option<Check> {
    let (id, subject) = ("rt.halt_poll", "halt polling");
    Some(
        match root.number("sys/module/kvm/parameters/halt_poll_ns")? {
            0 => Check::jitter(
                id,
                subject,
                "off: a vCPU that halts sleeps at once, and takes its CPU's way out of sleep to wake up",
                "echo 200000 | sudo tee /sys/module/kvm/parameters/halt_poll_ns (a CPU of its own has nothing \
             better to do)",
            ),
            ns => Check::ok(id, subject, format!("up to {} us", ns / 1000)),
        },
    )
}

/// The clock that the host and its guests read.
fn clock(root: &Root) -> Option<Check> {
    let (id, subject) = ("rt.clocksource", "clock source");
    let source = root.read("sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    Some(match source.as_str() {
        "tsc" | "arch_sys_counter" | "kvm-clock" => Check::ok(id, subject, source),
        _ => Check::jitter(
            id,
            subject,
            format!("{source}: slow to read, and one for all CPUs"),
            native::CLOCK_REMEDY,
        ),
    })
}
