//! What the host doesn't give of memory is told before a VM starts.

use super::*;

/// Takes this process's right to lock memory beyond a limit of 64 KiB.
fn may_lock_little() -> std::io::Result<()> {
    /// include/uapi/linux/capability.h
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    let limit = libc::rlimit {
        rlim_cur: 64 << 10,
        rlim_max: 64 << 10,
    };
    // SAFETY: takes no pointer. Who may not do that hasn't the right either.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
    // SAFETY: a valid struct.
    match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn memory_that_may_not_be_locked_is_told_with_the_limit() {
    let (_folder, kernel) = guest(Code::new().reset());
    let mut command = mote(&["run", "--kernel", &kernel, "--mlock", "--console", "none"]);
    // SAFETY: makes system calls only.
    unsafe { command.pre_exec(may_lock_little) };
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.starts_with("mote: --mlock: "), "{text}");
    assert!(
        text.contains("RLIMIT_MEMLOCK") && text.lines().count() == 1,
        "{text}"
    );
}

#[test]
fn a_pool_with_too_few_huge_pages_is_told_with_the_number_needed() {
    if kvm().is_none() {
        return;
    }
    let (_folder, kernel) = guest(Code::new().reset());
    let memory = ["--memory", "512G,hugepages=2M"];
    let words = ["run", "--kernel", &kernel, "--console", "none"];
    let (code, _, text) = outcome(&[&words[..], &memory[..]].concat());
    assert_eq!(code, 3, "{text}");
    assert!(text.starts_with("mote: --memory hugepages=2M: "), "{text}");
    assert!(
        text.contains("/sys/kernel/mm/hugepages/") && text.lines().count() == 1,
        "{text}"
    );
}
