//! The devices of the machine. They know guest memory, their queues and an interrupt; never KVM.

pub mod acpi_sleep;
pub mod boot_timer;
pub mod console;
pub mod i8042;
pub mod rate_limit;
pub mod rtc;
pub mod serial;
pub mod vhost;
pub mod vhost_user;
pub mod virtio;

/// How a guest ends its VM by way of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It reset the machine.
    Reset,
    /// It switched the machine off.
    PowerOff,
}

/// A button of the machine: a wish that the guest's kernel hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// Ctrl-Alt-Del of a keyboard: Linux reboots then, in an orderly way, which ends the VM.
    CtrlAltDel,
    /// The power button: the guest switches itself off, in an orderly way.
    Power,
}

/// Called by a device, on the vCPU's thread, when the guest ends the VM. Must not block.
pub type OnEnding = Box<dyn Fn(Ending) + Send>;

#[cfg(test)]
mod testing {
    use super::{Ending, OnEnding};
    use std::sync::{Arc, Mutex};

    /// Remembers the endings that a device asked for.
    pub fn recorder() -> (Arc<Mutex<Vec<Ending>>>, OnEnding) {
        let endings = Arc::new(Mutex::new(Vec::new()));
        let recorded = endings.clone();
        (
            endings,
            Box::new(move |ending| recorded.lock().unwrap().push(ending)),
        )
    }
}
