//! Processes: the first, and further ones.

use mote_agent_protocol::Process;
use mote_agent_protocol::container::{Capabilities, User, Window};
use mote_agent_protocol::frame::{TO_AGENT, encode};
use oci_spec::runtime::PosixRlimitType as Limit;

use super::*;

fn process_of(value: &Value, size: Option<Window>) -> Result<Process, SpecError> {
    let spec = spec(value);
    let seccomp = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    crate::spec::process(spec.process().as_ref().unwrap(), seccomp, &full(), size)
}

fn with_process(name: &str, value: Value) -> Value {
    with(&format!("/process/{name}"), value)
}

#[test]
fn what_ctr_run_asks_for_is_there() {
    ignored();
    let made = process_of(&ctr(), None).unwrap();
    assert_eq!(made.arguments, ["echo", "hello"]);
    assert_eq!(made.environment.len(), 1);
    assert_eq!(made.folder, "/");
    let user = User::Ids {
        user: 0,
        group: 0,
        groups: vec![0, 10],
    };
    assert_eq!(made.user, user);
    assert_eq!(made.limits, [(7, 1024, 1024)]);
    assert!(made.no_new_privileges);
    assert_eq!(
        (made.terminal, made.oom_score, made.umask),
        (None, None, None)
    );
    assert_eq!(made.seccomp, None);
    // What /proc/self/status has of a container of containerd's.
    let sets = Capabilities {
        bounding: 0xa804_25fb,
        effective: 0xa804_25fb,
        permitted: 0xa804_25fb,
        inheritable: 0,
        ambient: 0,
    };
    assert_eq!(made.capabilities, Some(sets));
    assert_eq!(ignored(), Vec::<String>::new());
}

#[test]
fn what_cri_asks_for_is_there() {
    ignored();
    let folder = tempfile::tempdir().unwrap();
    let made = process_of(&cri(folder.path()), None).unwrap();
    let user = User::Ids {
        user: 1000,
        group: 1000,
        groups: vec![1000, 2000],
    };
    assert_eq!(made.user, user);
    assert_eq!(made.oom_score, Some(986));
    assert!(!made.no_new_privileges);
    assert!(made.seccomp.is_some());
    assert_eq!(ignored(), ["process.apparmorProfile"]);
}

#[test]
fn a_terminal_has_the_size_that_was_said_last() {
    let window = |columns, rows| Window { columns, rows };
    let mut asked = with_process("terminal", json!(true));
    assert_eq!(
        process_of(&asked, None).unwrap().terminal,
        Some(window(0, 0))
    );
    put(
        &mut asked,
        "/process/consoleSize",
        json!({"height": 40, "width": 100_000}),
    );
    assert_eq!(
        process_of(&asked, None).unwrap().terminal,
        Some(window(65535, 40))
    );
    let size = Some(window(80, 24));
    assert_eq!(process_of(&asked, size).unwrap().terminal, size);
    assert_eq!(process_of(&ctr(), size).unwrap().terminal, None);
}

#[test]
fn capabilities_that_are_not_said_are_none() {
    ignored();
    let none = process_of(&with_process("capabilities", json!(null)), None).unwrap();
    assert_eq!(none.capabilities, Some(Capabilities::default()));
    let last = with_process(
        "capabilities",
        json!({"bounding": ["CAP_CHECKPOINT_RESTORE", "CAP_CHOWN"]}),
    );
    let sets = process_of(&last, None).unwrap().capabilities.unwrap();
    assert_eq!((sets.bounding, sets.permitted), (1 << 40 | 1, 0));
    assert_eq!(ignored(), Vec::<String>::new());
}

#[test]
fn capabilities_that_the_kernel_would_refuse_are_left_out() {
    ignored();
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN", "CAP_SYS_ADMIN"],
        "inheritable": ["CAP_CHOWN", "CAP_BPF"],
        "ambient": ["CAP_CHOWN", "CAP_KILL"],
    });
    let sets = process_of(&with_process("capabilities", sets), None).unwrap();
    let sets = sets.capabilities.unwrap();
    assert_eq!((sets.effective, sets.inheritable, sets.ambient), (1, 1, 1));
    let fields = ["inheritable", "effective", "ambient"];
    assert_eq!(
        ignored(),
        fields.map(|field| format!("process.capabilities.{field}"))
    );
}

