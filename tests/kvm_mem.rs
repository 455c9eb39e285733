//! `mote mem`: a running VM's memory told from outside. Tiny guests on any KVM.

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Code, DRIVE, RAM, can_run, kvm};
use motevm::footprint::{Amounts, Footprint, FootprintError, What};

const MOTE: &str = env!("CARGO_BIN_EXE_mote");

/// A `mote run` that is ended with the test.
struct Running {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts `code`, of which `size` bytes at least are loaded.
    fn start(code: &Code, size: usize, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, code.kernel_of_size(size)).unwrap();
        let child = Command::new(MOTE)
            .args(["run", "--memory", "64M", "--kernel"])
            .arg(kernel)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Running {
            child,
            _folder: folder,
        }
    }

    /// Waits for what the guest prints.
    fn printed(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        self.child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        assert_eq!(bytes, text.as_bytes());
    }

    fn type_in(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
    }

    fn footprint(&self) -> Footprint {
        Footprint::of(self.child.id()).unwrap()
    }
}

/// Asks until it holds: the process may be on its way there.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn mem(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(MOTE)
        .arg("mem")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The sums of /proc/PID/smaps_rollup.
fn rollup(pid: u32) -> Amounts {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let mut amounts = Amounts::default();
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(':') {
            amounts.read(key, value);
        }
    }
    amounts
}

fn stacks(of: &Footprint) -> Vec<&str> {
    let rows = of.rows.iter().filter(|row| row.what == What::Stack);
    rows.filter_map(|row| row.name.as_deref()).collect()
}

#[test]
fn what_the_guest_writes_is_its_own_and_the_kernel_is_told_apart() {
    if kvm().is_none() {
        return;
    }
    const LOADED: usize = 6 << 20;
    const AT: u64 = RAM + (32 << 20);
    let code = Code::new()
        .print("<")
        .echo_until_q()
        .touch(AT, 2048)
        .print(">")
        .halt();
    let mut vm = Running::start(&code, LOADED, &[]);
    vm.printed("<");
    let before = vm.footprint();
    vm.type_in("q");
    vm.printed("q>");
    let after = vm.footprint();

    let resident = |of: &Footprint, what| of.of_use(what).resident_kib;
    // The range that the guest writes to is of whole huge pages.
    let grown = resident(&after, What::GuestMemory) - resident(&before, What::GuestMemory);
    assert_eq!(grown, 8192, "{before}\n{after}");
    for of in [&before, &after] {
        assert_eq!(
            resident(of, What::GuestKernelText),
            LOADED as u64 >> 10,
            "{of}"
        );
        assert_eq!((of.vms, of.notes.len()), (1, 0), "{of}");
        for what in [
            What::Code,
            What::ReadOnlyData,
            What::Data,
            What::Heap,
            What::Registers,
        ] {
            assert!(resident(of, what) > 0, "{what:?}: {of}");
        }
        assert!(resident(of, What::Registers) < 64, "{of}");
        // Each thread's by its name.
        let stacks = stacks(of);
        assert!(
            stacks.contains(&"main") && stacks.contains(&"mote-vcpu0"),
            "{of}"
        );
        assert_eq!(
            of.private_guest_kib,
            of.total.private_kib() - of.private_besides_kib
        );
        assert!(of.page_cache_kib >= resident(of, What::Code) / 2, "{of}");
    }
    let guest = resident(&after, What::GuestMemory) + resident(&after, What::GuestKernelText);
    assert!(guest < 20 << 10, "{after}");
}

#[test]
fn nothing_is_left_out() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let drive = folder.path().join("drive.img");
    std::fs::write(&drive, vec![7; 3 << 20]).unwrap();
    let mapped = format!("{},dax", drive.display());
    let code = Code::new().touch(RAM + (32 << 20), 7).print(">").halt();
    let mut vm = Running::start(&code, 0, &["--disk", &mapped]);
    vm.printed(">");
    let pid = vm.child.id();
    // Other programs that have the same pages come and go, which changes what is shared: until they didn't
    // between the two.
    let footprint = until("the sums of the kernel", || {
        let footprint = vm.footprint();
        let sums = rollup(pid);
        let mut total = footprint.total;
        // smaps cuts each mapping's to whole KiB.
        let lost = sums.proportional_kib.checked_sub(total.proportional_kib);
        total.proportional_kib = sums.proportional_kib;
        total.swap_proportional_kib = sums.swap_proportional_kib;
        (total == sums && lost? < 64).then_some(footprint)
    });
    let mut rows = Amounts::default();
    footprint.rows.iter().for_each(|row| rows += &row.amounts);
    assert_eq!(rows, footprint.total);
}

#[test]
fn a_mapped_drive_is_told_by_its_name_and_is_page_cache() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let drive = folder.path().join("drive.img");
    std::fs::write(&drive, vec![b'm'; 8192]).unwrap();
    let mapped = format!("{},dax", drive.display());
    // A page of the file, and one behind its end.
    let code = Code::new().see_drives().read_byte(DRIVE).print_read();
    let code = code.read_byte(DRIVE + 8192).print(">").halt();
    let mut vm = Running::start(&code, 0, &["--disk", &mapped]);
    vm.printed("m>");
    let footprint = vm.footprint();
    let rows = footprint
        .rows
        .iter()
        .filter(|row| row.what == What::MappedDrive);
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 1, "{footprint}");
    assert_eq!(rows[0].name.as_deref(), drive.to_str());
    assert!(rows[0].page_cache_kib >= 4, "{footprint}");
    assert_eq!(rows[0].page_cache_kib, rows[0].amounts.resident_kib);
    let others = footprint
        .rows
        .iter()
        .filter(|row| row.what == What::MappedFile);
    assert_eq!(others.count(), 0, "{footprint}");
    assert!(
        footprint.to_string().contains("mapped drive drive.img"),
        "{footprint}"
    );
}

