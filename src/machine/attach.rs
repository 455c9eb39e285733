//! The devices that are no virtio ones: made, and put on their bus.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::console::ConsoleEnd;
use super::ending::Endings;
use super::error::BuildError;
use super::timings::BootClock;
use crate::arch::layout;
use crate::bus::{Bus, Buses};
use crate::devices::boot_timer::BootTimer;
use crate::devices::console::{Console, EscapeFilter, Marker, Output};
use crate::devices::serial::SerialPort;
use crate::kvm;

/// A new event.
pub(super) fn event() -> Result<EventFd, BuildError> {
    EventFd::new(libc::EFD_CLOEXEC).map_err(BuildError::Event)
}

/// The serial port, between the guest and the console.
pub(super) fn attach_serial(
    console: Console,
    fd: &kvm::Vm,
    buses: &mut Buses,
) -> Result<ConsoleEnd, BuildError> {
    let (interrupt, input_space) = (event()?, event()?);
    fd.register_irqfd(&interrupt, layout::SERIAL_GSI)?;
    let (mut output, drain) = Output::new(console.output).map_err(BuildError::Event)?;
    output.watch_for(console.marker);
    let serial = SerialPort::new(
        interrupt,
        input_space.try_clone().map_err(BuildError::Event)?,
        output,
    );
    let serial = Arc::new(Mutex::new(serial));
    buses
        .of(layout::SERIAL_SPACE)
        .insert("serial", layout::SERIAL_PORT, 8, serial.clone())?;
    Ok(ConsoleEnd {
        input: console.input,
        port: serial,
        input_space: Arc::new(input_space),
        drain,
        escapes: console.escapes.then(EscapeFilter::default),
        pty: console.pty,
        pending: Vec::new(),
        resizer: None,
    })
}

/// The boot timer: notes time and counts on the vCPU's thread, and wakes the event loop. With
/// `endings` it ends the VM, too.
pub(super) fn attach_boot_timer(
    mmio: &mut Bus,
    clock: &Arc<BootClock>,
    wake: &Arc<EventFd>,
    endings: Option<Arc<Endings>>,
) -> Result<(), BuildError> {
    let (clock, wake) = (clock.clone(), wake.clone());
    let timer = BootTimer::new(move |at| {
        if clock.init.set((at, clock.counts())).is_ok() {
            let _ = wake.write(1); // a full counter wakes just as well
        }
        endings.iter().for_each(|endings| endings.reached());
    });
    let timer = Arc::new(Mutex::new(timer));
    Ok(mmio.insert("boot-timer", layout::BOOT_TIMER, layout::MMIO_PAGE, timer)?)
}

/// The marker on the console that ends the VM: notes time and counts as the boot timer does.
pub(super) fn marker(
    text: &str,
    clock: &Arc<BootClock>,
    wake: &Arc<EventFd>,
    endings: &Arc<Endings>,
) -> Marker {
    let (clock, wake, endings) = (clock.clone(), wake.clone(), endings.clone());
    Marker::new(text, move |at| {
        let _ = clock.marker.set((at, clock.counts()));
        let _ = wake.write(1); // a full counter wakes just as well
        endings.reached();
    })
}
