//! Whether drives can have `engine=io_uring`.

use std::io;

use super::{Check, Root};

/// Asks the host for an io_uring, and gives it back.
pub(super) fn check(root: &Root) -> Check {
    judge(root, io_uring::IoUring::new(1).map(drop))
}

fn judge(root: &Root, made: io::Result<()>) -> Check {
    let (id, subject) = ("kernel.io_uring", "io_uring");
    let info = |found: &str| {
        let found = format!("{found} (engine=io_uring of drives; they use threads without it)");
        Check::info(id, subject, found)
    };
    let Err(error) = made else {
        return Check::ok(id, subject, "engine=io_uring of drives");
    };
    // Linux 6.6: 1 is for members of kernel.io_uring_group and CAP_SYS_ADMIN only, 2 for nobody.
    let disabled = root.number("proc/sys/kernel/io_uring_disabled");
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some(1 | 2)) => info("forbidden by kernel.io_uring_disabled")
            .with_remedy("if needed: sudo sysctl kernel.io_uring_disabled=0"),
        (Some(libc::EPERM), _) => info("forbidden, perhaps by a container's seccomp filter"),
        (Some(libc::ENOSYS), _) => info("this kernel has none, or a seccomp filter hides it"),
        _ => info(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn whoever_forbids_it_is_named() {
        let (_dir, root) = Root::fake(&[("proc/sys/kernel/io_uring_disabled", "2\n")]);
        let (_other, silent) = Root::fake(&[]);
        let failed = |root, errno| judge(root, Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(judge(&root, Ok(())).level, Level::Ok);
        for (check, word, remedy) in [
            (failed(&root, libc::EPERM), "kernel.io_uring_disabled", true),
            (failed(&silent, libc::EPERM), "seccomp", false),
            (failed(&silent, libc::ENOSYS), "none", false),
            (failed(&root, libc::ENOMEM), "memory", false),
        ] {
            assert_eq!(check.level, Level::Info);
            assert!(check.found.contains(word), "{check:?}");
            assert_eq!(check.remedy.is_some(), remedy, "{check:?}");
        }
    }
}
