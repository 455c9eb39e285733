//! What is hidden along, what is refused, and all of it on a real KVM.

use std::io::Write;

use kvm_bindings as kb;

use super::*;
use crate::arch::aarch64::id_registers::{A32_ISAR5, FPFR0, ISAR0, PFR0, ZFR0};

fn mask(names: &[&str]) -> Mask {
    let features: Vec<_> = names
        .iter()
        .map(|name| Feature::named(name).unwrap())
        .collect();
    Mask::new(&features)
}

fn hidden(names: &[&str]) -> Vec<&'static str> {
    let mask = mask(names);
    let mut hidden: Vec<_> = mask
        .hidden
        .iter()
        .map(|hidden| hidden.feature.name())
        .collect();
    hidden.sort_unstable();
    hidden
}

#[test]
fn what_goes_with_a_feature_is_hidden_along() {
    assert_eq!(hidden(&["crc32", "crc32"]), ["crc32"]);
    assert_eq!(hidden(&["sha512"]), ["sha3", "sha512"]);
    assert_eq!(hidden(&["sha1"]), ["sha1", "sha2", "sha3", "sha512"]);
    assert_eq!(hidden(&["fp"]), ["asimd", "fp"]);
    assert_eq!(hidden(&[]), [""; 0]);
}

#[test]
fn vectors_and_pointer_authentication_are_not_asked_for() {
    assert!(mask(&[]).wants_sve() && mask(&[]).wants_pauth());
    assert!(!mask(&["sve"]).wants_sve() && mask(&["sve"]).wants_pauth());
    assert!(mask(&["sve2"]).wants_sve());
    for name in ["paca", "pacg"] {
        assert!(!mask(&[name]).wants_pauth() && mask(&[name]).wants_sve());
    }
}

#[test]
fn a_lower_level_takes_the_higher_ones_with_it_and_nothing_else() {
    let value = 0x1021_0000_0021_2120;
    let without = |names: &[&str]| mask(names).without(ISAR0, value).0;
    assert_eq!(without(&[]), value);
    assert_eq!(without(&["pmull"]), 0x1021_0000_0021_2110);
    assert_eq!(without(&["aes"]), 0x1021_0000_0021_2100);
    assert_eq!(without(&["aes", "pmull"]), 0x1021_0000_0021_2100);
    assert_eq!(without(&["pmull", "aes"]), 0x1021_0000_0021_2100);
    assert_eq!(without(&["atomics"]), 0x1021_0000_0001_2120);
    // All of SHA-2 is one field; SHA-1 goes with it.
    assert_eq!(without(&["sha2"]), 0x1021_0000_0021_0020);
    assert_eq!(without(&["sha512"]), 0x1021_0000_0021_1120);
    // It isn't there: nothing to do.
    assert_eq!(without(&["sm3", "svesm4"]), value);
    assert!(mask(&["sm3"]).without(ISAR0, value).1.is_empty());
    assert_eq!(mask(&["fp"]).without(PFR0, 0x11).0, 0xff_0011);
    assert_eq!(mask(&["sveaes"]).without(ZFR0, 0x21).0, 0x01);
    assert_eq!(mask(&["sve2"]).without(ZFR0, 0x0000_0001_0001_0021).0, 0);
    assert_eq!(mask(&["f8cvt"]).without(FPFR0, 0xc000_0000).0, 0x4000_0000);
    assert_eq!(mask(&["aes"]).without(A32_ISAR5, 0x1_1121).0, 0x1_1101);
}

#[test]
fn what_kvm_holds_fast_is_refused_by_the_users_name_for_it() {
    let mut masks = vec![0; kb::KVM_ARM_FEATURE_ID_RANGE_SIZE as usize];
    let try_to = |masks: &[u64], names: &[&str], register, value| {
        let mask = mask(names);
        check_writable(masks, register, &mask.without(register, value).1)
    };
    let error = try_to(&masks, &["aes"], ISAR0, 0x20)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("--cpu-mask aes: "), "{error}");
    assert!(
        error.contains("ID_AA64ISAR0_EL1") && error.contains("leave aes out"),
        "{error}"
    );
    masks[ISAR0.index()] = 0xf0;
    try_to(&masks, &["aes"], ISAR0, 0x20).unwrap();
    // One bit of the field is not all of it.
    masks[ISAR0.index()] = 0x70;
    try_to(&masks, &["aes"], ISAR0, 0x20).unwrap_err();
    // SHA-1 may go, but not what needs it.
    masks[ISAR0.index()] = 0xf00;
    let error = try_to(&masks, &["sha1"], ISAR0, 0x1_0000_2120)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--cpu-mask sha1: ") && error.contains("for sha"),
        "{error}"
    );
    // A kernel's answer that is too short hides nothing.
    try_to(&[], &["aes"], ISAR0, 0x20).unwrap_err();
}

