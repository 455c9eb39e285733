//! The table against itself, and against what this machine's kernel says of its CPUs.

use super::*;
use crate::arch::aarch64::id_registers::IdRegister;

#[test]
fn the_table_is_sorted_and_every_name_is_found() {
    assert!(FEATURES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for &(name, ..) in FEATURES {
        let feature = Feature::named(name).unwrap();
        assert_eq!(feature.name(), name);
        assert!(feature.places().count() >= 1);
    }
    let others = TOGETHER
        .iter()
        .flat_map(|(first, others)| std::iter::once(first).chain(others.iter()));
    for name in FURTHER.iter().map(|row| &row.0).chain(others) {
        assert!(Feature::named(name).is_ok(), "{name}");
    }
}

#[test]
fn every_level_of_a_field_has_one_name() {
    let mut places: Vec<_> = FEATURES
        .iter()
        .chain(FURTHER)
        .map(|&(_, field, below, from)| {
            assert!(below < from, "{field:?}");
            // Both values fit, and are read back as they were put.
            assert_eq!(field.of(field.put(0, below)), below);
            let top = if field.mask().count_ones() == 4 && from == 15 {
                15
            } else {
                from
            };
            assert_eq!(field.of(field.put(0, from)), top);
            (field.register().number(), field.mask(), from)
        })
        .collect();
    let all = places.len();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), all);
}

#[test]
fn the_values_are_those_of_the_architecture() {
    let shows = |name: &str, value: u64| {
        let place = Feature::named(name).unwrap().places().next().unwrap();
        place.shows(value)
    };
    assert!(!shows("pmull", 0x10) && shows("pmull", 0x20) && shows("aes", 0x20));
    assert!(shows("fp", 0) && !shows("fp", 0xf_0000) && !shows("fphp", 0));
    assert!(shows("fphp", 0x1_0000) && shows("asimdhp", 0x10_0000));
    assert!(!shows("atomics", 1 << 20) && shows("atomics", 2 << 20));
    assert!(shows("smei16i64", 0xf << 52) && !shows("smei16i64", 0));
    assert!(shows("f8cvt", 1 << 31));
}

#[test]
fn a_wrong_name_gets_a_hint() {
    let error = |name| Feature::named(name).unwrap_err().to_string();
    assert!(
        error("SHA1").contains("did you mean sha1?"),
        "{}",
        error("SHA1")
    );
    assert!(error("sve-2").contains("did you mean sve2?"));
    assert!(error("atomic").contains("did you mean atomics?"));
    assert!(error("lse").contains("did you mean atomics?"));
    assert!(
        ALIASES
            .iter()
            .all(|(_, known)| Feature::named(known).is_ok())
    );
    assert!(error("cpuid").contains("by itself"));
    let nothing = error("");
    assert!(nothing.contains("`Features` in /proc/cpuinfo"), "{nothing}");
    assert!(!nothing.contains("did you mean"), "{nothing}");
    assert!(error("vmx").starts_with("--cpu-mask vmx: no such CPU feature;"));
}

/// An ID register as the kernel shows it to programs (Linux
/// Documentation/arch/arm64/cpu-feature-registers.rst): it emulates the instruction.
fn of_this_machine(register: IdRegister) -> u64 {
    macro_rules! read {
        ($($crm:literal $op2:literal),*) => {
            match (register.index() >> 3, register.index() & 7) {
                $(($crm, $op2) => {
                    let value: u64;
                    // SAFETY: it reads a register and has no other effect; the caller has seen
                    // `cpuid` among the features, with which the kernel answers it.
                    unsafe {
                        std::arch::asm!(
                            concat!("mrs {}, s3_0_c0_c", $crm, "_", $op2),
                            out(reg) value,
                            options(nomem, nostack, preserves_flags)
                        )
                    };
                    value
                })*
                place => panic!("{} is not in this list ({place:?})", register.name()),
            }
        };
    }
    read!(2 5, 2 7, 3 4, 4 0, 4 1, 4 2, 4 4, 4 5, 4 7, 6 0, 6 1, 6 2, 6 3, 7 0, 7 1, 7 2, 7 3)
}

#[test]
fn the_registers_of_this_machine_say_the_same_as_its_features() {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = info.lines().find(|line| line.starts_with("Features"));
    let names: Vec<_> = line.unwrap().split_whitespace().skip(2).collect();
    if !names.contains(&"cpuid") {
        return; // a kernel that shows programs no registers
    }
    // Two-way: what is shown is there, and what isn't is not.
    let mut seen = 0;
    for &(name, ..) in FEATURES {
        let feature = Feature::named(name).unwrap();
        // What 32-bit programs find is not shown to 64-bit ones.
        let mut places = feature
            .places()
            .filter(|place| place.field.register().index() >= 32);
        let there = places.any(|place| place.shows(of_this_machine(place.field.register())));
        assert_eq!(there, names.contains(&name), "{name}");
        seen += usize::from(there);
    }
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| Feature::named(name).is_err() && !matches!(**name, "cpuid" | "evtstrm"))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(seen >= 4, "only {seen} of {names:?}");
}
