//! Drives that the guest maps (virtio-pmem): root over DAX, and what becomes of writes.

use std::io::BufRead;
use std::process::Child;

use super::*;
use crate::peers::peer;

/// An ext4 image that can be mounted with DAX: small ones have blocks of 1 KiB otherwise.
pub fn ext4(folder: &Path, name: &str, size: u64, tree: Option<&Path>) -> PathBuf {
    let path = image(folder, name, size);
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-b", "4096"]);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    done(command.arg(&path));
    path
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// As md5sum prints it.
fn md5(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bytes");
    fs::write(&file, bytes).unwrap();
    let line = done(Command::new("md5sum").arg(&file));
    line.split(' ').next().unwrap().to_owned()
}

/// What a file in an ext4 image holds.
fn contents(image: &Path, file: &str) -> String {
    done(
        Command::new("debugfs")
            .args(["-R", &format!("cat {file}")])
            .arg(image),
    )
}

const MOUNT: &str = "mkdir -p /tmp/m; mount -o dax /dev/pmem0 /tmp/m";
const MOUNT_RO: &str = "mkdir -p /tmp/m; mount -o dax,ro /dev/pmem0 /tmp/m";

#[test]
fn the_root_file_system_is_mapped_with_the_right_flags_by_themselves() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.ext4");
    fs::copy(&guests.rootfs, &root).unwrap();
    let script = "mount | grep dax=always; ls /dev/vd* /dev/pmem*; \
                  cat /sys/block/pmem1/size /sys/block/vda/size; \
                  (echo hi > /root/hi) 2>/dev/null && sync && echo wrote; true";
    let (plain, mapped) = (
        image(folder.path(), "plain", 4096),
        folder.path().join("mapped"),
    );
    fs::write(&mapped, noise(3 << 20)).unwrap();
    // Names are by kind, in the order of the options.
    let (plain, mapped) = (path(&plain).to_owned(), format!("{},dax,ro", path(&mapped)));
    let drives = ["--disk", &plain, "--disk", &mapped];
    for (mode, wrote) in [("ro", ""), ("cow", "wrote\n"), ("", "wrote\n")] {
        let rootfs = format!("{},dax,{mode}", path(&root));
        let rootfs = rootfs.trim_end_matches(',');
        let out = in_guest(&[["--rootfs", rootfs].as_slice(), &drives].concat(), script);
        let expected = format!("/dev/pmem0  /dev/pmem1  /dev/vda\n8192\n8\n{wrote}");
        assert!(out.starts_with("/dev/root on / type ext4"), "{mode}: {out}");
        assert!(
            out.split_once('\n').unwrap().1.ends_with(&expected),
            "{mode}: {out}"
        );
        let found = contents(&root, "/root/hi");
        assert_eq!(found, if mode.is_empty() { "hi\n" } else { "" }, "{mode}");
        done(Command::new("e2fsck").arg("-fn").arg(&root));
    }
}

#[test]
fn an_erofs_image_is_mapped_as_root_though_its_size_is_odd() {
    let Some(guests) = guests() else { return };
    let Some(mkfs) = peer("mkfs.erofs") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (tree, root) = (folder.path().join("tree"), folder.path().join("root.erofs"));
    fs::create_dir(&tree).unwrap();
    let dump = format!("rdump / {}", path(&tree));
    done(
        Command::new("debugfs")
            .args(["-R", &dump])
            .arg(&guests.rootfs),
    );
    done(Command::new(mkfs).arg("--quiet").arg(&root).arg(&tree));
    // With half a page at its end, which a read-only mapping fills up with zeros.
    let size = fs::metadata(&root).unwrap().len();
    File::options()
        .append(true)
        .open(&root)
        .unwrap()
        .write_all(&[7; 2048])
        .unwrap();
    let rootfs = format!("{},dax,ro", path(&root));
    let script = format!(
        "mount | grep dax; dd if=/dev/pmem0 bs=2048 skip={} count=2 2>/dev/null | md5sum",
        size / 2048
    );
    let out = in_guest(&["--rootfs", &rootfs], &script);
    let expected = md5(&[[7; 2048], [0; 2048]].concat());
    assert!(out.starts_with("/dev/root on / type erofs (ro,"), "{out}");
    assert!(
        out.contains("dax=always") && out.contains(&expected),
        "{out}"
    );
}

