//! What only AArch64 has: firmware's calls (PSCI), the GIC, the timer, the clock, ID registers, and what a
//! guest is told of them by its device tree.

use std::time::{SystemTime, UNIX_EPOCH};

use motevm::config::{Cpus, MAX_CPUS, Size, VmConfig};
use motevm::kvm::{KvmError, Vcpu, Vm};
use motevm::vcpu::CrashKind;
use motevm::{Exit, Host};
use vm_memory::GuestAddress;

use crate::common::{Code, NOWHERE, RAM, a64, can_run, kvm, run_and_stop};
use crate::run;

/// The address of a device that panics.
pub const DEFECT: u64 = 0x10;
/// `mov x1, #0x10; strb wzr, [x1]`
pub const TOUCH_DEFECT: [u8; 8] = [0x01, 0x02, 0x80, 0xd2, 0x3f, 0x00, 0x00, 0x39];
/// `b .`
pub const SPIN: [u8; 4] = [0, 0, 0, 0x14];

/// How many vCPUs a VM can have on this host: a GICv2 serves 8 (IHI 0048 §1.1).
pub fn most_cpus() -> u8 {
    match kvm() {
        Some(host) if has_gic_v3(&host) => MAX_CPUS,
        _ => 8,
    }
}

/// Lets a new vCPU start here.
pub fn start_at(fd: &Vm, vcpu: &Vcpu, entry: GuestAddress) {
    /// Linux Documentation/virt/kvm/api.rst, KVM_SET_ONE_REG.
    const PC: u64 = 0x6030_0000_0010_0040;
    vcpu.init(&fd.preferred_target().unwrap()).unwrap();
    vcpu.set_one_reg(PC, entry.0).unwrap();
}

/// Sets a register that no processor has.
pub fn fail(vcpu: &Vcpu) -> Result<(), KvmError> {
    vcpu.set_one_reg(0x6030_0000_0010_ffff, 1)
}

/// PSCI's functions (Arm DEN 0022, §5.1).
const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0xc400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0xc400_0003;
const AFFINITY_INFO: u32 = 0xc400_0004;
/// What AFFINITY_INFO says of a CPU that is off.
const OFF: u32 = 1;
const ALREADY_ON: i32 = -4;
const INVALID_PARAMETERS: i32 = -2;

const GICD: u64 = 0x0800_0000;
const GICC: u64 = 0x0801_0000;
const GICR: u64 = 0x080a_0000;
/// The virtual timer's interrupt: PPI 11 (Arm BSA, DEN 0094 §4.1.5).
const TIMER: u32 = 27;
/// What an acknowledgement gives where there is nothing to acknowledge.
const SPURIOUS: u32 = 1023;

/// Runs to a reset; what the guest has printed.
fn bytes(host: &Host, code: Code, change: impl FnOnce(&mut VmConfig)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut vm = code.reset().vm(host, folder.path(), change);
    assert_eq!(vm.run().unwrap(), Exit::Reset);
    std::fs::read(folder.path().join("out")).unwrap()
}

fn long(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

/// The device tree as a guest finds it.
fn device_tree(host: &Host, cpus: u8) -> Vec<u8> {
    const AT: u32 = 9;
    let read = |length| {
        let code = Code::new().emit(&[a64::mov(AT, 0)]);
        let code = code.print_memory(AT, length);
        bytes(host, code, |config| config.cpus = Cpus(cpus))
    };
    let header = read(8);
    assert_eq!(header[..4], [0xd0, 0x0d, 0xfe, 0xed]);
    read(u32::from_be_bytes(header[4..].try_into().unwrap()))
}

/// Whether these words are in it, one after another, each with its NUL.
fn has(tree: &[u8], words: &[&str]) -> bool {
    let words: Vec<u8> = words
        .iter()
        .flat_map(|word| word.bytes().chain([0]))
        .collect();
    tree.windows(words.len()).any(|window| window == words)
}

/// Whether the guest has a GICv3, as it sees for itself: GICD_PIDR2, the architecture's revision
/// (IHI 0069 §12.9.22). A GICv2's distributor is shorter, and nothing is there.
fn has_gic_v3(host: &Host) -> bool {
    let code = Code::new().read_long(GICD + 0xffe8).print_read();
    bytes(host, code, |_| ())[0] >> 4 == 3
}

#[test]
fn a_crash_is_told_with_registers_and_code() {
    let code = Code::new().print("x");
    let pc = code.here() + 4;
    let Some((exit, text)) = run(code.crash()) else {
        return;
    };
    let Exit::Crash(report) = exit else {
        panic!("{exit:?}")
    };
    assert_eq!(text, "x");
    assert_eq!(report.kind, CrashKind::KvmExit);
    let text = report.to_string();
    assert!(text.contains("KVM can't emulate"), "{text}");
    assert!(text.contains(&format!("pc {pc:#018x}")), "{text}");
    assert!(text.contains(&format!("x1  {NOWHERE:#018x}")), "{text}");
    assert!(text.contains("code: 20 08 40 a9"), "{text}");
}

#[test]
fn running_where_there_is_no_memory_goes_on_until_the_vm_is_stopped() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    // KVM gives the guest an exception, whose vector is at 0: there is nothing either.
    let code = Code::new().load(1, NOWHERE).emit(&[a64::br(1)]);
    let mut vm = code.vm(&host, folder.path(), |_| ());
    assert_eq!(run_and_stop(&mut vm), Exit::Stopped);
}

