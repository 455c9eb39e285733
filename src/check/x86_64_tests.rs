//! Samples of /proc/cpuinfo and /sys from hosts of each kind.

use super::*;
use crate::check::kvm::{device, open};
use crate::check::{Identity, Level};

const INTEL: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu tsc constant_tsc \
    nonstop_tsc vmx sse2\nvmx flags\t: vnmi preemption_timer ept\nbugs\t\t: itlb_multihit\n";
const AMD: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc svm npt\n";
const NESTED: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc svm hypervisor\n";
const CLOUD: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc hypervisor\n";
const BARE: &str = "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc\nvmx flags\t: vmx\n";

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
    assert_eq!(vendor(""), Vendor::None { guest: false });
}

#[test]
fn hardware_is_ok_with_either_vendor() {
    assert_eq!(with_cpu(INTEL, hardware).unwrap().found, "Intel VT-x (vmx)");
    assert_eq!(with_cpu(AMD, hardware).unwrap().level, Level::Ok);
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
    for text in [INTEL, CLOUD] {
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

fn missing_with(files: &[(&str, &str)]) -> String {
    let (_dir, root) = Root::fake(files);
    let check = device(&root, &open(&root));
    assert_eq!(
        (check.level, check.found.as_str()),
        (Level::Missing, "is not there")
    );
    check.remedy.unwrap()
}

#[test]
fn a_missing_device_names_the_module_of_this_cpu() {
    let intel = ("proc/cpuinfo", "flags\t\t: fpu vmx sse2\n");
    let amd = ("proc/cpuinfo", "flags\t\t: fpu svm sse2\n");
    assert_eq!(missing_with(&[intel]), "sudo modprobe kvm_intel");
    assert_eq!(missing_with(&[amd]), "sudo modprobe kvm_amd");
}

#[test]
fn a_missing_device_and_no_virtualization_point_at_firmware_or_hypervisor() {
    let firmware = missing_with(&[("proc/cpuinfo", "flags\t\t: fpu sse2\n")]);
    assert!(firmware.contains("firmware"), "{firmware}");
    let guest = missing_with(&[("proc/cpuinfo", "flags\t\t: fpu sse2 hypervisor\n")]);
    assert!(guest.contains("nested virtualization"), "{guest}");
}

#[test]
fn a_loaded_module_without_a_device_is_a_container_or_lacks_the_node() {
    let module = ("sys/module/kvm_amd/parameters/npt", "Y\n");
    let container = missing_with(&[module, (".dockerenv", "")]);
    assert!(
        container.contains("docker run --device /dev/kvm"),
        "{container}"
    );
    assert!(missing_with(&[module]).contains("mknod"));
}

#[test]
fn the_exits_that_can_be_disabled_are_named() {
    assert_eq!(exits(0b0110), "HLT, PAUSE");
    assert_eq!(exits(0b1111), "MWAIT, HLT, PAUSE, C-states");
    let of = |capability: &Optional| capability.check(0b0010).found;
    let found: Vec<_> = OPTIONAL.iter().map(of).collect();
    assert!(
        found.contains(&"idle guests without exits (HLT)".to_owned()),
        "{found:?}"
    );
}

const EPYC: &[(&str, &str)] = &[
    (
        "proc/cpuinfo",
        "processor: 0\nmodel name\t: AMD EPYC\nflags\t: svm\n",
    ),
    ("proc/sys/kernel/osrelease", "6.12.1\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/module/kvm_amd/x", ""),
];

#[test]
fn a_host_is_known_by_its_files() {
    let (_dir, root) = Root::fake(EPYC);
    let identity = Identity::of(&root);
    let expected = Identity {
        cpu: "AMD EPYC".to_owned(),
        cpus: "0-3".to_owned(),
        kernel: "6.12.1".to_owned(),
        kvm: "kvm_amd".to_owned(),
        governor: "none".to_owned(),
    };
    assert_eq!(identity, expected);
    assert!(identity.differences(&expected).is_empty());
}
