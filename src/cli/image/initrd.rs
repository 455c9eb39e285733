//! The archive that the guest's kernel unpacks at its start: the agent as /init, and nothing else. It is made anew in
//! memory for each VM, which costs less than finding a file.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::path::PathBuf;

use crate::cli::{CliError, Status};

/// The agent for this architecture (build.rs); empty where the build has none.
const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mote-agent"));

const NAME: &CStr = c"mote-initrd";

/// The archive, for this option, as `fd=N`: it stays open until the process ends.
pub fn make(option: &str) -> Result<PathBuf, CliError> {
    if AGENT.is_empty() {
        return Err(CliError::new(
            Status::Internal,
            format_args!(
                "{option}: this mote was built without its guest's agent; build it from the whole source tree, \
                 without MOTE_AGENT=off"
            ),
        ));
    }
    let failed = |e| {
        CliError::new(
            Status::Host,
            format_args!("{option}: memory for an initrd: {e}"),
        )
    };
    let file = write().map_err(failed)?;
    Ok(format!("fd={}", file.into_raw_fd()).into())
}

fn write() -> io::Result<File> {
    // SAFETY: a string; the descriptor is new.
    let mut file = unsafe {
        match libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) {
            -1 => return Err(io::Error::last_os_error()),
            fd => File::from_raw_fd(fd),
        }
    };
    let mut head = Vec::with_capacity(1024);
    // What process 1 gets as its standard streams; where the VM has no console, Rust's library opens the other.
    entry(&mut head, "dev", 0o040_755, 0, (0, 0));
    entry(&mut head, "dev/console", 0o020_600, 0, (5, 1));
    entry(&mut head, "dev/null", 0o020_666, 0, (1, 3));
    entry(&mut head, "init", 0o100_755, AGENT.len(), (0, 0));
    file.write_all(&head)?;
    file.write_all(AGENT)?;
    let mut end = vec![0; AGENT.len().wrapping_neg() % 4];
    entry(&mut end, "TRAILER!!!", 0, 0, (0, 0));
    file.write_all(&end)?;
    file.seek(SeekFrom::Start(0))?;
    debug_assert!(file.as_raw_fd() > 2);
    Ok(file)
}

/// A header of the newc format and the name behind it (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).
fn entry(bytes: &mut Vec<u8>, name: &str, mode: u32, size: usize, device: (u32, u32)) {
    let links = 1;
    let fields = [
        0,
        mode,
        0,
        0,
        links,
        0,
        size as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    bytes.extend(b"070701");
    for field in fields {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_aligned_and_says_what_it_is() {
        let mut bytes = Vec::new();
        entry(&mut bytes, "init", 0o100_755, 0x1234, (0, 0));
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.starts_with("07070100000000000081ed"), "{text}");
        assert_eq!(&text[54..62], "00001234");
        assert_eq!(&text[94..102], "00000005");
        assert_eq!(&bytes[110..], b"init\0\0");
    }
}