#[test]
fn firmware_has_its_version_and_refuses_what_is_not_there() {
    let Some(host) = kvm() else { return };
    let code = Code::new().psci(PSCI_VERSION, &[]).print_bytes(4);
    let code = code.psci(CPU_ON, &[0, RAM, 0]).print_bytes(4);
    let code = code.psci(CPU_ON, &[5, RAM, 0]).print_bytes(4);
    let said = bytes(&host, code, |_| ());
    assert_eq!(long(&said) >> 16, 1, "{said:x?}");
    let refused = [long(&said[4..]) as i32, long(&said[8..]) as i32];
    assert_eq!(refused, [ALREADY_ON, INVALID_PARAMETERS]);
}

/// Waits until a CPU is off.
fn wait_for_end(code: Code, cpu: u64) -> Code {
    let start = code.here();
    let code = code.psci(AFFINITY_INFO, &[cpu, 0]);
    let code = code.emit(&[a64::subs(a64::ZR, 0, OFF)]);
    let back = start as i64 - code.here() as i64;
    code.emit(&[a64::b_cond(a64::NE, back as i32)])
}

/// The affinity of a vCPU as KVM makes it: 16 to a cluster, which is what GICv3 needs.
fn affinity(index: u64) -> u64 {
    (index % 16) | (index / 16) << 8
}

#[test]
fn the_first_cpu_starts_the_others_and_each_is_who_it_should_be() {
    let Some(host) = kvm() else { return };
    let cpus = if has_gic_v3(&host) { 18 } else { 8 };
    // Each of the others says what it was given and who it is, and ends.
    let other = Code::new().print_read().read_system(a64::MPIDR_EL1);
    let other = other.print_bytes(2).psci(CPU_OFF, &[]).spin();
    let (code, entry) = Code::new().aside(other);
    let code = code.read_system(a64::MPIDR_EL1).print_bytes(2);
    let code = (1..cpus).fold(code, |code, index| {
        let cpu = affinity(index);
        let code = code.psci(CPU_ON, &[cpu, entry, 0x40 + index]);
        wait_for_end(code, cpu)
    });
    let change = |config: &mut VmConfig| config.cpus = Cpus(cpus as u8);
    let said = bytes(&host, code, change);
    assert_eq!(said[..2], [0, 0]);
    let expected = (1..cpus).map(|index| {
        let [low, high, ..] = affinity(index).to_le_bytes();
        [0x40 + index as u8, low, high]
    });
    assert_eq!(said[2..], expected.collect::<Vec<_>>().concat());
    // The device tree names them likewise.
    let tree = device_tree(&host, cpus as u8);
    for index in 0..cpus {
        let name = format!("cpu@{:x}", affinity(index));
        assert!(has(&tree, &[&name]), "{name}");
    }
    assert!(!has(&tree, &[&format!("cpu@{:x}", affinity(cpus))]));
}

#[test]
fn the_device_tree_names_the_interrupt_controller_that_is_there() {
    let Some(host) = kvm() else { return };
    let tree = device_tree(&host, 1);
    let v3 = has_gic_v3(&host);
    assert_eq!(has(&tree, &["arm,gic-v3"]), v3);
    assert_eq!(has(&tree, &["arm,cortex-a15-gic"]), !v3);
    if !v3 {
        // GICC_IIDR, the architecture's version (IHI 0048 §4.4.14).
        let code = Code::new().read_long(GICC + 0xfc).shift(16).print_read();
        assert_eq!(bytes(&host, code, |_| ())[0] & 0xf, 2);
    }
}

#[test]
fn more_cpus_than_a_gicv2_serves_are_refused_with_the_reason() {
    let Some(host) = kvm() else { return };
    let obstacle = has_gic_v3(&host).then(|| "this host's KVM has a GICv3".to_owned());
    if !can_run("gicv2", obstacle) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, Code::new().reset().kernel()).unwrap();
    let mut config = VmConfig::default();
    (config.cpus, config.boot.kernel) = (Cpus(9), Some(kernel));
    let error = motevm::build(&host, &config, Default::default()).map(drop);
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("--cpus 9") && text.contains("GICv2"),
        "{text}"
    );
}

