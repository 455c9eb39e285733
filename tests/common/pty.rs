//! A terminal with a command in front of it.

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

pub fn size(columns: u16, rows: u16) -> libc::winsize {
    libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Gives the command a terminal of this size, which is its controlling one: what is typed there, and seen.
pub fn before(command: &mut Command, window: libc::winsize) -> File {
    let (mut main, mut other) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: room for two descriptors, which then belong to the OwnedFds; a valid winsize.
    let (main, other) = unsafe {
        let result = libc::openpty(
            &raw mut main,
            &raw mut other,
            none,
            std::ptr::null(),
            &window,
        );
        assert_eq!(result, 0);
        libc::fcntl(main, libc::F_SETFD, libc::FD_CLOEXEC);
        (OwnedFd::from_raw_fd(main), OwnedFd::from_raw_fd(other))
    };
    command.stdin(other.try_clone().unwrap());
    command.stdout(other.try_clone().unwrap()).stderr(other);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    main.into()
}
