//! ACPI tables for stock kernels: CPUs, the IOAPIC, the virtio devices, and NUMA nodes where there are
//! several (ACPI 6.5).
//!
//! Hardware-reduced ACPI (§4.1): no PM registers and no SCI to emulate, only a sleep register
//! by which the guest powers off.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::{Aml, aml, rsdp::Rsdp, sdt::Sdt, xsdt::XSDT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::{layout, numa};
use crate::arch::MmioDevice;
use crate::config::NumaNode;

pub(super) const OEM_ID: [u8; 6] = *b"MOTE  ";
pub(super) const OEM_TABLE: [u8; 8] = *b"MICROVM ";
pub(super) const OEM_REVISION: u32 = 1;

/// `SLP_TYPx` of the state S5, soft off; any value that the DSDT and the device agree on.
pub const SLEEP_TYPE_S5: u8 = 5;

/// IA-PC boot architecture flags (§5.2.9.3): what a guest needn't look for, and that there is a keyboard
/// controller. The legacy devices are said to be absent by their bit being clear.
const BOOT_ARCH_8042: u16 = 1 << 1;
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
const BOOT_ARCH_NO_MSI: u16 = 1 << 3;
const BOOT_ARCH_NO_ASPM: u16 = 1 << 4;
const BOOT_ARCH_NO_CMOS: u16 = 1 << 5;

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// The tables have outgrown their place.
    #[error("the ACPI tables take {0} bytes, more than the area before the MP table")]
    TooLarge(u64),
    /// Guest memory ends below 1 MiB.
    #[error("writing the ACPI tables: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Writes all tables; the RSDP is at [`layout::RSDP`], whose address is returned.
///
/// # Errors
///
/// See [`AcpiError`].
pub fn write_acpi(
    memory: &GuestMemoryMmap<()>,
    cpus: u8,
    devices: &[MmioDevice],
    serial: bool,
    nodes: &[NumaNode],
) -> Result<GuestAddress, AcpiError> {
    let mut next = layout::RSDP.unchecked_add(64);
    let mut place = |bytes: &[u8]| -> Result<u64, AcpiError> {
        let at = next;
        next = next.unchecked_add((bytes.len() as u64).next_multiple_of(16));
        if next > layout::MP_TABLE {
            return Err(AcpiError::TooLarge(
                next.unchecked_offset_from(layout::RSDP),
            ));
        }
        memory.write_slice(bytes, at)?;
        Ok(at.raw_value())
    };
    let dsdt = place(dsdt(devices, serial).as_slice())?;
    let fadt = place(&bytes_of(&fadt(dsdt)))?;
    let madt = place(&bytes_of(&madt(cpus)))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    // One node is what a kernel takes for granted.
    if nodes.len() > 1 {
        xsdt.add_entry(place(numa::srat(cpus, nodes).as_slice())?);
        xsdt.add_entry(place(numa::slit(nodes).as_slice())?);
    }
    let xsdt = place(&bytes_of(&xsdt))?;
    memory.write_slice(&bytes_of(&Rsdp::new(OEM_ID, xsdt)), layout::RSDP)?;
    Ok(layout::RSDP)
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |address: u64| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            address,
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    let absent = BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_MSI | BOOT_ARCH_NO_ASPM | BOOT_ARCH_NO_CMOS;
    fadt.iapc_boot_arch = (absent | BOOT_ARCH_8042).into();
    // Writing 0xfe to the keyboard controller's command port resets the machine.
    fadt.reset_reg = port(layout::I8042_PORT + 4);
    fadt.reset_value = 0xfe;
    fadt.sleep_control_reg = port(layout::ACPI_SLEEP_PORT);
    fadt.sleep_status_reg = port(layout::ACPI_SLEEP_PORT + 1);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"MOTE\0\0\0\0").into();
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let local_apic = LocalInterruptController::Address(layout::LOCAL_APIC as u32);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE, OEM_REVISION, local_apic);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(cpus, layout::IOAPIC as u32, 0));
    madt
}

