//! The command as a user meets it: its errors, its exit statuses, its help in docs/cli.md.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Code, kvm};

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
    fs::write(&kernel, code.elf()).unwrap();
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
        (&["--kernel", folder], &[folder, "vmlinux or a bzImage"]),
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
            &["run", "--acpi", "maybe"],
            "'maybe' for '--acpi <ACPI>'; [possible values: auto, ",
        ),
        (&["run", "--no-such-option"], "'--no-such-option'"),
        (&["run", "--kernel"], "--kernel <PATH>"),
        (&["walk"], "'walk'"),
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
        (Code::new().out(0x600, 0x34).spin(), 0),
        (Code::new().write_word(0x472, 0x1234).reset(), 4),
        (Code::new().triple_fault(), 5),
        (Code::new().jump(0xd800_0000), 5),
    ] {
        let (_folder, kernel) = guest(code);
        let (code, _, err) = outcome(&["run", "--kernel", &kernel, "--console", "none"]);
        assert_eq!(code, expected, "{err}");
        // A crash is told with what is needed to look into it.
        let registers = err.contains("rip 0x") || err.contains("registers: lost (on AMD");
        assert_eq!(expected == 5, registers && err.contains("code:"), "{err}");
    }
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

/// A configuration with everything in it, for docs/cli.md.
const SAMPLE: &str = r#"cpus = 2                      # 1 to 64
memory = "512M"               # a size with a unit, or a number of bytes
cpu_mask = ["cx16"]           # features to hide, as /proc/cpuinfo names them
acpi = "auto"                 # auto, on, off
console = "stdio"             # stdio, none, pty, { file = "PATH" }; of a virtio console the same,
                              # such as { hvc = "stdio" } or { hvc = { file = "PATH" } }

[boot]
kernel = "vmlinux"            # or a bzImage
initrd = "initrd.img"
cmdline = "loglevel=7"
cmdline_only = false
protocol = "auto"             # auto, linux64

[rootfs]                      # a drive: takes the same keys as those below
path = "root.ext4"
ro = true

[[disks]]
path = "data.img"
ro = false
id = "DATA-1"
cache = "none"                # writeback, none, unsafe
engine = "io_uring"           # threads, io_uring
queues = 2                    # 1 to 64
iops = 5000                   # requests in a second; and at once, after a pause:
iops-burst = 20000
bw = "100M"                   # bytes in a second; and at once:
bw-burst = "1G"

[[disks]]
path = "shared.ext4"
dax = true                    # the guest maps it; alone, or with ro or cow
cow = true

[[disks]]
vhost-user = "blk.sock"       # served by another process
server = true                 # which connects to mote
on-disconnect = "wait"        # wait, exit

[[nets]]
tap = "tap0"                  # or fd = 3
mac = "02:00:00:00:00:01"     # a random one by default
queues = 1                    # pairs, 1 to 8
mtu = 1500
vhost = false                 # let the host's kernel move the packets
link = true                   # false: as if the cable weren't plugged in
rx-bw = "100M"                # bytes a second to the guest; tx-bw: from it
rx-bw-burst = "10M"
rx-pps = 100000               # packets a second; tx-pps
rx-pps-burst = 1000

[[nets]]
user = true                   # through a passt that mote starts; or vhost-user = "SOCKET"
on-disconnect = "wait"        # wait, exit

[[fs]]
tag = "data"                  # mount -t virtiofs data /mnt
socket = "virtiofsd.sock"
queues = 1

[vsock]
cid = 42                      # the guest's address, from 3 on
socket = "v.sock"             # or vhost = true

[balloon]
size = "128M"                 # what the guest gives up from the start
deflate-on-oom = true
stats = 5                     # seconds
free-page-reporting = true

[metrics]
file = "vm.prom"
interval = 10                 # seconds
unix = "metrics.sock"
"#;

#[test]
fn the_sample_configuration_is_one() {
    let config: motevm::VmConfig = toml::from_str(SAMPLE).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.drives().count(), 4);
    for console in [r#"{ hvc = "stdio" }"#, r#"{ hvc = { file = "PATH" } }"#] {
        let text = SAMPLE.replacen(r#""stdio""#, console, 1);
        let config: motevm::VmConfig = toml::from_str(&text).unwrap();
        assert!(!config.console.is_serial(), "{console}");
    }
}

