use super::super::Level;
use super::*;

/// A host with four CPUs, two cores of two, of which 2 and 3 are set up as they should be.
const GOOD: &[(&str, &str)] = &[
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "2-3\n"),
    ("sys/devices/system/cpu/nohz_full", "2-3\n"),
    ("sys/devices/system/node/online", "0-1\n"),
    (
        "proc/cmdline",
        "ro isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3\n",
    ),
    (
        "proc/self/status",
        "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3\n",
    ),
    (
        "proc/self/limits",
        "Max realtime priority     0                    0 \n",
    ),
    (
        "proc/version",
        "Linux version 6.12.1-rt-amd64 #1 SMP PREEMPT_RT Debian\n",
    ),
    ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
    ("proc/irq/default_smp_affinity", "3\n"),
    ("proc/irq/9/smp_affinity_list", "0-3\n"),
    ("proc/irq/9/effective_affinity_list", "0\n"),
    ("proc/irq/9/acpi/x", ""),
    ("proc/irq/10/smp_affinity_list", "0-3\n"), // nobody waits for it
    ("proc/sys/kernel/sched_rt_runtime_us", "-1\n"),
    ("proc/sys/kernel/sched_rt_period_us", "1000000\n"),
    ("proc/sys/kernel/timer_migration", "1\n"),
    ("proc/sys/kernel/nmi_watchdog", "0\n"),
    ("proc/sys/kernel/numa_balancing", "0\n"),
    ("proc/sys/vm/stat_interval", "120\n"),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always madvise [never]\n",
    ),
    ("sys/kernel/mm/ksm/run", "0\n"),
    ("sys/module/kvm/parameters/halt_poll_ns", "200000\n"),
    (
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
        "tsc\n",
    ),
    (
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor",
        "performance\n",
    ),
    (
        "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
        "performance\n",
    ),
    (
        "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
        "2\n",
    ),
    (
        "sys/devices/system/cpu/cpu3/topology/thread_siblings_list",
        "3\n",
    ),
    ("sys/devices/system/cpu/cpu2/cpuidle/state0/latency", "0\n"),
    ("sys/devices/system/cpu/cpu2/cpuidle/state0/name", "POLL\n"),
    (
        "sys/devices/system/cpu/cpu2/cpuidle/state1/latency",
        "133\n",
    ),
    ("sys/devices/system/cpu/cpu2/cpuidle/state1/name", "C6\n"),
    ("sys/devices/system/cpu/cpu2/cpuidle/state1/disable", "1\n"),
];

fn on(change: &[(&str, &str)], pin: Option<&str>, io: Option<&str>) -> Vec<Check> {
    let kept = GOOD
        .iter()
        .filter(|(path, _)| change.iter().all(|(other, _)| other != path));
    let files: Vec<_> = kept.chain(change).copied().collect();
    let (_dir, root) = Root::fake(&files);
    let asked = Asked {
        pin: pin.map(|text| text.parse().unwrap()),
        io_cpus: io.map(|text| text.parse().unwrap()),
    };
    run(&root, &asked)
}

/// What is wrong when these files are changed: each check's id, what was found, and the remedy.
fn wrong(
    change: &[(&str, &str)],
    pin: Option<&str>,
    io: Option<&str>,
) -> Vec<(&'static str, String, String)> {
    let checks = on(change, pin, io)
        .into_iter()
        .filter(|check| check.level != Level::Ok);
    checks
        .map(|check| (check.id, check.found, check.remedy.unwrap()))
        .collect()
}

#[test]
fn a_host_that_is_set_up_has_nothing_to_say() {
    assert_eq!(wrong(&[], Some("0=2,1=3"), Some("0-1")), []);
    assert_eq!(on(&[], Some("0=2,1=3"), Some("0-1")).len(), 22);
}

