//! Samples of /proc/cpuinfo and /sys from hosts of each kind.

use super::*;
use crate::check::Level;

const INTEL: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu tsc constant_tsc \
    nonstop_tsc vmx sse2\nvmx flags\t: vnmi preemption_timer ept\nbugs\t\t: itlb_multihit\n";
const AMD: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc svm npt\n";
const NESTED: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc svm hypervisor\n";
const CLOUD: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc hypervisor\n";
const BARE: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc\nvmx flags\t: vmx\n";
const ARM: &str = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd atomics cpuid\n";

fn with(files: &[(&str, &str)], check: fn(&Root) -> Option<Check>) -> Option<Check> {
    let (_dir, root) = Root::fake(files);
    check(&root)
}

fn with_cpu(cpuinfo: &str, check: fn(&Root) -> Option<Check>) -> Option<Check> {
    with(&[("proc/cpuinfo", cpuinfo)], check)
}

#[test]
fn flags_tell_the_vendor() {
    let vendor = |text| {
        let (_dir, root) = Root::fake(&[("proc/cpuinfo", text)]);
        Vendor::of(&root)
    };
    assert_eq!(vendor(INTEL), Vendor::Vmx);
    assert_eq!(vendor(AMD), Vendor::Svm);
    assert_eq!(vendor(CLOUD), Vendor::None { guest: true });
    assert_eq!(vendor(BARE), Vendor::None { guest: false });
    assert_eq!(vendor(ARM), Vendor::Arm);
    assert_eq!(vendor(""), Vendor::None { guest: false });
}

#[test]
fn hardware_is_ok_with_either_vendor() {
    assert_eq!(with_cpu(INTEL, hardware).unwrap().found, "Intel VT-x (vmx)");
    assert_eq!(with_cpu(AMD, hardware).unwrap().level, Level::Ok);
    assert_eq!(with_cpu(ARM, hardware), None);
}

#[test]
fn an_emulating_kvm_is_named() {
    let pvm = ("sys/module/kvm_pvm/parameters/stats", "");
    let check = with(&[("proc/cpuinfo", CLOUD), pvm], hardware).unwrap();
    assert_eq!(check.level, Level::Missing);
    assert!(check.found.contains("kvm_pvm"), "{check:?}");
    assert!(check.remedy.unwrap().contains("nested virtualization"));
    let check = with_cpu(BARE, hardware).unwrap();
    assert_eq!(check.level, Level::Missing);
    assert!(check.remedy.unwrap().contains("firmware"));
}

#[test]
fn an_emulating_module_in_place_of_the_real_one_is_no_hardware() {
    let pvm = ("sys/module/kvm_pvm/parameters/stats", "");
    let check = with(&[("proc/cpuinfo", INTEL), pvm], hardware).unwrap();
    assert_eq!(check.level, Level::Missing);
    let real = ("sys/module/kvm_intel/parameters/ept", "Y");
    let check = with(&[("proc/cpuinfo", INTEL), pvm, real], hardware).unwrap();
    assert_eq!(check.level, Level::Ok);
}

#[test]
fn nested_is_said_only_where_vms_run() {
    assert_eq!(with_cpu(NESTED, nested).unwrap().level, Level::Slow);
    for text in [INTEL, CLOUD, ARM] {
        assert_eq!(with_cpu(text, nested), None);
    }
}

#[test]
fn nested_paging_off_is_slow() {
    let check = with(
        &[("sys/module/kvm_intel/parameters/ept", "Y\n")],
        nested_paging,
    );
    assert_eq!(check.unwrap().level, Level::Ok);
    let check = with(
        &[("sys/module/kvm_amd/parameters/npt", "N\n")],
        nested_paging,
    )
    .unwrap();
    assert_eq!(check.level, Level::Slow);
    assert!(check.remedy.unwrap().ends_with("modprobe kvm_amd npt=1"));
    assert_eq!(with(&[], nested_paging), None);
}

const SOURCE: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
const OFFERED: &str = "sys/devices/system/clocksource/clocksource0/available_clocksource";

#[test]
fn a_tsc_that_stops_is_slow() {
    let check = with_cpu("flags\t\t: fpu tsc constant_tsc hypervisor\n", clock).unwrap();
    assert_eq!(check.level, Level::Slow);
    assert!(check.found.starts_with("not nonstop_tsc:"), "{check:?}");
    assert!(check.remedy.unwrap().contains("+invtsc"));
    assert_eq!(with_cpu(INTEL, clock).unwrap().level, Level::Ok);
    assert_eq!(with_cpu(ARM, clock), None);
}

#[test]
fn another_clock_source_is_slow() {
    let cpu = ("proc/cpuinfo", INTEL);
    let files = [cpu, (SOURCE, "hpet\n"), (OFFERED, "hpet acpi_pm \n")];
    let check = with(&files, clock).unwrap();
    assert_eq!(check.level, Level::Slow);
    assert!(check.remedy.unwrap().contains("dmesg"));
    let files = [
        cpu,
        (SOURCE, "kvm-clock\n"),
        (OFFERED, "kvm-clock tsc acpi_pm \n"),
    ];
    assert!(
        with(&files, clock)
            .unwrap()
            .remedy
            .unwrap()
            .starts_with("echo tsc |")
    );
    let files = [cpu, (SOURCE, "tsc\n"), (OFFERED, "tsc hpet acpi_pm \n")];
    assert_eq!(with(&files, clock).unwrap().level, Level::Ok);
}

#[test]
fn powersave_on_any_cpu_is_slow() {
    let (cpu0, cpu1) = (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
    );
    let check = with(&[(cpu0, "performance\n"), (cpu1, "powersave\n")], governor).unwrap();
    assert_eq!(check.level, Level::Slow);
    assert!(
        check.found.starts_with("performance, powersave"),
        "{check:?}"
    );
    let check = with(&[(cpu0, "schedutil\n"), (cpu1, "schedutil\n")], governor).unwrap();
    assert_eq!(
        (check.level, check.found.as_str()),
        (Level::Ok, "schedutil")
    );
    assert_eq!(with(&[], governor), None);
}
