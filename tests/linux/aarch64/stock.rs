//! Debian's own kernel: with what the default one leaves out.

use crate::*;

#[test]
fn performance_counters_are_there_where_the_host_has_them() {
    let Some(guests) = guests() else { return };
    let script = "ls /sys/bus/event_source/devices; ls -d /proc/device-tree/pmu";
    let ended = boot(&[&stock(&guests)[..], &["--pmu"]].concat(), script);
    let host = common::kvm().unwrap();
    if host.capability_raw(kvm_bindings::KVM_CAP_ARM_PMU_V3) > 0 {
        let out = ended.success();
        assert!(out.contains("armv8_pmuv3"), "{out}");
        assert!(out.contains("/proc/device-tree/pmu"), "{out}");
    } else {
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains("KVM_CAP_ARM_PMU_V3"), "{ended:?}");
    }
}
