//! Devices that are no virtio ones, on a bus, and a guest that reads and writes whatever it likes.

use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Unstructured};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::Bus;
use crate::devices::acpi_sleep::AcpiSleep;
use crate::devices::boot_timer::BootTimer;
use crate::devices::i8042::I8042;
use crate::devices::rtc::RealTimeClock;
use crate::devices::serial::SerialPort;

#[derive(Arbitrary, Debug)]
enum Step {
    Read(u16, u8),
    Write(u16, u8, u64),
    /// What is typed.
    Input(u8),
}

/// As many as a bus passes on: KVM has accesses of 8 bytes, and strings of them.
const WIDEST: u8 = 16;

/// All of them, and what they are told.
pub fn ports(data: &[u8]) {
    let event = || EventFd::new(EFD_NONBLOCK).unwrap();
    let serial = SerialPort::new(event(), event(), Vec::new());
    let serial = Arc::new(Mutex::new(serial));
    let mut bus = Bus::new();
    let mut insert = |name, start, len, device| bus.insert(name, start, len, device).unwrap();
    insert("serial", 0, 8, serial.clone());
    let ending = || Box::new(|_| {});
    insert(
        "i8042",
        8,
        5,
        Arc::new(Mutex::new(I8042::new(ending(), Box::new(|| ())))),
    );
    let sleep = AcpiSleep::new(5, ending());
    insert("sleep", 13, 2, Arc::new(Mutex::new(sleep)));
    insert("timer", 15, 1, Arc::new(Mutex::new(BootTimer::new(drop))));
    insert(
        "rtc",
        0x1000,
        0x1000,
        Arc::new(Mutex::new(RealTimeClock::default())),
    );

    let mut input = Unstructured::new(data);
    while let Ok(step) = Step::arbitrary(&mut input) {
        match step {
            Step::Read(at, width) => {
                let width = usize::from(width % (WIDEST + 1));
                // All of it is filled, whoever answers.
                let (mut ones, mut same) = (vec![0xff; width], vec![0; width]);
                bus.read(at.into(), &mut ones);
                if at >= 0x1000 || width != 1 {
                    bus.read(at.into(), &mut same);
                    let clock = (0x1000..0x1020).contains(&at);
                    assert!(clock || ones == same, "{at:#x} {width}");
                }
            }
            Step::Write(at, width, value) => {
                let bytes = value.to_le_bytes().repeat(2);
                bus.write(at.into(), &bytes[..usize::from(width % (WIDEST + 1))]);
            }
            Step::Input(count) => {
                let taken = serial.lock().unwrap().enqueue(&vec![b'x'; count.into()]);
                assert!(taken <= 64);
            }
        }
        if input.is_empty() {
            break;
        }
    }
}
