//! The system calls of each kind of thread, once the guest runs: the only place that says so. What differs between
//! architectures has one name in [`crate::arch::syscalls`].
//!
//! Whoever adds a line says what needs it. tests/sandbox.rs holds the lists to what VMs are seen to use.

use libc::*;

use super::ThreadKind;
use crate::arch::syscalls::{
    ALARM, EPOLL_WAIT, POLL, READLINK, RENAME, UNLINK, VCPU_CONTROL, VCPU_STATE, VM_STATE,
};

/// A system call, and with which arguments: one of the ways in `when`.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Its number.
    pub number: i64,
    /// The arguments.
    pub when: &'static [When],
    /// Why the lives of VMs that the lists are compared with (tests/hostile/traced) needn't have it.
    pub rare: Option<&'static str>,
}

impl Allowed {
    const fn rare(self, why: &'static str) -> Self {
        let rare = Some(why);
        Allowed { rare, ..self }
    }
}

/// A condition on an argument, of which the lower 32 bits are looked at; arguments count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// No condition.
    Always,
    /// The argument is this.
    Is(u8, u64),
    /// The argument's bits in the first word (the mask) are those of the second.
    Masked(u8, u64, u64),
    /// The argument is the number of this process.
    ThisProcess(u8),
}

use When::{Always, Is, Masked, ThisProcess};

const fn any(number: i64) -> Allowed {
    only(number, &[Always])
}

const fn only(number: i64, when: &'static [When]) -> Allowed {
    let rare = None;
    Allowed { number, when, rare }
}

/// An ioctl of KVM's that has no argument, or a number, by the macro _IO of uapi/asm-generic/ioctl.h.
pub const fn kvm_plain(number: u64) -> When {
    Is(1, KVM << 8 | number)
}

/// An ioctl of KVM's that reads a `T`, by the macro _IOR of uapi/asm-generic/ioctl.h.
pub const fn kvm_read<T>(number: u64) -> When {
    Is(
        1,
        2 << 30 | (size_of::<T>() as u64) << 16 | KVM << 8 | number,
    )
}

/// The same for one that writes a `T`, by the macro _IOW.
pub const fn kvm_write<T>(number: u64) -> When {
    Is(
        1,
        1 << 30 | (size_of::<T>() as u64) << 16 | KVM << 8 | number,
    )
}

/// The same for one that does both, by the macro _IOWR.
pub const fn kvm_exchange<T>(number: u64) -> When {
    Is(
        1,
        3 << 30 | (size_of::<T>() as u64) << 16 | KVM << 8 | number,
    )
}

/// The type of KVM's ioctls (uapi/linux/kvm.h), and of vhost's (uapi/linux/vhost.h).
const KVM: u64 = 0xae;
const VHOST: u64 = 0xaf;
const KVM_RUN: When = kvm_plain(0x80);
const KVM_GET_STATS_FD: When = kvm_plain(0xce);
const BLKDISCARD: u64 = 0x1277;
const BLKSSZGET: u64 = 0x1268;
/// As _IOR of a size_t, whose higher bits a filter doesn't see (uapi/linux/fs.h).
const BLKGETSIZE64: u64 = 0x8008_1272;

/// No memory to be run as code.
const NO_CODE: &[When] = &[Masked(2, PROT_EXEC as u64, 0)];

