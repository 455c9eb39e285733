//! Limits of this process, and what is kept in memory of it.

use super::{CliError, Status};

/// Raises the soft limit on open files to the hard one: each connection of a vsock device has one. The
/// soft limit is there for programs that use select(2), which mote doesn't.
pub fn raise_open_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a struct that lives through both calls.
    let result = unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) {
            0 => {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
            }
            error => error,
        }
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        log::debug!("raising the limit on open files: {error}");
    }
}

/// Locks what the process has now: its program, its heap, its stack. It is brought for that.
pub fn lock_process() -> Result<(), CliError> {
    lock(libc::MCL_CURRENT)
}

/// Locks what the process has got since, and whatever it will, each page from when it is touched: a
/// file that the guest maps is not read for that, nor a thread's whole stack brought.
pub fn lock_what_comes() -> Result<(), CliError> {
    lock(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT)
}

fn lock(flags: i32) -> Result<(), CliError> {
    // SAFETY: takes no pointer.
    if unsafe { libc::mlockall(flags) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(CliError::new(
        Status::Host,
        format_args!(
            "--mlock: locking the process's memory: {error}; raise the limit on locked memory \
             (RLIMIT_MEMLOCK: ulimit -l unlimited, LimitMEMLOCK=infinity), or give mote CAP_IPC_LOCK"
        ),
    ))
}