#[test]
fn what_the_guest_writes_is_in_the_hosts_file_or_thrown_away() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    // Of no whole number of 2 MiB, as the guest's kernel needs them.
    let disk = ext4(folder.path(), "data.img", (13 << 20) + 8192, None);
    let drive = format!("path={},dax", path(&disk));
    let script = format!(
        "{MOUNT}; mount | grep -c pmem0.*dax=always; cat /sys/block/pmem0/size; \
         yes 0123456789abcde | head -c 4194304 > /tmp/m/f; sync; umount /tmp/m; \
         dd if=/dev/urandom of=/dev/pmem0 bs=4k seek=3330 count=1 conv=fsync 2>&1 | tail -n1; \
         dd if=/dev/zero of=/dev/pmem0 bs=4k seek=3328 count=2 conv=fsync 2>/dev/null && echo fine"
    );
    // What is written behind the file's end is refused at the next flush; the file's end isn't.
    let ended = boot(&["--disk", &drive], &script);
    assert!(
        ended.err.contains("beyond the end of the file"),
        "{ended:?}"
    );
    let out = ended.success();
    let expected = "1\n28672\ndd: /dev/pmem0: Input/output error\nfine\n";
    assert_eq!(out, expected);
    let found = contents(&disk, "/f");
    assert_eq!(found.len(), 4 << 20);
    assert!(found.lines().all(|line| line == "0123456789abcde"));
    done(Command::new("e2fsck").arg("-fn").arg(&disk));

    let before = fs::read(&disk).unwrap();
    let script = format!("{MOUNT}; rm /tmp/m/f; echo x > /tmp/m/g; sync; cat /tmp/m/g");
    let out = in_guest(&["--disk", &format!("{drive},cow")], &script);
    assert_eq!(out, "x\n");
    assert!(
        fs::read(&disk).unwrap() == before,
        "a private mapping was written to"
    );
}

#[test]
fn a_stock_kernel_maps_xfs() {
    let Some(guests) = guests() else { return };
    let Some(mkfs) = peer("mkfs.xfs") else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "data.xfs", 320 << 20); // no XFS is smaller
    done(Command::new(mkfs).arg("-q").arg(&disk));
    let drive = format!("path={},dax", path(&disk));
    let (kernel, initrd) = (path(&guests.debian_kernel), path(&guests.debian_initrd));
    let cmdline = format!(
        "mote.modules=all mote.run=\"{MOUNT} 2>/dev/null; mount | grep pmem0; echo x > /tmp/m/f; \
         sync; cat /tmp/m/f\""
    );
    let more = ["--kernel", kernel, "--initrd", initrd, "--memory", "256M"];
    let more = [more.as_slice(), &["--disk", &drive, "--cmdline", &cmdline]].concat();
    let out = finish(mote(&more)).success();
    assert!(
        out.contains("type xfs (rw,") && out.contains("dax=always"),
        "{out}"
    );
    assert!(out.ends_with("x\n"), "{out}");
}

#[test]
fn a_read_only_drive_bears_any_write_and_the_vm_goes_on() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = ext4(folder.path(), "ro.img", 8 << 20, None);
    let before = fs::read(&disk).unwrap();
    let drive = format!("path={},dax,ro", path(&disk));
    // As a block device, as a file system that is mounted for writing, and as plain memory.
    let script = format!(
        "dd if=/dev/urandom of=/dev/pmem0 bs=4k count=2 conv=fsync 2>/dev/null || echo refused; \
         {MOUNT} 2>/dev/null; (echo x > /tmp/m/new) 2>/dev/null; sync; umount /tmp/m 2>/dev/null; \
         devmem {:#x} 64 0x1234; devmem {:#x} 16; echo alive",
        native::MAPPED_DRIVE + 0x400,
        native::MAPPED_DRIVE + 0x438
    );
    let ended = boot(&["--disk", &drive], &script);
    assert!(
        ended.err.contains("though it is `ro`: ignored"),
        "{ended:?}"
    );
    let out = ended.success();
    assert!(
        out.starts_with("refused\n") && out.ends_with("0xEF53\nalive\n"),
        "{out}"
    );
    assert!(
        fs::read(&disk).unwrap() == before,
        "a read-only mapping was written to"
    );
}

