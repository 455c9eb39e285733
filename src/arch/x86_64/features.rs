//! CPU features by the names that Linux shows in /proc/cpuinfo, and where CPUID has them.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// A register of a CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};

/// A feature that `--cpu-mask` can hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    name: &'static str,
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u8,
}

/// `--cpu-mask` names something that isn't a CPU feature.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "--cpu-mask {name}: no such CPU feature{hint}; names are those of `flags` in /proc/cpuinfo"
)]
pub struct UnknownFeature {
    /// What was given.
    pub name: String,
    hint: String,
}

impl Feature {
    /// Finds a feature by Linux's name.
    ///
    /// # Errors
    ///
    /// There is none of that name; the error suggests the nearest.
    pub fn named(name: &str) -> Result<Self, UnknownFeature> {
        let found = FEATURES.binary_search_by(|&(known, ..)| known.cmp(name));
        match found {
            Ok(index) => {
                let (name, leaf, subleaf, register, bit) = FEATURES[index];
                Ok(Feature {
                    name,
                    leaf,
                    subleaf,
                    register,
                    bit,
                })
            }
            Err(_) => {
                let near = FEATURES.iter().map(|f| f.0).find(|known| {
                    !name.is_empty() && (known.starts_with(name) || known.replace('_', "") == name)
                });
                let hint = near
                    .map(|n| format!(" (did you mean {n}?)"))
                    .unwrap_or_default();
                Err(UnknownFeature {
                    name: name.to_owned(),
                    hint,
                })
            }
        }
    }

    /// Takes it out of `cpuid`.
    pub fn hide(&self, cpuid: &mut CpuId) {
        for entry in cpuid
            .as_mut_slice()
            .iter_mut()
            .filter(|entry| self.is_of(entry))
        {
            let register = match self.register {
                Eax => &mut entry.eax,
                Ebx => &mut entry.ebx,
                Ecx => &mut entry.ecx,
                Edx => &mut entry.edx,
            };
            *register &= !(1 << self.bit);
        }
    }

    fn is_of(&self, entry: &kvm_cpuid_entry2) -> bool {
        entry.function == self.leaf && entry.index == self.subleaf
    }
}

