//! `linux.seccomp`: a profile as rules by the numbers of the guest's system calls, which are this host's.
//!
//! - A name that this architecture hasn't is left out, as by other runtimes: profiles are written for all.
//! - Of several rules for a system call the first whose conditions hold is taken, and one without conditions after
//!   all that have some.
//! - Where the default is to refuse, a system call that is newer than all that the profile names isn't there (ENOSYS),
//!   as by other runtimes: programs have another way to do it then, which they wouldn't try after EPERM.
//! - Programs of another architecture are ended, whatever `architectures` says: the filter has the numbers of one.

mod program;

use std::collections::BTreeMap;

use mote_agent_protocol::Hello;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSyscall,
};
use syscalls::Sysno;

use super::{SpecError, ignored, list};
use program::{Call, Program};

/// The largest number of an error that the kernel knows.
const MOST_ERRNO: u32 = 4095;

/// The number that an architecture has in a filter, and where on it numbers begin that are of another way to call.
fn architecture() -> (u32, Option<u32>) {
    match std::env::consts::ARCH {
        "aarch64" => (Arch::ScmpArchAarch64 as u32, None),
        _ => (Arch::ScmpArchX86_64 as u32, Some(0x4000_0000)), // __X32_SYSCALL_BIT
    }
}

/// The filter as the agent takes it; `None` where all is allowed.
///
/// # Errors
///
/// The profile is wrong, or asks for what there isn't.
pub fn compile(
    profile: Option<&LinuxSeccomp>,
    kernel: &Hello,
) -> Result<Option<Vec<u8>>, SpecError> {
    let Some(profile) = profile else {
        return Ok(None);
    };
    let program = rules(profile)?;
    if program.calls.is_empty() && profile.default_action() == Action::ScmpActAllow {
        return Ok(None);
    }
    if !kernel.seccomp {
        let why = "the guest's kernel has no filters; configure one that has (CONFIG_SECCOMP_FILTER), or run the container \
                   unconfined: the virtual machine is a wall as well";
        return Err(SpecError::refused("linux.seccomp", why));
    }
    let instructions = program.instructions();
    if instructions.len() > program::MOST {
        let what = format!(
            "makes a filter of {} instructions, and Linux takes {}: name fewer system calls",
            instructions.len(),
            program::MOST
        );
        return Err(SpecError::wrong("linux.seccomp.syscalls", what));
    }
    Ok(Some(program::bytes(&instructions)))
}

fn rules(profile: &LinuxSeccomp) -> Result<Program, SpecError> {
    let refused = |field: &str, why: &str| {
        let field = format!("linux.seccomp.{field}");
        Err(SpecError::refused(field, why))
    };
    let nobody = "nobody on the host can answer for a guest's system calls; leave it out";
    if profile
        .listener_path()
        .as_ref()
        .is_some_and(|path| !path.as_os_str().is_empty())
    {
        return refused("listenerPath", nobody);
    }
    if profile
        .listener_metadata()
        .as_ref()
        .is_some_and(|data| !data.is_empty())
    {
        return refused("listenerMetadata", nobody);
    }
    if !list(profile.flags()).is_empty() {
        // None of them changes what is allowed: a log, threads that there aren't yet, speed.
        ignored("linux.seccomp.flags", "the agent sets none");
    }
    let default = profile.default_action();
    let default_value = action(
        "linux.seccomp.default",
        default,
        profile.default_errno_ret(),
    )?;
    let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
    let mut highest = None;
    for (index, rule) in list(profile.syscalls()).iter().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let value = action(&format!("{field}."), rule.action(), rule.errno_ret())?;
        let conditions = conditions(&field, rule)?;
        for name in rule.names() {
            let Ok(number) = name.parse::<Sysno>() else {
                log::debug!("{field}: {name}: no system call of this architecture");
                continue;
            };
            let number = number.id() as u32;
            highest = highest.max(Some(number));
            if value == default_value {
                continue;
            }
            let call = calls.entry(number).or_default();
            match conditions.is_empty() {
                true => _ = call.always.get_or_insert(value),
                false => call
                    .rules
                    .extend(conditions.iter().map(|all| (all.clone(), value))),
            }
        }
    }
    // A tracer knows by itself what to do with what is new.
    let lets = matches!(
        default,
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
    );
    let (architecture, other_numbers) = architecture();
    Ok(Program {
        architecture,
        other_numbers,
        default: default_value,
        highest: highest.filter(|_| !lets),
        calls,
    })
}

/// What the kernel takes for an action.
fn action(field: &str, action: Action, errno: Option<u32>) -> Result<u32, SpecError> {
    let (field_of_action, field_of_errno) = match field.strip_suffix('.') {
        Some(rule) => (format!("{rule}.action"), format!("{rule}.errnoRet")),
        None => (format!("{field}Action"), format!("{field}ErrnoRet")),
    };
    if action == Action::ScmpActNotify {
        let why = "SCMP_ACT_NOTIFY: nobody on the host can answer for a guest's system calls; say another";
        return Err(SpecError::refused(field_of_action, why));
    }
    match (errno, action) {
        (Some(errno), Action::ScmpActErrno | Action::ScmpActTrace) if errno > MOST_ERRNO => {
            let what =
                format!("{errno}: is no number of an error, of which {MOST_ERRNO} is the largest");
            Err(SpecError::wrong(field_of_errno, what))
        }
        (None, _) | (_, Action::ScmpActErrno | Action::ScmpActTrace) => Ok(action.as_u32(errno)),
        (Some(_), action) => {
            let what = format!("{action} returns no error; leave it out");
            Err(SpecError::wrong(field_of_errno, what))
        }
    }
}

/// Conditions of which all those in one list must hold; none for a rule without. Several for one argument are each
/// enough: so other runtimes have it.
fn conditions(field: &str, rule: &LinuxSyscall) -> Result<Vec<Vec<LinuxSeccompArg>>, SpecError> {
    let all = list(rule.args());
    for (index, one) in all.iter().enumerate() {
        if one.index() >= program::ARGUMENTS {
            let what = format!("{}: a system call has arguments 0 to 5", one.index());
            return Err(SpecError::wrong(
                format!("{field}.args[{index}].index"),
                what,
            ));
        }
    }
    let again = |(index, one): (usize, &LinuxSeccompArg)| {
        all[..index]
            .iter()
            .any(|before| before.index() == one.index())
    };
    Ok(match all {
        [] => Vec::new(),
        all if all.iter().enumerate().any(again) => all.iter().map(|one| vec![*one]).collect(),
        all => vec![all.to_vec()],
    })
}
