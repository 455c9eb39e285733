//! What the guest's CPUID says: the host's, with the VM's own topology, timers and mask.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::features::Feature;
use super::idle::OwnWaits;

/// KVM's leaves; their number of leaves is in EAX of the first (Linux
/// Documentation/virt/kvm/x86/cpuid.rst).
const KVM_SIGNATURE: u32 = 0x4000_0000;
/// Features in EAX, hints in EDX.
const KVM_FEATURES: u32 = 0x4000_0001;
/// The halting of a vCPU by a hypercall of another's, which needs the exits of HLT.
const KVM_FEATURE_PV_UNHALT: u32 = 7;
/// The hint that a vCPU is never preempted for long.
const KVM_HINTS_REALTIME: u32 = 0;
/// TSC frequency in kHz in EAX, that of the local APIC's timer in EBX.
const KVM_TIMING: u32 = 0x4000_0010;
/// KVM's local APIC timer counts nanoseconds.
const APIC_BUS_KHZ: u32 = 1_000_000;
/// The largest TSC/crystal numerator with which Linux's product of it and the crystal's kHz
/// stays within 32 bits (arch/x86/kernel/tsc.c, native_calibrate_tsc).
const MAX_NUMERATOR: u32 = u32::MAX / APIC_BUS_KHZ;

/// What a VM's CPUID is made from.
#[derive(Clone, Copy, Debug)]
pub struct CpuidOptions<'a> {
    /// Number of vCPUs, all in one package, one thread per core.
    pub cpus: u8,
    /// TSC frequency in kHz, where KVM knows it.
    pub tsc_khz: Option<u32>,
    /// Whether KVM has the TSC deadline timer, which KVM_GET_SUPPORTED_CPUID doesn't tell.
    pub tsc_deadline: bool,
    /// The ways of waiting that are the guest's own.
    pub own_waits: OwnWaits,
    /// Features to hide.
    pub mask: &'a [Feature],
    /// Whether the guest has performance counters.
    pub pmu: bool,
}

/// The first guest physical address that can't be used: by the width that the host's processor
/// has (CPUID leaf 0x80000008; AMD APM vol. 3 App. E), and what Linux manages with page tables of
/// four levels (arch/x86/include/asm/sparsemem.h, MAX_PHYSMEM_BITS).
pub(super) fn physical_end(supported: &CpuId) -> u64 {
    let sizes = leaf(supported, 0x8000_0008, 0).map_or(0, |entry| entry.eax);
    let bits = match (sizes >> 16 & 0xff, sizes & 0xff) {
        (0, 0) => 36, // what every 64-bit processor has
        (0, bits) => bits,
        (guest_bits, _) => guest_bits,
    };
    1 << bits.min(46)
}

/// The CPUID that all vCPUs of a VM have in common, out of the host's `supported` one.
pub fn template(supported: &CpuId, options: &CpuidOptions) -> CpuId {
    let mut cpuid = supported.clone();
    let cpus = u32::from(options.cpus);
    let amd = is_amd(supported);
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => {
                entry.ecx |= 1 << 31; // running under a hypervisor
                set_bit(&mut entry.ecx, 5, false); // VMX: see below
                if options.tsc_deadline {
                    entry.ecx |= 1 << 24;
                }
                entry.ebx = (entry.ebx & 0xff00) | (cpus.next_power_of_two() << 16);
                set_bit(&mut entry.edx, 28, cpus > 1); // HTT: EBX[23:16] is valid
                if options.own_waits.monitor {
                    entry.ecx |= 1 << 3; // MONITOR, which KVM doesn't tell of
                }
            }
            // Deterministic cache parameters: L1 and L2 belong to one core, L3 to all.
            (4, _) if entry.eax & 0x1f != 0 => cache_sharing(entry, cpus),
            (0x8000_001d, _) if entry.eax & 0x1f != 0 => cache_sharing(entry, cpus),
            // Performance counters are for those who ask for them.
            (0xa, _) if !options.pmu => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            (0x8000_0001, _) => {
                set_bit(&mut entry.ecx, 1, amd && cpus > 1); // CmpLegacy: HTT means cores
                // SVM, as VMX above: a guest that runs VMs of its own reaches much more of the
                // host's KVM, and few want to.
                set_bit(&mut entry.ecx, 2, false);
            }
            // Number of cores, and of APIC id bits for them: reserved on Intel.
            (0x8000_0008, _) if amd => {
                let shift = core_shift(cpus);
                entry.ecx = (entry.ecx & !0xf0ff) | (shift << 12) | (cpus - 1);
            }
            (KVM_FEATURES, _) if options.own_waits.halt => {
                set_bit(&mut entry.eax, KVM_FEATURE_PV_UNHALT, false);
                set_bit(&mut entry.edx, KVM_HINTS_REALTIME, true);
            }
            (KVM_SIGNATURE, _) => entry.eax = entry.eax.max(KVM_TIMING),
            _ => {}
        }
    }
    replace_topology(&mut cpuid, cpus);
    if let Some(khz) = options.tsc_khz {
        tell_tsc_frequency(&mut cpuid, khz);
    }
    for feature in options.mask {
        feature.hide(&mut cpuid);
    }
    cpuid
}