/// A VM with one vCPU, which has been given these features (KVM_ARM_VCPU_*).
fn vcpu(host: &Host, features: &[u32]) -> (Vm, Vcpu) {
    let vm = host.create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut init = vm.preferred_target().unwrap();
    for feature in features {
        init.features[0] |= 1 << feature;
    }
    vcpu.init(&init).unwrap();
    (vm, vcpu)
}

/// The host's KVM; says aloud where there is none.
fn host() -> Option<Host> {
    let error = match Host::open() {
        Ok(host) => return Some(host),
        Err(error) => error,
    };
    let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|kind| kind == "kvm");
    assert!(!required, "MOTE_REQUIRE=kvm, but {error}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "NOT RUN (kind kvm): {test}: {error}");
    None
}

fn shown(vcpu: &Vcpu) -> Vec<&'static str> {
    let shows = |feature: &Feature| {
        feature.places().any(|place| {
            let value = vcpu.id_register(place.field.register().number()).unwrap();
            value.is_some_and(|value| place.shows(value))
        })
    };
    Feature::all()
        .filter(shows)
        .map(|feature| feature.name())
        .collect()
}

#[test]
fn a_real_vcpu_shows_what_is_left() {
    let Some(host) = host() else { return };
    let (_vm, whole) = vcpu(&host, &[]);
    let all = shown(&whole);
    assert!(all.contains(&"fp") && all.contains(&"aes"), "{all:?}");
    let names = ["aes", "crc32", "atomics", "lrcpc"];
    let (vm, vcpu) = vcpu(&host, &[]);
    let result = mask(&names).apply(&host, &vm, &vcpu);
    if !host.has_writable_id_registers() {
        assert!(matches!(
            result,
            Err(MaskError::Unsupported { feature: "aes" })
        ));
        assert_eq!(shown(&vcpu), all);
        return;
    }
    result.unwrap();
    let gone = [
        "aes", "pmull", "crc32", "atomics", "lse128", "lrcpc", "ilrcpc", "lrcpc3",
    ];
    let left: Vec<_> = all
        .iter()
        .filter(|name| !gone.contains(name))
        .copied()
        .collect();
    assert_eq!(shown(&vcpu), left);
    // A second vCPU of the VM shows the same without being told.
    let second = vm.create_vcpu(1).unwrap();
    second.init(&vm.preferred_target().unwrap()).unwrap();
    assert_eq!(shown(&second), left);
}

#[test]
fn each_feature_of_this_host_is_hidden_or_refused_by_name() {
    let Some(host) = host() else { return };
    let (_vm, whole) = vcpu(&host, &[]);
    let mut refused = Vec::new();
    for name in shown(&whole) {
        let (vm, vcpu) = vcpu(&host, &[]);
        match mask(&[name]).apply(&host, &vm, &vcpu) {
            Ok(()) => assert!(!shown(&vcpu).contains(&name), "{name}"),
            Err(error @ (MaskError::Unsupported { .. } | MaskError::Fixed { .. })) => {
                assert!(
                    error
                        .to_string()
                        .starts_with(&format!("--cpu-mask {name}: "))
                );
                refused.push(name);
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    // No kernel lets a guest believe that there are no floating-point registers.
    assert!(refused.contains(&"fp"), "{refused:?}");
    if host.has_writable_id_registers() {
        assert!(refused.len() < 8, "{refused:?}");
    }
}

#[test]
fn what_the_host_does_not_have_needs_no_hiding() {
    let Some(host) = host() else { return };
    let (vm, vcpu) = vcpu(&host, &[]);
    // Nobody asked for these on this vCPU.
    let names = ["sve", "sve2", "sme", "paca", "pacg", "mte"];
    mask(&names).apply(&host, &vm, &vcpu).unwrap();
}

#[test]
fn vectors_that_were_asked_for_lose_what_is_hidden() {
    let Some(host) = host() else { return };
    if host.capability_raw(kb::KVM_CAP_ARM_SVE) <= 0 || !host.has_writable_id_registers() {
        return; // its processor has none
    }
    let (vm, vcpu) = vcpu(&host, &[kb::KVM_ARM_VCPU_SVE]);
    let before = shown(&vcpu);
    assert!(before.contains(&"sve"), "{before:?}");
    let named = ["svebitperm", "i8mm"];
    mask(&named).apply(&host, &vm, &vcpu).unwrap();
    let after = shown(&vcpu);
    let gone = ["svebitperm", "i8mm", "svei8mm"];
    assert!(!gone.iter().any(|name| after.contains(name)), "{after:?}");
    assert!(after.contains(&"sve"), "{after:?}");
    // Too late for the whole: it was asked for.
    let error = mask(&["sve"]).apply(&host, &vm, &vcpu).unwrap_err();
    assert!(
        matches!(error, MaskError::Fixed { feature: "sve", .. }),
        "{error}"
    );
}
