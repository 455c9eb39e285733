//! Trees are made, and read back: by the small reader at the end, and by `dtc`, which knows what is amiss.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::host::{Cache, CacheType, Caches};
use super::*;
use crate::config::{MAX_CPUS, Size, VmConfig};

const RAM: u64 = 1 << 30;
const GIC_V2: Gic = Gic::V2 {
    distributor: (0x800_0000, 0x1_0000),
    cpu_interface: (0x801_0000, 0x2000),
};
const GIC_V3: Gic = Gic::V3 {
    distributor: (0x800_0000, 0x1_0000),
    redistributors: (0x80a_0000, 64 * 0x2_0000),
};

/// What a description borrows.
struct Machine {
    cmdline: CString,
    ram: Vec<Vec<(GuestAddress, u64)>>,
    nodes: Vec<NumaNode>,
    cpus: Vec<u64>,
    capacities: Vec<u32>,
    caches: Caches,
    devices: Vec<MmioDevice>,
}

impl Machine {
    fn new(cpus: u8, devices: u32) -> Self {
        Machine {
            cmdline: CString::new("console=ttyS0 quiet").unwrap(),
            ram: vec![vec![(GuestAddress(RAM), 128 << 20)]],
            nodes: Vec::new(),
            // As KVM makes them (kvm_reset_mpidr): 16 to an Aff0, and bit 31 is always set.
            cpus: (0..u64::from(cpus))
                .map(|id| 1 << 31 | (id >> 4) << 8 | (id & 15))
                .collect(),
            capacities: Vec::new(),
            caches: Caches::default(),
            devices: (0..devices)
                .map(|n| MmioDevice {
                    address: 0xa00_0000 + u64::from(n) * 0x1000,
                    gsi: 2 + n,
                })
                .collect(),
        }
    }

    /// With two caches at each CPU, one that two CPUs share, and one that four do.
    fn with_caches(mut self) -> Self {
        let cache = |level, kind, shared| Cache {
            level,
            kind,
            size: 64 << 10 << level,
            line: Some(64),
            sets: Some(256),
            shared,
        };
        self.caches = Caches {
            first: vec![
                cache(1, CacheType::Data, 1),
                cache(1, CacheType::Instruction, 1),
            ],
            others: vec![
                cache(2, CacheType::Unified, 2),
                cache(3, CacheType::Unified, 4),
            ],
        };
        self
    }

    fn with_nodes(mut self) -> Self {
        let text = "cpus = 5\n[memory]\nsize = \"4G\"\n\
            [[numa]]\nnode = 1\ncpus = \"1\"\nmemory = \"1G\"\ndistances = \"31:10:25\"\n\
            [[numa]]\nnode = 0\ncpus = \"0,2-4\"\nmemory = \"2G\"\n\
            [[numa]]\nnode = 2\nmemory = \"1G\"\n";
        let config: VmConfig = toml::from_str(text).unwrap();
        let sizes = NumaNode::in_order(&config.numa).map(|node| node.memory);
        let mut start = RAM;
        let range = |size: Size| {
            start += size.bytes();
            vec![(GuestAddress(start - size.bytes()), size.bytes())]
        };
        self.ram = sizes.map(range).collect();
        self.nodes = config.numa;
        self
    }

    fn description(&self) -> Description<'_> {
        Description {
            cmdline: &self.cmdline,
            initrd: None,
            ram: &self.ram,
            nodes: &self.nodes,
            cpus: &self.cpus,
            capacities: &self.capacities,
            caches: &self.caches,
            gic: GIC_V3,
            pmu: false,
            serial: Some(MmioDevice {
                address: 0x900_0000,
                gsi: 0,
            }),
            rtc: 0x901_0000,
            devices: &self.devices,
        }
    }

    fn read(&self) -> Node {
        read(&tree(&self.description()).unwrap())
    }
}

