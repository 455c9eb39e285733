//! Whether the lists of system calls ([`motevm::sandbox::allowed`]) are as short as VMs' lives let them be: what a
//! thread may do and never does is of use to nobody but an attacker. VMs with each sort of device are run under
//! strace; what no thread of a kind was seen to do has to have its reason in the list.

mod drives;
mod lives;
mod peers;
mod trace;

use std::collections::BTreeMap;
use std::io;
use std::process::Command;

use motevm::sandbox::ThreadKind;
use motevm::sandbox::allowed::{self, Allowed, When};

use crate::common;
use crate::devices;
use crate::kvm;
use trace::Call;

/// A VM that has all there is, as far as lists are concerned.
const EVERYTHING: allowed::Vm = allowed::Vm {
    kinds: &ThreadKind::ALL,
    has_sockets: true,
    maps_files: true,
    has_vhost: true,
    is_placed: true,
    tells_memory: true,
};

fn can_trace() -> bool {
    let strace = Command::new("strace").arg("--version").output();
    let emulated = std::env::var_os("MOTE_EMULATED");
    let slow = emulated.map(|_| "where the machine is emulated, it takes too long".to_owned());
    let obstacle = strace.err().map(|e| format!("strace: {e}")).or(slow);
    // SAFETY: asks for a ring of no size, which is refused where there are rings.
    unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, 0) };
    let refused = io::Error::last_os_error();
    let no_ring = match refused.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => Some(format!("io_uring_setup: {refused}")),
        _ => None,
    };
    common::can_run("strace", obstacle)
        && common::can_run("io_uring", no_ring)
        && devices::tap()
        && kvm()
}

/// Whether the entry lets this pass, as far as can be told from outside: a process has other numbers in a jail.
fn lets_pass(entry: &Allowed, call: &Call) -> bool {
    let argument = |index: u8| {
        call.arguments
            .get(usize::from(index))
            .map_or(0, |a| a & 0xffff_ffff)
    };
    let holds = |when: &When| match *when {
        When::Always | When::ThisProcess(_) => true,
        When::Is(index, value) => argument(index) == value & 0xffff_ffff,
        When::Masked(index, mask, value) => argument(index) & mask == value,
    };
    entry.number == call.number && entry.when.iter().any(holds)
}

/// Each way of each entry by itself.
fn ways(list: Vec<Allowed>) -> impl Iterator<Item = Allowed> {
    let each = |entry: Allowed| {
        entry
            .when
            .chunks(1)
            .map(move |when| Allowed { when, ..entry })
    };
    list.into_iter().flat_map(each)
}

/// For the table in docs/sandbox.md, and for whoever has to mend a list.
fn describe(entry: &Allowed) -> String {
    let name = syscalls::Sysno::new(entry.number as usize).unwrap();
    match entry.when {
        [When::Always] => name.to_string(),
        when => format!("{name} {when:x?}"),
    }
}

#[test]
fn nothing_is_allowed_that_no_vm_does_without_a_reason() {
    if !can_trace() {
        return;
    }
    let mut seen: BTreeMap<ThreadKind, Vec<Call>> = BTreeMap::new();
    for (kind, call) in lives::all() {
        seen.entry(kind).or_default().push(call);
    }
    let did = |kind: &ThreadKind, entry: &Allowed| {
        let calls = seen.get(kind).into_iter().flatten();
        calls.into_iter().any(|call| lets_pass(entry, call))
    };
    let mut wrong = Vec::new();
    for kind in &ThreadKind::ALL {
        let list = allowed::of(*kind, &EVERYTHING);
        for call in seen.get(kind).into_iter().flatten() {
            if !list.iter().any(|entry| lets_pass(entry, call)) {
                wrong.push(format!(
                    "{kind:?} threads do what their list hasn't: {call:x?}"
                ));
            }
        }
        for entry in ways(allowed::own(*kind, &EVERYTHING)) {
            match (did(kind, &entry), entry.rare) {
                (true, None) => {}
                (false, Some(why)) => println!("{kind:?}: {}: {why}", describe(&entry)),
                (true, Some(_)) => println!("{kind:?}: {}: seen", describe(&entry)),
                (false, None) => {
                    wrong.push(format!(
                        "no {kind:?} thread was seen to do {}",
                        describe(&entry)
                    ));
                }
            }
        }
        let unused: Vec<_> = ways(allowed::common(*kind))
            .filter(|entry| !did(kind, entry))
            .map(|entry| describe(&entry))
            .collect();
        println!("{kind:?}: of what all may: {}", unused.join(", "));
    }
    for entry in ways(allowed::common(ThreadKind::Main)) {
        let any = ThreadKind::ALL.iter().any(|kind| did(kind, &entry));
        match (any, entry.rare) {
            (false, Some(why)) => println!("all: {}: {why}", describe(&entry)),
            (false, None) => wrong.push(format!("no thread was seen to do {}", describe(&entry))),
            _ => {}
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
