//! The devices of a PC that mote's guests have besides virtio ones: those by which they end.

use std::sync::{Arc, Mutex};

use super::{acpi, layout};
use crate::bus::{BusError, Buses};
use crate::devices::OnEnding;
use crate::devices::acpi_sleep::AcpiSleep;
use crate::devices::i8042::I8042;

/// Puts keyboard controller and ACPI sleep register on their bus.
///
/// # Errors
///
/// Something is there already: a defect of the layout.
pub fn attach(buses: &mut Buses, on_ending: impl Fn() -> OnEnding) -> Result<(), BusError> {
    let i8042 = Arc::new(Mutex::new(I8042::new(on_ending())));
    buses.ports.insert("i8042", layout::I8042_PORT, 5, i8042)?;
    let sleep = AcpiSleep::new(acpi::SLEEP_TYPE_S5, on_ending());
    let sleep = Arc::new(Mutex::new(sleep));
    buses
        .ports
        .insert("acpi-sleep", layout::ACPI_SLEEP_PORT, 2, sleep)
}
