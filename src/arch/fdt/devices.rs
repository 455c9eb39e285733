//! The machine around the CPUs: interrupt controller, timer, PSCI and performance monitor, and the devices
//! with registers.

use vm_fdt::{Error, FdtWriter};

use super::{CLOCK, Description, GIC, Gic, compatible, reg};
use crate::arch::MmioDevice;

/// The first cell of an interrupt (bindings/interrupt-controller/arm,gic.yaml): shared by all CPUs, or each
/// CPU's own.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// The third cell. KVM gives a pulse for each signal of an irqfd.
const RISING_EDGE: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// The four timers of an Armv8 CPU, in the order of bindings/timer/arm,arch_timer.yaml: secure, non-secure,
/// virtual, hypervisor. The interrupts are KVM's (Arm's BSA, DEN0094, has the same).
const TIMERS: [u32; 4] = [13, 14, 11, 10];
/// The performance monitor's interrupt, by the same specification.
const PMU: u32 = 7;

/// The registers of each device take one page.
const PAGE: u64 = 0x1000;
/// What a 16550 counts by at a PC, and hence 115200 baud with a divisor of 1; nothing is that slow here.
const SERIAL_HZ: u32 = 1_843_200;
/// The PL031's second is told by the host. It has to have a clock with a frequency, any.
const CLOCK_HZ: u32 = 24_000_000;
/// What the PL031's identification registers would say (Arm DDI 0224, §3.3): said here, the kernel needn't
/// read the eight of them, which is an exit each.
const PL031_ID: u32 = 0x0004_1031;

/// What every guest has.
pub fn platform(fdt: &mut FdtWriter, description: &Description) -> Result<(), Error> {
    interrupt_controller(fdt, description.gic)?;

    let node = fdt.begin_node("psci")?; // bindings/arm/psci.yaml
    compatible(fdt, "arm,psci-1.0\0arm,psci-0.2\0")?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;

    // A GICv2 also wants to know which CPUs a private interrupt is of: all of up to 8.
    let mask = match description.gic {
        Gic::V2 { .. } => ((1u32 << description.cpus.len().min(8)) - 1) << 8,
        Gic::V3 { .. } => 0,
    };
    let private = |number| [PPI, number, LEVEL_HIGH | mask];
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32("interrupts", TIMERS.map(private).as_flattened())?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)?;
    if description.pmu {
        let node = fdt.begin_node("pmu")?; // bindings/arm/pmu.yaml
        fdt.property_string("compatible", "arm,armv8-pmuv3")?;
        fdt.property_array_u32("interrupts", &private(PMU))?;
        fdt.end_node(node)?;
    }
    Ok(())
}

/// bindings/interrupt-controller/arm,gic.yaml and arm,gic-v3.yaml. There is no maintenance interrupt, which
/// is for a guest that is itself a hypervisor.
fn interrupt_controller(fdt: &mut FdtWriter, gic: Gic) -> Result<(), Error> {
    let (name, ranges) = match gic {
        Gic::V2 {
            distributor,
            cpu_interface,
        } => ("arm,cortex-a15-gic", [distributor, cpu_interface]),
        Gic::V3 {
            distributor,
            redistributors,
        } => ("arm,gic-v3", [distributor, redistributors]),
    };
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", ranges[0].0))?;
    fdt.property_string("compatible", name)?;
    reg(fdt, &ranges)?;
    if let Gic::V3 { .. } = gic {
        fdt.property_u32("#redistributor-regions", 1)?;
    }
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    // DTSpec §2.4.3.1: for interrupt maps, of which there are none.
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_phandle(GIC)?;
    fdt.end_node(node)
}

/// The devices with registers.
pub fn devices(fdt: &mut FdtWriter, description: &Description) -> Result<(), Error> {
    if let Some(serial) = description.serial {
        let name = format!("serial@{:x}", serial.address);
        let node = fdt.begin_node(&name)?; // bindings/serial/8250.yaml
        fdt.property_string("compatible", "ns16550a")?;
        place(fdt, serial)?;
        fdt.property_u32("clock-frequency", SERIAL_HZ)?;
        fdt.property_u32("current-speed", 115_200)?;
        fdt.end_node(node)?;
        let node = fdt.begin_node("aliases")?; // DTSpec §3.3; ttyS0 is the one of that number
        fdt.property_string("serial0", &format!("/{name}"))?;
        fdt.end_node(node)?;
    }
    let node = fdt.begin_node("apb-pclk")?; // bindings/clock/fixed-clock.yaml
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(node)?;
    let node = fdt.begin_node(&format!("rtc@{:x}", description.rtc))?; // bindings/rtc/arm,pl031.yaml
    compatible(fdt, "arm,pl031\0arm,primecell\0")?;
    reg(fdt, &[(description.rtc, PAGE)])?;
    fdt.property_u32("arm,primecell-periphid", PL031_ID)?; // bindings/arm/primecell.yaml
    fdt.property_u32("clocks", CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)?;
    for device in description.devices {
        let node = fdt.begin_node(&format!("virtio_mmio@{:x}", device.address))?;
        fdt.property_string("compatible", "virtio,mmio")?; // bindings/virtio/mmio.yaml
        place(fdt, *device)?;
        fdt.property_null("dma-coherent")?;
        fdt.end_node(node)?;
    }
    Ok(())
}

/// Where a device's registers are, and how it interrupts.
fn place(fdt: &mut FdtWriter, device: MmioDevice) -> Result<(), Error> {
    reg(fdt, &[(device.address, PAGE)])?;
    fdt.property_array_u32("interrupts", &[SPI, device.gsi, RISING_EDGE])
}
