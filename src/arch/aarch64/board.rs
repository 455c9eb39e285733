//! The device that mote's guests have besides virtio ones: a clock that knows the time of day. They end
//! by firmware calls (PSCI), which KVM answers.

use std::sync::{Arc, Mutex};

use super::layout;
use crate::bus::{BusError, Buses};
use crate::devices::OnEnding;
use crate::devices::rtc::RealTimeClock;

/// Puts the clock on its bus.
///
/// # Errors
///
/// Something is there already: a defect of the layout.
pub fn attach(buses: &mut Buses, _on_ending: impl Fn() -> OnEnding) -> Result<(), BusError> {
    let rtc = Arc::new(Mutex::new(RealTimeClock::default()));
    buses
        .mmio
        .insert("rtc", layout::RTC, layout::MMIO_PAGE, rtc)
}