/// Puts vCPU `id`'s own numbers into the template, in place of those of the vCPU before.
pub fn set_apic_id(cpuid: &mut CpuId, id: u8) {
    let id = u32::from(id);
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => entry.ebx = (entry.ebx & 0x00ff_ffff) | (id << 24),
            0xb | 0x1f => entry.edx = id,
            0x8000_001e => {
                entry.eax = id;
                entry.ebx = (entry.ebx & !0xffff) | id; // one thread per core: core id = APIC id
                entry.ecx = 0; // one node
            }
            _ => {}
        }
    }
}

/// How many bits of the APIC id number the core.
fn core_shift(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn cache_sharing(entry: &mut kvm_cpuid_entry2, cpus: u32) {
    let level = (entry.eax >> 5) & 7;
    let sharing = if level >= 3 {
        cpus.next_power_of_two() - 1
    } else {
        0
    };
    entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
    if entry.function == 4 {
        entry.eax |= (cpus.next_power_of_two() - 1).min(63) << 26;
    }
}

/// Extended topology (SDM vol. 2A, CPUID leaf 0BH; AMD APM vol. 3 §E.3.8): one thread per core, all cores in a package.
fn replace_topology(cpuid: &mut CpuId, cpus: u32) {
    let max_leaf = leaf(cpuid, 0, 0).map_or(0, |entry| entry.eax);
    cpuid.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    for function in [0xb, 0x1f]
        .into_iter()
        .filter(|&function| function <= max_leaf)
    {
        let levels = [(0, 0, 1, 1), (1, core_shift(cpus), cpus, 2), (2, 0, 0, 0)];
        for (index, shift, count, kind) in levels {
            push(
                cpuid,
                kvm_cpuid_entry2 {
                    function,
                    index,
                    flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                    eax: shift,
                    ebx: count,
                    ecx: index | (kind << 8),
                    ..Default::default()
                },
            );
        }
    }
}

/// So that the guest needs no other clock to measure this one by.
fn tell_tsc_frequency(cpuid: &mut CpuId, khz: u32) {
    cpuid.retain(|entry| !matches!(entry.function, 0x15 | 0x16 | KVM_TIMING));
    push(
        cpuid,
        kvm_cpuid_entry2 {
            function: KVM_TIMING,
            eax: khz,
            ebx: APIC_BUS_KHZ,
            ..Default::default()
        },
    );
    // Intel (SDM vol. 2A, leaf 15H): TSC = crystal * EBX / EAX. The crystal is said to run at
    // the speed of KVM's local APIC timer, since Linux takes the one for the other.
    let intel = leaf(cpuid, 0, 0).filter(|entry| entry.ebx == u32::from_le_bytes(*b"Genu"));
    if intel.is_some_and(|entry| entry.eax >= 0x16) {
        let (numerator, denominator) = fraction(khz, APIC_BUS_KHZ, MAX_NUMERATOR);
        push(
            cpuid,
            kvm_cpuid_entry2 {
                function: 0x15,
                eax: denominator,
                ebx: numerator,
                ecx: APIC_BUS_KHZ * 1000,
                ..Default::default()
            },
        );
        let mhz = khz / 1000;
        push(
            cpuid,
            kvm_cpuid_entry2 {
                function: 0x16,
                eax: mhz,
                ebx: mhz,
                ecx: 100,
                ..Default::default()
            },
        );
    }
}

/// The fraction with a numerator up to `max` that is nearest to `a / b`, by its continued
/// fraction: exact or within some parts per million for the frequencies that processors have,
/// within 120 for any between 1 and 4 GHz.
fn fraction(mut a: u32, mut b: u32, max: u32) -> (u32, u32) {
    let (mut before, mut best) = ((0, 1), (1, 0));
    while b != 0 {
        let whole = a / b;
        let most = (max - before.0).checked_div(best.0).unwrap_or(whole);
        let times = whole.min(most);
        // Less than half of the way to the next convergent is no nearer than the last.
        if times < whole && times <= whole / 2 {
            break;
        }
        let next = (times * best.0 + before.0, times * best.1 + before.1);
        (before, best) = (best, next);
        if times < whole {
            break;
        }
        (a, b) = (b, a % b);
    }
    best
}

/// Whether this is an AMD processor, or a Hygon, which is one.
fn is_amd(cpuid: &CpuId) -> bool {
    let vendors = [*b"Auth", *b"Hygo"].map(u32::from_le_bytes);
    leaf(cpuid, 0, 0).is_some_and(|entry| vendors.contains(&entry.ebx))
}

fn set_bit(value: &mut u32, bit: u32, on: bool) {
    *value = (*value & !(1 << bit)) | (u32::from(on) << bit);
}

fn leaf(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    let entries = cpuid.as_slice().iter();
    entries
        .copied()
        .find(|entry| entry.function == function && entry.index == index)
}

/// Adds an entry. Room for a few more than KVM gave is always there; where it isn't, the guest
/// just lacks a leaf that it can do without.
fn push(cpuid: &mut CpuId, entry: kvm_cpuid_entry2) {
    if cpuid.push(entry).is_err() {
        log::debug!("no room for CPUID leaf {:#x}", entry.function);
    }
}

#[cfg(test)]
mod tests;