#[test]
fn a_small_guest_is_told_of_all_that_it_has() {
    let root = Machine::new(1, 2).read();
    let names: Vec<_> = root
        .children
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "chosen",
            "memory@40000000",
            "cpus",
            "interrupt-controller@8000000",
            "psci",
            "timer",
            "serial@9000000",
            "aliases",
            "apb-pclk",
            "rtc@9010000",
            "virtio_mmio@a000000",
            "virtio_mmio@a001000",
        ]
    );
    let chosen = root.at("chosen");
    assert_eq!(chosen.text("bootargs"), "console=ttyS0 quiet");
    assert_eq!(chosen.text("stdout-path"), "serial0:115200n8");
    assert_eq!(root.at("aliases").text("serial0"), "/serial@9000000");
    assert_eq!(root.at("memory@40000000").numbers("reg"), [RAM, 128 << 20]);
    let cpu = root.at("cpus/cpu@0");
    assert_eq!(
        (cpu.numbers("reg"), cpu.text("enable-method")),
        (vec![0], "psci")
    );
    assert_eq!(root.at("psci").text("method"), "hvc");
    let timers = [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4];
    assert_eq!(root.at("timer").cells("interrupts"), timers);
    let gic = root.at("interrupt-controller@8000000");
    assert_eq!(gic.text("compatible"), "arm,gic-v3");
    assert_eq!(root.cells("interrupt-parent"), gic.cells("phandle"));
    let device = root.at("virtio_mmio@a001000");
    assert_eq!(device.numbers("reg"), [0xa00_1000, 0x1000]);
    assert_eq!(device.cells("interrupts"), [0, 3, 1]);
    assert_eq!(root.at("serial@9000000").cells("interrupts"), [0, 0, 1]);
}

#[test]
fn what_a_guest_has_not_it_is_not_told_of() {
    let machine = Machine::new(1, 0);
    let description = Description {
        serial: None,
        pmu: true,
        ..machine.description()
    };
    let root = read(&tree(&description).unwrap());
    let names: Vec<_> = root
        .children
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    let gic = "interrupt-controller@8000000";
    let rest = [gic, "psci", "timer", "pmu", "apb-pclk", "rtc@9010000"];
    assert_eq!(names[3..], rest);
    assert!(!root.at("chosen").properties.contains_key("stdout-path"));
    assert_eq!(root.at("pmu").cells("interrupts"), [1, 7, 4]);
}

#[test]
fn a_gicv2_is_told_with_the_cpus_of_its_private_interrupts() {
    let machine = Machine::new(3, 0);
    let description = Description {
        gic: GIC_V2,
        ..machine.description()
    };
    let root = read(&tree(&description).unwrap());
    let gic = root.at("interrupt-controller@8000000");
    assert_eq!(gic.text("compatible"), "arm,cortex-a15-gic");
    assert_eq!(
        gic.numbers("reg"),
        [0x800_0000, 0x1_0000, 0x801_0000, 0x2000]
    );
    assert_eq!(root.at("timer").cells("interrupts")[..3], [1, 13, 0x704]);
}

#[test]
fn an_initrd_is_told_from_its_start_to_its_end() {
    let machine = Machine::new(1, 0);
    let initrd = InitrdRange {
        start: GuestAddress(0x47f0_0000),
        size: 0x1234,
    };
    let description = Description {
        initrd: Some(initrd),
        ..machine.description()
    };
    let chosen = &read(&tree(&description).unwrap()).children[0];
    assert_eq!(chosen.numbers("linux,initrd-start"), [0x47f0_0000]);
    assert_eq!(chosen.numbers("linux,initrd-end"), [0x47f0_1234]);
}

#[test]
fn each_guest_has_its_own_randomness() {
    let machine = Machine::new(1, 0);
    let seeds = || {
        let chosen = machine.read().children.remove(0).properties;
        (chosen["rng-seed"].clone(), chosen["kaslr-seed"].clone())
    };
    let ((seed, kaslr), (other_seed, other_kaslr)) = (seeds(), seeds());
    assert_eq!((seed.len(), kaslr.len()), (32, 8));
    assert!(seed != other_seed && kaslr != other_kaslr);
}

#[test]
fn any_byte_of_a_command_line_arrives() {
    let mut machine = Machine::new(1, 0);
    let bytes: Vec<u8> = (1..=255).cycle().take(2047).collect();
    machine.cmdline = CString::new(bytes).unwrap();
    let root = machine.read();
    let arrived = &root.at("chosen").properties["bootargs"];
    assert_eq!(arrived, machine.cmdline.as_bytes_with_nul());
}

#[test]
fn caches_are_shared_between_neighbours_as_on_the_host() {
    let root = Machine::new(5, 0).with_caches().read();
    let cpus = root.at("cpus");
    assert_eq!(cpus.at("cpu@4").cells("d-cache-size"), [128 << 10]);
    assert_eq!(cpus.at("cpu@4").cells("i-cache-sets"), [256]);
    let caches = cpus
        .children
        .iter()
        .filter(|node| node.name.contains("cache"));
    let names: Vec<_> = caches.map(|node| node.name.as_str()).collect();
    let three = ["l2-cache0", "l2-cache1", "l2-cache2"];
    assert_eq!(
        names,
        [three.as_slice(), &["l3-cache0", "l3-cache1"]].concat()
    );
    let behind = |name: &str| cpus.at(name).cells("next-level-cache");
    let phandle = |name: &str| cpus.at(name).cells("phandle");
    for (cpu, cache) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)] {
        let cache = phandle(&format!("l2-cache{cache}"));
        assert_eq!(behind(&format!("cpu@{cpu}")), cache);
    }
    for (second, third) in [(0, 0), (1, 0), (2, 1)] {
        let third = phandle(&format!("l3-cache{third}"));
        assert_eq!(behind(&format!("l2-cache{second}")), third);
    }
    assert_eq!(cpus.at("l3-cache0").cells("cache-size"), [512 << 10]);
    assert!(
        cpus.at("l3-cache0")
            .properties
            .contains_key("cache-unified")
    );
}

