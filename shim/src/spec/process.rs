//! `process`: a container's program, or a further one.

use mote_agent_protocol::container::{User, Window};
use mote_agent_protocol::frame::TO_AGENT;
use mote_agent_protocol::{Hello, Process};
use oci_spec::runtime::{
    LinuxSchedulerPolicy, LinuxSeccomp, PosixRlimit, Process as Asked, Scheduler,
};

use super::{SpecError, capabilities, ignored, list, one_string, seccomp, whole_path};

/// The most bytes of arguments and environment: a message to the agent holds the rest of a container as well. Linux
/// takes no more than 6 MiB, and no more than 2 MiB where the stack's limit is the usual one.
const MOST_STRINGS: usize = TO_AGENT / 4 * 3;

/// The process that `asked` describes, with the container's seccomp profile. A size that is given goes before the
/// specification's.
///
/// # Errors
///
/// It is refused, or wrong.
pub fn process(
    asked: &Asked,
    profile: Option<&LinuxSeccomp>,
    kernel: &Hello,
    size: Option<Window>,
) -> Result<Process, SpecError> {
    refuse(asked)?;
    labels(asked);
    let arguments = list(asked.args());
    if arguments.first().is_none_or(String::is_empty) {
        let what = "is empty: there must be a program to run";
        return Err(SpecError::wrong("process.args", what));
    }
    let environment = list(asked.env());
    strings(arguments, environment)?;
    let user = asked.user();
    let oom_score = asked.oom_score_adj();
    if oom_score.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        let what = "must be -1000 to 1000";
        return Err(SpecError::wrong("process.oomScoreAdj", what));
    }
    if user.umask().is_some_and(|mask| mask > 0o777) {
        let what = "must have no more than nine bits";
        return Err(SpecError::wrong("process.user.umask", what));
    }
    let console = asked.console_size().map(|size| {
        let whole = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        Window {
            columns: whole(size.width()),
            rows: whole(size.height()),
        }
    });
    let window = size.or(console).unwrap_or_default();
    Ok(Process {
        arguments: arguments.to_vec(),
        environment: environment.to_vec(),
        folder: whole_path("process.cwd", asked.cwd())?,
        user: User::Ids {
            user: user.uid(),
            group: user.gid(),
            groups: list(user.additional_gids()).to_vec(),
        },
        umask: user.umask(),
        capabilities: Some(capabilities::of(asked.capabilities().as_ref())),
        limits: limits(list(asked.rlimits()))?,
        no_new_privileges: asked.no_new_privileges().unwrap_or(false),
        terminal: asked.terminal().unwrap_or(false).then_some(window),
        oom_score,
        seccomp: seccomp::compile(profile, kernel)?,
    })
}

/// What is not there in a guest, or not done.
fn refuse(asked: &Asked) -> Result<(), SpecError> {
    let affinity = asked.exec_cpu_affinity().as_ref();
    let affinity = affinity.is_some_and(|affinity| {
        affinity.initial().is_some() || affinity.cpu_affinity_final().is_some()
    });
    for (field, is_there, why) in [
        (
            "commandLine",
            asked.command_line().is_some(),
            "is of another system; say args",
        ),
        (
            "ioPriority",
            asked.io_priority().is_some(),
            "the agent doesn't set it; leave it out",
        ),
        (
            "scheduler",
            asked.scheduler().as_ref().is_some_and(is_special),
            "the agent doesn't set it; leave it out",
        ),
        (
            "execCPUAffinity",
            affinity,
            "has numbers of the host's processors, and the guest has its own; leave it out",
        ),
    ] {
        if is_there {
            return Err(SpecError::refused(format!("process.{field}"), why));
        }
    }
    Ok(())
}

/// Whether it is another scheduling than what each process has.
fn is_special(scheduler: &Scheduler) -> bool {
    *scheduler.policy() != LinuxSchedulerPolicy::SchedOther
        || scheduler.nice().is_some_and(|nice| nice != 0)
        || scheduler
            .flags()
            .as_ref()
            .is_some_and(|flags| !flags.is_empty())
}

/// Kubernetes sets them for each container of a host that has these modules, so they are no reason to refuse it.
fn labels(asked: &Asked) {
    let profile = asked.apparmor_profile().as_deref().unwrap_or_default();
    if !matches!(profile, "" | "unconfined") {
        let why = "the guest has no AppArmor, the virtual machine is the wall";
        ignored("process.apparmorProfile", why);
    }
    if asked
        .selinux_label()
        .as_deref()
        .is_some_and(|label| !label.is_empty())
    {
        let why = "the guest has no SELinux, the virtual machine is the wall";
        ignored("process.selinuxLabel", why);
    }
}

fn strings(arguments: &[String], environment: &[String]) -> Result<(), SpecError> {
    for (field, strings) in [("args", arguments), ("env", environment)] {
        for (index, text) in strings.iter().enumerate() {
            one_string(&format!("process.{field}[{index}]"), text)?;
        }
    }
    let len: usize = arguments.iter().chain(environment).map(String::len).sum();
    match len > MOST_STRINGS {
        true => {
            let what =
                format!("has {len} bytes with process.env, of which {MOST_STRINGS} are taken");
            Err(SpecError::wrong("process.args", what))
        }
        false => Ok(()),
    }
}

/// Limits by Linux's numbers, soft and hard.
fn limits(asked: &[PosixRlimit]) -> Result<Vec<(u32, u64, u64)>, SpecError> {
    let mut limits = Vec::new();
    for (index, limit) in asked.iter().enumerate() {
        let (soft, hard) = (limit.soft(), limit.hard());
        let typ = limit.typ();
        let wrong = |what| {
            let field = format!("process.rlimits[{index}]");
            Err(SpecError::wrong(field, format!("{typ}: {what}")))
        };
        if asked[..index].iter().any(|before| before.typ() == typ) {
            return wrong("is there already");
        }
        if soft > hard {
            return wrong("the soft limit is more than the hard one");
        }
        // The crate has them in the order of their numbers (asm-generic/resource.h); a test holds it to that.
        limits.push((typ as u32, soft, hard));
    }
    Ok(limits)
}
