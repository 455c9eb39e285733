//! What the kernel does for an io_uring, where, and what it refuses to do.

use std::fs::File;
use std::io::Write;

use io_uring::types::{FsyncFlags, OpenHow};

use super::*;
use crate::placement::thread::{current, move_to};

/// An io_uring, or `None` (said aloud) where there is none to be had.
fn uring(cpus: Option<&CpuList>) -> Option<Uring> {
    Uring::new(2, cpus)
        .inspect_err(|error| {
            // Straight to the stream: the test harness would swallow it.
            let test = std::thread::current();
            let name = test.name().unwrap_or("a test");
            drop(writeln!(
                io::stderr(),
                "NOT RUN (kind io_uring): {name}: {error}"
            ));
        })
        .ok()
}

/// What comes of an entry.
fn result_of(ring: &mut Uring, entry: Entry) -> io::Result<u32> {
    // SAFETY: what the tests' entries refer to lives until this returns.
    unsafe { ring.push(1, entry).unwrap() };
    loop {
        ring.submit(1).unwrap();
        if let Some(done) = ring.next() {
            match done {
                Done::Request(1, result) => return result,
                _ => panic!("something else is done"),
            }
        }
    }
}

/// The CPUs of the kernel's threads for the calling thread's rings.
fn workers() -> Vec<String> {
    // SAFETY: takes nothing.
    let name = format!("iou-wrk-{}", unsafe { libc::gettid() });
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let cpus = tasks.filter_map(|task| {
        let read = |file| std::fs::read_to_string(task.path().join(file)).ok();
        let status = read("status").filter(|_| read("comm").is_some_and(|c| c.trim() == name))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("Cpus_allowed_list:\t"));
        line.map(str::to_owned)
    });
    cpus.collect()
}

#[test]
fn the_kernels_threads_are_where_they_are_told_to_be() {
    let test = || {
        let last: CpuList = current().unwrap().iter().last().into_iter().collect();
        move_to(&last).unwrap();
        let Some(mut ring) = uring(Some(&last)) else {
            return;
        };
        // What may always block is handed to a thread, which stays for a while.
        let file = tempfile::tempfile().unwrap();
        let flush = opcode::Fsync::new(Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC);
        result_of(&mut ring, flush.build()).unwrap();
        assert_eq!(workers(), [last.to_string()]);
    };
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn what_no_drive_needs_is_refused_by_the_kernel() {
    let Some(mut ring) = uring(None) else { return };
    let how = OpenHow::new();
    let here = Fd(libc::AT_FDCWD);
    let path = c"/etc/passwd".as_ptr();
    let file = File::open("/etc/passwd").unwrap();
    let fd = Fd(file.as_raw_fd());
    let mut byte = 0u8;
    let mut read = || opcode::Read::new(fd, (&raw mut byte).cast(), 1).build();
    let mut refused = vec![
        opcode::Nop::new().build(),
        opcode::OpenAt::new(here, path).build(),
        opcode::OpenAt2::new(here, path, &raw const how).build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
        opcode::Connect::new(fd, std::ptr::null(), 0).build(),
        opcode::SendMsg::new(fd, std::ptr::null()).build(),
        opcode::UnlinkAt::new(here, path).build(),
        opcode::Close::new(fd).build(),
        opcode::PollAdd::new(fd, 1).build(),
    ];
    refused.extend(
        [
            Flags::ASYNC,
            Flags::IO_LINK,
            Flags::IO_DRAIN,
            Flags::FIXED_FILE,
        ]
        .map(|flag| read().flags(flag)),
    );
    for entry in refused {
        let text = format!("{entry:?}");
        let error = result_of(&mut ring, entry).expect_err(&text);
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{text}");
    }
    // Nothing may be registered any more: no files, no memory, no other limits.
    let submitter = ring.ring.submitter();
    let errors = [
        submitter.register_files(&[file.as_raw_fd()]),
        submitter.register_probe(&mut Probe::new()),
        submitter.register_enable_rings(),
        submitter.register_restrictions(&mut [Restriction::sqe_op(opcode::OpenAt::CODE)]),
        submitter.register_personality().map(drop),
    ];
    for error in errors {
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
    assert_eq!(result_of(&mut ring, read()).unwrap(), 1);
}
