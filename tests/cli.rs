//! The command as a user meets it: its errors, its exit statuses, its help in docs/cli.md.

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/ci.rs"]
mod ci;
mod common;
#[path = "cli/ending.rs"]
mod ending;
#[path = "cli/handed.rs"]
mod handed;
#[path = "cli/idle.rs"]
mod idle;
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/reference.rs"]
mod reference;

use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use common::{BOOT_TIMER, Code, EXITS_IN_VAIN, KERNEL_ADVICE, PATIENCE, PROGRAM_COUNTER, kvm};

fn mote(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("COLUMNS", "100");
    command
}

fn outcome(arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = mote(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A folder with a guest in it, as "kernel".
fn guest(code: Code) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, code.kernel()).unwrap();
    let kernel = kernel.to_str().unwrap().to_owned();
    (folder, kernel)
}

#[test]
fn a_mistake_is_one_line_that_names_option_value_and_remedy() {
    let (folder, kernel) = guest(Code::new().reset());
    let odd = folder.path().join("odd.img");
    fs::write(&odd, [0; 1000]).unwrap();
    let disk = format!("path={}", odd.display());
    let folder = folder.path().to_str().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--cpus", "0"], &["--cpus 0", "1 to 64"]),
        (&["--memory", "1M"], &["--memory 1M", "at least"]),
        (&["--memory", "129K"], &["--memory 129K"]),
        (
            &["--cpu-mask", "cx17"],
            &["--cpu-mask cx17", "/proc/cpuinfo"],
        ),
        (&["--disk", &disk], &["odd.img", "512", "truncate"]),
        (&["--disk", "path=/nonexistent.img"], &["/nonexistent.img"]),
        (&["--net", "mtu=1500"], &["--net", "tap=NAME"]),
        (&["--net", "tap=a/b"], &["--net tap=a/b", "no spaces"]),
        (&["--net", "fd=54321"], &["--net fd=54321", "leave it open"]),
        (&["--net", "fd=0"], &["--net fd=0", "not an attached tap"]),
        (&["--net", "tap=t,rx-bw=0"], &["--net rx-bw", "no limit"]),
        (&["--initrd", "/nonexistent.cpio"], &["/nonexistent.cpio"]),
        (
            &["--console", "file=/nonexistent/log"],
            &["--console file=/nonexistent/log"],
        ),
        (
            &["--config", "/nonexistent.toml"],
            &["--config /nonexistent.toml"],
        ),
        (&["--vsock", "cid=2,socket=v"], &["--vsock cid=2", "from 3"]),
        (&["--vsock", "cid=3"], &["--vsock", "socket=PATH", "vhost"]),
        (
            &["--vsock", "cid=3,socket=/nonexistent/v"],
            &["--vsock socket=/nonexistent/v"],
        ),
        (
            &["--vsock", "cid=3,socket=/etc/passwd"],
            &["/etc/passwd", "not a socket"],
        ),
        (
            &["--until", "serial:x"],
            &["--until serial:x", "no console"],
        ),
        (&["--pin", "1=0"], &["--pin 1=0", "no vCPU 1", "--cpus 1"]),
        (
            &["--pin", "0=8191"],
            &["--pin 0=8191", "CPU 8191", "online"],
        ),
        (&["--pin", "0-1"], &["--pin 0,1", "one CPU for each vCPU"]),
        (
            &["--io-cpus", "8000-8191"],
            &["--io-cpus 8000-8191", "online"],
        ),
        (
            &["--sched", "3=other"],
            &["--sched other,3=other", "no vCPU 3"],
        ),
        (&["--numa-node", "999"], &["--numa-node=999", "node"]),
        (
            &["--numa", "node=0,cpus=0,memory=1M"],
            &["--numa memory=", "1M together", "--memory 128M"],
        ),
        (&["--kernel", folder], &[folder, KERNEL_ADVICE]),
        (&["--kernel", "/etc/passwd"], &["/etc/passwd"]),
    ];
    if kvm().is_none() {
        return;
    }
    for (arguments, expected) in cases {
        let mut words = vec!["run", "--console", "none"];
        if !arguments.contains(&"--kernel") {
            words.extend(["--kernel", &kernel]);
        }
        if arguments[0] == "--console" {
            words.retain(|word| !matches!(*word, "--console" | "none"));
        }
        words.extend_from_slice(arguments);
        let (code, out, err) = outcome(&words);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(
            out.is_empty() && err.lines().count() == 1,
            "{arguments:?}: {out}{err}"
        );
        assert!(err.starts_with("mote: "), "{err}");
        for part in *expected {
            assert!(
                err.contains(part),
                "{arguments:?}: {part:?} is not in {err}"
            );
        }
    }
}