/// Lets the timer's interrupt through to the first CPU; exceptions stay masked.
fn let_timer_through(code: Code, v3: bool) -> Code {
    if v3 {
        let sgis = GICR + 0x1_0000;
        // All interrupts are of group 1; this one is enabled; so is group 1, with affinities.
        code.write_system(a64::ICC_SRE_EL1, 7)
            .emit(&[a64::ISB])
            .write_long(sgis + 0x80, u32::MAX)
            .write_long(sgis + 0x100, 1 << TIMER)
            .write_long(GICD, 1 << 4 | 1 << 1)
            .write_system(a64::ICC_PMR_EL1, 0xff)
            .write_system(a64::ICC_IGRPEN1_EL1, 1)
            .emit(&[a64::ISB])
    } else {
        code.write_long(GICD + 0x100, 1 << TIMER)
            .write_long(GICD, 1)
            .write_long(GICC + 4, 0xff)
            .write_long(GICC, 1)
    }
}

/// Reads which interrupt is to be served.
fn acknowledge(code: Code, v3: bool) -> Code {
    if v3 {
        code.read_system(a64::ICC_IAR1_EL1)
    } else {
        code.read_long(GICC + 12)
    }
}

/// Lets the timer fire after so many counts.
fn set_timer(code: Code, counts: u64) -> Code {
    code.write_system(a64::CNTV_TVAL_EL0, counts)
        .write_system(a64::CNTV_CTL_EL0, 1)
        .emit(&[a64::ISB])
}

#[test]
fn the_timer_interrupts_by_its_private_line() {
    let Some(host) = kvm() else { return };
    let v3 = has_gic_v3(&host);
    let code = set_timer(let_timer_through(Code::new(), v3), 100_000);
    // WFI may end for no reason.
    let again = code.here();
    let code = acknowledge(code.emit(&[a64::WFI]), v3);
    let code = code.emit(&[a64::subs(a64::ZR, 0, SPURIOUS)]);
    let back = again as i64 - code.here() as i64;
    let code = code.emit(&[a64::b_cond(a64::EQ, back as i32)]);
    assert_eq!(bytes(&host, code.print_bytes(4), |_| ()), [27, 0, 0, 0]);
}

#[test]
fn a_suspended_cpu_wakes_at_its_timer() {
    let Some(host) = kvm() else { return };
    let v3 = has_gic_v3(&host);
    let code = set_timer(let_timer_through(Code::new(), v3), 1_000_000);
    let code = code.psci(CPU_SUSPEND, &[0, RAM, 0]).print_bytes(4);
    let code = acknowledge(code, v3).print_bytes(4);
    assert_eq!(bytes(&host, code, |_| ()), [0, 0, 0, 0, 27, 0, 0, 0]);
}

#[test]
fn the_clock_has_the_time_of_the_host() {
    let Some(host) = kvm() else { return };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now().as_secs();
    // RTCDR, the seconds since 1970 (PL031, DDI 0224 §3.3.1); and who it is, PeriphID0 to 3.
    let code = Code::new().read_long(0x0901_0000).print_bytes(4);
    let code = (0..4).fold(code, |code, n| {
        code.read_long(0x0901_0fe0 + 4 * n).print_read()
    });
    let said = bytes(&host, code, |_| ());
    let time = u64::from(long(&said));
    assert!((before..=now().as_secs()).contains(&time), "{time}");
    assert_eq!(long(&said[4..]) & 0xf_ffff, 0x4_1031);
}

#[test]
fn a_masked_feature_is_not_in_the_guests_id_registers() {
    let Some(host) = kvm() else { return };
    let features = |mask: &[&str]| {
        let code = Code::new().read_system(a64::ID_AA64ISAR0_EL1);
        let mask = mask.iter().map(|word| (*word).to_owned()).collect();
        let said = bytes(&host, code.print_bytes(8), |config| config.cpu_mask = mask);
        u64::from_le_bytes(said.try_into().unwrap())
    };
    const AES: u64 = 0xf << 4;
    let all = features(&[]);
    let obstacle = match (all & AES, host.has_writable_id_registers()) {
        (0, _) => Some("this host has no AES instructions".to_owned()),
        (_, false) => Some("this KVM lets nobody change ID registers".to_owned()),
        _ => None,
    };
    if can_run("id-registers", obstacle) {
        assert_eq!(features(&["aes"]), all & !AES);
    }
}

#[test]
fn all_memory_is_there_and_nothing_behind_it() {
    let Some(host) = kvm() else { return };
    const END: u64 = RAM + (4 << 30);
    let code = Code::new()
        .write_long(END - 4, u32::from_le_bytes(*b"okay"))
        .read_byte(END - 3)
        .print_read()
        .write_long(END, 0)
        .read_byte(END)
        .print_read();
    let change = |config: &mut VmConfig| config.memory = Size::gib(4).into();
    assert_eq!(bytes(&host, code, change), [b'k', 0xff]);
}