#[test]
fn limits_have_linuxs_numbers() {
    let all = [
        (Limit::RlimitCpu, libc::RLIMIT_CPU),
        (Limit::RlimitFsize, libc::RLIMIT_FSIZE),
        (Limit::RlimitData, libc::RLIMIT_DATA),
        (Limit::RlimitStack, libc::RLIMIT_STACK),
        (Limit::RlimitCore, libc::RLIMIT_CORE),
        (Limit::RlimitRss, libc::RLIMIT_RSS),
        (Limit::RlimitNproc, libc::RLIMIT_NPROC),
        (Limit::RlimitNofile, libc::RLIMIT_NOFILE),
        (Limit::RlimitMemlock, libc::RLIMIT_MEMLOCK),
        (Limit::RlimitAs, libc::RLIMIT_AS),
        (Limit::RlimitLocks, libc::RLIMIT_LOCKS),
        (Limit::RlimitSigpending, libc::RLIMIT_SIGPENDING),
        (Limit::RlimitMsgqueue, libc::RLIMIT_MSGQUEUE),
        (Limit::RlimitNice, libc::RLIMIT_NICE),
        (Limit::RlimitRtprio, libc::RLIMIT_RTPRIO),
        (Limit::RlimitRttime, libc::RLIMIT_RTTIME),
    ];
    let asked = all.map(|(typ, _)| json!({"type": typ, "soft": 1, "hard": u64::MAX}));
    let made = process_of(&with_process("rlimits", json!(asked)), None).unwrap();
    let numbers: Vec<_> = made.limits.iter().map(|limit| limit.0).collect();
    assert_eq!(numbers, all.map(|(_, number)| number));
    assert!(
        made.limits
            .iter()
            .all(|limit| (limit.1, limit.2) == (1, u64::MAX))
    );
}

#[test]
fn each_refusal_names_its_field() {
    let limit = |soft: u64, hard: u64| json!({"type": "RLIMIT_CORE", "soft": soft, "hard": hard});
    for (name, value, start) in [
        ("args", json!([]), "process.args: is empty"),
        ("args", json!([""]), "process.args: is empty"),
        ("args", json!(null), "process.args: is empty"),
        (
            "args",
            json!(["a", "b\u{0}c"]),
            "process.args[1]: has a zero byte",
        ),
        (
            "args",
            json!(["a", "b".repeat(3 << 20)]),
            "process.args: has 3145",
        ),
        ("env", json!(["A=\u{0}"]), "process.env[0]: has a zero byte"),
        (
            "cwd",
            json!("srv"),
            "process.cwd: srv: must be a whole path",
        ),
        ("cwd", json!(""), "process.cwd: : must be a whole path"),
        ("commandLine", json!("cmd"), "process.commandLine: "),
        (
            "ioPriority",
            json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
            "process.ioPriority: ",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_FIFO"}),
            "process.scheduler: ",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 5}),
            "process.scheduler: ",
        ),
        (
            "execCPUAffinity",
            json!({"initial": "0-3"}),
            "process.execCPUAffinity: ",
        ),
        ("oomScoreAdj", json!(1001), "process.oomScoreAdj: "),
        (
            "user",
            json!({"uid": 0, "gid": 0, "umask": 0o1000}),
            "process.user.umask: ",
        ),
        (
            "rlimits",
            json!([limit(2, 1)]),
            "process.rlimits[0]: RLIMIT_CORE: the soft limit",
        ),
        (
            "rlimits",
            json!([limit(0, 0), limit(0, 0)]),
            "process.rlimits[1]: RLIMIT_CORE: is there",
        ),
    ] {
        let text = process_of(&with_process(name, value), None)
            .unwrap_err()
            .to_string();
        assert!(text.starts_with(start), "{name}: {text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn what_changes_nothing_is_taken_and_labels_are_ignored() {
    ignored();
    for (name, value) in [
        ("scheduler", json!({"policy": "SCHED_OTHER", "nice": 0})),
        ("execCPUAffinity", json!({})),
        ("apparmorProfile", json!("unconfined")),
        ("selinuxLabel", json!("")),
        (
            "user",
            json!({"uid": 7, "gid": 8, "umask": 18, "username": "who"}),
        ),
    ] {
        let made = process_of(&with_process(name, value), None);
        assert!(made.is_ok(), "{name}: {}", made.unwrap_err());
    }
    assert_eq!(ignored(), Vec::<String>::new());
    process_of(
        &with_process("selinuxLabel", json!("system_u:system_r:x")),
        None,
    )
    .unwrap();
    assert_eq!(ignored(), ["process.selinuxLabel"]);
}

#[test]
fn the_longest_process_fits_into_a_message() {
    let environment: Vec<_> = (0..24)
        .map(|n| format!("V{n}={}", "x".repeat(128_000)))
        .collect();
    let made = process_of(&with_process("env", json!(environment)), None).unwrap();
    assert!(encode(&made, TO_AGENT).is_ok());
}
