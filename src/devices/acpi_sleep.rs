//! The sleep control register of hardware-reduced ACPI, by which a guest powers off
//! (ACPI 6.5 §4.8.3.7).

use super::{Ending, OnEnding};
use crate::bus::BusDevice;

/// Bit 5 starts the transition; bits 4:2 say to which state.
const SLEEP_ENABLE: u8 = 1 << 5;

/// Sleep control at offset 0, sleep status at offset 1.
pub struct AcpiSleep {
    on_ending: OnEnding,
    power_off: u8,
}

impl AcpiSleep {
    /// `sleep_type` is what the DSDT's `_S5_` names for soft off.
    pub fn new(sleep_type: u8, on_ending: OnEnding) -> Self {
        AcpiSleep {
            on_ending,
            power_off: SLEEP_ENABLE | (sleep_type & 7) << 2,
        }
    }
}

impl BusDevice for AcpiSleep {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data == [self.power_off] {
            (self.on_ending)(Ending::PowerOff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::recorder;

    #[test]
    fn only_s5_with_the_enable_bit_powers_off() {
        let (endings, on_ending) = recorder();
        let mut sleep = AcpiSleep::new(5, on_ending);
        for value in 0..=255 {
            sleep.write(1, &[value]);
            sleep.write(0, &[value, value]);
            if value != 0x34 {
                sleep.write(0, &[value]);
            }
        }
        assert!(endings.lock().unwrap().is_empty());
        sleep.write(0, &[0x34]);
        assert_eq!(*endings.lock().unwrap(), [Ending::PowerOff]);
    }
}