#[test]
fn a_vcpu_that_never_rests_has_its_stack_too() {
    if kvm().is_none() {
        return;
    }
    let mut vm = Running::start(&Code::new().print(">").spin(), 0, &["--cpus", "2"]);
    vm.printed(">");
    // The second may not have come so far yet.
    until("two vCPUs' stacks", || {
        let footprint = vm.footprint();
        let found = stacks(&footprint);
        let there = |name: &str| found.contains(&name);
        (there("mote-vcpu0") && there("mote-vcpu1")).then_some(())
    });
}

#[test]
fn the_command_tells_people_and_scripts_the_same() {
    if kvm().is_none() {
        return;
    }
    let mut vm = Running::start(&Code::new().print(">").halt(), 1 << 20, &[]);
    vm.printed(">");
    let pid = vm.child.id().to_string();
    let (code, text, err) = mem(&[&pid]);
    assert_eq!(code, Some(0), "{err}");
    for part in [
        "guest: kernel text",
        "stack of mote-vcpu0",
        "\ntotal ",
        "This VM costs the host ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (code, json, err) = mem(&[&pid, "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let footprint: Footprint = serde_json::from_str(&json).unwrap();
    assert_eq!(footprint.of_use(What::GuestKernelText).resident_kib, 1024);
    assert!(json.contains("\"what\": \"guest-kernel-text\""), "{json}");
}

#[test]
fn a_process_that_is_no_mote_or_not_there_is_said_to_be() {
    let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = sleep.id().to_string();
    // Until the child is that program.
    let (code, err) = until("sleep", || {
        let (code, _, err) = mem(&[&pid]);
        err.contains("(sleep)").then_some((code, err))
    });
    assert_eq!(code, Some(2));
    assert!(
        err.starts_with(&format!("mote: process {pid} (sleep) is not a mote")),
        "{err}"
    );
    sleep.kill().unwrap();
    // Ended, and nobody has asked how.
    let (code, err) = until("its end", || {
        let (code, _, err) = mem(&[&pid]);
        err.contains("has ended").then_some((code, err))
    });
    assert_eq!((code, err.lines().count()), (Some(2), 1), "{err}");
    sleep.wait().unwrap();
    let (code, _, err) = mem(&["4194999"]); // above the largest there can be
    assert_eq!(code, Some(2));
    assert!(err.contains("there is no process 4194999"), "{err}");
    let (code, _, err) = mem(&["0"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(matches!(
        Footprint::of(u32::MAX),
        Err(FootprintError::NoProcess { .. })
    ));
}

#[test]
fn another_users_process_is_refused_with_the_remedy() {
    // SAFETY: takes and changes nothing.
    let me = unsafe { libc::geteuid() };
    let folder = tempfile::tempdir().unwrap();
    let mut command;
    if me == 0 {
        // Where nobody may run it, wherever it was built.
        let copy = folder.path().join("mote");
        std::fs::copy(MOTE, &copy).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        command = Command::new(copy);
        let own = std::process::id().to_string();
        command.args(["mem", &own]).uid(65534).gid(65534);
    } else {
        command = Command::new(MOTE);
        command.args(["mem", "1"]);
    }
    let first = std::fs::metadata("/proc/1").unwrap().uid();
    // Another test's child may have the copy open for writing until it is another program.
    let output = until("a program that nobody writes to", || {
        match command.output() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
            output => Some(output),
        }
    });
    let output = match output {
        _ if me != 0 && first == me => Err("process 1 is one's own".to_owned()),
        Ok(output) => Ok(output),
        Err(e) => Err(format!("nobody may not run {MOTE}: {e}")),
    };
    let output = match output {
        Ok(output) => output,
        Err(obstacle) => {
            can_run("root", Some(obstacle));
            return;
        }
    };
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(
        err.contains("another user's") && err.contains("as root"),
        "{err}"
    );
}

#[test]
fn several_vms_of_one_process_are_told_one_by_one() {
    let Some(host) = kvm() else { return };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let vms = folders.each_ref().map(|folder| {
        let code = Code::new().print("x").reset();
        code.vm(&host, folder.path(), |config| {
            config.memory = motevm::config::Size::mib(64).into();
        })
    });
    let footprint = Footprint::of_this_process();
    let outside = Footprint::of(std::process::id()).unwrap();
    for of in [&footprint, &outside] {
        let texts = of
            .rows
            .iter()
            .filter(|row| row.what == What::GuestKernelText);
        let texts: Vec<_> = texts.map(|row| row.vm).collect();
        assert_eq!((of.vms, texts.as_slice()), (2, [1, 2].as_slice()), "{of}");
        assert!(of.to_string().contains("VM 2 guest: kernel text"), "{of}");
    }
    drop(vms);
    let after = Footprint::of_this_process();
    assert_eq!(after.vms, 0, "{after}");
    assert!(Path::new("/proc/self").exists());
}
