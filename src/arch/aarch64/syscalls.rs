//! System calls that only some architectures have, by what they are for, and the requests by which a
//! vCPU's state is read and set ([`crate::sandbox::allowed`]).

use kvm_bindings::{kvm_one_reg, kvm_vcpu_events};

use crate::sandbox::allowed::{When, kvm_write};

/// poll(2), as libc makes it.
pub const POLL: i64 = libc::SYS_ppoll;
/// epoll_wait(2), as libc makes it.
pub const EPOLL_WAIT: i64 = libc::SYS_epoll_pwait;
/// readlink(2), as libc makes it.
pub const READLINK: i64 = libc::SYS_readlinkat;
/// unlink(2), as libc makes it.
pub const UNLINK: i64 = libc::SYS_unlinkat;
/// rename(2), as libc makes it.
pub const RENAME: i64 = libc::SYS_renameat;
/// alarm(3), as libc makes it.
pub const ALARM: i64 = libc::SYS_setitimer;

/// What a vCPU thread asks KVM besides KVM_RUN: registers, for a crash report, to pass over an instruction and to
/// set the clock back after a pause (KVM_GET_ONE_REG, KVM_SET_ONE_REG); an exception for the guest (KVM_SET_VCPU_EVENTS).
pub const VCPU_STATE: [When; 3] = [
    kvm_write::<kvm_one_reg>(0xab),
    kvm_write::<kvm_one_reg>(0xac),
    kvm_write::<kvm_vcpu_events>(0xa0),
];

/// What a vCPU thread asks KVM after a pause, besides.
pub const VCPU_CONTROL: &[When] = &[];

/// What the thread that runs a VM asks KVM at a pause.
pub const VM_STATE: &[When] = &[];
