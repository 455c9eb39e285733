//! How a VM ends, and how that is told.

use std::sync::OnceLock;

use vm_memory::{Bytes, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::arch::layout::WARM_BOOT_WORD;
use crate::devices::Ending;
use crate::vcpu::{CrashReport, Stop};

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest switched itself off.
    PowerOff,
    /// The guest rebooted, which ends a microVM.
    Reset,
    /// The guest's kernel panicked.
    Panic,
    /// The guest crashed, or KVM could not run it any further.
    Crash(Box<CrashReport>),
    /// The monitor was asked to stop it ([`super::Stopper`]).
    Stopped,
    /// The monitor itself failed: a defect, reported on standard error.
    Failed,
    /// Someone at the console typed the escape for it (Ctrl-A x).
    Quit,
    /// Another process that serves a device went away, and the VM was to end then.
    Disconnected,
    /// The guest has come to where it was to be run to ([`super::Until`]).
    Reached,
}

/// What the warm-boot word is before the guest runs: neither of the values that Linux writes
/// when it resets the machine on purpose.
const NOT_ASKED_FOR: u16 = 0xa5a5;
/// Linux's value for a warm boot, which mote's command line asks for on a panic only.
const WARM: u16 = 0x1234;

/// Collects the first cause of the end, from any thread, and wakes the event loop.
#[derive(Debug)]
pub(super) struct Endings {
    first: OnceLock<Cause>,
    event: EventFd,
}

#[derive(Clone, Debug)]
enum Cause {
    Device(Ending),
    Vcpu(Stop),
    Quit,
    Disconnected,
    Reached,
}

impl Endings {
    /// Nothing has ended yet.
    pub fn new() -> std::io::Result<Self> {
        Ok(Endings {
            first: OnceLock::new(),
            event: EventFd::new(libc::EFD_CLOEXEC)?,
        })
    }

    /// Becomes readable when the VM is to end.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// A device says that the guest ended the VM.
    pub fn device(&self, ending: Ending) {
        self.end(Cause::Device(ending));
    }

    /// A vCPU can't go on.
    pub fn vcpu(&self, stop: Stop) {
        self.end(Cause::Vcpu(stop));
    }

    /// The user at the console has had enough.
    pub fn quit(&self) {
        self.end(Cause::Quit);
    }

    /// A device's back-end has gone, and the user wants the VM to end with it.
    pub fn disconnected(&self) {
        self.end(Cause::Disconnected);
    }

    /// The guest has come to where it was to be run to.
    pub fn reached(&self) {
        self.end(Cause::Reached);
    }

    fn end(&self, cause: Cause) {
        // Later causes follow from the first.
        let _ = self.first.set(cause);
        if let Err(e) = self.event.write(1) {
            log::error!("waking the event loop: {e}");
        }
    }

    /// Prepares guest memory so that a reset that the guest asked for is told from a crash.
    pub fn arm(memory: &GuestMemoryMmap<()>) -> Result<(), vm_memory::GuestMemoryError> {
        memory.write_obj(NOT_ASKED_FOR, WARM_BOOT_WORD)
    }

    /// How the VM ended. Linux notes in the BIOS data area which kind of boot shall follow
    /// (arch/x86/kernel/reboot.c), before it resets the machine in whatever way.
    pub fn exit(&self, memory: &GuestMemoryMmap<()>) -> Exit {
        let word = memory.read_obj(WARM_BOOT_WORD).unwrap_or(NOT_ASKED_FOR);
        match (self.first.get(), word) {
            (None, _) => Exit::Stopped,
            (Some(Cause::Quit), _) => Exit::Quit,
            (Some(Cause::Disconnected), _) => Exit::Disconnected,
            (Some(Cause::Reached), _) => Exit::Reached,
            (Some(Cause::Vcpu(Stop::Failed)), _) => Exit::Failed,
            (Some(Cause::Device(Ending::PowerOff)), _) => Exit::PowerOff,
            (Some(Cause::Vcpu(Stop::Crash(report))), _) => Exit::Crash(report.clone()),
            (Some(Cause::Vcpu(Stop::TripleFault(report))), NOT_ASKED_FOR) => {
                Exit::Crash(report.clone())
            }
            (Some(_), WARM) => Exit::Panic,
            (Some(_), _) => Exit::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::CrashKind;
    use vm_memory::GuestAddress;

    fn memory() -> GuestMemoryMmap<()> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        Endings::arm(&memory).unwrap();
        memory
    }

    fn report() -> Box<CrashReport> {
        Box::new(CrashReport {
            vcpu: 0,
            kind: CrashKind::TripleFault,
            exit_reason: 8,
            internal_error: None,
            registers: String::new(),
            instruction: Vec::new(),
        })
    }

    #[test]
    fn a_triple_fault_is_a_crash_unless_linux_announced_it() {
        for (word, expected) in [
            (None, Exit::Crash(report())),
            (Some(0u16), Exit::Reset),
            (Some(WARM), Exit::Panic),
        ] {
            let (memory, endings) = (memory(), Endings::new().unwrap());
            if let Some(word) = word {
                memory.write_obj(word, WARM_BOOT_WORD).unwrap();
            }
            endings.vcpu(Stop::TripleFault(report()));
            assert_eq!(endings.exit(&memory), expected);
        }
    }

    #[test]
    fn the_first_cause_wins_and_no_cause_is_a_stop() {
        let (memory, endings) = (memory(), Endings::new().unwrap());
        assert_eq!(endings.exit(&memory), Exit::Stopped);
        endings.device(Ending::PowerOff);
        endings.quit();
        assert_eq!(endings.exit(&memory), Exit::PowerOff);
        assert_eq!(endings.event().read().unwrap(), 2);
    }
}
