//! Lists of system calls as seccomp filters (Documentation/userspace-api/seccomp_filter.rst).

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::allowed::{Allowed, When};

/// Whether the host has filters that end a system call with a signal.
///
/// # Errors
///
/// It hasn't.
pub fn available() -> io::Result<()> {
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: reads the action, which lives meanwhile.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A filter that lets these pass, and makes all others a SIGSYS.
///
/// # Errors
///
/// The list is too long for a filter.
pub fn program(list: &[Allowed]) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // One that is allowed always needs no rules beside it.
    let always = |number| {
        let mut entries = list.iter().filter(|entry| entry.number == number);
        entries.any(|entry| entry.when.contains(&When::Always))
    };
    for Allowed { number, when, .. } in list {
        let conditions = rules.entry(*number).or_default();
        if always(*number) {
            continue;
        }
        for when in *when {
            let rule = SeccompRule::new(vec![condition(when)?])?;
            if !conditions.contains(&rule) {
                conditions.push(rule);
            }
        }
    }
    compile(rules, SeccompAction::Trap, SeccompAction::Allow)
}

/// Besides its list, for whoever may start threads: they must be threads of this process, in no
/// namespace of their own. Those are flags of clone(2); clone3(2) has them in memory, where a filter
/// can't look, so it isn't there, as on a kernel that is older than it.
///
/// # Errors
///
/// None that is expected.
pub fn threads_only() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    compile(rules, SeccompAction::Allow, absent)
}

/// Has the calling thread filtered from now on.
///
/// # Errors
///
/// The host refused.
pub fn install(program: &BpfProgram) -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(program)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matches: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, mismatch, matches, arch)?.try_into()
}

fn condition(when: &When) -> Result<SeccompCondition, BackendError> {
    use SeccompCmpArgLen::Dword;
    let (argument, operator, value) = match *when {
        When::Always => unreachable!("needs no condition"),
        When::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
        When::Masked(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(mask), value),
        When::ThisProcess(argument) => (argument, SeccompCmpOp::Eq, std::process::id().into()),
    };
    SeccompCondition::new(argument, Dword, operator, value)
}
