//! Tells another process how far the VM has come: a line for each moment, into a descriptor.

use std::fs::File;
use std::io::Write;
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
        let line = format!("{moment} {}\n", micros(timeline.start, at));
        // One write, so that a line is never seen in parts.
        if let Err(error) = (&*self.0).write_all(line.as_bytes()) {
            log::debug!("--notify-fd: {error}");
        }
    }
}
