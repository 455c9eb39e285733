//! Filters: run by an interpreter, and by this host's kernel.

use oci_spec::runtime::LinuxSeccomp;
use syscalls::Sysno;

use super::bpf::{call, native, run};
use super::*;
use crate::spec::seccomp::compile;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

fn filter(profile: Value) -> Vec<u8> {
    let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
    let program = compile(Some(&profile), &full()).unwrap();
    program.expect("there is something to filter")
}

fn refused(profile: Value) -> String {
    let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
    compile(Some(&profile), &full()).unwrap_err().to_string()
}

#[test]
fn the_profile_of_cri_allows_and_denies_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let program = filter(cri(folder.path())["linux"]["seccomp"].clone());
    for allowed in [Sysno::read, Sysno::exit_group, Sysno::openat, Sysno::getpid] {
        assert_eq!(call(&program, allowed, &[1, 2, 3]), ALLOW, "{allowed}");
    }
    for denied in [Sysno::mount, Sysno::ptrace, Sysno::bpf, Sysno::unshare] {
        assert_eq!(call(&program, denied, &[]), errno(libc::EPERM), "{denied}");
    }
    assert_eq!(call(&program, Sysno::socket, &[2]), ALLOW);
    assert_eq!(
        call(&program, Sysno::socket, &[40]),
        errno(libc::EPERM),
        "AF_VSOCK"
    );
    assert_eq!(
        call(&program, Sysno::socket, &[40 | 1 << 32]),
        ALLOW,
        "all 64 bits are compared"
    );
    assert_eq!(call(&program, Sysno::personality, &[0]), ALLOW);
    assert_eq!(call(&program, Sysno::personality, &[8]), ALLOW);
    assert_eq!(call(&program, Sysno::personality, &[4]), errno(libc::EPERM));
    assert_eq!(call(&program, Sysno::clone, &[0x11]), ALLOW);
    assert_eq!(
        call(&program, Sysno::clone, &[0x1000_0000]),
        errno(libc::EPERM),
        "CLONE_NEWUSER"
    );
    assert_eq!(call(&program, Sysno::clone3, &[]), errno(libc::ENOSYS));
    // Newer than all that is named, and none at all.
    let newer = Sysno::clone3.id() as u32 + 1;
    for number in [newer, 0x3fff_ffff, 0x4000_0000, u32::MAX] {
        assert_eq!(
            run(&program, native(), number, [0; 6]),
            errno(libc::ENOSYS),
            "{number:#x}"
        );
    }
}

#[test]
fn another_architectures_calls_end_the_program() {
    let program = filter(json!({"defaultAction": "SCMP_ACT_LOG"}));
    assert_eq!(run(&program, native(), 5, [0; 6]), libc::SECCOMP_RET_LOG);
    for other in [0x4000_0003, 0x4000_0028, native() ^ 1, 0] {
        assert_eq!(run(&program, other, 5, [0; 6]), KILL);
    }
    if std::env::consts::ARCH == "x86_64" {
        assert_eq!(
            run(&program, native(), 0x4000_0000, [0; 6]),
            errno(libc::ENOSYS),
            "x32"
        );
    }
}

#[test]
fn conditions_hold_as_numbers_of_64_bits_do() {
    type Holds = fn(u64, u64) -> bool;
    let all: [(&str, Holds); 6] = [
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_GE", |a, b| a >= b),
        ("SCMP_CMP_GT", |a, b| a > b),
    ];
    let rule = |args: Value| {
        filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": args}
        ]}))
    };
    let edges = [
        0,
        1,
        7,
        8,
        9,
        u32::MAX as u64,
        1 << 32,
        (1 << 32) + 7,
        (8 << 32) + 8,
        u64::MAX,
    ];
    let check = |program: &[u8], value, holds| {
        let expected = if holds { libc::SECCOMP_RET_TRAP } else { ALLOW };
        assert_eq!(
            call(program, Sysno::ioctl, &[0, 0, 0, 0, 0, value]),
            expected,
            "{value:#x}"
        );
    };
    for (op, holds) in all {
        for second in edges {
            let program = rule(json!([{"index": 5, "value": second, "op": op}]));
            for first in edges {
                check(&program, first, holds(first, second));
            }
        }
    }
    for mask in edges {
        for value in edges {
            let arg =
                json!([{"index": 5, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}]);
            let program = rule(arg);
            for first in edges {
                check(&program, first, first & mask == value);
            }
        }
    }
}

#[test]
fn all_conditions_of_a_rule_hold_or_one_of_an_argument() {
    let arg =
        |index: usize, value: u64, op: &str| json!({"index": index, "value": value, "op": op});
    let program = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": (0..6)
            .map(|index| arg(index, index as u64 + 1, "SCMP_CMP_LE")).collect::<Vec<_>>()},
        {"names": ["fcntl"], "action": "SCMP_ACT_ALLOW",
            "args": [arg(1, 3, "SCMP_CMP_EQ"), arg(1, 5, "SCMP_CMP_EQ")]},
    ]}));
    assert_eq!(call(&program, Sysno::ioctl, &[1, 2, 3, 4, 5, 6]), ALLOW);
    for index in 0..6 {
        let mut arguments = [0; 6];
        arguments[index] = 7;
        assert_eq!(
            call(&program, Sysno::ioctl, &arguments),
            errno(libc::EPERM),
            "{index}"
        );
    }
    for (command, expected) in [(3, ALLOW), (4, errno(libc::EPERM)), (5, ALLOW)] {
        assert_eq!(call(&program, Sysno::fcntl, &[0, command]), expected);
    }
}

