//! The guest's code runs here by an interpreter of its few instructions, which knows them by their
//! encodings (DDI 0487 §C6.2) and not by the functions that wrote them.

use vm_memory::Address;

use super::*;

/// What the code did to the world outside.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    Store(u32, u32),
    /// By the name of the register that GNU as encodes so.
    System(&'static str, u64),
    Wait,
}

/// Runs it until it has waited for each of these interrupts; 1023 is none.
fn run(has_v3: bool, interrupts: &[u64]) -> Vec<Did> {
    let size = MEMORY as usize;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(CODE, size)]).unwrap();
    let Entry::Arm64(entry) = write(&memory).unwrap() else {
        panic!("another entry")
    };
    let mut pc = entry;
    let mut x = [0u64; 32];
    let mut equal = false;
    let mut interrupts = interrupts.iter();
    let mut acknowledged = None;
    let mut did = Vec::new();
    loop {
        let word: u32 = memory.read_obj(pc).unwrap();
        let (rt, rn) = ((word & 31) as usize, (word >> 5 & 31) as usize);
        let mut step = 4i64;
        let signed = |at: u32, bits: u32| {
            let value = i64::from(word >> at & ((1 << bits) - 1));
            4 * (value - (value >> (bits - 1) << bits))
        };
        match word >> 21 {
            0b010_1001_0100 => x[rt] = u64::from(word >> 5 & 0xffff),
            0b011_1001_0101 => x[rt] |= u64::from(word >> 5 & 0xffff) << 16,
            _ if word >> 22 == 0b10_1110_0100 => {
                let address = x[rn] as u32 + (word >> 10 & 0xfff) * 4;
                did.push(Did::Store(address, x[rt] as u32));
            }
            _ if word == 0xb940_00a4 => {
                assert_eq!(x[5], layout::GIC_CPU_INTERFACE.0 + 0xc, "GICC_IAR");
                x[4] = acknowledged.take().expect("it waited");
            }
            _ if word >> 22 == 0b01_1100_0100 => {
                equal = x[rn] as u32 == word >> 10 & 0xfff;
            }
            _ if word >> 24 == 0x36 => {
                if x[rt] >> (word >> 19 & 31) & 1 == 0 {
                    step = signed(5, 14);
                }
            }
            _ if word & 0xff00_001f == 0x5400_0001 => {
                if !equal {
                    step = signed(5, 19);
                }
            }
            _ if word >> 26 == 5 => step = signed(0, 26),
            _ => match word {
                0xd503_207f => {
                    did.push(Did::Wait);
                    acknowledged = match interrupts.next() {
                        Some(interrupt) => Some(*interrupt),
                        None => return did,
                    };
                }
                0xd503_3fdf => {}
                0xd538_0401 => x[1] = u64::from(has_v3) << 24 | 0x11,
                0xd538_cc04 => x[4] = acknowledged.take().expect("it waited"),
                0xd518_4601 => did.push(Did::System("icc_pmr_el1", x[1])),
                0xd518_cce1 => did.push(Did::System("icc_igrpen1_el1", x[1])),
                0xd518_cc24 => did.push(Did::System("icc_eoir1_el1", x[4])),
                _ => panic!("{word:#x} at {pc:?}"),
            },
        }
        pc = GuestAddress(pc.raw_value().wrapping_add_signed(step));
    }
}

/// What of the distributor's an interrupt has, by what was stored: its bits in the table from there on.
fn has(did: &[Did], table: u32, bits: u32) -> Option<u32> {
    let interrupt = 32 + GSI;
    let word = DISTRIBUTOR + table + interrupt * bits / 32 * 4;
    did.iter().find_map(|did| match did {
        Did::Store(address, value) if *address == word => {
            Some(value >> (interrupt * bits % 32) & ((1 << bits) - 1))
        }
        _ => None,
    })
}

const ANSWERS: Did = Did::Store(ANSWER as u32, ANSWER_VALUE);

/// The first wait: what is before is the setting up.
fn ready(did: &[Did]) -> usize {
    let first = did.iter().position(|did| *did == Did::Wait).unwrap();
    assert_eq!(did[first - 1], ANSWERS, "it says that it is ready");
    assert!(!did[..first - 1].contains(&ANSWERS));
    first
}

#[test]
fn it_lets_its_interrupt_through_a_gic_v3() {
    let did = run(true, &[]);
    let did = &did[..ready(&did)];
    assert!(
        did.contains(&Did::Store(0x0800_0000, 0x12)),
        "affinity routing, group 1"
    );
    assert_eq!(has(did, 0x80, 1), Some(1), "its group");
    assert_eq!(has(did, 0xc00, 2), Some(2), "an edge");
    assert_eq!(has(did, 0x400, 8), Some(0), "its priority");
    assert_eq!(has(did, 0x100, 1), Some(1), "enabled");
    let route = 0x0800_6000 + 8 * (32 + GSI);
    assert!(did.contains(&Did::Store(route, 0)) && did.contains(&Did::Store(route + 4, 0)));
    assert!(did.contains(&Did::System("icc_pmr_el1", 0xff)));
    assert!(did.contains(&Did::System("icc_igrpen1_el1", 1)));
}

#[test]
fn it_lets_its_interrupt_through_a_gic_v2() {
    let did = run(false, &[]);
    let did = &did[..ready(&did)];
    assert!(did.contains(&Did::Store(0x0800_0000, 1)), "distributor");
    assert_eq!(has(did, 0x80, 1), Some(0), "its group");
    assert_eq!(has(did, 0xc00, 2), Some(2), "an edge");
    assert_eq!(has(did, 0x400, 8), Some(0), "its priority");
    assert_eq!(has(did, 0x800, 8), Some(1), "to the first CPU");
    assert_eq!(has(did, 0x100, 1), Some(1), "enabled");
    assert!(did.contains(&Did::Store(0x0801_0004, 0xff)), "GICC_PMR");
    assert!(did.contains(&Did::Store(0x0801_0000, 1)), "GICC_CTLR");
    assert!(!did.iter().any(|did| matches!(did, Did::System(..))));
}

#[test]
fn it_answers_and_ends_its_interrupt_and_no_other() {
    let interrupt = 32 + GSI;
    let asked = [1023, interrupt.into(), 33, interrupt.into()];
    for has_v3 in [true, false] {
        let end = || match has_v3 {
            true => Did::System("icc_eoir1_el1", interrupt.into()),
            false => Did::Store(0x0801_0010, interrupt),
        };
        let did = run(has_v3, &asked);
        let waits = [Did::Wait, Did::Wait, ANSWERS, end()];
        let expected = waits.into_iter().chain([Did::Wait, Did::Wait, ANSWERS]);
        let expected: Vec<_> = expected.chain([end(), Did::Wait]).collect();
        assert_eq!(did[ready(&did)..], expected, "v3: {has_v3}");
    }
}

#[test]
fn it_is_told_when_it_does_not_fit() {
    let small = GuestMemoryMmap::<()>::from_ranges(&[(CODE, 64)]).unwrap();
    assert!(write(&small).is_err());
}
