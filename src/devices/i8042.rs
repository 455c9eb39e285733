//! The keyboard controller, as far as a guest meets it that has a keyboard with one use: Ctrl-Alt-Del, pressed by the
//! host. And it resets the machine.
//!
//! All commands of Linux' drivers (i8042, atkbd) are answered at once, so that they don't wait for time-outs, which
//! would cost half a second of boot. Bytes for the guest come one at a time, each with an interrupt if the guest
//! wants those. The keyboard has no memory of keys that were pressed while nobody listened: who presses is told.

use std::collections::VecDeque;

use super::{Ending, OnEnding};
use crate::bus::BusDevice;

/// Offsets from the first port: data at 0x60, status and command at 0x64.
const DATA: u64 = 0;
const COMMAND: u64 = 4;

/// Status register bits.
const OUTPUT_FULL: u8 = 1 << 0;
/// Nobody has locked the keyboard with the key of the case.
const UNLOCKED: u8 = 1 << 4;

const READ_CONFIG: u8 = 0x20;
const WRITE_CONFIG: u8 = 0x60;
const SELF_TEST: u8 = 0xaa;
const TEST_KEYBOARD: u8 = 0xab;
const DISABLE_KEYBOARD: u8 = 0xad;
const ENABLE_KEYBOARD: u8 = 0xae;
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
const PULSE_RESET: u8 = 0xfe;
/// Output port bit 0: the reset line, active low.
const RESET_LINE: u8 = 1 << 0;

/// Bits of the configuration byte: the keyboard's interrupt, its clock held low, and scan codes as the first PC's
/// keyboard had them, which is what Linux expects after power-on.
const INTERRUPT: u8 = 1 << 0;
const HELD: u8 = 1 << 4;
const TRANSLATED: u8 = 1 << 6;

/// What the keyboard is asked, and its answers.
const SET_LEDS: u8 = 0xed;
const SCAN_CODE_SET: u8 = 0xf0;
const IDENTIFY: u8 = 0xf2;
const SET_RATE: u8 = 0xf3;
const ENABLE: u8 = 0xf4;
const DISABLE: u8 = 0xf5;
const RESET: u8 = 0xff;
const ACK: u8 = 0xfa;
const IDENTITY: [u8; 2] = [0xab, 0x83];
const TEST_PASSED: u8 = 0xaa;

/// Control, Alt and Delete go down, and up again in the opposite order (scan code set 1).
const CTRL_ALT_DEL: [u8; 8] = [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d];

/// The most bytes that wait for the guest. A keyboard has a buffer of about as many.
const ROOM: usize = 16;

/// An i8042 with a keyboard.
pub struct I8042 {
    on_ending: OnEnding,
    /// Raises the keyboard's interrupt line, as an edge.
    line: Box<dyn Fn() + Send>,
    config: u8,
    /// The command of the controller whose data byte is expected next.
    pending: Option<u8>,
    /// The keyboard's command whose argument is expected next.
    keyboard_pending: bool,
    /// The keyboard tells of keys.
    scans: bool,
    /// What the guest has yet to read, at most `ROOM` bytes.
    output: VecDeque<u8>,
}

impl I8042 {
    /// `on_ending` is called when the guest resets the machine.
    pub fn new(on_ending: OnEnding, line: Box<dyn Fn() + Send>) -> Self {
        I8042 {
            on_ending,
            line,
            config: TRANSLATED,
            pending: None,
            keyboard_pending: false,
            scans: false,
            output: VecDeque::new(),
        }
    }

    /// Presses Ctrl-Alt-Del. The guest hears of it once [`deliver`](Self::deliver) was called. False if no driver
    /// listens.
    pub fn press_ctrl_alt_del(&mut self) -> bool {
        let heard = self.scans && self.config & (INTERRUPT | HELD) == INTERRUPT;
        if heard && self.output.len() + CTRL_ALT_DEL.len() <= ROOM {
            self.output.extend(CTRL_ALT_DEL);
        }
        heard
    }