/// Name, leaf, subleaf, register, bit; sorted by name. Intel SDM vol. 2A CPUID, AMD APM vol. 3
/// appendix E, names as in Linux arch/x86/include/asm/cpufeatures.h.
#[rustfmt::skip]
const FEATURES: &[(&str, u32, u32, Register, u8)] = &[
    ("3dnow", 0x80000001, 0, Edx, 31),
    ("3dnowext", 0x80000001, 0, Edx, 30),
    ("3dnowprefetch", 0x80000001, 0, Ecx, 8),
    ("abm", 0x80000001, 0, Ecx, 5),
    ("acpi", 1, 0, Edx, 22),
    ("adx", 7, 0, Ebx, 19),
    ("aes", 1, 0, Ecx, 25),
    ("amx_bf16", 7, 0, Edx, 22),
    ("amx_int8", 7, 0, Edx, 25),
    ("amx_tile", 7, 0, Edx, 24),
    ("apic", 1, 0, Edx, 9),
    ("arat", 6, 0, Eax, 2),
    ("arch_capabilities", 7, 0, Edx, 29),
    ("avx", 1, 0, Ecx, 28),
    ("avx2", 7, 0, Ebx, 5),
    ("avx512_4fmaps", 7, 0, Edx, 3),
    ("avx512_4vnniw", 7, 0, Edx, 2),
    ("avx512_bf16", 7, 1, Eax, 5),
    ("avx512_bitalg", 7, 0, Ecx, 12),
    ("avx512_fp16", 7, 0, Edx, 23),
    ("avx512_vbmi2", 7, 0, Ecx, 6),
    ("avx512_vnni", 7, 0, Ecx, 11),
    ("avx512_vp2intersect", 7, 0, Edx, 8),
    ("avx512_vpopcntdq", 7, 0, Ecx, 14),
    ("avx512bw", 7, 0, Ebx, 30),
    ("avx512cd", 7, 0, Ebx, 28),
    ("avx512dq", 7, 0, Ebx, 17),
    ("avx512er", 7, 0, Ebx, 27),
    ("avx512f", 7, 0, Ebx, 16),
    ("avx512ifma", 7, 0, Ebx, 21),
    ("avx512pf", 7, 0, Ebx, 26),
    ("avx512vbmi", 7, 0, Ecx, 1),
    ("avx512vl", 7, 0, Ebx, 31),
    ("avx_vnni", 7, 1, Eax, 4),
    ("bmi1", 7, 0, Ebx, 3),
    ("bmi2", 7, 0, Ebx, 8),
    ("bpext", 0x80000001, 0, Ecx, 26),
    ("bus_lock_detect", 7, 0, Ecx, 24),
    ("cid", 1, 0, Ecx, 10),
    ("cldemote", 7, 0, Ecx, 25),
    ("clflush", 1, 0, Edx, 19),
    ("clflushopt", 7, 0, Ebx, 23),
    ("clwb", 7, 0, Ebx, 24),
    ("clzero", 0x80000008, 0, Ebx, 0),
    ("cmov", 1, 0, Edx, 15),
    ("cmp_legacy", 0x80000001, 0, Ecx, 1),
    ("constant_tsc", 0x80000007, 0, Edx, 8),
    ("cr8_legacy", 0x80000001, 0, Ecx, 4),
    ("cx16", 1, 0, Ecx, 13),
    ("cx8", 1, 0, Edx, 8),
    ("dca", 1, 0, Ecx, 18),
    ("de", 1, 0, Edx, 2),
    ("ds_cpl", 1, 0, Ecx, 4),
    ("dtes64", 1, 0, Ecx, 2),
    ("dts", 1, 0, Edx, 21),
    ("enqcmd", 7, 0, Ecx, 29),
    ("erms", 7, 0, Ebx, 9),
    ("est", 1, 0, Ecx, 7),
    ("extapic", 0x80000001, 0, Ecx, 3),
    ("f16c", 1, 0, Ecx, 29),
    ("flush_l1d", 7, 0, Edx, 28),
    ("fma", 1, 0, Ecx, 12),
    ("fma4", 0x80000001, 0, Ecx, 16),
    ("fpu", 1, 0, Edx, 0),
    ("fsgsbase", 7, 0, Ebx, 0),
    ("fsrm", 7, 0, Edx, 4),
    ("fxsr", 1, 0, Edx, 24),
    ("fxsr_opt", 0x80000001, 0, Edx, 25),
    ("gfni", 7, 0, Ecx, 8),
    ("hle", 7, 0, Ebx, 4),
    ("ht", 1, 0, Edx, 28),
    ("ia64", 1, 0, Edx, 30),
    ("ibs", 0x80000001, 0, Ecx, 10),
    ("intel_pt", 7, 0, Ebx, 25),
    ("invpcid", 7, 0, Ebx, 10),
    ("irperf", 0x80000008, 0, Ebx, 1),
    ("la57", 7, 0, Ecx, 16),
    ("lahf_lm", 0x80000001, 0, Ecx, 0),
    ("lm", 0x80000001, 0, Edx, 29),
    ("lwp", 0x80000001, 0, Ecx, 15),
    ("mca", 1, 0, Edx, 14),
    ("mce", 1, 0, Edx, 7),
    ("md_clear", 7, 0, Edx, 10),
    ("misalignsse", 0x80000001, 0, Ecx, 7),
    ("mmx", 1, 0, Edx, 23),
    ("mmxext", 0x80000001, 0, Edx, 22),
    ("monitor", 1, 0, Ecx, 3),
    ("movbe", 1, 0, Ecx, 22),
    ("movdir64b", 7, 0, Ecx, 28),
    ("movdiri", 7, 0, Ecx, 27),
    ("mpx", 7, 0, Ebx, 14),
    ("msr", 1, 0, Edx, 5),
    ("mtrr", 1, 0, Edx, 12),
    ("mwaitx", 0x80000001, 0, Ecx, 29),
    ("nx", 0x80000001, 0, Edx, 20),
    ("osvw", 0x80000001, 0, Ecx, 9),
    ("pae", 1, 0, Edx, 6),
    ("pat", 1, 0, Edx, 16),
    ("pbe", 1, 0, Edx, 31),
    ("pcid", 1, 0, Ecx, 17),
    ("pclmulqdq", 1, 0, Ecx, 1),
    ("pconfig", 7, 0, Edx, 18),
    ("pdcm", 1, 0, Ecx, 15),
    ("pdpe1gb", 0x80000001, 0, Edx, 26),
    ("perfctr_core", 0x80000001, 0, Ecx, 23),
    ("perfctr_llc", 0x80000001, 0, Ecx, 28),
    ("perfctr_nb", 0x80000001, 0, Ecx, 24),
    ("pge", 1, 0, Edx, 13),
    ("pku", 7, 0, Ecx, 3),
    ("pn", 1, 0, Edx, 18),
    ("pni", 1, 0, Ecx, 0),
    ("popcnt", 1, 0, Ecx, 23),
    ("pse", 1, 0, Edx, 3),
    ("pse36", 1, 0, Edx, 17),
    ("ptsc", 0x80000001, 0, Ecx, 27),
    ("rdpid", 7, 0, Ecx, 22),
    ("rdrand", 1, 0, Ecx, 30),
    ("rdseed", 7, 0, Ebx, 18),
    ("rdtscp", 0x80000001, 0, Edx, 27),
    ("rtm", 7, 0, Ebx, 11),
    ("sdbg", 1, 0, Ecx, 11),
    ("sep", 1, 0, Edx, 11),
    ("serialize", 7, 0, Edx, 14),
    ("sgx", 7, 0, Ebx, 2),
    ("sha_ni", 7, 0, Ebx, 29),
    ("skinit", 0x80000001, 0, Ecx, 12),
    ("smap", 7, 0, Ebx, 20),
    ("smep", 7, 0, Ebx, 7),
    ("smx", 1, 0, Ecx, 6),
    ("ss", 1, 0, Edx, 27),
    ("sse", 1, 0, Edx, 25),
    ("sse2", 1, 0, Edx, 26),
    ("sse4_1", 1, 0, Ecx, 19),
    ("sse4_2", 1, 0, Ecx, 20),
    ("sse4a", 0x80000001, 0, Ecx, 6),
    ("ssse3", 1, 0, Ecx, 9),
    ("svm", 0x80000001, 0, Ecx, 2),
    ("syscall", 0x80000001, 0, Edx, 11),
    ("tbm", 0x80000001, 0, Ecx, 21),
    ("tm", 1, 0, Edx, 29),
    ("tm2", 1, 0, Ecx, 8),
    ("topoext", 0x80000001, 0, Ecx, 22),
    ("tsc", 1, 0, Edx, 4),
    ("tsc_adjust", 7, 0, Ebx, 1),
    ("tsc_deadline_timer", 1, 0, Ecx, 24),
    ("tsxldtrk", 7, 0, Edx, 16),
    ("umip", 7, 0, Ecx, 2),
    ("vaes", 7, 0, Ecx, 9),
    ("vme", 1, 0, Edx, 1),
    ("vmx", 1, 0, Ecx, 5),
    ("vpclmulqdq", 7, 0, Ecx, 10),
    ("waitpkg", 7, 0, Ecx, 5),
    ("wbnoinvd", 0x80000008, 0, Ebx, 9),
    ("wdt", 0x80000001, 0, Ecx, 13),
    ("x2apic", 1, 0, Ecx, 21),
    ("xgetbv1", 0xd, 1, Eax, 2),
    ("xop", 0x80000001, 0, Ecx, 11),
    ("xsave", 1, 0, Ecx, 26),
    ("xsavec", 0xd, 1, Eax, 1),
    ("xsaveerptr", 0x80000008, 0, Ebx, 2),
    ("xsaveopt", 0xd, 1, Eax, 0),
    ("xsaves", 0xd, 1, Eax, 3),
    ("xtpr", 1, 0, Ecx, 14),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_name_is_found() {
        assert!(FEATURES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for &(name, ..) in FEATURES {
            assert_eq!(Feature::named(name).unwrap().name, name);
        }
    }

    #[test]
    fn the_bits_are_where_this_hosts_cpu_has_them() {
        // What Linux shows of this machine must be set in what its CPUID instruction returns.
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|l| l.starts_with("flags")).unwrap();
        let mut checked = 0;
        for feature in flags
            .split_whitespace()
            .filter_map(|f| Feature::named(f).ok())
        {
            let leaf = std::arch::x86_64::__cpuid_count(feature.leaf, feature.subleaf);
            let value = match feature.register {
                Eax => leaf.eax,
                Ebx => leaf.ebx,
                Ecx => leaf.ecx,
                Edx => leaf.edx,
            };
            assert!(
                value & (1 << feature.bit) != 0,
                "{feature:?} is not in {leaf:x?}"
            );
            checked += 1;
        }
        assert!(
            checked > 30,
            "only {checked} of this host's flags are known"
        );
    }

    #[test]
    fn hiding_clears_only_that_bit() {
        let entry = kvm_cpuid_entry2 {
            function: 1,
            ecx: !0,
            edx: !0,
            ..Default::default()
        };
        let mut cpuid = CpuId::from_entries(&[entry]).unwrap();
        let cx16 = Feature::named("cx16").unwrap();
        cx16.hide(&mut cpuid);
        assert_eq!(cpuid.as_slice()[0].ecx, !(1 << 13));
        assert_eq!(cpuid.as_slice()[0].edx, !0);
    }

    #[test]
    fn a_wrong_name_gets_a_hint() {
        let error = Feature::named("sse41").unwrap_err();
        assert!(error.to_string().contains("sse4_1"), "{error}");
    }
}
