//! How a VM ends, and how that is told.

use std::sync::OnceLock;

use vmm_sys_util::eventfd::EventFd;

use crate::arch::Announced;
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

    /// How the VM ended. `announced` is what the guest noted in its memory before it was reset.
    pub fn exit(&self, announced: Option<Announced>) -> Exit {
        match (self.first.get(), announced) {
            (None, _) => Exit::Stopped,
            (Some(Cause::Quit), _) => Exit::Quit,
            (Some(Cause::Disconnected), _) => Exit::Disconnected,
            (Some(Cause::Reached), _) => Exit::Reached,
            (Some(Cause::Vcpu(Stop::Failed)), _) => Exit::Failed,
            (Some(Cause::Device(Ending::PowerOff) | Cause::Vcpu(Stop::PowerOff)), _) => {
                Exit::PowerOff
            }
            (Some(Cause::Vcpu(Stop::Crash(report))), _) => Exit::Crash(report.clone()),
            (Some(Cause::Vcpu(Stop::TripleFault(report))), None) => Exit::Crash(report.clone()),
            (Some(Cause::Vcpu(Stop::Reset(Announced::Panic))), _)
            | (Some(_), Some(Announced::Panic)) => Exit::Panic,
            (Some(_), _) => Exit::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::CrashKind;

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
        for (announced, expected) in [
            (None, Exit::Crash(report())),
            (Some(Announced::Reset), Exit::Reset),
            (Some(Announced::Panic), Exit::Panic),
        ] {
            let endings = Endings::new().unwrap();
            endings.vcpu(Stop::TripleFault(report()));
            assert_eq!(endings.exit(announced), expected);
        }
    }

    #[test]
    fn a_firmware_call_ends_the_vm_as_it_says() {
        for (stop, expected) in [
            (Stop::PowerOff, Exit::PowerOff),
            (Stop::Reset(Announced::Reset), Exit::Reset),
            (Stop::Reset(Announced::Panic), Exit::Panic),
        ] {
            let endings = Endings::new().unwrap();
            endings.vcpu(stop);
            assert_eq!(endings.exit(None), expected);
        }
    }

    #[test]
    fn the_first_cause_wins_and_no_cause_is_a_stop() {
        let endings = Endings::new().unwrap();
        assert_eq!(endings.exit(None), Exit::Stopped);
        endings.device(Ending::PowerOff);
        endings.quit();
        assert_eq!(endings.exit(None), Exit::PowerOff);
        assert_eq!(endings.event().read().unwrap(), 2);
    }
}