    /// Interrupts the guest for what it has yet to read.
    pub fn deliver(&self) {
        if !self.output.is_empty() && self.config & INTERRUPT != 0 {
            (self.line)();
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        let room = ROOM - self.output.len().min(ROOM);
        self.output.extend(bytes.iter().take(room));
    }

    fn command(&mut self, command: u8) {
        self.pending = None;
        self.output.clear();
        match command {
            READ_CONFIG => self.output.push_back(self.config),
            WRITE_CONFIG | WRITE_OUTPUT_PORT => self.pending = Some(command),
            SELF_TEST => self.output.push_back(0x55),
            TEST_KEYBOARD => self.output.push_back(0),
            DISABLE_KEYBOARD => self.config |= HELD,
            ENABLE_KEYBOARD => self.config &= !HELD,
            READ_OUTPUT_PORT => self.output.push_back(RESET_LINE),
            PULSE_RESET => (self.on_ending)(Ending::Reset),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match self.pending.take() {
            Some(WRITE_CONFIG) => self.config = value,
            Some(WRITE_OUTPUT_PORT) if value & RESET_LINE == 0 => (self.on_ending)(Ending::Reset),
            Some(_) => {}
            None => self.keyboard(value),
        }
    }

    /// A byte for the keyboard, which says yes to everything.
    fn keyboard(&mut self, value: u8) {
        self.answer(&[ACK]);
        if std::mem::take(&mut self.keyboard_pending) {
            return;
        }
        match value {
            SET_LEDS | SCAN_CODE_SET | SET_RATE => self.keyboard_pending = true,
            IDENTIFY => self.answer(&IDENTITY),
            ENABLE => self.scans = true,
            DISABLE => self.scans = false,
            RESET => {
                self.scans = true;
                self.answer(&[TEST_PASSED]);
            }
            _ => {}
        }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let [value] = data else { return };
        match offset {
            DATA => {
                *value = self.output.pop_front().unwrap_or(0);
                self.deliver();
            }
            COMMAND if self.output.is_empty() => *value = UNLOCKED,
            COMMAND => *value = UNLOCKED | OUTPUT_FULL,
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (DATA, &[value]) => {
                self.data(value);
                self.deliver();
            }
            (COMMAND, &[value]) => self.command(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::recorder;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn quiet() -> Box<dyn Fn() + Send> {
        Box::new(|| ())
    }

    fn read(i8042: &mut I8042, offset: u64) -> u8 {
        let mut byte = [0xff];
        i8042.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn both_ways_of_resetting_end_the_vm() {
        let (endings, on_ending) = recorder();
        let mut i8042 = I8042::new(on_ending, quiet());
        i8042.write(COMMAND, &[PULSE_RESET]);
        i8042.write(COMMAND, &[WRITE_OUTPUT_PORT]);
        i8042.write(DATA, &[0xfe]);
        assert_eq!(*endings.lock().unwrap(), [Ending::Reset, Ending::Reset]);
    }

    #[test]
    fn the_drivers_probe_is_answered() {
        let (endings, on_ending) = recorder();
        let mut i8042 = I8042::new(on_ending, quiet());
        assert_eq!(read(&mut i8042, COMMAND), UNLOCKED, "ready for a command");
        i8042.write(COMMAND, &[SELF_TEST]);
        assert_eq!(read(&mut i8042, COMMAND), UNLOCKED | OUTPUT_FULL);
        assert_eq!(read(&mut i8042, DATA), 0x55);
        i8042.write(COMMAND, &[WRITE_CONFIG]);
        i8042.write(DATA, &[0x74]);
        i8042.write(COMMAND, &[READ_CONFIG]);
        assert_eq!(read(&mut i8042, DATA), 0x74);
        assert!(endings.lock().unwrap().is_empty());
    }

    /// As Linux does it: identify, LEDs, rate, enable; then the keys, a byte for each interrupt.
    #[test]
    fn ctrl_alt_del_reaches_a_driver_that_listens() {
        let raised = Arc::new(AtomicU32::new(0));
        let line = raised.clone();
        let count = Box::new(move || {
            line.fetch_add(1, Ordering::Relaxed);
        });
        let mut i8042 = I8042::new(recorder().1, count);
        assert!(!i8042.press_ctrl_alt_del(), "nobody listens");
        i8042.write(COMMAND, &[WRITE_CONFIG]);
        i8042.write(DATA, &[TRANSLATED | INTERRUPT]);
        assert!(!i8042.press_ctrl_alt_del(), "the keyboard is off");
        let mut answers = Vec::new();
        for byte in [IDENTIFY, SET_LEDS, 2, SET_RATE, 0, ENABLE] {
            let before = raised.load(Ordering::Relaxed);
            i8042.write(DATA, &[byte]);
            assert_eq!(raised.load(Ordering::Relaxed), before + 1);
            while read(&mut i8042, COMMAND) & OUTPUT_FULL != 0 {
                answers.push(read(&mut i8042, DATA));
            }
        }
        let expected = [ACK, 0xab, 0x83, ACK, ACK, ACK, ACK, ACK];
        assert_eq!(answers, expected);

        raised.store(0, Ordering::Relaxed);
        assert!(i8042.press_ctrl_alt_del());
        assert_eq!(raised.load(Ordering::Relaxed), 0);
        i8042.deliver();
        let keys: Vec<u8> = (1..=8)
            .map(|byte| {
                assert_eq!(raised.load(Ordering::Relaxed), byte);
                read(&mut i8042, DATA)
            })
            .collect();
        assert_eq!(keys, CTRL_ALT_DEL);
        assert_eq!(raised.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn any_access_of_any_width_is_harmless() {
        let (_, on_ending) = recorder();
        let mut i8042 = I8042::new(on_ending, quiet());
        for offset in 0..5 {
            for width in 0..9 {
                for value in 0..=255 {
                    i8042.write(offset, &vec![value; width]);
                    i8042.press_ctrl_alt_del();
                    i8042.read(offset, &mut vec![0; width]);
                }
            }
        }
        assert!(i8042.output.len() <= ROOM);
    }
}
