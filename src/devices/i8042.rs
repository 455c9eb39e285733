//! The keyboard controller, as far as a guest without a keyboard meets it: resetting the
//! machine, and answers to the driver's probe so that it doesn't wait for time-outs (which
//! would cost half a second of boot).

use std::collections::VecDeque;

use super::{Ending, OnEnding};
use crate::bus::BusDevice;

/// Offsets from the first port: data at 0x60, status and command at 0x64.
const DATA: u64 = 0;
const COMMAND: u64 = 4;

/// Status register bits.
const OUTPUT_FULL: u8 = 1 << 0;

const READ_CONFIG: u8 = 0x20;
const WRITE_CONFIG: u8 = 0x60;
const SELF_TEST: u8 = 0xaa;
const TEST_KEYBOARD: u8 = 0xab;
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
const PULSE_RESET: u8 = 0xfe;
/// Output port bit 0: the reset line, active low.
const RESET_LINE: u8 = 1 << 0;

/// An i8042 with nothing plugged in.
pub struct I8042 {
    on_ending: OnEnding,
    config: u8,
    /// The command whose data byte is expected next.
    pending: Option<u8>,
    /// What the guest has yet to read. Bounded: a command clears it.
    output: VecDeque<u8>,
}

impl I8042 {
    /// `on_ending` is called when the guest resets the machine.
    pub fn new(on_ending: OnEnding) -> Self {
        I8042 {
            on_ending,
            config: 0,
            pending: None,
            output: VecDeque::new(),
        }
    }

    fn command(&mut self, command: u8) {
        self.pending = None;
        self.output.clear();
        match command {
            READ_CONFIG => self.output.push_back(self.config),
            WRITE_CONFIG | WRITE_OUTPUT_PORT => self.pending = Some(command),
            SELF_TEST => self.output.push_back(0x55),
            TEST_KEYBOARD => self.output.push_back(0),
            READ_OUTPUT_PORT => self.output.push_back(RESET_LINE),
            PULSE_RESET => (self.on_ending)(Ending::Reset),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match self.pending.take() {
            Some(WRITE_CONFIG) => self.config = value,
            Some(WRITE_OUTPUT_PORT) if value & RESET_LINE == 0 => (self.on_ending)(Ending::Reset),
            _ => {}
        }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let [value] = data else { return };
        match offset {
            DATA => *value = self.output.pop_front().unwrap_or(0),
            COMMAND if !self.output.is_empty() => *value = OUTPUT_FULL,
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (DATA, &[value]) => self.data(value),
            (COMMAND, &[value]) => self.command(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::recorder;

    #[test]
    fn both_ways_of_resetting_end_the_vm() {
        let (endings, on_ending) = recorder();
        let mut i8042 = I8042::new(on_ending);
        i8042.write(COMMAND, &[PULSE_RESET]);
        i8042.write(COMMAND, &[WRITE_OUTPUT_PORT]);
        i8042.write(DATA, &[0xfe]);
        assert_eq!(*endings.lock().unwrap(), [Ending::Reset, Ending::Reset]);
    }

    #[test]
    fn the_drivers_probe_is_answered() {
        let (endings, on_ending) = recorder();
        let mut i8042 = I8042::new(on_ending);
        let mut byte = [0xff];
        i8042.read(COMMAND, &mut byte);
        assert_eq!(byte, [0], "nothing to read, ready for a command");
        i8042.write(COMMAND, &[SELF_TEST]);
        i8042.read(COMMAND, &mut byte);
        assert_eq!(byte, [OUTPUT_FULL]);
        i8042.read(DATA, &mut byte);
        assert_eq!(byte, [0x55]);
        i8042.write(COMMAND, &[WRITE_CONFIG]);
        i8042.write(DATA, &[0x74]);
        i8042.write(COMMAND, &[READ_CONFIG]);
        i8042.read(DATA, &mut byte);
        assert_eq!(byte, [0x74]);
        assert!(endings.lock().unwrap().is_empty());
    }

    #[test]
    fn any_access_of_any_width_is_harmless() {
        let (_, on_ending) = recorder();
        let mut i8042 = I8042::new(on_ending);
        for offset in 0..5 {
            for width in 0..9 {
                for value in 0..=255 {
                    i8042.write(offset, &vec![value; width]);
                    i8042.read(offset, &mut vec![0; width]);
                }
            }
        }
        assert!(i8042.output.len() <= 1);
    }
}
