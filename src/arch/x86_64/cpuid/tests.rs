use super::*;

fn entry(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = regs;
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

fn intel() -> CpuId {
    CpuId::from_entries(&[
        entry(0, 0, [0x1f, u32::from_le_bytes(*b"Genu"), 0, 0]),
        entry(1, 0, [0, 0x0504_0800, 1 << 13, 1 << 28]),
        entry(4, 1, [0x0400_4122, 0, 0, 0]), // L1, shared by two
        entry(4, 3, [0x0400_4163, 0, 0, 0]), // L3
        entry(0xa, 0, [0x0830_0802, 0, 0, 0x603]), // performance counters
        entry(0xb, 0, [1, 2, 0x100, 5]),
        entry(0x4000_0000, 0, [0x4000_0001, 0, 0, 0]),
        entry(0x8000_0001, 0, [0, 0, 1 << 5, 0]),
        entry(0x8000_0008, 0, [0x3027, 0, 0, 0]),
    ])
    .unwrap()
}

fn amd() -> CpuId {
    CpuId::from_entries(&[
        entry(0, 0, [0x10, u32::from_le_bytes(*b"Auth"), 0, 0]),
        entry(1, 0, [0, 0x0720_0800, 0, 1 << 28]),
        entry(0x8000_0001, 0, [0, 0, 1 << 22, 0]),
        entry(0x8000_0008, 0, [0x3030, 0, 0x2_701f, 0]), // 32 CPUs, 40-bit TSC counters
        entry(0x8000_001d, 0, [0x0000_4121, 0, 0, 0]),   // L1, shared by two
        entry(0x8000_001d, 3, [0x0003_c163, 0, 0, 0]),   // L3, shared by 16
        entry(0x8000_001e, 0, [7, 0x103, 0x301, 0]),
    ])
    .unwrap()
}

fn options(cpus: u8, mask: &[Feature]) -> CpuidOptions<'_> {
    CpuidOptions {
        cpus,
        tsc_khz: Some(2_100_000),
        tsc_deadline: true,
        own_waits: OwnWaits::default(),
        mask,
        pmu: false,
    }
}

#[test]
fn topology_is_one_package_of_single_thread_cores() {
    let mut cpuid = template(&intel(), &options(6, &[]));
    set_apic_id(&mut cpuid, 5);
    let one = leaf(&cpuid, 1, 0).unwrap();
    assert_eq!(one.ebx >> 24, 5);
    assert_eq!((one.ebx >> 16) & 0xff, 8); // rounded up to a power of two
    assert_eq!(one.ecx & (1 << 24 | 1 << 31), 1 << 24 | 1 << 31);
    let smt = leaf(&cpuid, 0xb, 0).unwrap();
    assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (0, 1, 0x100, 5));
    let core = leaf(&cpuid, 0xb, 1).unwrap();
    assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
    assert_eq!(leaf(&cpuid, 4, 1).unwrap().eax >> 14, 7 << 12);
    assert_eq!((leaf(&cpuid, 4, 3).unwrap().eax >> 14) & 0xfff, 7);
}

#[test]
fn amds_own_leaves_tell_the_same_topology() {
    for (cpus, bits) in [(1, 0), (3, 2), (64, 6)] {
        let mut cpuid = template(&amd(), &options(cpus, &[]));
        set_apic_id(&mut cpuid, cpus - 1);
        let id = u32::from(cpus - 1);
        let legacy = u32::from(cpus > 1) << 1;
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).unwrap().ecx, 1 << 22 | legacy);
        let sizes = leaf(&cpuid, 0x8000_0008, 0).unwrap().ecx;
        assert_eq!(sizes, 0x2_0000 | bits << 12 | id);
        let sharing = |level| (leaf(&cpuid, 0x8000_001d, level).unwrap().eax >> 14) & 0xfff;
        assert_eq!((sharing(0), sharing(3)), (0, (1 << bits) - 1));
        let node = leaf(&cpuid, 0x8000_001e, 0).unwrap();
        assert_eq!((node.eax, node.ebx, node.ecx), (id, id, 0));
        let core = leaf(&cpuid, 0xb, 1).unwrap();
        assert_eq!((core.eax, core.ebx, core.edx), (bits, cpus.into(), id));
        assert_eq!(leaf(&cpuid, 0x1f, 0), None, "beyond the last leaf");
    }
}

