//! The device that mote's guests have besides virtio ones: a clock that knows the time of day. They end
//! by firmware calls (PSCI), which KVM answers.

use std::sync::{Arc, Mutex};

use super::layout;
use crate::bus::{BusError, Buses};
use crate::devices::rtc::RealTimeClock;
use crate::devices::{Button, OnEnding};

/// The machine's buttons: it has none yet.
#[derive(Clone)]
pub struct Buttons;

impl Buttons {
    /// Presses a button.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn press(&self, _button: Button) -> Result<(), &'static str> {
        Err(
            "there are no buttons on AArch64: stop it, or have a program in the guest switch it off",
        )
    }

    /// Interrupts the guest for what it hasn't heard.
    pub fn deliver(&self) {}
}

/// Puts the clock on its bus.
///
/// # Errors
///
/// Something is there already: a defect of the layout.
pub fn attach(
    buses: &mut Buses,
    _on_ending: impl Fn() -> OnEnding,
    _raise: impl Fn(u32) + Send + 'static,
) -> Result<Buttons, BusError> {
    let rtc = Arc::new(Mutex::new(RealTimeClock::default()));
    buses
        .mmio
        .insert("rtc", layout::RTC, layout::MMIO_PAGE, rtc)?;
    Ok(Buttons)
}
