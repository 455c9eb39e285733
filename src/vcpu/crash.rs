//! What is told of a vCPU that can't go on: its registers and the instruction it was at.

use std::fmt;

use vm_memory::GuestMemoryMmap;

use crate::arch;
use crate::kvm::Vcpu;

/// In which way a vCPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// A fault while delivering a double fault (KVM_EXIT_SHUTDOWN).
    TripleFault,
    /// KVM_RUN returned an exit that the guest can't be resumed from.
    KvmExit,
    /// KVM_RUN failed, with this errno.
    RunFailed(i32),
}

/// The state of a vCPU at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashReport {
    /// Which vCPU.
    pub vcpu: u8,
    /// In which way it stopped.
    pub kind: CrashKind,
    /// KVM's exit reason.
    pub exit_reason: u32,
    /// For KVM_EXIT_INTERNAL_ERROR: its suberror and data.
    pub internal_error: Option<(u32, Vec<u64>)>,
    /// Registers, one line each group, ready to be printed.
    pub registers: String,
    /// The bytes at the instruction pointer, where they can be read.
    pub instruction: Vec<u8>,
}

impl CrashReport {
    /// Reads the state of `vcpu`.
    pub fn of(vcpu: &mut Vcpu, memory: &GuestMemoryMmap<()>, kind: CrashKind) -> Self {
        let (exit_reason, suberror, data) = vcpu.exit_details();
        let internal = exit_reason == kvm_bindings::KVM_EXIT_INTERNAL_ERROR;
        let (registers, instruction) = arch::crash::describe(vcpu, memory);
        CrashReport {
            vcpu: vcpu.id(),
            kind,
            exit_reason,
            internal_error: internal.then_some((suberror, data)),
            registers,
            instruction,
        }
    }

    /// Whether KVM met an instruction that it can't emulate.
    pub(super) fn is_emulation_failure(&self) -> bool {
        let suberror = self.internal_error.as_ref().map(|(suberror, _)| *suberror);
        suberror == Some(kvm_bindings::KVM_INTERNAL_ERROR_EMULATION)
            || self.exit_reason == kvm_bindings::KVM_EXIT_ARM_NISV
    }

    /// The suberror by its name in the kernel's API documentation.
    fn suberror_name(suberror: u32) -> &'static str {
        match suberror {
            kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM can't emulate",
            kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once",
            kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while delivering an event",
            kvm_bindings::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an unexpected exit",
            _ => "an unknown suberror",
        }
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}: ", self.vcpu)?;
        match (self.kind, &self.internal_error) {
            (CrashKind::TripleFault, _) => write!(f, "triple fault")?,
            (CrashKind::RunFailed(errno), _) => {
                write!(f, "KVM_RUN: {}", std::io::Error::from_raw_os_error(errno))?;
            }
            (CrashKind::KvmExit, Some((suberror, data))) => {
                let name = Self::suberror_name(*suberror);
                write!(f, "KVM internal error {suberror} ({name}), data {data:x?}")?;
            }
            // A pair of registers, a vector, an exclusive access: the processor tells KVM nothing of it.
            (CrashKind::KvmExit, None) if self.is_emulation_failure() => {
                let reason = self.exit_reason;
                write!(
                    f,
                    "KVM exit {reason} (an access that KVM can't emulate, where no memory is)"
                )?;
            }
            (CrashKind::KvmExit, None) => write!(f, "KVM exit {}", self.exit_reason)?,
        }
        write!(f, "\n{}", self.registers)?;
        if self.instruction.is_empty() {
            return write!(f, "\ncode: can't be read");
        }
        write!(f, "\ncode:")?;
        self.instruction
            .iter()
            .try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}
