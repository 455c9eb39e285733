//! Folders and files of the host in containers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::ctr::finish;
use crate::runner::not_run;
use crate::world::{FOLDER, World};

/// An option of `ctr`, and the folder that it shows.
fn volume(name: &str, rights: &str) -> (String, std::path::PathBuf) {
    let folder = Path::new(FOLDER).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let option = format!(
        "type=bind,src={},dst=/data,options=rbind:{rights}",
        folder.display()
    );
    (option, folder)
}

pub fn a_volume_goes_both_ways(world: &World) {
    let (option, folder) = volume("volume", "rw");
    fs::write(folder.join("from-host"), "before\n").unwrap();
    let script = "cat /data/from-host; mkdir /data/new; echo guest >/data/new/file; chmod 640 /data/new/file; \
                  chown 1000:1001 /data/new/file; echo ready; until [ -e /data/go ]; do sleep 0.1; done; cat /data/go; rm /data/from-host";
    let mut session = world.session(&["--mount", &option], "volume", script);
    session.expect("before");
    session.expect("ready");
    let file = folder.join("new/file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "guest\n");
    let facts = fs::metadata(&file).unwrap();
    assert_eq!(
        (facts.uid(), facts.gid(), facts.mode() & 0o777),
        (1000, 1001, 0o640)
    );
    // A rename, so that what is seen is whole.
    fs::write(folder.join("go.new"), "while it ran\n").unwrap();
    fs::rename(folder.join("go.new"), folder.join("go")).unwrap();
    session.expect("while it ran");
    assert_eq!(session.end().code, Some(0));
    assert!(!folder.join("from-host").exists());
    fs::remove_dir_all(folder).unwrap();
}

pub fn a_read_only_volume_stays_as_it_is(world: &World) {
    let (option, folder) = volume("read-only", "ro");
    fs::write(folder.join("file"), "kept\n").unwrap();
    // One file can be shown, too, as resolv.conf is.
    let file = folder.join("file");
    let single = format!(
        "type=bind,src={},dst=/etc/single,options=rbind:ro",
        file.display()
    );
    let script = "cat /data/file /etc/single; echo x 2>/dev/null >/data/file || echo refused; rm -f /data/file 2>/dev/null || echo refused; \
                  echo x 2>/dev/null >/etc/single || echo refused";
    let out = world.script(
        &["--mount", &option, "--mount", &single],
        "read-only",
        script,
    );
    assert_eq!(out, "kept\nkept\nrefused\nrefused\nrefused\n");
    assert_eq!(fs::read_to_string(file).unwrap(), "kept\n");
    fs::remove_dir_all(folder).unwrap();
}

/// What the host mounts in a volume while its container runs.
pub fn later_mounts_come_where_that_is_asked_for(world: &World) {
    let (apart, folder) = volume("later", "rw");
    let place = folder.display().to_string();
    let follows = format!("type=bind,src={place},dst=/follows,options=rbind:rw:rslave");
    let inner = format!("{place}/inner");
    fs::create_dir(&inner).unwrap();
    let mount = |arguments: &[&str]| {
        let mut command = Command::new("mount");
        command.args(arguments);
        finish(command, &[]).success();
    };
    // As all of a host's usually are.
    mount(&["--bind", &place, &place]);
    mount(&["--make-shared", &place]);
    let script = "echo ready; until [ -e /data/go ]; do sleep 0.1; done; ls /data/inner; echo and; ls /follows/inner";
    let options = ["--mount", &apart, "--mount", &follows];
    let mut session = world.session(&options, "later", script);
    session.expect("ready");
    mount(&["-t", "tmpfs", "none", &inner]);
    fs::write(folder.join("inner/file"), "").unwrap();
    fs::write(folder.join("go"), "").unwrap();
    assert_eq!(session.end().text(), "and\nfile\n");
    for place in [&inner, &place] {
        let mut command = Command::new("umount");
        command.arg(place);
        finish(command, &[]).success();
    }
    fs::remove_dir_all(folder).unwrap();
}

/// A guest can mount by itself what its volumes are in. The host's places for them aren't for it to change.
pub fn what_volumes_are_in_stays_as_it_is(world: &World) {
    // A folder would be what is mounted then, in place of all: a guest's kernel finds the file system that it made last.
    if !World::is_mote() || World::rootfs() == "virtiofs" {
        let why = "only a guest whose one volume is a file finds what it is in";
        return not_run("volumes", "what_volumes_are_in_stays_as_it_is", why);
    }
    let (_, folder) = volume("around", "rw");
    let file = folder.join("file");
    fs::write(&file, "before\n").unwrap();
    let option = format!(
        "type=bind,src={},dst=/data/file,options=rbind:rw",
        file.display()
    );
    let script = "mkdir /tmp/all; mount -t virtiofs mote-shared /tmp/all || exit 1; cd /tmp/all; ls; \
                  (ln -s /etc/shadow 1; mkdir 2; rm 0; mv 0 3; : >4) 2>&1; echo guest >/data/file; cat 0";
    let options = ["--cap-add", "CAP_SYS_ADMIN", "--mount", &option];
    let out = world.script(&options, "around", script);
    let lines: Vec<_> = out.lines().collect();
    let [first, refused @ .., last] = &lines[..] else {
        panic!("{out}");
    };
    assert_eq!((*first, *last), ("0", "guest"), "{out}");
    let is_refusal = |line: &&str| line.ends_with("Read-only file system");
    assert!(
        refused.len() == 5 && refused.iter().all(is_refusal),
        "{out}"
    );
    assert_eq!(fs::read_to_string(file).unwrap(), "guest\n");
    fs::remove_dir_all(folder).unwrap();
}

/// The host's memory, which the VMs' folders are in, isn't for guests to fill; and what has no name is gone with its VM.
pub fn a_containers_own_disks_have_no_names(world: &World) {
    if !World::is_mote() || World::rootfs() == "virtiofs" {
        return;
    }
    let cache = Path::new(FOLDER).join("cache");
    let names = || {
        let names = fs::read_dir(&cache).unwrap().flatten();
        names
            .map(|entry| entry.file_name())
            .collect::<BTreeSet<_>>()
    };
    // What is kept is there after the first.
    world.run(&[], "disks", &["true"]).success();
    let before = names();
    let (option, folder) = volume("disks", "rw");
    let script = "dd if=/dev/zero of=/large bs=1M count=40 2>/dev/null; sync; ls -s /large | grep -c 40; \
                  until [ -e /data/go ]; do sleep 0.1; done";
    // By this snapshotter the image is each container's own, too.
    let options = ["--snapshotter", "native", "--mount", &option];
    let mut session = world.session(&options, "disks", script);
    session.expect("1");
    assert_eq!(names(), before);
    let state = size(Path::new("/run/mote"));
    assert!(state < 4 << 20, "{state} bytes");
    fs::write(folder.join("go"), "").unwrap();
    assert_eq!(session.end().code, Some(0));
    assert_eq!(names(), before);
    fs::remove_dir_all(folder).unwrap();
}

/// What is in a folder takes as many bytes.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let sizes = entries.map(|entry| {
        let facts = entry.metadata().unwrap();
        match facts.is_dir() {
            true => size(&entry.path()),
            false => facts.blocks() * 512,
        }
    });
    sizes.sum()
}