#[test]
fn the_reference_is_what_the_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let mut page = String::from(
        "# Command line\n\n\
         This page is what `mote help` prints, kept so by a test (tests/cli.rs). After a change to an \
         option, `UPDATE_DOCS=1 cargo test --test cli` writes it anew.\n\n\
         A configuration file (`--config`) says the same in TOML, or in JSON where its name ends in \
         `.json`. What is left out has its default; an unknown key is an error; options on the \
         command line override the file, and `--disk`, `--net` and `--fs` options replace all that it has \
         of that sort:\n",
    );
    page += &format!("\n```toml\n{SAMPLE}```\n");
    let (_, main, _) = outcome(&["help"]);
    let commands = main.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.map_while(|line| line.split_whitespace().next());
    let names: Vec<_> = commands.filter(|name| *name != "help").collect();
    assert!(names.contains(&"run"), "{main}");
    for (title, arguments) in std::iter::once(("mote".to_owned(), vec!["help"])).chain(
        names
            .iter()
            .map(|name| (format!("mote {name}"), vec![*name, "--help"])),
    ) {
        let (code, help, err) = outcome(&arguments);
        assert_eq!(code, 0, "{err}");
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        page += &format!(
            "\n## {title}\n\n```text\n{}\n```\n",
            help.join("\n").trim_end()
        );
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/cli.md is out of date: UPDATE_DOCS=1 cargo test --test cli"
    );
}

/// A file to which nothing can be written.
fn full() -> fs::File {
    fs::File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn nobody_to_tell_changes_no_exit_status() {
    let code = |command: &mut Command| command.status().unwrap().code();
    let dump = ["run", "--kernel", "k", "--dump-config"];
    assert_eq!(code(mote(&dump).stdout(full()).stderr(full())), Some(1));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(code(mote(&dump).stdout(writer)), Some(0));
    let nothing = ["run", "--config", "/nonexistent.toml"];
    assert_eq!(code(mote(&nothing).stderr(full())), Some(2));
    if kvm().is_none() {
        return;
    }
    let (_folder, kernel) = guest(Code::new().print("x").triple_fault());
    let crash = ["run", "--kernel", &kernel, "--timings"];
    assert_eq!(code(mote(&crash).stdout(full()).stderr(full())), Some(5));
}

/// Starts a guest that goes on for ever; returns when it runs.
fn running(mut command: Command) -> Child {
    let mut mote = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 5];
    mote.stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(&ready, b"ready");
    mote
}

fn signal(mote: &Child, signal: i32) {
    // SAFETY: a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(mote.id() as i32, signal) }, 0);
}

/// How it ended, if it did within this time.
fn ended(mote: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        let status = mote.try_wait().unwrap();
        if status.is_some() || Instant::now() > deadline {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_so() {
    if kvm().is_none() {
        return;
    }
    let (_folder, kernel) = guest(Code::new().print("ready").spin());
    // As nohup does, and shell scripts with what they start in the background.
    let ignored = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
    let mut command = mote(&["run", "--kernel", &kernel]);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for signal in ignored {
                libc::signal(signal, libc::SIG_IGN);
            }
            Ok(())
        });
    }
    let mut mote = running(command);
    for number in ignored {
        signal(&mote, number);
    }
    assert_eq!(ended(&mut mote, Duration::from_millis(300)), None);
    signal(&mote, libc::SIGTERM);
    let status = ended(&mut mote, Duration::from_secs(30)).unwrap();
    assert_eq!(status.code(), Some(143));
}

#[test]
fn a_host_that_hangs_does_not_keep_mote_from_ending() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = guest(Code::new().print("ready").reset());
    // Writing the report waits for somebody to read this.
    let fifo = folder.path().join("fifo");
    let path = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: the path has a terminator.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let report = format!("json={}", fifo.display());
    let mut mote = running(mote(&["run", "--kernel", &kernel, "--timings", &report]));
    assert_eq!(ended(&mut mote, Duration::from_millis(300)), None);
    signal(&mote, libc::SIGTERM);
    let status = ended(&mut mote, Duration::from_secs(30));
    let _ = mote.kill();
    // The VM has ended, so the signal does what it always does.
    assert_eq!(status.expect("it ends").signal(), Some(libc::SIGTERM));
}

#[test]
fn a_file_size_limit_costs_the_kernel_cache_not_the_vm() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = guest(Code::new());
    fs::write(&kernel, bzimage(&Code::new().reset().elf_of_size(1 << 20))).unwrap();
    let mut command = mote(&["run", "--console", "none", "--kernel", &kernel]);
    command.env("XDG_CACHE_HOME", folder.path());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 4096,
                rlim_max: 4096,
            };
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            Ok(())
        });
    }
    assert_eq!(command.status().unwrap().code(), Some(0));
    let kept = fs::read_dir(folder.path().join("mote/kernels")).unwrap();
    assert_eq!(kept.count(), 0);
}

/// A bzImage with this vmlinux in it (Linux Documentation/arch/x86/boot.rst).
fn bzimage(vmlinux: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(vmlinux).unwrap();
    let payload = gzip.finish().unwrap();
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // one sector of set-up
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]); // loaded high
    put(0x236, &[1]); // has a 64-bit entry
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image
}
