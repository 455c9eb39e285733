//! What a process gives up before it runs its program: user, groups, capabilities, limits, new privileges.

use std::io;

use libc::c_ulong;
use mote_agent_protocol::Process;
use mote_agent_protocol::container::Capabilities;

use crate::error::{Error, Result};
use crate::sys;
use crate::users::Ids;

/// Sets them, but for a seccomp filter, which is set by [`filter`].
pub fn set(process: &Process, ids: &Ids) -> Result<()> {
    // Before the limits, of which one is that of open files.
    if let Some(score) = process.oom_score {
        let file = "/proc/self/oom_score_adj";
        std::fs::write(file, score.to_string()).map_err(Error::of("oom_score_adj"))?;
    }
    for (resource, soft, hard) in &process.limits {
        let limit = libc::rlimit64 {
            rlim_cur: *soft,
            rlim_max: *hard,
        };
        // SAFETY: a limit that lives through the call.
        if unsafe { libc::setrlimit64(*resource as _, &raw const limit) } != 0 {
            return Err(Error::last(format_args!("rlimit {resource}")));
        }
    }
    let mut groups = ids.groups.clone();
    if groups.is_empty() {
        groups.push(ids.group);
    }
    // SAFETY: numbers and how many there are.
    if unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) } != 0 {
        return Err(Error::last("setgroups"));
    }
    if let Some(sets) = &process.capabilities {
        bound(sets)?;
    }
    let kept = process.capabilities.is_some();
    sys::prctl(libc::PR_SET_KEEPCAPS, kept.into(), 0).map_err(Error::of("keeping capabilities"))?;
    // SAFETY: these take numbers. All three of each kind, so that there is no way back.
    unsafe {
        if libc::setresgid(ids.group, ids.group, ids.group) != 0 {
            return Err(Error::last(format_args!("group {}", ids.group)));
        }
        if libc::setresuid(ids.user, ids.user, ids.user) != 0 {
            return Err(Error::last(format_args!("user {}", ids.user)));
        }
    }
    if let Some(sets) = &process.capabilities {
        set_capabilities(sets)?;
    }
    if let Some(mask) = process.umask {
        // SAFETY: takes a number.
        unsafe { libc::umask(mask) };
    }
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(Error::of("no_new_privs"))?;
    }
    Ok(())
}

/// Takes all others out of the bounding set. Capabilities that the kernel doesn't know are none to lose.
fn bound(sets: &Capabilities) -> Result<()> {
    for capability in 0..64 {
        let known = sys::prctl(libc::PR_CAPBSET_READ, capability, 0);
        if known.is_ok_and(|has| has == 1) && sets.bounding >> capability & 1 == 0 {
            sys::prctl(libc::PR_CAPBSET_DROP, capability, 0)
                .map_err(Error::of("dropping capabilities"))?;
        }
    }
    Ok(())
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities(sets: &Capabilities) -> Result<()> {
    let header = Header {
        version: 0x2008_0522, // _LINUX_CAPABILITY_VERSION_3
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: the header and the two halves that its version has.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result != 0 {
        return Err(Error::last("capabilities"));
    }
    for capability in 0..64 {
        if sets.ambient >> capability & 1 == 1 {
            let raise = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
            sys::prctl(libc::PR_CAP_AMBIENT, raise, capability)
                .map_err(Error::of(format_args!("ambient capability {capability}")))?;
        }
    }
    Ok(())
}

/// Has this filter look at all system calls from now on.
pub fn filter(bytes: &[u8]) -> Result<()> {
    let instructions: Vec<libc::sock_filter> = bytes
        .chunks_exact(8)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let Ok(len) = u16::try_from(instructions.len()) else {
        return Err(Error::new("seccomp: the filter is too long", libc::E2BIG));
    };
    let program = libc::sock_fprog {
        len,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: a program that lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) };
    match (result, io::Error::last_os_error()) {
        (0, _) => Ok(()),
        (_, error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let what = "seccomp: the guest's kernel has no filters";
            Err(Error::new(what, libc::ENOSYS))
        }
        (_, error) => Err(Error::of("seccomp")(error)),
    }
}
