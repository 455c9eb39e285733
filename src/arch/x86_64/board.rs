//! The devices of a PC that mote's guests have besides virtio ones: those by which they end, or are asked to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{acpi, layout};
use crate::bus::{BusError, Buses};
use crate::devices::acpi_sleep::AcpiSleep;
use crate::devices::i8042::I8042;
use crate::devices::{Button, OnEnding};

/// The machine's buttons.
#[derive(Clone)]
pub struct Buttons(Arc<Mutex<I8042>>);

impl Buttons {
    /// Presses a button. The guest hears of it after [`deliver`](Self::deliver).
    ///
    /// # Errors
    ///
    /// Why it can't hear of it.
    pub fn press(&self, button: Button) -> Result<(), &'static str> {
        match button {
            Button::CtrlAltDel if self.lock().press_ctrl_alt_del() => Ok(()),
            Button::CtrlAltDel => Err(
                "the guest's kernel has no driver for the keyboard (i8042 and atkbd), \
                or none yet: stop it, or have a program in the guest switch it off",
            ),
            Button::Power => Err("there is no power button on x86_64: press Ctrl-Alt-Del"),
        }
    }

    /// Interrupts the guest for what it hasn't heard. Not for a vCPU's thread.
    pub fn deliver(&self) {
        self.lock().deliver();
    }

    fn lock(&self) -> MutexGuard<'_, I8042> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts keyboard controller and ACPI sleep register on their bus. `raise` pulses an interrupt line.
///
/// # Errors
///
/// Something is there already: a defect of the layout.
pub fn attach(
    buses: &mut Buses,
    on_ending: impl Fn() -> OnEnding,
    raise: impl Fn(u32) + Send + 'static,
) -> Result<Buttons, BusError> {
    let line = Box::new(move || raise(layout::KEYBOARD_GSI));
    let i8042 = Arc::new(Mutex::new(I8042::new(on_ending(), line)));
    let ports = &mut buses.ports;
    ports.insert("i8042", layout::I8042_PORT, 5, i8042.clone())?;
    let sleep = AcpiSleep::new(acpi::SLEEP_TYPE_S5, on_ending());
    let sleep = Arc::new(Mutex::new(sleep));
    ports.insert("acpi-sleep", layout::ACPI_SLEEP_PORT, 2, sleep)?;
    Ok(Buttons(i8042))
}
