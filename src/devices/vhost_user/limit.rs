//! A time limit for what is asked of a back-end.
//!
//! The `vhost` crate's requests block until they are answered. A socket that is shut down ends them, so
//! that is what happens to one whose owner stalls: by a thread that lives only while something
//! is asked.

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::VhostUserError;
use super::wait;
use crate::sandbox::ThreadKind;
use crate::threads;

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
    let done = Arc::new(EventFd::new(EFD_CLOEXEC).map_err(VhostUserError::Host)?);
    let late = Arc::new(AtomicBool::new(false));
    let watch = {
        let (done, late) = (done.clone(), late.clone());
        let socket = socket.try_clone().map_err(VhostUserError::Host)?;
        let stop = stop.map(EventFd::try_clone).transpose();
        let stop = stop.map_err(VhostUserError::Host)?;
        move || {
            let stop = stop.as_ref().map_or(-1, EventFd::as_raw_fd);
            let ready = wait::readable([done.as_raw_fd(), stop], Some(time));
            if !ready.is_ok_and(|[done, _]| done) {
                late.store(true, Ordering::SeqCst);
                let _ = socket.shutdown(Shutdown::Both); // gone already, if not
            }
        }
    };
    let watch = threads::spawn(ThreadKind::VhostUser, "mote-time-limit", watch);
    let watch = watch.map_err(VhostUserError::Host)?;
    let result = work();
    let _ = done.write(1); // of a counter that nobody else writes
    if watch.join().is_err() {
        log::error!("a time limit's thread has panicked");
    }
    match late.load(Ordering::SeqCst) && result.is_err() {
        true => Err(VhostUserError::Stalled(time)),
        false => result,
    }
}