#[test]
fn nodes_have_their_cpus_memory_and_distances() {
    let root = Machine::new(5, 0).with_nodes().with_caches().read();
    let cpus = root.at("cpus");
    let nodes = |cpu: u32| cpus.at(&format!("cpu@{cpu}")).cells("numa-node-id")[0];
    assert_eq!((0..5).map(nodes).collect::<Vec<_>>(), [0, 1, 0, 0, 0]);
    let memory = ["memory@40000000", "memory@c0000000", "memory@100000000"];
    for (name, node) in memory.iter().zip(0..) {
        assert_eq!(root.at(name).cells("numa-node-id"), [node]);
    }
    assert_eq!(root.at(memory[0]).numbers("reg"), [RAM, 2 << 30]);
    let map = root.at("distance-map").cells("distance-matrix");
    let distances: Vec<_> = map.chunks(3).map(|three| three[2]).collect();
    assert_eq!(distances, [10, 31, 20, 31, 10, 25, 20, 25, 10]);
    assert_eq!(map[..6], [0, 0, 10, 0, 1, 31]);
    // A socket is a node with CPUs, and no cache is shared between two.
    let phandle = |name: &str| cpus.at(name).cells("phandle");
    let core = |path: &str| cpus.at(&format!("cpu-map/{path}")).cells("cpu");
    assert_eq!(core("socket0/cluster0/core1"), phandle("cpu@2"));
    assert_eq!(core("socket1/cluster0/core0"), phandle("cpu@1"));
    assert_eq!(cpus.at("cpu-map").children.len(), 2);
    let behind = |cpu: u32| cpus.at(&format!("cpu@{cpu}")).cells("next-level-cache");
    assert!(behind(0) == behind(2) && behind(3) == behind(4) && behind(1) != behind(0));
}

#[test]
fn capacities_are_told_where_there_are_some() {
    let mut machine = Machine::new(2, 0);
    let told = |root: Node| {
        let cpu = root.at("cpus/cpu@1").properties.get("capacity-dmips-mhz");
        cpu.cloned()
    };
    assert_eq!(told(machine.read()), None);
    machine.capacities = vec![1024, 446];
    assert_eq!(told(machine.read()).unwrap(), 446u32.to_be_bytes());
}

#[test]
fn the_largest_guest_has_room_to_spare() {
    let mut machine = Machine::new(MAX_CPUS, 60).with_caches();
    machine.cmdline = CString::new(vec![b'x'; 2047]).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 128 << 20)]).unwrap();
    let at = GuestAddress(RAM);
    let size = write(&machine.description(), &memory, at, 2 << 20).unwrap();
    assert!(size < 64 << 10, "{size}");
    let mut bytes = vec![0; size as usize];
    memory.read_slice(&mut bytes, at).unwrap();
    let root = read(&bytes);
    assert_eq!(root.at("cpus/cpu@30f").numbers("reg"), [0x30f]);
    assert!(root.at("virtio_mmio@a03b000").cells("interrupts") == [0, 61, 1]);
}

#[test]
fn a_tree_without_room_or_memory_is_refused() {
    let machine = Machine::new(1, 1);
    let description = machine.description();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 0x1000)]).unwrap();
    let at = |start| write(&description, &memory, GuestAddress(start), 0x1000);
    let size = at(RAM).unwrap();
    let error = write(&description, &memory, GuestAddress(RAM), size - 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the device tree takes {size} bytes, and has room for {}: give the VM fewer devices",
            size - 1
        )
    );
    for start in [RAM + 0x1000 - size + 1, 0, u64::MAX - 8] {
        let error = at(start).unwrap_err();
        assert!(
            error.to_string().contains(&format!("{start:#x}")),
            "{error}"
        );
    }
}

#[test]
fn what_is_saved_is_what_the_guest_got_and_its_owners_only() {
    let machine = Machine::new(1, 1);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 0x1000)]).unwrap();
    let at = GuestAddress(RAM);
    let size = write(&machine.description(), &memory, at, 0x1000).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tree");
    save(&memory, at, &path).unwrap();
    let saved = fs::read(&path).unwrap();
    let mut got = vec![0; size as usize];
    memory.read_slice(&mut got, at).unwrap();
    assert_eq!(saved, got);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let nowhere = Path::new("/nowhere/tree");
    let error = save(&memory, at, nowhere).unwrap_err().to_string();
    assert!(
        error.starts_with("--dump-fdt /nowhere/tree: No such file"),
        "{error}"
    );
}