/// Compiles the program of this name; `None` (said aloud) where there is no compiler.
pub fn program(tree: &Path, name: &str) -> Option<()> {
    let source = format!("{}/tests/linux/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let compiled = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(tree.join(name))
        .arg(&source)
        .status();
    let obstacle = match compiled {
        Ok(status) => {
            assert!(status.success(), "cc could not build {source}");
            None
        }
        Err(e) => Some(format!("there is no cc: {e}")),
    };
    can_run("cc", obstacle).then_some(())
}

#[test]
fn other_devices_read_and_write_straight_into_mapped_files() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let Some(()) = program(&tree, "dax") else {
        return;
    };
    let bytes = noise(1 << 20);
    fs::write(tree.join("from"), &bytes).unwrap();
    fs::write(tree.join("to"), vec![0; 1 << 20]).unwrap();
    let mapped = ext4(folder.path(), "mapped.img", 16 << 20, Some(&tree));
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    let other = noise(1 << 20);
    fs::write(&source, &other).unwrap();
    fs::write(&target, vec![0; 1 << 20]).unwrap();
    let [source, target] = [&source, &target].map(|file| path(file).to_owned());
    let drives = ["--disk", &source, "--disk", &target];

    let drive = format!("path={},dax", path(&mapped));
    let script = format!("{MOUNT}; /tmp/m/dax in /tmp/m/to /dev/vdb; sync");
    let out = in_guest(&[["--disk", &drive].as_slice(), &drives].concat(), &script);
    assert_eq!(out, "1048576\n");
    let copy = folder.path().join("copy");
    let dump = format!("dump /to {}", path(&copy));
    done(Command::new("debugfs").args(["-R", &dump]).arg(&mapped));
    assert!(
        fs::read(&copy).unwrap() == other,
        "what was read in isn't in the file"
    );

    let before = fs::read(&mapped).unwrap();
    let drive = format!("path={},dax,ro", path(&mapped));
    let script = format!(
        "{MOUNT_RO}; /tmp/m/dax out /tmp/m/from /dev/vdc; /tmp/m/dax float {:#x}",
        native::MAPPED_DRIVE
    );
    let out = in_guest(&[["--disk", &drive].as_slice(), &drives].concat(), &script);
    assert_eq!(out, format!("1048576\nignored\n{}\n", native::FLOAT_STORED));
    assert!(
        fs::read(&target).unwrap() == bytes,
        "what was written out isn't on the drive"
    );
    assert!(
        fs::read(&mapped).unwrap() == before,
        "a read-only mapping was written to"
    );
}

/// A VM that waits for a line on its console after it has said "ready".
struct Waiting(Child);

impl Waiting {
    fn new(more: &[&str], script: &str) -> (Self, String) {
        let cmdline = format!("mote.run=\"{script}; echo ready; head -n 1\"");
        let mut command = mote(&[&["--cmdline", &cmdline], more].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.as_mut().unwrap());
        let mut said = String::new();
        while !said.ends_with("ready\n") {
            let read = out.read_line(&mut said).unwrap();
            assert!(read > 0, "the guest has ended: {said}");
            said = said.replace("\r\n", "\n");
        }
        (Waiting(child), said)
    }

    fn end(mut self) {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn vms_share_a_read_only_image_and_the_hosts_huge_pages() {
    let Some(_) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "huge=always,size=64m", "tmpfs"])
        .arg(folder.path())
        .status()
        .is_ok_and(|status| status.success());
    let obstacle = "a tmpfs can't be mounted (not root?)".to_owned();
    if !can_run("mount", (!mounted).then_some(obstacle)) {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let bytes = noise(16 << 20);
    fs::write(tree.path().join("f"), &bytes).unwrap();
    let disk = ext4(folder.path(), "shared.img", 32 << 20, Some(tree.path()));
    let drive = format!("path={},dax,ro", path(&disk));
    let script = format!("{MOUNT_RO}; md5sum < /tmp/m/f");
    let (first, said) = Waiting::new(&["--disk", &drive], &script);
    let (second, said_second) = Waiting::new(&["--disk", &drive], &script);
    assert_eq!(said, said_second);
    assert!(said.starts_with(&md5(&bytes)), "{said}");
    // Both have the file's pages, which are the same: half of each is accounted to either.
    for vm in [&first, &second] {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", vm.0.id())).unwrap();
        // Two mappings: the guest's, and what other devices would see, which nobody has used.
        let mappings = smaps.split("shared.img\n").skip(1);
        let value_in = |mapping: &str, key: &str| -> u64 {
            let line = mapping.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let of_guest = mappings.max_by_key(|m| value_in(m, "Rss:")).unwrap();
        let value = |key| value_in(of_guest, key);
        let (rss, pss) = (value("Rss:"), value("Pss:"));
        assert!(rss >= 16 << 10 && pss * 3 < rss * 2, "{rss} {pss}");
        assert!(value("ShmemPmdMapped:") > 0, "{of_guest}");
    }
    first.end();
    second.end();
    unmount(folder.path());
}
