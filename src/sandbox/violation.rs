//! What a system call that no list has ends in: a line that names it and the thread, and the end of the
//! process. The kernel sends SIGSYS to the thread in place of the call (seccomp(2), SECCOMP_RET_TRAP).

use std::cell::Cell;
use std::fmt::Write;
use std::io;
use std::sync::OnceLock;

use syscalls::Sysno;

/// The longest name of a thread (TASK_COMM_LEN).
const NAME: usize = 15;
const SYS_SECCOMP: i32 = 1;

thread_local! {
    /// A signal handler can't ask for a name: that would be a system call.
    static THREAD: Cell<([u8; NAME], usize)> = const { Cell::new(([0; NAME], 0)) };
}

/// What the process does before it ends, and with which status.
static END: OnceLock<(fn(), i32)> = OnceLock::new();

/// Notes the calling thread's name.
pub(super) fn name_thread() {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("main").as_bytes();
    let mut bytes = [0; NAME];
    let len = name.len().min(NAME);
    bytes[..len].copy_from_slice(&name[..len]);
    THREAD.set((bytes, len));
}

/// Whether that was done: the first thing by which a thread is confined.
pub(super) fn is_thread_named() -> bool {
    THREAD.get().1 > 0
}

/// From now on, a violation of a filter is told on standard error and ends the process with `status`,
/// after `before`, which may only do what a signal handler may, and the filters let it. Without this, it ends the
/// process by the signal, without a word.
///
/// # Errors
///
/// The host refused the handler.
pub fn end_process(before: fn(), status: i32) -> io::Result<()> {
    let _ = END.set((before, status));
    // SAFETY: an all-zero sigaction is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigsys;
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a valid action, whose handler does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_sigsys(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some((before, status)) = END.get() else {
        return;
    };
    before();
    // SAFETY: the kernel gives a valid siginfo.
    let by_filter = unsafe { (*info).si_code } == SYS_SECCOMP;
    // SAFETY: of a SIGSYS by seccomp, si_syscall lies behind the address of the call (siginfo_t
    // in the kernel's uapi/asm-generic/siginfo.h): 16 bytes of header, a pointer, an int.
    let number = unsafe { info.cast::<i32>().add(6).read() };
    let (name, len) = THREAD.get();
    let mut text = Text::default();
    let _ = write!(text, "mote: ");
    let thread = std::str::from_utf8(&name[..len]).unwrap_or("?");
    let _ = match (by_filter, Sysno::new(number as usize)) {
        (false, _) => write!(text, "SIGSYS from outside"),
        (true, Some(call)) => write!(
            text,
            "thread {thread} made a system call that its filter forbids: {} ({number})",
            call.name()
        ),
        (true, None) => write!(
            text,
            "thread {thread} made a system call that its filter forbids: {number}"
        ),
    };
    let _ = writeln!(
        text,
        ". The VM has ended. This is a defect of mote, or a guest that has broken into it; \
         --no-sandbox runs without filters"
    );
    // SAFETY: both are async-signal-safe, and on each list.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.bytes.as_ptr().cast(), text.len);
        libc::_exit(*status);
    }
}

/// A line, made without allocating.
struct Text {
    bytes: [u8; 320],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Text {
            bytes: [0; 320],
            len: 0,
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}