/// The device tree in AML: virtio-mmio devices by the id that Linux knows (LNRO0005), the serial
/// port, the keyboard, and the S5 sleep state.
fn dsdt(devices: &[MmioDevice], serial: bool) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE, OEM_REVISION);
    for (index, device) in devices.iter().enumerate() {
        let registers =
            aml::Memory32Fixed::new(true, device.address as u32, layout::MMIO_PAGE as u32);
        let interrupt = aml::Interrupt::new(true, true, false, false, device.gsi);
        let path = format!("_SB_.V{index:03}");
        aml::Device::new(
            path.as_str().into(),
            vec![
                &aml::Name::new("_HID".into(), &"LNRO0005"),
                &aml::Name::new("_UID".into(), &(index as u32)),
                &aml::Name::new("_CCA".into(), &aml::ONE),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![&registers, &interrupt]),
                ),
            ],
        )
        .to_aml_bytes(&mut dsdt);
    }
    if serial {
        let port = layout::SERIAL_PORT as u16;
        let ports = aml::IO::new(port, port, 0, 8);
        let interrupt = edge(layout::SERIAL_GSI);
        pc_device(&mut dsdt, "_SB_.COM1", "PNP0501", vec![&ports, &interrupt]);
    }
    let port = layout::I8042_PORT as u16;
    let data = aml::IO::new(port, port, 0, 1);
    let command = aml::IO::new(port + 4, port + 4, 0, 1);
    // A kernel with no legacy interrupts finds the keyboard's by this.
    let interrupt = edge(layout::KEYBOARD_GSI);
    let resources: Vec<&dyn Aml> = vec![&data, &command, &interrupt];
    pc_device(&mut dsdt, "_SB_.KBD_", "PNP0303", resources);
    let sleep_type = u32::from(SLEEP_TYPE_S5);
    let zero = 0u32;
    aml::Name::new(
        "_S5_".into(),
        &aml::Package::new(vec![&sleep_type, &zero, &zero, &zero]),
    )
    .to_aml_bytes(&mut dsdt);
    dsdt
}

/// An edge-triggered line of the IOAPIC, active high.
fn edge(gsi: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi)
}

/// A device of a PC, of which there is one.
fn pc_device(dsdt: &mut Sdt, path: &str, id: &str, resources: Vec<&dyn Aml>) {
    aml::Device::new(
        path.into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new(id)),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(resources)),
        ],
    )
    .to_aml_bytes(dsdt);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_CPUS;

    fn read(memory: &GuestMemoryMmap<()>, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn table(memory: &GuestMemoryMmap<()>, at: u64) -> Vec<u8> {
        let length = read(memory, at + 4, 4)
            .try_into()
            .map(u32::from_le_bytes)
            .unwrap();
        let table = read(memory, at, length as usize);
        assert_eq!(
            table.iter().fold(0u8, |s, &b| s.wrapping_add(b)),
            0,
            "checksum"
        );
        table
    }

    fn address(bytes: &[u8]) -> u64 {
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let devices: Vec<_> = (0..19)
            .map(|n| MmioDevice {
                address: layout::VIRTIO_START + n * 0x1000,
                gsi: 5 + n as u32,
            })
            .collect();
        let rsdp = write_acpi(&memory, MAX_CPUS, &devices, true, &[]).unwrap();
        let rsdp = read(&memory, rsdp.raw_value(), 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        let xsdt = table(&memory, address(&rsdp[24..32]));
        let fadt = table(&memory, address(&xsdt[36..44]));
        assert_eq!(&fadt[..4], b"FACP");
        let madt = table(&memory, address(&xsdt[44..52]));
        assert_eq!(madt.len(), 44 + usize::from(MAX_CPUS) * 8 + 12);
        assert_eq!(xsdt.len(), 36 + 2 * 8);
        let dsdt = table(&memory, address(&fadt[140..148]));
        let text = String::from_utf8_lossy(&dsdt);
        assert_eq!(text.matches("LNRO0005").count(), 19);
        assert!(text.contains("COM1") && text.contains("KBD_"));
        let dsdt = super::dsdt(&[], false);
        assert!(!String::from_utf8_lossy(dsdt.as_slice()).contains("COM1"));
    }

    #[test]
    fn the_tables_of_numa_nodes_are_there_where_there_are_several() {
        let signatures = |nodes: usize| {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            let node = |node: usize| NumaNode {
                node: node as u16,
                cpus: (node == 0).then(|| (0..MAX_CPUS.into()).collect()),
                memory: crate::config::Size::mib(1),
                host_node: None,
                distances: None,
            };
            let nodes: Vec<_> = (0..nodes).map(node).collect();
            write_acpi(&memory, MAX_CPUS, &[], true, &nodes).unwrap();
            let xsdt = address(&read(&memory, layout::RSDP.raw_value() + 24, 8));
            let entries = table(&memory, xsdt)[36..].to_vec();
            let signature = |at: &[u8]| String::from_utf8(table(&memory, address(at))[..4].into());
            let signatures = entries.chunks(8).map(|at| signature(at).unwrap());
            signatures.collect::<Vec<_>>()
        };
        for nodes in [0, 1] {
            assert_eq!(signatures(nodes), ["FACP", "APIC"]);
        }
        // The most vCPUs and nodes have room before the MP table.
        for nodes in [2, crate::config::MAX_NODES] {
            assert_eq!(signatures(nodes), ["FACP", "APIC", "SRAT", "SLIT"]);
        }
    }
}
