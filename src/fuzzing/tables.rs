//! What is made for a guest, and what is read of one's memory: device trees, page tables, instructions.

use std::ffi::CString;

use arbitrary::{Arbitrary, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::arch::MmioDevice;
use crate::arch::a64::{Tables, store};
use crate::arch::fdt::host::{Cache, CacheType, Caches};
use crate::arch::fdt::{Description, Gic, write};
use crate::boot::InitrdRange;

const RAM: u64 = 0x4000_0000;
const RAM_SIZE: usize = 64 << 10;

#[derive(Arbitrary, Debug)]
struct Walk<'a> {
    on: bool,
    upper: bool,
    tcr: u64,
    /// Pages that the tables are in, or anything.
    root: u16,
    wild: Option<u64>,
    address: u64,
    word: u32,
    /// Pairs of a place and a table's entry; where its high half is 0 it leads into RAM.
    entries: Vec<(u16, u32, u8)>,
    content: &'a [u8],
}

/// A guest's page tables and its instructions.
pub fn a64(data: &[u8]) {
    let Ok(walk) = Walk::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    thread_local! {
        static MEMORY: GuestMemoryMmap<()> =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), RAM_SIZE)]).unwrap();
    }
    MEMORY.with(|memory| {
        let content = &walk.content[..walk.content.len().min(RAM_SIZE)];
        memory
            .write_slice(&vec![0; RAM_SIZE], GuestAddress(RAM))
            .unwrap();
        memory.write_slice(content, GuestAddress(RAM)).unwrap();
        for (at, entry, high) in &walk.entries {
            let entry = (u64::from(*entry) % RAM_SIZE as u64 + RAM) | (u64::from(*high) << 48);
            let at = RAM + u64::from(*at) % (RAM_SIZE as u64 - 8);
            memory.write_obj(entry, GuestAddress(at)).unwrap();
        }
        let root = walk.wild.unwrap_or(RAM + u64::from(walk.root));
        let tables = Tables::new(walk.on, walk.tcr, root, walk.upper);
        if let Some(found) = tables.translate(memory, walk.address) {
            assert!(!walk.on || found.0 < 1 << 48);
        }
    });
    if let Some(Some((base, offset))) = store(walk.word) {
        assert!(base <= 31 && (-1024..1024).contains(&offset));
    }
}

#[derive(Arbitrary, Debug)]
struct Tree {
    cmdline: Vec<u8>,
    initrd: Option<(u32, u32)>,
    ram: Vec<(u64, u64)>,
    cpus: Vec<u64>,
    capacities: Vec<u32>,
    caches: Vec<(u8, u8, u32, u32, u32, u8)>,
    v3: bool,
    gic: [u64; 4],
    pmu: bool,
    serial: Option<(u64, u32)>,
    devices: Vec<(u64, u32)>,
    room: u16,
}

/// A device tree, and its reader's rules.
pub fn fdt(data: &[u8]) {
    let Ok(tree) = Tree::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let device = |&(address, gsi): &(u64, u32)| MmioDevice { address, gsi };
    let cache = |&(level, kind, size, line, sets, shared): &(u8, u8, u32, u32, u32, u8)| Cache {
        level: u32::from(level % 4) + 1,
        kind: [CacheType::Data, CacheType::Instruction, CacheType::Unified][usize::from(kind % 3)],
        size,
        line: Some(line).filter(|line| *line != 0),
        sets: Some(sets).filter(|sets| *sets != 0),
        shared: u32::from(shared).max(1),
    };
    let all: Vec<Cache> = tree.caches.iter().take(6).map(cache).collect();
    let (first, others) = all.split_at(all.len().min(2));
    let caches = Caches {
        first: first.to_vec(),
        others: others.to_vec(),
    };
    let [a, b, c, d] = tree.gic;
    let gic = match tree.v3 {
        true => Gic::V3 {
            distributor: (a, b),
            redistributors: (c, d),
        },
        false => Gic::V2 {
            distributor: (a, b),
            cpu_interface: (c, d),
        },
    };
    let cmdline: Vec<u8> = tree
        .cmdline
        .iter()
        .copied()
        .filter(|byte| *byte != 0)
        .collect();
    let ram: Vec<_> = tree
        .ram
        .iter()
        .map(|(start, size)| (GuestAddress(*start), *size))
        .collect();
    // The machine has seen to it: at most 64 vCPUs, and a capacity for each or for none.
    let cpus = &tree.cpus[..tree.cpus.len().min(64)];
    let capacities: Vec<u32> = match tree.capacities.len() < cpus.len() {
        true => Vec::new(),
        false => tree.capacities[..cpus.len()].to_vec(),
    };
    let devices: Vec<_> = tree.devices.iter().map(device).collect();
    let description = Description {
        cmdline: &CString::new(cmdline).unwrap(),
        initrd: tree.initrd.map(|(start, size)| InitrdRange {
            start: GuestAddress(start.into()),
            size: size.into(),
        }),
        ram: &[ram],
        nodes: &[],
        cpus,
        capacities: &capacities,
        caches: &caches,
        gic,
        pmu: tree.pmu,
        serial: tree.serial.as_ref().map(device),
        rtc: a,
        devices: &devices,
    };
    thread_local! {
        static MEMORY: GuestMemoryMmap<()> =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), RAM_SIZE)]).unwrap();
    }
    MEMORY.with(|memory| {
        let Ok(size) = write(&description, memory, GuestAddress(RAM), tree.room.into()) else {
            return;
        };
        assert!(size <= tree.room.into());
        let mut header = [0; 8];
        memory.read_slice(&mut header, GuestAddress(RAM)).unwrap();
        assert_eq!(header[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        assert_eq!(
            u64::from(u32::from_be_bytes(header[4..].try_into().unwrap())),
            size
        );
    });
}
