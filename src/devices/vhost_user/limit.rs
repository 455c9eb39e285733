//! A time limit for what is asked of a back-end.
//!
//! The `vhost` crate's requests block until they are answered. A socket that is shut down ends them, so
//! that is what happens to one whose owner stalls: by a thread that lives only while something
//! is asked.

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::VhostUserError;
use super::wait;

/// Does `work`, which talks over `socket`, in at most `time`. After that, or as soon as `stop` is
/// readable, the socket is shut down, which ends whatever `work` waits for there.
///
/// # Errors
///
/// That of `work`, or that it was cut short.
pub fn limited<T>(
    socket: &UnixStream,
    stop: Option<&EventFd>,
    time: Duration,
    work: impl FnOnce() -> Result<T, VhostUserError>,
) -> Result<T, VhostUserError> {
    let done = EventFd::new(EFD_CLOEXEC).map_err(VhostUserError::Host)?;
    let late = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let watch = || {
            let stop = stop.map_or(-1, |stop| stop.as_raw_fd());
            let ready = wait::readable([done.as_raw_fd(), stop], Some(time));
            if !ready.is_ok_and(|[done, _]| done) {
                late.store(true, Ordering::SeqCst);
                let _ = socket.shutdown(Shutdown::Both); // gone already, if not
            }
        };
        std::thread::Builder::new()
            .name("mote-time-limit".to_owned())
            .stack_size(64 * 1024)
            .spawn_scoped(scope, watch)
            .map_err(VhostUserError::Host)?;
        let result = work();
        let _ = done.write(1); // of a counter that nobody else writes
        result
    });
    match late.load(Ordering::SeqCst) && result.is_err() {
        true => Err(VhostUserError::Stalled(time)),
        false => result,
    }
}