#[test]
fn there_may_be_all_actions_in_one_profile() {
    let rule = |name: &str, action: &str| json!({"names": [name], "action": action});
    let program = filter(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
            rule("read", "SCMP_ACT_ALLOW"),
            rule("write", "SCMP_ACT_LOG"),
            rule("close", "SCMP_ACT_KILL"),
            rule("fstat", "SCMP_ACT_KILL_PROCESS"),
            rule("lseek", "SCMP_ACT_TRAP"),
            {"names": ["mmap"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["brk"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            rule("futex", "SCMP_ACT_ERRNO"),
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 25},
            {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]},
            rule("no_such_call", "SCMP_ACT_ALLOW"),
        ]}),
    );
    for (number, expected) in [
        (Sysno::read, ALLOW),
        (Sysno::write, libc::SECCOMP_RET_LOG),
        (Sysno::close, libc::SECCOMP_RET_KILL_THREAD),
        (Sysno::fstat, KILL),
        (Sysno::lseek, libc::SECCOMP_RET_TRAP),
        (Sysno::mmap, errno(95)),
        (Sysno::brk, libc::SECCOMP_RET_TRACE | 7),
        (Sysno::futex, errno(1)),
        (Sysno::ioctl, errno(25)),
        (Sysno::pread64, errno(13)),
    ] {
        assert_eq!(call(&program, number, &[]), expected, "{number}");
    }
    assert_eq!(call(&program, Sysno::ioctl, &[0, 5]), ALLOW);
}

/// Each number of all, in a filter whose halves are further apart than a condition can jump.
#[test]
fn every_number_is_found() {
    let names: Vec<_> = (0..460)
        .filter_map(Sysno::new)
        .map(|call| call.name())
        .collect();
    let odd = names.iter().step_by(2);
    let rules: Vec<_> = odd
        .map(|name| {
            let args = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_GT"}]);
            json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args})
        })
        .collect();
    let program = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
    assert!(program.len() > 255 * 8 * 4);
    for (index, name) in names.iter().enumerate() {
        let number: Sysno = name.parse().unwrap();
        let listed = index % 2 == 0;
        let last = names.len() - 1 - (names.len() - 1) % 2;
        let otherwise = if index > last {
            libc::ENOSYS
        } else {
            libc::EPERM
        };
        let expected = if listed { ALLOW } else { errno(otherwise) };
        assert_eq!(call(&program, number, &[2]), expected, "{name}");
        let expected = errno(otherwise);
        assert_eq!(call(&program, number, &[1]), expected, "{name}");
    }
}

#[test]
fn this_hosts_kernel_takes_it_and_keeps_to_it() {
    let program = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
        {"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 72,
            "args": [{"index": 0, "value": 4_000_000_000u64, "op": "SCMP_CMP_GE"}]},
    ]}));
    let instructions: Vec<_> = program
        .chunks_exact(8)
        .map(|bytes| seccompiler::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes(bytes[4..].try_into().unwrap()),
        })
        .collect();
    // A thread of its own, which the filter ends with.
    let thread = std::thread::spawn(move || {
        seccompiler::apply_filter(&instructions).unwrap();
        let call = |number: Sysno, argument: u64| {
            // SAFETY: of these calls neither takes a pointer.
            let result = unsafe { libc::syscall(number.id().into(), argument) };
            (result, std::io::Error::last_os_error().raw_os_error())
        };
        let own = call(Sysno::gettid, 0).0;
        [
            call(Sysno::getppid, 0),
            call(Sysno::dup, 4_000_000_000),
            call(Sysno::dup, 999_999),
            (own, None),
        ]
    });
    let [parent, far, near, own] = thread.join().unwrap();
    assert_eq!(parent, (-1, Some(71)));
    assert_eq!(far, (-1, Some(72)));
    assert_eq!(near, (-1, Some(libc::EBADF)));
    assert!(own.0 > 0);
}

#[test]
fn what_filters_nothing_is_no_filter() {
    ignored();
    let kernel = Hello::default();
    let of = |profile: Value| -> LinuxSeccomp { serde_json::from_value(profile).unwrap() };
    let all = of(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}),
    );
    assert_eq!(compile(Some(&all), &kernel).unwrap(), None);
    assert_eq!(ignored(), ["linux.seccomp.flags"]);
    assert_eq!(compile(None, &kernel).unwrap(), None);
    let some = of(json!({"defaultAction": "SCMP_ACT_ERRNO"}));
    let text = compile(Some(&some), &kernel).unwrap_err().to_string();
    assert!(
        text.starts_with("linux.seccomp: the guest's kernel has no filters"),
        "{text}"
    );
}

#[test]
fn each_refusal_names_its_field() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let args =
        |args: Value| rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": args}));
    for (profile, start) in [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "defaultAction: SCMP_ACT_NOTIFY",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "defaultErrnoRet: SCMP_ACT_ALLOW",
        ),
        // With more bits this would be another action.
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 0x7fff_0000}),
            "defaultErrnoRet: 2147418112",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/s"}),
            "listenerPath: ",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "listenerMetadata": "x"}),
            "listenerMetadata: ",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "syscalls[0].action: ",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 1})),
            "syscalls[0].errnoRet: ",
        ),
        (
            args(json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}])),
            "syscalls[0].args[0].index: 6",
        ),
    ] {
        let text = refused(profile);
        assert!(
            text.starts_with(&format!("linux.seccomp.{start}")),
            "{text}"
        );
    }
    let many: Vec<_> = (0..1000u64)
        .map(|value| json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]}))
        .collect();
    let text = refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many}));
    assert!(
        text.starts_with("linux.seccomp.syscalls: makes a filter of 5"),
        "{text}"
    );
}