#[test]
fn dtc_finds_nothing_amiss() {
    if let Err(error) = Command::new("dtc").arg("--version").output() {
        let obstacle = format!("dtc: {error}: install device-tree-compiler");
        let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == "dtc"), "{obstacle}");
        // Straight to the stream: the test harness would swallow what a passing test prints.
        let _ = writeln!(
            io::stderr(),
            "NOT RUN (kind dtc): dtc_finds_nothing_amiss: {obstacle}"
        );
        return;
    }
    let (small, large) = (Machine::new(1, 0), Machine::new(MAX_CPUS, 60).with_caches());
    let mut nodes = Machine::new(5, 3).with_nodes().with_caches();
    nodes.capacities = vec![1024; 5];
    let small = small.description();
    let initrd = InitrdRange {
        start: GuestAddress(0x47f0_0000),
        size: 0x1234,
    };
    let without = Description {
        serial: None,
        pmu: true,
        initrd: Some(initrd),
        ..small
    };
    let second = Description {
        gic: GIC_V2,
        ..small
    };
    for description in [
        small,
        without,
        second,
        large.description(),
        nodes.description(),
    ] {
        let bytes = tree(&description).unwrap();
        let mut dtc = Command::new("dtc")
            .args(["-I", "dtb", "-O", "dts", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        dtc.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = dtc.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && complaints.is_empty(),
            "{complaints}"
        );
        assert!(output.stdout.starts_with(b"/dts-v1/;"));
    }
}

/// A node as a guest reads it.
struct Node {
    name: String,
    properties: BTreeMap<String, Vec<u8>>,
    children: Vec<Node>,
}

impl Node {
    /// The node of this path from here.
    fn at(&self, path: &str) -> &Node {
        path.split('/').fold(self, |node, name| {
            let child = node.children.iter().find(|child| child.name == name);
            child.unwrap_or_else(|| panic!("{path}: no {name}"))
        })
    }

    fn bytes(&self, property: &str) -> &[u8] {
        let bytes = self.properties.get(property);
        bytes.unwrap_or_else(|| panic!("{}: no {property}", self.name))
    }

    /// A property of one text.
    fn text(&self, property: &str) -> &str {
        let text = CStr::from_bytes_with_nul(self.bytes(property)).unwrap();
        text.to_str().unwrap()
    }

    /// A property of 32-bit cells.
    fn cells(&self, property: &str) -> Vec<u32> {
        let cells = self.bytes(property).chunks(4);
        cells
            .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
            .collect()
    }

    /// A property of pairs of cells.
    fn numbers(&self, property: &str) -> Vec<u64> {
        let numbers = self.bytes(property).chunks(8);
        numbers
            .map(|number| u64::from_be_bytes(number.try_into().unwrap()))
            .collect()
    }
}

/// Reads a tree (DTSpec §5.2 and §5.4).
fn read(tree: &[u8]) -> Node {
    let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap());
    let size = |at: usize| word(at) as usize;
    assert_eq!((word(0), size(4)), (0xd00d_feed, tree.len()));
    let (mut at, strings) = (size(8), size(12));
    let text = |at: usize| {
        let text = CStr::from_bytes_until_nul(&tree[at..]).unwrap();
        text.to_str().unwrap().to_owned()
    };
    let mut open: Vec<Node> = Vec::new();
    loop {
        at += 4;
        match word(at - 4) {
            1 => {
                let name = text(at);
                at += (name.len() + 1).next_multiple_of(4);
                let (properties, children) = (BTreeMap::new(), Vec::new());
                open.push(Node {
                    name,
                    properties,
                    children,
                });
            }
            2 => {
                let node = open.pop().unwrap();
                let Some(parent) = open.last_mut() else {
                    assert_eq!(word(at), 9, "FDT_END");
                    return node;
                };
                let twice = parent.children.iter().any(|child| child.name == node.name);
                assert!(!twice, "{} is there twice", node.name);
                parent.children.push(node);
            }
            3 => {
                let (length, name) = (size(at), text(strings + size(at + 4)));
                let value = tree[at + 8..at + 8 + length].to_vec();
                let properties = &mut open.last_mut().unwrap().properties;
                assert!(properties.insert(name, value).is_none());
                at += 8 + length.next_multiple_of(4);
            }
            other => panic!("{other} at {:#x}", at - 4),
        }
    }
}