#[test]
fn each_thing_that_is_missing_is_named_with_its_remedy() {
    let cpu = |file: &str| format!("sys/devices/system/cpu/{file}");
    let cases: &[(&str, &str, &str, &str, &str)] = &[
        (
            &cpu("isolated"),
            "2\n",
            "rt.isolcpus",
            "not 3: ",
            "isolcpus=managed_irq,domain,2-3",
        ),
        (
            &cpu("nohz_full"),
            "(null)\n",
            "rt.nohz_full",
            "not 2-3: ",
            "nohz_full=2-3",
        ),
        (
            "proc/cmdline",
            "ro\n",
            "rt.rcu_nocbs",
            "on 2-3",
            "rcu_nocbs=2-3",
        ),
        (
            "proc/irq/9/effective_affinity_list",
            "3\n",
            "rt.irqs",
            "9 (acpi)",
            "for i in 9; do echo 0-1",
        ),
        (
            "proc/irq/default_smp_affinity",
            "f\n",
            "rt.default_irq",
            "2-3",
            "irqaffinity=0-1",
        ),
        (
            &cpu("cpu2/cpuidle/state1/disable"),
            "0\n",
            "rt.cstates",
            "CPUs 2 go as deep as C6, 133 us",
            "for c in 2;",
        ),
        (
            &cpu("cpu3/cpufreq/scaling_governor"),
            "powersave\n",
            "rt.governor",
            "powersave on CPUs 3",
            "for c in 3;",
        ),
        (
            &cpu("cpu3/topology/thread_siblings_list"),
            "1,3\n",
            "rt.smt",
            "CPUs 1 share",
            "chcpu -d 1",
        ),
        (
            &cpu("cpu3/topology/thread_siblings_list"),
            "2-3\n",
            "rt.smt",
            "each other",
            "chcpu -d",
        ),
        (
            "proc/version",
            "Linux #1 SMP PREEMPT_DYNAMIC x\n",
            "rt.preemption",
            "PREEMPT_DYNAMIC",
            "PREEMPT_RT",
        ),
        (
            "proc/version",
            "Linux #1 SMP x\n",
            "rt.preemption",
            "voluntary",
            "PREEMPT_RT",
        ),
        (
            "proc/sys/kernel/sched_rt_runtime_us",
            "950000\n",
            "rt.throttling",
            "50 ms of each 1000 ms",
            "=-1",
        ),
        (
            "proc/sys/kernel/timer_migration",
            "0\n",
            "rt.timer_migration",
            "off",
            "=1",
        ),
        (
            "proc/sys/kernel/nmi_watchdog",
            "1\n",
            "rt.nmi_watchdog",
            "on",
            "=0",
        ),
        (
            "proc/sys/vm/stat_interval",
            "1\n",
            "rt.vmstat",
            "every few seconds",
            "=120",
        ),
        (
            "proc/sys/kernel/numa_balancing",
            "1\n",
            "rt.numa_balancing",
            "on",
            "=0",
        ),
        ("sys/kernel/mm/ksm/run", "1\n", "rt.ksm", "on", "echo 2"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
            "rt.thp",
            "madvise",
            "never",
        ),
        (
            "proc/swaps",
            "Filename\n/swap file 1 0 -2\n",
            "rt.swap",
            "on",
            "swapoff",
        ),
        (
            "sys/module/kvm/parameters/halt_poll_ns",
            "0\n",
            "rt.halt_poll",
            "off",
            "200000",
        ),
        (
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "hpet\n",
            "rt.clocksource",
            "hpet",
            "dmesg",
        ),
        (
            "proc/self/status",
            "CapEff:\t0\nCpus_allowed_list:\t0-3\n",
            "rt.priority",
            "none",
            "limits.conf",
        ),
        (
            "proc/self/status",
            "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-2\n",
            "rt.vcpu_cpus",
            "3 of 2-3",
            "AllowedCPUs",
        ),
    ];
    for (file, text, id, found, remedy) in cases {
        let wrong = wrong(&[(file, text)], Some("2-3"), Some("0-1"));
        let [(its_id, its_found, its_remedy)] = wrong.as_slice() else {
            panic!("{file} {text}: {wrong:#?}");
        };
        assert_eq!(its_id, id);
        assert!(its_found.contains(found), "{its_found}");
        assert!(its_remedy.contains(remedy), "{its_remedy}");
    }
}

#[test]
fn the_masks_are_looked_at_first() {
    let first = |pin, io| {
        let wrong = wrong(&[], pin, io);
        wrong
            .into_iter()
            .map(|(id, found, remedy)| format!("{id}: {found} -> {remedy}"))
            .collect::<Vec<_>>()
    };
    let none = first(None, None);
    assert!(
        none[0].starts_with("rt.vcpu_cpus: not named: CPUs 2-3 are looked at"),
        "{none:?}"
    );
    assert!(
        none[1].starts_with("rt.io_cpus: not named") && none[1].ends_with("--io-cpus 0-1"),
        "{none:?}"
    );
    let shared = first(Some("2-3"), Some("1-2"));
    assert!(
        shared[0].starts_with("rt.io_cpus: 1-2: vCPUs have 2, too"),
        "{shared:?}"
    );
    let off = first(Some("2-4"), Some("0-1"));
    assert!(
        off[0].starts_with("rt.vcpu_cpus: 4 of 2-4 are not online"),
        "{off:?}"
    );
}

#[test]
fn a_latency_that_someone_holds_keeps_from_deep_sleep() {
    let awake = ("sys/devices/system/cpu/cpu2/cpuidle/state1/disable", "0\n");
    let ids = |more: &[(&str, &str)]| {
        let wrong = wrong(&[&[awake], more].concat(), Some("2-3"), Some("0-1"));
        wrong.into_iter().map(|(id, ..)| id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), ["rt.cstates"]);
    let limit = "sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us";
    assert_eq!(ids(&[(limit, "n/a\n")]), [""; 0]);
    assert_eq!(ids(&[(limit, "20\n")]), [""; 0]);
    assert_eq!(ids(&[(limit, "0\n")]), ["rt.cstates"], "0 is for no limit");
    assert_eq!(ids(&[("dev/cpu_dma_latency", "\x02\0\0\0")]), [""; 0]);
}

#[test]
fn an_empty_host_and_this_one_give_reports() {
    let (_dir, empty) = Root::fake(&[]);
    for root in [empty, Root::default()] {
        let checks = run(&root, &Asked::default());
        let mut ids: Vec<_> = checks.iter().map(|check| check.id).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{ids:?}");
        for check in checks {
            assert!(
                check.level == Level::Ok || check.remedy.is_some(),
                "{check:?}"
            );
            assert!(
                !check.found.is_empty() && !check.found.contains('\n'),
                "{check:?}"
            );
        }
    }
}
