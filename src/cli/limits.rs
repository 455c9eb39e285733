//! Limits of this process.

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
