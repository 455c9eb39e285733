//! Samples of /proc and /sys from hosts of each kind, and this one.

use std::io::Write;

use super::*;
use crate::check::kvm::{device, open};
use crate::check::{Identity, Level};

const CPU: (&str, &str) = (
    "proc/cpuinfo",
    "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm aes atomics cpuid\n\
     CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n\
     CPU revision\t: 1\n\n",
);
const VHE: (&str, &str) = (
    "proc/interrupts",
    "           CPU0\n 11:  0  GICv3  30 Level     kvm guest ptimer\n\
     12:  0  GICv3  27 Level     kvm guest vtimer\n 13:  753  GICv3  26 Level     arch_timer\n",
);
const NVHE: (&str, &str) = (
    "proc/interrupts",
    "           CPU0\n 11:  852  GICv2  30 Level     arch_timer\n\
     12:  0  GICv2  27 Level     kvm guest vtimer\n",
);

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
fn a_missing_device_is_the_kernels_or_the_firmwares_doing() {
    let kernel = missing_with(&[CPU]);
    assert!(kernel.contains("CONFIG_KVM"), "{kernel}");
    let module = ("sys/module/kvm/parameters/halt_poll_ns", "500000\n");
    let firmware = missing_with(&[CPU, module]);
    assert!(firmware.contains("EL2"), "{firmware}");
    let off = ("proc/cmdline", "quiet kvm-arm.mode=none\n");
    let asked = missing_with(&[CPU, module, off]);
    assert!(asked.starts_with("take kvm-arm.mode=none off"), "{asked}");
    for remedy in [kernel, firmware, asked] {
        assert!(!remedy.contains("modprobe"), "{remedy}");
    }
}

#[test]
fn a_device_without_a_node_is_a_container_or_lacks_the_node() {
    let device = ("sys/devices/virtual/misc/kvm/dev", "10:232\n");
    let container = missing_with(&[device, ("run/.containerenv", "")]);
    assert!(
        container.contains("docker run --device /dev/kvm"),
        "{container}"
    );
    assert!(missing_with(&[device]).contains("mknod"));
}

#[test]
fn the_processor_and_its_features_are_told() {
    let (_dir, root) = Root::fake(&[CPU, VHE]);
    let rows = processor(&root);
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row.id, row.found.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("cpu.model", "Arm Neoverse-N1 r3p1"),
            ("cpu.features", "fp asimd evtstrm aes atomics cpuid"),
            ("cpu.el2", "the host's kernel runs there (VHE)"),
        ]
    );
    assert_eq!(processor(&Root::at("/nonexistent")), []);
    assert_eq!(hardware(&root), None);
}

#[test]
fn a_kernel_that_is_kept_out_of_el2_is_slow() {
    let el2 = |files: &[_]| {
        let (_dir, root) = Root::fake(files);
        el2(&root)
    };
    assert_eq!(el2(&[VHE]).unwrap().level, Level::Ok);
    // The CPU hasn't got it: nothing to be done.
    let old = el2(&[NVHE]).unwrap();
    assert_eq!((old.level, old.remedy), (Level::Info, None));
    let asked = (
        "proc/cmdline",
        "kvm-arm.mode=none kvm-arm.mode=nvhe quiet\n",
    );
    let asked = el2(&[NVHE, asked]).unwrap();
    assert_eq!(asked.level, Level::Slow);
    assert!(asked.remedy.unwrap().contains("kvm-arm.mode=nvhe"));
    // A host without KVM tells nothing.
    assert_eq!(
        el2(&[("proc/interrupts", " 13:  7  GICv3  27 Level arch_timer\n")]),
        None
    );
    assert_eq!(el2(&[]), None);
}

#[test]
fn a_host_is_known_by_its_files() {
    let release = ("proc/sys/kernel/osrelease", "6.12.1\n");
    let (_dir, root) = Root::fake(&[
        CPU,
        VHE,
        release,
        ("sys/devices/system/cpu/online", "0-3\n"),
    ]);
    let expected = Identity {
        cpu: "Arm Neoverse-N1 r3p1".to_owned(),
        cpus: "0-3".to_owned(),
        kernel: "6.12.1".to_owned(),
        kvm: "kvm (VHE)".to_owned(),
        governor: "none".to_owned(),
    };
    assert_eq!(Identity::of(&root), expected);
    let (_dir, root) = Root::fake(&[NVHE]);
    assert_eq!(Identity::of(&root).kvm, "kvm (nVHE)");
}

#[test]
fn private_interrupts_are_not_to_be_moved() {
    let (_dir, root) = Root::fake(&[
        ("sys/kernel/irq/11/chip_name", "GICv3\n"),
        ("sys/kernel/irq/11/hwirq", "27\n"),
        ("sys/kernel/irq/14/chip_name", "GICv3\n"),
        ("sys/kernel/irq/14/hwirq", "33\n"),
        ("sys/kernel/irq/17/chip_name", "ITS-PCI-MSIX-0000:00:01.0\n"),
        ("sys/kernel/irq/17/hwirq", "0\n"),
    ]);
    let own = ["11", "14", "17", "99"].map(|irq| is_each_cpus_own(&root, irq));
    assert_eq!(own, [true, false, false, false]);
}

#[test]
fn without_an_interrupt_controller_nothing_runs() {
    assert_eq!(gic(true, true).level, Level::Ok);
    assert_eq!(gic(true, false).found, "GICv3");
    assert!(gic(false, true).found.contains("8 vCPUs"));
    let none = gic(false, false);
    assert_eq!(none.level, Level::Missing);
    assert!(none.remedy.unwrap().contains("dmesg"));
}

#[test]
fn numbers_are_for_people() {
    assert_eq!(psci(Ok(0x1_0003)).found, "version 1.3");
    assert_eq!(psci(Ok(2)).found, "version 0.2");
    assert_eq!(addresses(0, 40).found, "40 bits (mote's guests have 40)");
    assert_eq!(
        addresses(48, 40).found,
        "up to 48 bits (mote's guests have 40)"
    );
}

#[test]
fn what_a_cpu_must_have_is_said() {
    let sve = &OPTIONAL[0];
    let absent = sve.check(0).remedy.unwrap();
    assert_eq!(absent, "kernels from 5.2 on have it, on CPUs that do");
    assert_eq!(sve.check(1).found, "scalable vectors");
}

#[test]
fn this_hosts_kvm_answers_each_question() {
    let root = Root::default();
    let host = match open(&root) {
        Ok(host) => host,
        Err(error) => {
            let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
            let required = required.split(',').any(|kind| kind == "kvm");
            assert!(!required, "MOTE_REQUIRE=kvm, but {error}");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "NOT RUN (kind kvm): {test}: {error}");
            return;
        }
    };
    let rows = of_kvm(&host);
    let of = |id| &rows.iter().find(|row| row.id == id).unwrap().found;
    assert!(of("kvm.gic").starts_with("GICv"), "{rows:?}");
    assert!(of("kvm.psci").starts_with("version "), "{rows:?}");
    assert!(of("memory.page_size").ends_with(" KiB"), "{rows:?}");
    assert!(Mode::of(&root).is_some());
    assert!(create_irqchip(&host.create_vm().unwrap()).unwrap());
    // A device that there can't be: no descriptor is made, and none closed.
    assert!(!host.create_vm().unwrap().can_create_device(999).unwrap());
}
