//! The serial port: a 16550 UART (vm-superio) between the guest and a console.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::devices::console::InputPort;

/// Raises the port's interrupt line.
pub struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the event loop that the guest has read all input, so that more fits.
pub struct InputSpace(EventFd);

impl SerialEvents for InputSpace {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // A full counter still wakes the event loop.
        let _ = self.0.write(1);
    }
}

/// Register offsets and bits (16550 data sheet).
const INTERRUPT_ENABLE: u64 = 1;
const LINE_CONTROL: u64 = 3;
const LINE_STATUS: u64 = 5;
const DIVISOR_LATCH: u8 = 1 << 7;
const RECEIVED_DATA: u8 = 1 << 0;
/// What drivers write to the interrupt enable register to see whether it is there.
const PROBE: u8 = 0x0f;
/// This many looks at the line status with nothing sent in between: a guest that polls for input.
const POLLS: u8 = 16;

/// A serial port whose output goes to `W`, which must not block for long.
///
/// Input is held back until the guest listens: what came in before that would be thrown away by
/// the guest's driver when it sets up the port, and with it the first words of a script piped
/// into a VM.
pub struct SerialPort<W: Write> {
    uart: Serial<Interrupt, InputSpace, W>,
    divisor_latch: bool,
    interrupts: u8,
    polls: u8,
}

impl<W: Write> SerialPort<W> {
    /// `interrupt` is the irqfd of its line; `input_space` is signalled when input was read.
    pub fn new(interrupt: EventFd, input_space: EventFd, output: W) -> Self {
        let uart = Serial::with_events(Interrupt(interrupt), InputSpace(input_space), output);
        SerialPort {
            uart,
            divisor_latch: false,
            interrupts: 0,
            polls: 0,
        }
    }

    /// Whether the guest would see input now.
    fn listening(&self) -> bool {
        let by_interrupt = self.interrupts & RECEIVED_DATA != 0 && self.interrupts != PROBE;
        by_interrupt || self.polls >= POLLS
    }

    /// Watches how the guest uses the port, to know when it listens.
    fn watch(&mut self, offset: u64, written: Option<u8>) {
        let before = self.listening();
        match (offset, written) {
            (LINE_CONTROL, Some(value)) => self.divisor_latch = value & DIVISOR_LATCH != 0,
            (INTERRUPT_ENABLE, Some(value)) if !self.divisor_latch => self.interrupts = value,
            (LINE_STATUS, None) => self.polls = self.polls.saturating_add(1),
            (0, Some(_)) => self.polls = 0,
            _ => {}
        }
        if self.listening() && !before {
            self.uart.events().in_buffer_empty();
        }
    }

    /// Gives input to the guest; returns how many bytes it took: none before it listens, and
    /// at most as many as the FIFO has room for (64 bytes).
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let count = input.len().min(self.uart.fifo_capacity());
        if count == 0 || !self.listening() {
            return 0;
        }
        // The only other errors are a full FIFO, which was just ruled out, and an interrupt that
        // could not be raised, after which the guest finds the bytes at the next one.
        self.uart
            .enqueue_raw_bytes(&input[..count])
            .unwrap_or(count)
    }
}

impl<W: Write + Send> InputPort for Mutex<SerialPort<W>> {
    fn enqueue(&self, input: &[u8]) -> usize {
        let mut port = self.lock().unwrap_or_else(PoisonError::into_inner);
        port.enqueue(input)
    }
}

impl<W: Write + Send> BusDevice for SerialPort<W> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [value] = data {
            *value = self.uart.read(offset as u8);
            self.watch(offset, None);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let [value] = data else { return };
        if let Err(e) = self.uart.write(offset as u8, *value) {
            log::debug!("serial port: {e:?}");
        }
        self.watch(offset, Some(*value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u64 = 0;

    fn port() -> (SerialPort<Vec<u8>>, EventFd, EventFd) {
        let (interrupt, space) = (
            EventFd::new(libc::EFD_NONBLOCK),
            EventFd::new(libc::EFD_NONBLOCK),
        );
        let (interrupt, space) = (interrupt.unwrap(), space.unwrap());
        let port = SerialPort::new(
            interrupt.try_clone().unwrap(),
            space.try_clone().unwrap(),
            Vec::new(),
        );
        (port, interrupt, space)
    }

    #[test]
    fn output_reaches_the_console() {
        let (mut port, ..) = port();
        for byte in b"hello" {
            port.write(DATA, &[*byte]);
        }
        assert_eq!(port.uart.writer(), b"hello");
    }

    #[test]
    fn input_raises_the_interrupt_and_reading_it_asks_for_more() {
        let (mut port, interrupt, space) = port();
        port.write(INTERRUPT_ENABLE, &[1]);
        assert_eq!(port.enqueue(&[b'x'; 100]), 64, "the FIFO holds 64 bytes");
        assert_eq!(port.enqueue(b"y"), 0);
        assert_eq!(interrupt.read().unwrap(), 1);
        let mut byte = [0];
        for _ in 0..64 {
            port.read(LINE_STATUS, &mut byte);
            assert_eq!(byte[0] & 1, 1, "data ready");
            port.read(DATA, &mut byte);
            assert_eq!(byte, [b'x']);
        }
        assert!(space.read().is_ok());
        port.read(LINE_STATUS, &mut byte);
        assert_eq!(byte[0] & 1, 0);
        assert_eq!(port.enqueue(b"y"), 1);
    }

    #[test]
    fn input_waits_until_the_guest_listens() {
        let (mut port, _, space) = port();
        assert_eq!(port.enqueue(b"early"), 0);
        port.write(INTERRUPT_ENABLE, &[PROBE]);
        assert_eq!(port.enqueue(b"early"), 0, "the driver is only probing");
        port.write(LINE_CONTROL, &[DIVISOR_LATCH]);
        port.write(INTERRUPT_ENABLE, &[1]);
        assert_eq!(port.enqueue(b"early"), 0, "that was the divisor");
        port.write(LINE_CONTROL, &[3]);
        port.write(INTERRUPT_ENABLE, &[0]);
        assert!(space.read().is_err());
        port.write(INTERRUPT_ENABLE, &[5]);
        assert_eq!(space.read().unwrap(), 1, "the event loop is told");
        assert_eq!(port.enqueue(b"now"), 3);
    }

    #[test]
    fn a_guest_that_polls_for_input_gets_it_one_that_polls_to_send_does_not() {
        let (mut port, _, space) = port();
        let mut byte = [0];
        for _ in 0..100 {
            port.read(LINE_STATUS, &mut byte);
            port.write(DATA, b"x");
        }
        assert_eq!(port.enqueue(b"in"), 0);
        for _ in 0..POLLS {
            port.read(LINE_STATUS, &mut byte);
        }
        assert_eq!(space.read().unwrap(), 1);
        assert_eq!(port.enqueue(b"in"), 2);
    }

    #[test]
    fn any_access_of_any_width_is_harmless() {
        let (mut port, ..) = port();
        for offset in 0..8 {
            for width in 0..9 {
                for value in 0..=255 {
                    port.write(offset, &vec![value; width]);
                    port.read(offset, &mut vec![0; width]);
                }
            }
        }
    }
}