#[test]
fn intel_has_none_of_amds_bits() {
    let cpuid = template(&intel(), &options(4, &[]));
    assert_eq!(leaf(&cpuid, 0x8000_0001, 0).unwrap().ecx, 1 << 5);
    assert_eq!(leaf(&cpuid, 0x8000_0008, 0).unwrap().ecx, 0);
}

#[test]
fn performance_counters_are_for_those_who_ask() {
    for (pmu, expected) in [(false, 0), (true, 0x0830_0802)] {
        let options = CpuidOptions {
            pmu,
            ..options(1, &[])
        };
        let counters = leaf(&template(&intel(), &options), 0xa, 0).unwrap().eax;
        assert_eq!(counters, expected, "{pmu}");
    }
}

#[test]
fn one_cpu_has_no_multithreading() {
    let cpuid = template(&intel(), &options(1, &[]));
    assert_eq!(leaf(&cpuid, 1, 0).unwrap().edx & (1 << 28), 0);
}

#[test]
fn the_tsc_needs_no_calibration() {
    let exact = [2_100_000, 2_400_000, 3_700_000].map(|khz| (khz, 0));
    let near = [1_999_998, 2_399_996, 2_593_906, 3_700_123].map(|khz| (khz, 5));
    let odd = [800_001, 2_000_233, 4_294_967, 6_000_011].map(|khz| (khz, 120));
    for (khz, ppm) in [exact.as_slice(), &near, &odd].concat() {
        let mut options = options(1, &[]);
        options.tsc_khz = Some(khz);
        let cpuid = template(&intel(), &options);
        assert_eq!(leaf(&cpuid, KVM_TIMING, 0).unwrap().eax, khz);
        assert_eq!(leaf(&cpuid, KVM_SIGNATURE, 0).unwrap().eax, KVM_TIMING);
        // As Linux reckons, in 32 bits (native_calibrate_tsc).
        let crystal = leaf(&cpuid, 0x15, 0).unwrap();
        let product = (crystal.ecx / 1000).checked_mul(crystal.ebx).unwrap();
        let error = (product / crystal.eax).abs_diff(khz);
        assert!(error <= khz / 1000 * ppm / 1000, "{khz}: {crystal:?}");
    }
}

#[test]
fn nested_virtualization_is_not_offered() {
    let supported = CpuId::from_entries(&[
        entry(1, 0, [0, 0, 1 << 5, 0]),
        entry(0x8000_0001, 0, [0, 0, 1 << 2, 0]),
    ]);
    let cpuid = template(&supported.unwrap(), &options(1, &[]));
    assert_eq!(leaf(&cpuid, 1, 0).unwrap().ecx & (1 << 5), 0);
    assert_eq!(leaf(&cpuid, 0x8000_0001, 0).unwrap().ecx & (1 << 2), 0);
}

#[test]
fn masked_features_are_gone_also_those_that_mote_adds() {
    let mask = ["cx16", "tsc_deadline_timer"].map(|name| Feature::named(name).unwrap());
    let cpuid = template(&intel(), &options(2, &mask));
    assert_eq!(leaf(&cpuid, 1, 0).unwrap().ecx & (1 << 13 | 1 << 24), 0);
}

#[test]
fn a_guest_with_cpus_of_its_own_is_told_so() {
    let mut host = intel();
    host.push(entry(KVM_FEATURES, 0, [1 << 7 | 1, 0, 0, 0]))
        .unwrap();
    let told = |halt, monitor| {
        let mut options = options(1, &[]);
        options.own_waits = OwnWaits { halt, monitor };
        let cpuid = template(&host, &options);
        let features = leaf(&cpuid, KVM_FEATURES, 0).unwrap();
        let monitor = leaf(&cpuid, 1, 0).unwrap().ecx >> 3 & 1;
        (features.eax, features.edx, monitor)
    };
    assert_eq!(told(false, false), (0x81, 0, 0));
    assert_eq!(told(true, false), (1, 1, 0));
    assert_eq!(told(true, true), (1, 1, 1));
}
