//! System calls that only some architectures have, by what they are for, and the requests by which a
//! vCPU's state is read ([`crate::sandbox::allowed`]).

use kvm_bindings::{
    kvm_clock_data, kvm_device_attr, kvm_irq_level, kvm_regs, kvm_sregs, kvm_translation,
};

use crate::sandbox::allowed::{When, kvm_exchange, kvm_plain, kvm_read, kvm_write};

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

/// The keyboard's interrupt, which has no irqfd: few guests ever want it.
const KVM_IRQ_LINE: When = kvm_write::<kvm_irq_level>(0x61);

/// What a vCPU thread asks KVM besides KVM_RUN, for a crash report: registers (KVM_GET_REGS,
/// KVM_GET_SREGS), and where the instruction is (KVM_TRANSLATE).
pub const VCPU_STATE: [When; 3] = [
    kvm_read::<kvm_regs>(0x81),
    kvm_read::<kvm_sregs>(0x83),
    kvm_exchange::<kvm_translation>(0x85),
];

/// What a vCPU thread asks KVM after a pause: its time-stamp counter (KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR) and
/// telling the guest (KVM_KVMCLOCK_CTRL); and the keyboard's interrupt for its next byte.
pub const VCPU_CONTROL: &[When] = &[
    KVM_IRQ_LINE,
    kvm_write::<kvm_device_attr>(0xe1),
    kvm_write::<kvm_device_attr>(0xe2),
    kvm_plain(0xad),
];

/// What the thread that runs a VM asks KVM: the VM's clock at a pause (KVM_GET_CLOCK, KVM_SET_CLOCK), and the
/// keyboard's interrupt.
pub const VM_STATE: &[When] = &[
    kvm_read::<kvm_clock_data>(0x7c),
    kvm_write::<kvm_clock_data>(0x7b),
    KVM_IRQ_LINE,
];