/// Every thread: memory of its own, waiting for others, telling them and the user, its end.
const ALL: &[Allowed] = &[
    any(SYS_futex),
    any(SYS_write),
    any(SYS_brk),
    only(SYS_mmap, NO_CODE),
    any(SYS_munmap),
    only(SYS_madvise, &[Is(2, MADV_DONTNEED as u64)]), // a stack that is left
    any(SYS_rt_sigreturn),
    any(SYS_rt_sigprocmask), // abort(3), and the end of a thread
    only(SYS_rt_sigaction, &[Is(0, SIGBUS as u64)]), // how a fault ends the process
    only(SYS_rt_sigaction, &[Is(0, SIGSEGV as u64)])
        .rare("the same, of a fault that is a defect of mote's"),
    any(SYS_sigaltstack),                // the end of a thread
    only(SYS_ioctl, TERMINAL),           // given back when the process ends by a fault
    only(SYS_tgkill, &[ThisProcess(0)]), // abort(3); main stops vCPUs
    any(SYS_sched_yield).rare("a channel's other end is about to write: a matter of an instant"),
    any(SYS_getpid),
    any(SYS_gettid),
    any(SYS_clock_gettime), // CPU time; all clocks, on hosts where reading one takes a call
    any(SYS_restart_syscall)
        .rare("what a process goes on with that was stopped, and waited with a time limit"),
    any(SYS_exit),
    any(SYS_exit_group),
];

/// In debug builds, Rust's library looks whether a descriptor is open before it closes it.
const DEBUG: &[Allowed] = match cfg!(debug_assertions) {
    true => &[only(SYS_fcntl, &[Is(1, F_GETFD as u64)])],
    false => &[],
};

const TERMINAL: &[When] = &[Is(1, TCGETS), Is(1, TCSETS), Is(1, TIOCGPGRP)];

/// Whether a socket's calls wait.
const WAITING: &[When] = &[Is(1, FIONBIO)];

/// Every thread but vCPUs.
const OTHERS: &[Allowed] = &[
    any(SYS_read),
    any(SYS_close),
    any(SYS_mremap).rare("a vector of 128 KiB or more that grows"),
];

const fn vcpu() -> [When; VCPU_STATE.len() + 1] {
    let mut when = [KVM_RUN; VCPU_STATE.len() + 1];
    let mut index = 0;
    while index < VCPU_STATE.len() {
        when[index + 1] = VCPU_STATE[index];
        index += 1;
    }
    when
}

const VCPU: &[Allowed] = &[
    only(SYS_ioctl, &vcpu()),
    only(SYS_ioctl, VCPU_CONTROL).rare(CONTROLLED),
    only(SYS_process_vm_readv, &[ThisProcess(0)]), // a crash report: memory that may have gone
];

const CONTROLLED: &str = "the VM is paused, or Ctrl-Alt-Del pressed: what a program does that embeds mote, or uses its API";

const WORKER: &[Allowed] = &[
    any(SYS_getrandom), // the entropy device
];

const DRIVE: &[Allowed] = &[
    any(SYS_preadv),
    any(SYS_pwritev),
    any(SYS_pwritev2), // of a driver that knows no flush: each write is durable
    any(SYS_pread64).rare(BOUNCED),
    any(SYS_pwrite64).rare(BOUNCED),
    any(SYS_fdatasync),
    any(SYS_fallocate),
    only(SYS_ioctl, &[Is(1, BLKDISCARD)]).rare("a drive that is a block device"),
];

/// What an io_uring can't do is done as without one. It is made by the thread before it has this list.
const RING: &[Allowed] = &[
    only(
        SYS_io_uring_enter,
        &[Masked(3, 0xffff_ffff ^ IORING_ENTER_GETEVENTS, 0)],
    ),
    any(SYS_pread64).rare(BOUNCED),
    any(SYS_pwrite64).rare(BOUNCED),
    any(SYS_preadv).rare(WHOLE_BLOCKS),
    any(SYS_pwritev).rare(WHOLE_BLOCKS),
    any(SYS_pwritev2).rare(WHOLE_BLOCKS),
    any(SYS_fallocate).rare(AGAIN),
    any(SYS_fdatasync).rare(AGAIN),
    only(SYS_ioctl, &[Is(1, BLKDISCARD)]).rare("a drive that is a block device"),
];

/// The only flag of io_uring_enter(2): to wait.
const IORING_ENTER_GETEVENTS: u64 = 1;

