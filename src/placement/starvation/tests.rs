use super::*;

fn list(text: &str) -> CpuList {
    CpuList::of_kernel(text).unwrap()
}

fn host(online: &str, rt_runtime: Option<u64>) -> HostCpus {
    HostCpus {
        online: list(online),
        allowed: list(online),
        rt_runtime,
        ..HostCpus::default()
    }
}

const THROTTLED: Option<u64> = Some(950_000);

/// vCPUs by their policy and CPUs, "fifo:10@2"; what is refused, or the warnings.
fn decide(vcpus: &[&str], io: &str, host: &HostCpus, force: bool) -> Result<Vec<String>, String> {
    let runners = vcpus.iter().zip(0..).map(|(text, vcpu)| {
        let (policy, cpus) = text.split_once('@').unwrap();
        Runner {
            vcpu,
            cpus: list(cpus),
            policy: policy.parse().unwrap(),
        }
    });
    let runners: Vec<_> = runners.collect();
    check(&runners, &list(io), host, force).map_err(|e| e.to_string())
}

#[test]
fn nothing_is_said_without_real_time_or_with_clean_cpus() {
    let quiet = |vcpus: &[&str], io| decide(vcpus, io, &host("0-3", THROTTLED), false).unwrap();
    assert!(quiet(&["other@0", "other@0"], "0").is_empty());
    assert!(quiet(&["fifo:10@2", "fifo:10@3"], "0-1").is_empty());
    assert!(quiet(&["fifo:10@2", "other@1"], "0-1").is_empty());
}

#[test]
fn who_can_take_all_cpus_of_the_other_threads_is_refused() {
    let host = host("0-1", THROTTLED);
    for (vcpus, io) in [
        (["fifo:1@1"].as_slice(), "1"),
        (&["rr:1@0", "other@1"], "0"),
        (&["fifo:1@0", "fifo:1@1"], "0-1"),
        (&["fifo:1@0-1", "fifo:1@0-1"], "0-1"),
    ] {
        let error = decide(vcpus, io, &host, false).unwrap_err();
        assert!(
            error.starts_with("--sched: ") && error.contains("mote's other threads"),
            "{error}"
        );
        assert!(error.ends_with("or add `force` to --sched"), "{error}");
        assert!(!decide(vcpus, io, &host, true).unwrap().is_empty());
    }
    // One vCPU that may be on either leaves one to them, and is told.
    let warnings = decide(&["fifo:1@0-1"], "0-1", &host, false).unwrap();
    assert!(warnings[0].contains("share CPU 0-1"), "{warnings:?}");
    // The remedy names the CPUs that are free.
    let warnings = decide(&["fifo:1@1"], "0-1", &host, false).unwrap();
    assert!(
        warnings[0].contains("share CPU 1:") && warnings[0].contains("--io-cpus 0)"),
        "{warnings:?}"
    );
}

#[test]
fn vcpus_that_must_share_a_cpu_are_refused() {
    let host = host("0-5", THROTTLED);
    let refused = |vcpus: &[&str]| decide(vcpus, "0", &host, false).unwrap_err();
    let error = refused(&["fifo:5@3", "fifo:9@3"]);
    assert!(error.contains("vCPUs 0, 1 have only CPU 3"), "{error}");
    let error = refused(&["fifo:5@1-4", "fifo:5@2-3", "rr:5@2-3", "fifo:5@2-3"]);
    assert!(error.contains("vCPUs 1, 2, 3 have only CPU 2-3"), "{error}");
    assert!(decide(&["fifo:5@2-3", "fifo:5@3", "fifo:5@2,4"], "0", &host, false).is_ok());
    let forced = decide(&["fifo:5@3", "fifo:9@3"], "0", &host, true).unwrap();
    assert!(forced[0].contains("have only CPU 3"), "{forced:?}");
}

#[test]
fn without_throttling_the_host_keeps_a_cpu() {
    let host_of = |online| host(online, None);
    let error = decide(&["fifo:1@0", "fifo:1@1"], "0-1", &host_of("0-1"), false).unwrap_err();
    assert!(
        error.contains("sched_rt_runtime_us=-1") && error.contains("the host"),
        "{error}"
    );
    let warnings = decide(&["fifo:1@1"], "0", &host_of("0-1"), false).unwrap();
    assert!(warnings[0].contains("throttling is off"), "{warnings:?}");
    // With it, the host has a share of each CPU; the process's own CPUs may be fewer than the host's.
    let warnings = decide(&["fifo:1@0"], "0", &host("0", THROTTLED), true).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[1].contains("every CPU of this host"),
        "{warnings:?}"
    );
}

#[test]
fn a_vcpu_that_real_time_ones_keep_from_running_is_told() {
    let warnings = decide(
        &["fifo:1@2", "other@2"],
        "0",
        &host("0-3", THROTTLED),
        false,
    )
    .unwrap();
    assert!(
        warnings[0].contains("vCPU 1 is not real-time"),
        "{warnings:?}"
    );
}

#[test]
fn kernel_threads_that_wait_for_the_guest_are_named() {
    let thread = |name: &str, priority, cpus| KernelThread {
        name: name.to_owned(),
        priority,
        cpus: list(cpus),
    };
    let threads = [
        thread("migration/2", 99, "2"),
        thread("watchdogd", 50, "0-3"),
        thread("irq/24-nvme", 50, "2"),
        thread("irq/25-eth", 50, "3"),
        thread("rcu_preempt", 1, "0-1"),
    ];
    let said = |policy: Policy| {
        let runner = Runner {
            vcpu: 0,
            cpus: list("2"),
            policy,
        };
        above_the_kernel(&[&runner], &threads)
    };
    assert_eq!(said(Policy::Fifo(49)), None);
    let text = said(Policy::Fifo(50)).unwrap();
    assert!(
        text.contains("watchdogd (50), irq/24-nvme (50) on the same CPUs"),
        "{text}"
    );
    assert!(text.contains("below 50"), "{text}");
    let text = said(Policy::RoundRobin(99)).unwrap();
    assert!(!text.contains("migration"), "{text}");
}
