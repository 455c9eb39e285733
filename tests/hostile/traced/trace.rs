//! What strace has seen a VM's threads ask of the host's kernel, by kind of thread, from each one's filter on.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::thread::JoinHandle;

use motevm::sandbox::ThreadKind;

use crate::monitor::Monitor;

/// strace's output, as a descriptor of the process that becomes the monitor.
const OUTPUT: i32 = 250;
/// Each line with the thread's name and the system call's number, arguments as they are, no signals.
const STRACE: [&str; 11] = [
    "strace",
    "-D",
    "-f",
    "-Y",
    "-n",
    "-qq",
    "-e",
    "raw=all",
    "-e",
    "signal=none",
    "-o",
];

const STARTER: &str = "mote-starter";

/// A system call.
#[derive(Debug)]
pub struct Call {
    pub number: i64,
    pub arguments: Vec<u64>,
}

/// Has `monitor` traced; the thread ends with what was seen once the monitor has ended. To come last.
pub fn under_strace(monitor: Monitor) -> (Monitor, JoinHandle<String>) {
    let (mut lines, output) = io::pipe().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        lines.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let monitor = monitor.change(|command| {
        let own = STRACE.map(str::to_owned).into_iter();
        let own = own
            .chain([format!("/dev/fd/{OUTPUT}")])
            .map(|word| word.into_bytes());
        let theirs = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let words: Vec<_> = own
            .chain(theirs.map(|word| word.as_bytes().to_vec()))
            .map(|word| CString::new(word).unwrap())
            .collect();
        // SAFETY: what it does between fork and exec are system calls, with what was made before.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(output.as_raw_fd(), OUTPUT) < 0 {
                    return Err(io::Error::last_os_error());
                }
                let mut pointers = [std::ptr::null(); 128];
                for (pointer, word) in pointers.iter_mut().zip(&words[..words.len().min(127)]) {
                    *pointer = word.as_ptr();
                }
                libc::execvp(pointers[0], pointers.as_ptr());
                Err(io::Error::last_os_error())
            });
        }
    });
    (monitor, reader)
}

/// Of a trace, the calls of threads that were confined by then. `kind` says of which kind a thread is, by its name.
pub fn calls(trace: &str, kind: impl Fn(&str) -> ThreadKind) -> Vec<(ThreadKind, Call)> {
    let mut threads: BTreeMap<&str, Option<ThreadKind>> = BTreeMap::new();
    let mut seen = Vec::new();
    for (thread, name, call) in trace.lines().filter_map(parse) {
        // What the starter starts bears its name, and has its filter, until it has its own.
        let inherited = (name == STARTER).then_some(ThreadKind::Starter);
        let confined = threads.entry(thread).or_insert(inherited);
        let filtered = call.number == libc::SYS_seccomp
            && call.arguments[0] == u64::from(libc::SECCOMP_SET_MODE_FILTER);
        if let Some(kind) = *confined {
            seen.push((kind, call));
        }
        if filtered {
            *confined = Some(kind(name));
        }
    }
    seen
}

/// `NUMBER<NAME> [ NUMBER] CALL(ARGUMENT, ...`, however it goes on; a call that goes on is no other.
fn parse(line: &str) -> Option<(&str, &str, Call)> {
    let (thread, rest) = line.split_once('<')?;
    let (name, rest) = rest.split_once("> [")?;
    let (number, rest) = rest.split_once("] ")?;
    let (_, rest) = rest.split_once('(')?;
    let arguments = rest.split([')', '<']).next()?;
    let arguments = arguments
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let read = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    let call = Call {
        number: number.trim().parse().ok()?,
        arguments: arguments.map(read).collect::<Option<_>>()?,
    };
    Some((thread, name, call))
}