/// Of the starter, and so of a thread that begins, where drives have an io_uring each; it is told there what it may do.
const RINGS: &[Allowed] = &[any(SYS_io_uring_setup), any(SYS_io_uring_register)];

const BOUNCED: &str = "cache=none on a file system with O_DIRECT, and a buffer that isn't aligned";
const WHOLE_BLOCKS: &str =
    "cache=none where the host's blocks are larger than 512 bytes; the kernel says EAGAIN";
const AGAIN: &str = "the kernel says EAGAIN or EINTR to an io_uring";

const NET: &[Allowed] = &[
    any(EPOLL_WAIT),
    any(SYS_readv),
    any(SYS_writev),
    only(SYS_ioctl, TAP),
];

const TAP: &[When] = &[Is(1, TUNSETOFFLOAD), Is(1, TUNSETQUEUE)];

const VSOCK: &[Allowed] = &[
    only(SYS_ioctl, WAITING),
    any(SYS_recvmsg),
    any(EPOLL_WAIT),
    any(SYS_epoll_create1),
    any(SYS_epoll_ctl),
    only(SYS_socket, &[Is(0, AF_UNIX as u64)]),
    any(SYS_connect),
    any(SYS_accept4),
    any(SYS_sendmsg),
    any(SYS_recvfrom),
    any(SYS_shutdown),
    any(SYS_getrandom), // the seed of its tables
];

/// Of the thread of vsock, where this process serves a port of it.
const OWN_PORT: &[Allowed] = &[only(SYS_socketpair, &[Is(0, AF_UNIX as u64)]).rare(OF_AN_IMAGE)];

const OF_AN_IMAGE: &str = "the guest's agent runs the program of a container image";

const AGENT: &[Allowed] = &[
    any(POLL).rare(OF_AN_IMAGE),
    any(SYS_recvfrom).rare(OF_AN_IMAGE),
    any(SYS_sendto).rare(OF_AN_IMAGE),
    any(SYS_shutdown).rare(OF_AN_IMAGE),
    any(SYS_getrandom).rare(OF_AN_IMAGE), // the seed of its tables
    only(SYS_ioctl, &[Is(1, TIOCGWINSZ)]).rare(OF_AN_IMAGE),
];

const VHOST_USER: &[Allowed] = &[
    only(SYS_socketpair, &[Is(0, AF_UNIX as u64)]), // what the back-end asks of mote
    only(SYS_ioctl, WAITING),
    any(SYS_recvfrom),
    any(POLL),
    only(SYS_socket, &[Is(0, AF_UNIX as u64)]),
    any(SYS_connect),
    any(SYS_accept4),
    any(SYS_sendmsg),
    any(SYS_recvmsg),
    any(SYS_shutdown).rare("a back-end that takes too long is hung up on"),
    any(SYS_eventfd2),
    only(SYS_fcntl, &[Is(1, F_DUPFD_CLOEXEC as u64)]), // what watches the time has copies
    any(SYS_wait4).rare("a passt that has ended"),
];

const BALLOON: &[Allowed] = &[
    any(POLL),
    any(SYS_fallocate), // where the guest's memory is a file
];

const CONSOLE: &[Allowed] = &[any(POLL)];

const METRICS: &[Allowed] = &[
    any(SYS_shutdown),
    only(SYS_ioctl, WAITING),
    any(SYS_getrusage), // page faults
    any(POLL),
    any(SYS_accept4),
    any(SYS_sendto),
    any(SYS_recvfrom),
    any(SYS_pread64),
    any(SYS_openat),   // where Landlock lets it
    any(SYS_pwrite64), // a file that was handed over
    any(SYS_ftruncate),
    any(RENAME),
    any(UNLINK),
];

