//! Tells another process how far the VM has come: a line for each moment, into a descriptor.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use super::timings::{Timeline, micros};

/// Where the lines go. Each is a word, a space and the microseconds since exec: `running 5120` just before
/// the first KVM_RUN, `init 60321` when the guest's init has signalled. Nothing is said twice.
#[derive(Clone, Debug)]
pub struct Notify(Arc<File>);

impl Notify {
    /// Into a pipe or a file. Whoever reads it need not: what can't be written is not said.
    pub fn new(file: File) -> Self {
        Notify(Arc::new(file))
    }

    pub(super) fn say(&self, moment: &str, timeline: &Timeline, at: Instant) {
        if !self.has_room() {
            log::debug!("--notify-fd: there is no room for `{moment}`");
            return;
        }
        let line = format!("{moment} {}\n", micros(timeline.start, at));
        // One write, so that a line is never seen in parts.
        if let Err(error) = (&*self.0).write(line.as_bytes()) {
            log::debug!("--notify-fd: {error}");
        }
    }

    /// A vCPU's thread says the first moment, and the event loop the second: neither may wait for a
    /// reader. A pipe that polls as writable takes at least PIPE_BUF, which is more than a line.
    fn has_room(&self) -> bool {
        let mut polled = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one valid entry.
        let count = unsafe { libc::poll(&raw mut polled, 1, 0) };
        count == 1 && polled.revents & libc::POLLOUT != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;

    fn pipe() -> (PipeReader, Notify) {
        let (reader, writer) = std::io::pipe().unwrap();
        // SAFETY: takes no pointer; the smallest that there is.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        (reader, Notify::new(OwnedFd::from(writer).into()))
    }

    #[test]
    fn a_moment_is_a_line() {
        let (mut reader, notify) = pipe();
        let timeline = Timeline::starting_at(Instant::now());
        let at = timeline.start + std::time::Duration::from_micros(60_321);
        notify.say("init", &timeline, at);
        drop(notify);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "init 60321\n");
    }

    #[test]
    fn nobody_waits_for_who_does_not_read() {
        let (mut reader, notify) = pipe();
        let room = (0..100_000).take_while(|_| notify.has_room());
        let filled = room.map(|_| (&*notify.0).write(&[b'x'; 4096]).unwrap());
        let filled: usize = filled.sum();
        let timeline = Timeline::starting_at(Instant::now());
        notify.say("running", &timeline, Instant::now());
        drop(notify);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), filled, "what found no room is not said");
        // And with no reader at all.
        let (reader, notify) = pipe();
        drop(reader);
        notify.say("running", &timeline, Instant::now());
    }
}
