//! The command as a user meets it: its errors, its exit statuses, its help in docs/cli.md.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Code, can_run};

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

fn kvm() -> bool {
    can_run("kvm", motevm::Host::open().err().map(|e| e.to_string()))
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
        (&["--initrd", "/nonexistent.cpio"], &["/nonexistent.cpio"]),
        (
            &["--console", "file=/nonexistent/log"],
            &["--console file=/nonexistent/log"],
        ),
        (
            &["--config", "/nonexistent.toml"],
            &["--config /nonexistent.toml"],
        ),
        (&["--kernel", folder], &[folder, "vmlinux or a bzImage"]),
        (&["--kernel", "/etc/passwd"], &["/etc/passwd"]),
    ];
    for (arguments, expected) in cases {
        if !kvm() {
            return;
        }
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
fn arguments_that_make_no_sense_are_refused_by_the_parser() {
    for arguments in [
        ["run", "--disk", "path=a,colour=red"].as_slice(),
        &["run", "--console", "printer"],
        &["run", "--memory", "plenty"],
        &["run", "--no-such-option"],
        &["walk"],
    ] {
        let (code, _, err) = outcome(arguments);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("error:"), "{err}");
    }
}

#[test]
fn the_exit_status_tells_how_the_guest_ended() {
    if !kvm() {
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
    if !kvm() {
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
    assert!(
        text.contains("/dev/kvm") && text.contains("KVM_CREATE_VM"),
        "{text}"
    );
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
    if !kvm() {
        return;
    }
    let (folder, kernel) = guest(Code::new().print("up").spin());
    let image = folder.path().join("disk.img");
    fs::write(&image, [0; 4096]).unwrap();
    let disk = format!("path={}", image.display());
    let arguments = ["run", "--kernel", &kernel, "--disk", &disk];
    let mut first = mote(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 2];
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut up).unwrap();
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
console = "stdio"             # stdio, none, pty, or { file = "PATH" }

[boot]
kernel = "vmlinux"            # or a bzImage
initrd = "initrd.img"
cmdline = "loglevel=7"
cmdline_only = false
protocol = "auto"             # auto, linux64

[rootfs]
path = "root.ext4"
ro = true

[[disks]]
path = "data.img"
ro = false
id = "DATA-1"
cache = "none"                # writeback, none
"#;

#[test]
fn the_sample_configuration_is_one() {
    let config: motevm::VmConfig = toml::from_str(SAMPLE).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.drives().count(), 2);
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
         command line override the file, and `--disk` options replace all of its drives:\n",
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