const API: &[Allowed] = &[
    any(POLL),
    any(SYS_accept4),
    only(SYS_ioctl, WAITING),
    any(SYS_recvfrom),
    any(SYS_sendto),
    any(SYS_shutdown),
    any(SYS_pread64),   // metrics: KVM's statistics, and /proc/self/smaps
    any(SYS_getrusage), // the same
    // What is to be in a drive: opened where Landlock lets it, looked at, locked, and its flags set.
    any(SYS_openat),
    any(SYS_statx),
    any(SYS_flock),
    only(SYS_fcntl, MEDIUM),
    only(SYS_ioctl, &[Is(1, BLKGETSIZE64), Is(1, BLKSSZGET)])
        .rare("what is to be in a drive is a block device"),
];

const MEDIUM: &[When] = &[
    Is(1, F_SETFL as u64),
    Is(1, F_GETFL as u64),
    Is(1, F_DUPFD_CLOEXEC as u64), // where it's the same file again, which has grown
];

const MAIN: &[Allowed] = &[
    any(POLL),
    any(SYS_pread64), // KVM's statistics, and /proc/self/smaps
    any(SYS_getrusage),
    only(SYS_rt_sigaction, SIGNALS),
    any(SYS_timerfd_settime), // input that the guest takes only later
    any(ALARM),               // a signal that asks for the end
    only(SYS_ioctl, &[Is(1, TIOCGWINSZ), KVM_GET_STATS_FD]),
    only(SYS_ioctl, VM_STATE).rare(CONTROLLED),
];

/// Those that end the VM or tell of the terminal's size. Not SIGSYS, which tells of a violation.
const SIGNALS: &[When] = &[
    Is(0, SIGHUP as u64),
    Is(0, SIGINT as u64),
    Is(0, SIGQUIT as u64),
    Is(0, SIGTERM as u64),
    Is(0, SIGALRM as u64),
    Is(0, SIGWINCH as u64),
];

/// Of main, where the VM has made sockets: whether one is still its own, before it is removed.
const NAMES: &[Allowed] = &[any(SYS_statx), any(UNLINK)];

/// Of main and of the starter, where the guest maps files: why a page has gone.
const MAPPED: &[Allowed] =
    &[any(SYS_statx).rare("a vCPU meets a page that a mapped file has no more; not on each KVM")];

/// Of main, where the VM has a program that serves a device: it has ended.
const PROGRAMS: &[Allowed] = &[any(SYS_wait4).rare("a passt that has ended")];

/// Of main, which goes back to the CPUs that it came from.
const PLACED: &[Allowed] = &[any(SYS_sched_setaffinity)];

const SETUP: &[Allowed] = &[
    any(SYS_eventfd2),
    only(SYS_ioctl, VHOST_KERNEL).rare(BY_VHOST),
];

/// Of the set-up thread, besides what the threads may that it sets up.
const SETUP_NET: &[Allowed] = &[
    any(SYS_epoll_create1),
    any(SYS_epoll_ctl),
    only(SYS_ioctl, TAP),
];
const SETUP_VHOST: &[Allowed] = &[any(SYS_openat).rare(BY_VHOST)]; // where Landlock lets it
const BY_VHOST: &str = "a device that the host's kernel serves";
const SETUP_BALLOON: &[Allowed] = &[any(SYS_timerfd_create), any(SYS_timerfd_settime)];

const VHOST_KERNEL: &[When] = &[Masked(1, 0xff00, VHOST << 8)];

/// What makes a thread: one of this process, in no namespace of its own.
const STARTER: &[Allowed] = &[
    only(
        SYS_clone,
        &[Masked(
            0,
            (CLONE_THREAD | CLONE_VM | NAMESPACES) as u64,
            (CLONE_THREAD | CLONE_VM) as u64,
        )],
    ),
    any(SYS_clone3), // made to fail: see filter::threads_only
    only(SYS_mprotect, NO_CODE),
    only(
        SYS_prctl,
        &[Is(0, PR_SET_NAME as u64), Is(0, PR_SET_NO_NEW_PRIVS as u64)],
    ),
    only(SYS_seccomp, &[Is(0, SECCOMP_SET_MODE_FILTER as u64)]),
    any(SYS_rseq),
    any(SYS_set_robust_list),
    any(SYS_sched_getaffinity), // where the new thread's stack ends, and where its io_uring's are to be
    any(POLL),                  // whether there is room for what --notify-fd gets
];

