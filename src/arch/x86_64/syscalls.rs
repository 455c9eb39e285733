//! System calls that only some architectures have, by what they are for, and the requests by which a
//! vCPU's state is read ([`crate::sandbox::allowed`]).

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_translation};

use crate::sandbox::allowed::{When, kvm_exchange, kvm_read};

/// poll(2), as libc has it.
pub const POLL: i64 = libc::SYS_poll;
/// epoll_wait(2).
pub const EPOLL_WAIT: i64 = libc::SYS_epoll_wait;
/// readlink(2).
pub const READLINK: i64 = libc::SYS_readlink;
/// unlink(2).
pub const UNLINK: i64 = libc::SYS_unlink;
/// rename(2).
pub const RENAME: i64 = libc::SYS_rename;
/// alarm(3).
pub const ALARM: i64 = libc::SYS_alarm;

/// What a vCPU thread asks KVM besides KVM_RUN, for a crash report: registers (KVM_GET_REGS,
/// KVM_GET_SREGS), and where the instruction is (KVM_TRANSLATE).
pub const VCPU_STATE: [When; 3] = [
    kvm_read::<kvm_regs>(0x81),
    kvm_read::<kvm_sregs>(0x83),
    kvm_exchange::<kvm_translation>(0x85),
];
