//! Capabilities (capabilities(7)): what root has that others haven't. Once all is set up, none is needed.

use std::io;

use super::ThreadKind;

/// Capabilities that outlive the start, where the process has them at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// CAP_IPC_LOCK: what is mapped later is locked, too (`--mlock`).
    pub lock_memory: bool,
    /// CAP_DAC_OVERRIDE, for threads that make or remove files by name: root in a folder of
    /// another user's. Landlock says which folders.
    pub any_folder: bool,
}

const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_IPC_LOCK: u32 = 14;
/// _LINUX_CAPABILITY_VERSION_3: two words of 32 bits each.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// From now on, no program that the calling thread runs has more rights than it.
///
/// # Errors
///
/// The host refused.
pub fn no_new_ones() -> io::Result<()> {
    // SAFETY: takes no pointer.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Kept {
    /// Drops all others from the calling thread, for good.
    ///
    /// # Errors
    ///
    /// The host refused.
    pub fn drop_others(self, kind: ThreadKind) -> io::Result<()> {
        let mut header = Header {
            version: VERSION_3,
            pid: 0,
        };
        let mut words = [Words::default(); 2];
        // SAFETY: a header and two words of this version, valid for the call.
        if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let kept = self.mask(kind) & words[0].permitted;
        words = [Words::default(); 2];
        (words[0].effective, words[0].permitted) = (kept, kept);
        // SAFETY: as above.
        match unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn mask(self, kind: ThreadKind) -> u32 {
        let names_files = matches!(kind, ThreadKind::Main | ThreadKind::Starter);
        let mut mask = 0;
        if self.lock_memory {
            mask |= 1 << CAP_IPC_LOCK;
        }
        if self.any_folder && names_files {
            mask |= 1 << CAP_DAC_OVERRIDE;
        }
        mask
    }
}