const NAMESPACES: i32 = CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET;

/// What telling of memory needs besides, of files in /proc.
const TELLS: &[Allowed] = &[
    any(SYS_openat),
    any(SYS_getdents64),
    any(READLINK),
    any(SYS_statx),
    any(SYS_newfstatat),
];

/// What a VM is, as far as its threads' lists depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Vm<'a> {
    /// The threads that it may have, besides those that each has.
    pub kinds: &'a [ThreadKind],
    /// It has made sockets, which it removes at its end.
    pub has_sockets: bool,
    /// The guest maps files.
    pub maps_files: bool,
    /// The host's kernel serves a device, and is opened for it each time that its driver is ready.
    pub has_vhost: bool,
    /// Its threads have CPUs of their own.
    pub is_placed: bool,
    /// It tells what memory is used for, when the guest's init has signalled.
    pub tells_memory: bool,
}

/// What a thread of this kind may do.
pub fn of(kind: ThreadKind, vm: &Vm) -> Vec<Allowed> {
    let mut list = [common(kind), own(kind, vm)].concat();
    if kind == ThreadKind::Starter {
        // What it starts; vCPUs and main are there without it.
        let others = [ThreadKind::Vcpu, ThreadKind::Main, ThreadKind::Starter];
        let started = vm.kinds.iter().chain([&ThreadKind::Setup]);
        let started = started.filter(|kind| !others.contains(kind));
        list.extend(started.flat_map(|kind| of(*kind, vm)));
    }
    list
}

/// What it may as other kinds may.
pub fn common(kind: ThreadKind) -> Vec<Allowed> {
    let others = match kind {
        ThreadKind::Vcpu => &[],
        _ => OTHERS,
    };
    [ALL, DEBUG, others].concat()
}

/// What it may besides, without what others may that it starts.
pub fn own(kind: ThreadKind, vm: &Vm) -> Vec<Allowed> {
    let has = |kind| vm.kinds.contains(&kind);
    let mut list = match kind {
        ThreadKind::Vcpu => VCPU,
        ThreadKind::Worker => WORKER,
        ThreadKind::Drive => DRIVE,
        ThreadKind::Ring => RING,
        ThreadKind::Net => NET,
        ThreadKind::Vsock => VSOCK,
        ThreadKind::Agent => AGENT,
        ThreadKind::VhostUser => VHOST_USER,
        ThreadKind::Balloon => BALLOON,
        ThreadKind::Console => CONSOLE,
        ThreadKind::Metrics => METRICS,
        ThreadKind::Api => API,
        ThreadKind::Main => MAIN,
        ThreadKind::Setup => SETUP,
        ThreadKind::Starter => STARTER,
    }
    .to_vec();
    let mut when = |wanted: bool, more: &'static [Allowed]| {
        if wanted {
            list.extend(more);
        }
    };
    match kind {
        ThreadKind::Vsock => when(has(ThreadKind::Agent), OWN_PORT),
        ThreadKind::Main => {
            when(vm.has_sockets, NAMES);
            when(vm.maps_files, MAPPED);
            when(vm.tells_memory, TELLS);
            when(has(ThreadKind::VhostUser), PROGRAMS);
            when(vm.is_placed, PLACED);
        }
        ThreadKind::Setup => {
            when(has(ThreadKind::Net), SETUP_NET);
            when(vm.has_vhost, SETUP_VHOST);
            when(has(ThreadKind::Balloon), SETUP_BALLOON);
        }
        ThreadKind::Starter => {
            when(vm.maps_files, MAPPED);
            when(has(ThreadKind::Ring), RINGS);
        }
        _ => {}
    }
    list
}
