//! Tries the system call filters of [`motevm::sandbox`] out, each kind of thread by itself:
//!
//! - `filters KIND allowed` does everything that its list allows, with arguments of no effect.
//! - `filters KIND forbidden` does everything else, each in a process of its own, which has to end by it.
//! - `filters KIND NUMBER` makes one system call, to see what a violation looks like.
//!
//! A kind is a name of `ThreadKind` (`Vcpu`, `Worker`, ...). tests/sandbox.rs runs it for each.

use std::process::ExitCode;

use motevm::sandbox::allowed::{self, Allowed, When};
use motevm::sandbox::{Confinement, Kept, Places, ThreadKind, violation};

/// What a violation ends a process with.
const VIOLATION: i32 = 9;
/// More than there are system calls.
const NUMBERS: std::ops::Range<i64> = 0..600;
/// Not filtered: x86_64's uretprobe and uprobe (Linux 6.11, 6.18), which only a probe of the kernel's can make.
const PROBES: [i64; 2] = [335, 336];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, kind, what] = &arguments[..] else {
        eprintln!("usage: filters KIND allowed|forbidden|NUMBER");
        return ExitCode::from(2);
    };
    let kinds = ThreadKind::ALL.iter();
    let Some(&kind) = kinds.clone().find(|k| format!("{k:?}") == *kind) else {
        eprintln!("filters: no kind {kind}");
        return ExitCode::from(2);
    };
    let all: Vec<_> = kinds.copied().collect();
    let confinement =
        Confinement::new(&all, &Places::default(), Kept::default()).expect("a host with seccomp");
    violation::end_process(|| (), VIOLATION).expect("a handler");
    let vm = allowed::Vm {
        kinds: &all,
        has_sockets: false,
        maps_files: false,
        has_vhost: false,
        is_placed: false,
        tells_memory: false,
    };
    let list = allowed::of(kind, &vm);
    match what.as_str() {
        "allowed" => {
            confinement.confine(kind);
            let calls = list.iter().flat_map(calls).collect::<Vec<_>>();
            for (number, arguments) in &calls {
                make(*number, arguments);
            }
            let mut numbers: Vec<_> = list.iter().map(|entry| entry.number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            println!("{} system calls in {} ways", numbers.len(), calls.len());
            // Its descriptors may not be closed any more, nor need they be.
            std::mem::forget(confinement);
        }
        "forbidden" => {
            let calls = forbidden(&list);
            for (number, arguments) in &calls {
                if !ends_process(|| {
                    confinement.confine(kind);
                    make(*number, arguments);
                }) {
                    println!("{number} {arguments:x?} passed");
                    return ExitCode::FAILURE;
                }
            }
            println!("{} system calls, each a violation", calls.len());
        }
        number => {
            let number = number.parse().expect("a number");
            confinement.confine(kind);
            make(number, &[!0; 6]);
        }
    }
    ExitCode::SUCCESS
}

/// What one entry of a list allows. Arguments that don't matter are of no use to the kernel.
fn calls(entry: &Allowed) -> Vec<(i64, [u64; 6])> {
    // These end the process, or the thread, or go back to a signal's frame that isn't there.
    const FINAL: [i64; 3] = [libc::SYS_exit, libc::SYS_exit_group, libc::SYS_rt_sigreturn];
    if FINAL.contains(&entry.number) {
        return Vec::new();
    }
    let with = |when: &When| {
        let mut arguments = [!0; 6];
        match *when {
            When::Always => {}
            When::Is(index, value) | When::Masked(index, _, value) => {
                arguments[usize::from(index)] = value;
            }
            When::ThisProcess(index) => arguments[usize::from(index)] = std::process::id().into(),
        }
        (entry.number, arguments)
    };
    entry.when.iter().map(with).collect()
}

/// All numbers that are on no list; and those that are, with arguments that are not.
fn forbidden(list: &[Allowed]) -> Vec<(i64, [u64; 6])> {
    let listed = |number: i64| list.iter().filter(move |entry| entry.number == number);
    let mut calls: Vec<_> = NUMBERS
        .filter(|number| listed(*number).next().is_none() && !PROBES.contains(number))
        .map(|number| (number, [!0; 6]))
        .collect();
    let all = |number| listed(number).any(|entry| entry.when.contains(&When::Always));
    let mut with = |number: i64, arguments: [u64; 6]| {
        if listed(number).next().is_some() && !all(number) {
            calls.push((number, arguments));
        }
    };
    let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    with(
        libc::SYS_mmap,
        [0, 4096, executable, libc::MAP_PRIVATE as u64, !0, 0],
    );
    with(libc::SYS_mprotect, [0, 4096, executable, 0, 0, 0]);
    with(
        libc::SYS_madvise,
        [0, 4096, libc::MADV_FREE as u64, 0, 0, 0],
    );
    // A key to a terminal (TIOCSTI), KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, FICLONE.
    for request in [0x5412, 0xae01, 0x4020_ae46, 0x4004_9409] {
        with(libc::SYS_ioctl, [!0, request, 0, 0, 0, 0]);
    }
    for family in [
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
        libc::AF_PACKET,
        libc::AF_VSOCK,
    ] {
        with(
            libc::SYS_socket,
            [family as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0],
        );
    }
    with(libc::SYS_tgkill, [1, 1, 0, 0, 0, 0]);
    with(libc::SYS_process_vm_readv, [1, 0, 0, 0, 0, 0]);
    with(libc::SYS_rt_sigaction, [libc::SIGSYS as u64, 0, 0, 8, 0, 0]);
    // A process of its own, and a namespace.
    let thread = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;
    with(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]);
    with(
        libc::SYS_clone,
        [thread | libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0],
    );
    with(
        libc::SYS_prctl,
        [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0],
    );
    with(libc::SYS_fcntl, [!0, libc::F_SETOWN as u64, 0, 0, 0, 0]);
    // The kernel's own thread is woken, or there is something behind the arguments.
    for flags in [2, 4, 8, 16] {
        with(libc::SYS_io_uring_enter, [!0, 0, 0, flags, 0, 0]);
    }
    with(libc::SYS_kill, [1, 0, 0, 0, 0, 0]);
    calls
}

fn make(number: i64, arguments: &[u64; 6]) {
    let [a, b, c, d, e, f] = *arguments;
    // SAFETY: either the filter stops it, or the kernel finds nothing where the arguments point to.
    unsafe { libc::syscall(number, a, b, c, d, e, f) };
}

/// Whether `work` ends the process with the status of a violation; tried in a copy of this one.
fn ends_process(work: impl FnOnce()) -> bool {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            // What it says of each is not looked at.
            // SAFETY: takes no pointer; the standard error of this copy alone.
            unsafe { libc::close(libc::STDERR_FILENO) };
            work();
            // SAFETY: ends this copy at once.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: a child of this process, and a place for its status.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == VIOLATION
        }
    }
}