#[test]
fn a_wrong_option_is_one_also_where_kvm_does_not_open() {
    let status = |cpus| {
        let mut command = mote(&["run", "--kernel", "k", "--cpus", cpus]);
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit {
                    rlim_cur: 3,
                    rlim_max: 3,
                };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
                Ok(())
            });
        }
        command.output().unwrap().status.code()
    };
    assert_eq!((status("1"), status("0")), (Some(3), Some(2)));
}

#[test]
fn arguments_that_make_no_sense_are_refused_by_the_parser() {
    for (arguments, expected) in [
        (
            ["run", "--disk", "path=a,colour=red"].as_slice(),
            "mote: --disk path=a,colour=red: unknown key `colour`, expected one of `path`, ",
        ),
        (
            &["run", "--disk", "a,cache=maybe"],
            "--disk a,cache=maybe: cache: unknown value `maybe`, expected one of `writeback`, ",
        ),
        (&["run", "--fs", "tag=a"], "--fs tag=a: missing `socket`"),
        (&["run", "--fs", "tag=a,socket=b,ro"], "unknown key `ro`"),
        (&["run", "--console", "printer"], "--console printer: must "),
        (&["run", "--memory", "plenty"], "--memory plenty: "),
        (&["run", "--cpus", "many"], "--cpus many: "),
        (
            &["run", "--until", "serial:"],
            "--until serial:: must be init, or ",
        ),
        (
            &["run", "--acpi", "maybe"],
            "'maybe' for '--acpi <ACPI>'; [possible values: auto, ",
        ),
        (&["run", "--no-such-option"], "'--no-such-option'"),
        (&["run", "--kernel"], "--kernel <PATH>"),
        (&["walk"], "'walk'"),
        (&["run", "--numa-node", "x"], "must be a whole number"),
        (
            &["run", "--notify-fd", "-1"],
            "-1: no option takes a negative",
        ),
        (
            &["run", "--numa", "node=0,cpus=0,1,memory=1M"],
            "a comma in a value is written as two",
        ),
        (
            &["bench", "boot", "--max-regression", "p50=5%"],
            "not provided: --baseline <FILE>",
        ),
        (
            &["bench", "launch", "--no-keep", "--settle", "1s"],
            "'--no-keep' cannot be used with '--settle",
        ),
    ] {
        let (code, _, err) = outcome(arguments);
        assert_eq!(code, 2, "{err}");
        assert!(err.starts_with("mote: ") && err.contains(expected), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    let (code, _, err) = outcome(&[]);
    assert!(code == 2 && err.contains("Usage: mote <COMMAND>"), "{err}");
}

#[test]
fn the_exit_status_tells_how_the_guest_ended() {
    if kvm().is_none() {
        return;
    }
    for (code, expected) in [
        (Code::new().reset(), 0),
        (Code::new().power_off(), 0),
        (Code::new().panic(), 4),
        (Code::new().crash(), 5),
    ] {
        let (_folder, kernel) = guest(code);
        let (code, _, err) = outcome(&["run", "--kernel", &kernel, "--console", "none"]);
        assert_eq!(code, expected, "{err}");
        // A crash is told with what is needed to look into it.
        let registers = err.contains(PROGRAM_COUNTER) || err.contains("registers: lost (on AMD");
        assert_eq!(expected == 5, registers && err.contains("code:"), "{err}");
    }
}

#[test]
fn a_vm_ends_once_its_guest_has_come_to_where_it_was_to() {
    if kvm().is_none() {
        return;
    }
    // Neither guest would ever end by itself.
    let signals = Code::new().print("up").write_byte(BOOT_TIMER, 123).spin();
    let (_folder, kernel) = guest(signals);
    let run = ["run", "--kernel", &kernel, "--timings", "--until", "init"];
    let (code, out, err) = outcome(&run);
    assert_eq!((code, out.as_str()), (0, "up"), "{err}");
    assert!(err.contains("exits to user space until init: 3 "), "{err}");
    let (_folder, kernel) = guest(Code::new().print("a login: ").spin());
    let until = ["--timings", "--until", "serial:login:"];
    let (code, out, err) = outcome(&[&["run", "--kernel", &kernel], &until[..]].concat());
    assert_eq!((code, out.trim()), (0, "a login:"), "{err}");
    assert!(err.contains("exec to marker"), "{err}");
    assert!(
        err.contains("exits to user space until the marker: 8 "),
        "{err}"
    );
}

#[test]
fn a_file_and_arguments_make_one_configuration() {
    let (folder, kernel) = guest(Code::new().print("from a file").reset());
    let toml = folder.path().join("vm.toml");
    fs::write(
        &toml,
        format!("cpus = 2\nmemory = \"64M\"\n[boot]\nkernel = {kernel:?}\n"),
    )
    .unwrap();
    let json = folder.path().join("vm.json");
    fs::write(
        &json,
        format!("{{\"cpus\": 2, \"memory\": 67108864, \"boot\": {{\"kernel\": {kernel:?}}}}}"),
    )
    .unwrap();
    let dump = |file: &Path| {
        let file = file.to_str().unwrap();
        let (code, out, err) =
            outcome(&["run", "--config", file, "--memory", "32M", "--dump-config"]);
        assert_eq!(code, 0, "{err}");
        out
    };
    let printed = dump(&toml);
    assert!(
        printed.contains("cpus = 2") && printed.contains("memory = \"32M\""),
        "{printed}"
    );
    assert_eq!(printed, dump(&json), "TOML and JSON say the same");
    // What is printed can be run.
    let again = folder.path().join("again.toml");
    fs::write(&again, &printed).unwrap();
    if kvm().is_none() {
        return;
    }
    let (code, out, err) = outcome(&["run", "--config", again.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (0, "from a file"), "{err}");
}

#[test]
fn a_wrong_key_in_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.toml");
    fs::write(&file, "cpus = 1\nmemroy = \"64M\"\n").unwrap();
    let (code, _, err) = outcome(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(err.contains("memroy") && err.contains("line 2"), "{err}");
}

#[test]
fn check_tells_people_and_scripts_the_same() {
    let (code, text, err) = outcome(&["check"]);
    assert!(matches!(code, 0 | 3 | 6), "{code}: {err}");
    assert!(text.contains("/dev/kvm"), "{text}");
    // Where no KVM opens there is none to measure.
    assert!(code == 3 || text.contains("KVM_CREATE_VM"), "{text}");
    // The same, and what a real-time guest needs besides.
    let words = ["check", "--realtime", "--pin", "0=0", "--io-cpus", "0"];
    let (real_time_code, real_time, err) = outcome(&words);
    assert_eq!(real_time_code, code, "{err}");
    assert!(real_time.contains("vCPUs have 0, too"), "{real_time}");
    assert!(real_time.contains("delay a real-time guest"), "{real_time}");
    let (code_alone, _, err) = outcome(&["check", "--pin", "0=0"]);
    assert!(code_alone == 2 && err.contains("--realtime"), "{err}");
    let (json_code, json, _) = outcome(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, json["exit_status"].as_i64()),
        (json_code, Some(i64::from(code)))
    );
    for check in json["checks"].as_array().unwrap() {
        let bad = matches!(check["level"].as_str(), Some("slow" | "missing"));
        assert!(!bad || check["remedy"].is_string(), "no remedy: {check}");
    }
}

#[test]
fn two_vms_do_not_write_to_one_image() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = guest(Code::new().print("up").spin());
    let image = folder.path().join("disk.img");
    fs::write(&image, [0; 4096]).unwrap();
    let disk = format!("path={}", image.display());
    let arguments = ["run", "--kernel", &kernel, "--disk", &disk];
    let mut first = mote(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 2];
    first.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let (code, _, err) = outcome(&arguments);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("disk.img"), "{err}");
}

#[test]
fn without_a_kernel_it_says_how_to_get_the_default_one() {
    let empty = tempfile::tempdir().unwrap();
    let output = mote(&["run"])
        .env("MOTE_CACHE", empty.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("make guest"));
}
