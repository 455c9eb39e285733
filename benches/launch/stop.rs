//! Runs a program up to its first KVM_RUN, and tells how long it took: the same way for every
//! program, and none of them knows of it.
//!
//! The child gives itself a seccomp filter before exec that lets all pass but ioctl(KVM_RUN), and
//! sends the filter's listener to this process (seccomp_unotify(2)). The first KVM_RUN of any of
//! its threads waits there; then both clocks are read and the child is killed. The filter costs
//! each system call the same few dozen instructions; nothing else is stopped or traced.

use std::fs::File;
use std::io::{self, Read};
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// _IO(KVMIO, 0x80), include/uapi/linux/kvm.h
const KVM_RUN: u32 = 0xae80;
/// How long a program may take; it has hung then.
const PATIENCE_MS: i32 = 60_000;
/// What is sent beside the listener: both clocks just before exec.
type Start = [u64; 2];

/// From just before exec to the first KVM_RUN.
#[derive(Clone, Debug)]
pub struct Moment {
    pub wall: Duration,
    /// Of all threads of the process.
    pub cpu: Duration,
    /// What it has printed.
    pub out: String,
}

/// Runs `command` as far as that; it is gone when this returns.
pub fn at_first_run(mut command: Command) -> Result<Moment, String> {
    let named = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    let (ours, theirs) = UnixDatagram::pair().map_err(named("socketpair"))?;
    let socket = theirs.as_raw_fd();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    // SAFETY: between fork and exec, `announce` makes system calls only.
    unsafe { command.pre_exec(move || announce(socket)) };
    let mut child = command.spawn().map_err(named("starting it"))?;
    drop(theirs);
    let found = receive(&ours)
        .map_err(named("the filter's listener"))
        .and_then(|(start, listener)| wait(&mut child, start, &listener));
    // Its KVM_RUN still waits; with the listener gone it would go on.
    let _ = child.kill();
    let mut said = String::new();
    let mut read = |stream: Option<&mut dyn Read>| {
        let mut text = String::new();
        let _ = stream.map(|stream| stream.read_to_string(&mut text));
        said.push_str(&text);
        text
    };
    let out = read(child.stdout.as_mut().map(|out| out as &mut dyn Read));
    read(child.stderr.as_mut().map(|err| err as &mut dyn Read));
    let _ = child.wait();
    match found {
        Ok((wall, cpu)) => Ok(Moment { wall, cpu, out }),
        Err(error) => Err(format!("{error}; it said: {}", said.trim())),
    }
}

/// In the child: filters itself, and says when it execs.
fn announce(socket: RawFd) -> io::Result<()> {
    // The system call's number and the low half of its second argument (struct seccomp_data).
    const NUMBER: u32 = 0;
    const REQUEST: u32 = 24;
    let load = |at| filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let equal = |value, otherwise| filter(libc::BPF_JMP | libc::BPF_JEQ, 0, otherwise, value);
    let give = |action| filter(libc::BPF_RET, 0, 0, action);
    let mut program = [
        load(NUMBER),
        equal(libc::SYS_ioctl as u32, 3),
        load(REQUEST),
        equal(KVM_RUN, 1),
        give(libc::SECCOMP_RET_USER_NOTIF),
        give(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: takes no pointer.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: a valid program, which the kernel copies.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    let start = [
        clock(libc::CLOCK_MONOTONIC),
        clock(libc::CLOCK_PROCESS_CPUTIME_ID),
    ];
    send(socket, &start, listener as RawFd)
}

fn filter(code: u32, if_true: u8, if_false: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: if_true,
        jf: if_false,
        k: value,
    }
}

/// Nanoseconds.
fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid timespec.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Room for one descriptor in a control message, aligned as its header.
type Control = [u64; 4];

/// Calls `act` with a message of `start` and room for a descriptor.
fn with_message<T>(
    start: &mut Start,
    control: &mut Control,
    act: impl FnOnce(*mut libc::msghdr) -> T,
) -> T {
    let mut part = libc::iovec {
        iov_base: start.as_mut_ptr().cast(),
        iov_len: size_of_val(start),
    };
    // SAFETY: an all-zero msghdr is a valid one with nothing in it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as usize;
    act(&raw mut message)
}

fn send(socket: RawFd, start: &Start, descriptor: RawFd) -> io::Result<()> {
    let (mut start, mut control) = (*start, Control::default());
    let sent = with_message(&mut start, &mut control, |message| {
        // SAFETY: the message has room for a header and a descriptor.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(header)
                .cast::<RawFd>()
                .write_unaligned(descriptor);
            libc::sendmsg(socket, message, 0)
        }
    });
    match sent {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<(Start, OwnedFd)> {
    let (mut start, mut control) = (Start::default(), Control::default());
    let descriptor = with_message(&mut start, &mut control, |message| {
        // SAFETY: the message's parts live through the call; the header is the kernel's.
        unsafe {
            if libc::recvmsg(socket.as_raw_fd(), message, libc::MSG_CMSG_CLOEXEC) < 0 {
                return Err(io::Error::last_os_error());
            }
            let header = libc::CMSG_FIRSTHDR(message);
            if header.is_null() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let number = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
            Ok(OwnedFd::from_raw_fd(number))
        }
    })?;
    Ok((start, descriptor))
}

/// Waits for the first KVM_RUN.
fn wait(
    child: &mut Child,
    [wall, cpu]: Start,
    listener: &OwnedFd,
) -> Result<(Duration, Duration), String> {
    let mut polled = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&raw mut polled, 1, PATIENCE_MS) };
    let now = clock(libc::CLOCK_MONOTONIC);
    // The CPU time of all threads of a process (clock_getcpuclockid(3)).
    let mut of_child = 0;
    // SAFETY: a valid place for the number.
    let known = unsafe { libc::clock_getcpuclockid(child.id() as i32, &raw mut of_child) };
    let used = clock(of_child);
    match ready {
        1 if polled.revents & libc::POLLIN != 0 && known == 0 => Ok((
            Duration::from_nanos(now - wall),
            Duration::from_nanos(used - cpu),
        )),
        0 => Err("it did not come to KVM_RUN".to_owned()),
        _ => Err("it ended before KVM_RUN".to_owned()),
    }
}

/// How often a program makes system calls before its first KVM_RUN, by strace.
pub fn system_calls(command: &Command, trace: &std::path::Path) -> Result<usize, String> {
    let mut strace = Command::new("strace");
    strace.arg("-f").arg("-o").arg(trace);
    strace.arg(command.get_program()).args(command.get_args());
    strace.stdin(Stdio::null());
    strace.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = strace.spawn().map_err(|e| format!("strace: {e}"))?;
    let mut text = String::new();
    // Programs whose guest ends them, all of these.
    let _ = child.wait();
    let read = File::open(trace).and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(|e| e.to_string())?;
    // A call that another thread interrupts has a second line, for its end.
    let mut calls = text.lines().filter(|line| !line.contains(" resumed>"));
    let before = calls.position(|line| line.contains("KVM_RUN"));
    before.ok_or_else(|| "no KVM_RUN in the trace".to_owned())
}
