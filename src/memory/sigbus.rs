//! Words before the end: a device that uses a page of a mapped file which the host doesn't have any
//! more gets SIGBUS, whose default is to kill the process without saying why (mmap(2)).
//!
//! The handler is the process's, installed with the first mapping. It writes a line that names the
//! file, and lets the default happen; what isn't about a mapping goes to the handler before it.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Mappings that are known at a time; of more, nothing is said.
const MOST: usize = 64;
const MESSAGE: usize = 320;

/// One mapping. Everything in it is atomic, as a handler can't take a lock.
struct Entry {
    /// 0 where there is none.
    start: AtomicU64,
    end: AtomicU64,
    length: AtomicUsize,
    message: [AtomicU8; MESSAGE],
}

static ENTRIES: [Entry; MOST] = [const {
    Entry {
        start: AtomicU64::new(0),
        end: AtomicU64::new(0),
        length: AtomicUsize::new(0),
        message: [const { AtomicU8::new(0) }; MESSAGE],
    }
}; MOST];

/// Held while entries are changed.
static CHANGING: Mutex<()> = Mutex::new(());

/// What handled SIGBUS before: Rust's own handler, for one.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Names a mapping's file for as long as it lives.
#[derive(Debug)]
pub struct Named(Option<usize>);

impl Named {
    /// From now on, a SIGBUS in `range` says `text`.
    pub fn new(range: Range<u64>, text: &str) -> Self {
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        BEFORE.get_or_init(install);
        let free = |entry: &Entry| entry.start.load(Ordering::Relaxed) == 0;
        let Some(index) = ENTRIES.iter().position(free) else {
            return Named(None);
        };
        let entry = &ENTRIES[index];
        let text = format!("mote: {text}\n");
        let bytes = text.as_bytes();
        // A long path loses its start.
        let bytes = &bytes[bytes.len().saturating_sub(MESSAGE)..];
        for (to, from) in entry.message.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
        entry.length.store(bytes.len(), Ordering::Relaxed);
        entry.end.store(range.end, Ordering::Release);
        entry.start.store(range.start, Ordering::Release);
        Named(Some(index))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = self.0 {
            ENTRIES[index].start.store(0, Ordering::Release);
        }
    }
}

fn install() -> libc::sigaction {
    // SAFETY: an all-zero sigaction is a valid value: the default, and no flags.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    new.sa_sigaction = handler as *const () as usize;
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both are valid; where it fails there is no handler, and the default stays.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const new, &raw mut old) };
    old
}

/// Only what a signal handler may do: atomics and system calls.
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo, and for a positive code an address in it.
    let fault = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as u64) };
    let of_mapping = |address: u64| {
        ENTRIES.iter().find(|entry| {
            let start = entry.start.load(Ordering::Acquire);
            start != 0 && start <= address && address < entry.end.load(Ordering::Acquire)
        })
    };
    if let Some(entry) = fault.and_then(of_mapping) {
        let mut message = [0; MESSAGE];
        for (to, from) in message.iter_mut().zip(&entry.message) {
            *to = from.load(Ordering::Relaxed);
        }
        let length = entry.length.load(Ordering::Relaxed).min(MESSAGE);
        // SAFETY: as many bytes as there are.
        unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), length) };
        return default();
    }
    match BEFORE.get() {
        Some(before) if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with this flag it is such a function, made by whoever installed it.
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(before.sa_sigaction) };
            handler(signal, info, context);
        }
        // Nobody's: the default, when the instruction faults again or at the next signal.
        _ => default(),
    }
}

/// Lets the instruction fault again, with no handler.
fn default() {
    // SAFETY: an all-zero sigaction is the default.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a valid sigaction.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use crate::config::DaxMode;
    use crate::memory::dax::DaxMapping;
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const IN_CHILD: &str = "MOTE_TEST_SIGBUS";

    /// Runs itself in a process of its own, which ends as it should.
    #[test]
    fn a_page_that_has_gone_is_told_by_the_files_name() {
        if std::env::var_os(IN_CHILD).is_some() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shrinking.img");
            std::fs::write(&path, [7; 8192]).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mapping = DaxMapping::new(&file, 8192, DaxMode::Shared, &path).unwrap();
            file.set_len(4096).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::remove_dir(folder.path()).unwrap();
            let at = mapping.host_address() as *const u8;
            // SAFETY: within the mapping, whose second page has gone.
            unsafe {
                assert_eq!(at.read_volatile(), 7);
                at.add(4096).read_volatile();
            }
            unreachable!("the page is there");
        }
        let name = "memory::sigbus::tests::a_page_that_has_gone_is_told_by_the_files_name";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("shrinking.img: the host has no page"),
            "{said}"
        );
    }
}
