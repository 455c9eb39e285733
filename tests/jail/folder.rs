//! A hostile user on the same host, who was at the jail's folder first; and a hostile monitor, which had a
//! folder of its own.

use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;

/// A guest that ends, and its place with a folder for jails.
fn place() -> Place {
    let place = Place::new(Code::new().reset());
    fs::create_dir(place.root()).unwrap();
    place
}

fn refused(place: &Place, expected: &[&str]) {
    let (code, said) = place.run("", &[]);
    assert_eq!(code, 2, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in expected {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn what_others_have_put_in_its_place_is_refused() {
    if !can_jail() {
        return;
    }
    let precious = tempfile::tempdir().unwrap();
    // Links, of the folder and on the way to it.
    let linked = place();
    symlink(precious.path(), linked.vm()).unwrap();
    refused(&linked, &["jails/vm", "symbolic link"]);
    let linked = place();
    fs::remove_dir(linked.root()).unwrap();
    symlink(precious.path(), linked.root()).unwrap();
    refused(&linked, &["jails", "symbolic link"]);
    // What is no folder.
    let odd = place();
    let name = std::ffi::CString::new(odd.vm().to_str().unwrap()).unwrap();
    // SAFETY: a path with its end.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0);
    refused(&odd, &["jails/vm", "Not a directory"]);
    let odd = place();
    fs::write(odd.vm(), "a file").unwrap();
    refused(&odd, &["jails/vm", "Not a directory"]);
    assert_eq!(fs::read_to_string(odd.vm()).unwrap(), "a file");
    // Someone else's folders, or ones that others may write to.
    let foreign = place();
    fs::create_dir(foreign.vm()).unwrap();
    chown(foreign.vm(), Some(5000), None).unwrap();
    refused(&foreign, &["jails/vm belongs to user 5000"]);
    let foreign = place();
    chown(foreign.root(), Some(5000), None).unwrap();
    refused(&foreign, &["jails belongs to user 5000"]);
    for mode in [0o777, 0o1777, 0o775] {
        let open = place();
        fs::set_permissions(open.root(), fs::Permissions::from_mode(mode)).unwrap();
        refused(&open, &["others may write to", "chmod go-w"]);
    }
    assert_eq!(fs::read_dir(precious.path()).unwrap().count(), 0);
}

#[test]
fn nobody_else_can_hold_its_lock() {
    if !can_jail() {
        return;
    }
    let place = Place::new(endless());
    let mut vm = Running::start(place.command("", &[]));
    for name in [place.vm(), place.vm().join("pid"), place.vm().join("run")] {
        let status = fs::metadata(&name).unwrap();
        let (others, owner) = (status.permissions().mode() & 0o044, name.ends_with("run"));
        assert!(others == 0, "{name:?} can be opened by others: {others:o}");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&status) == USER, owner);
    }
    vm.signal(libc::SIGTERM);
    vm.wait();
}

#[test]
fn links_that_were_left_in_it_lead_nowhere() {
    if !can_jail() {
        return;
    }
    let precious = tempfile::tempdir().unwrap();
    let kept = precious.path().join("kept");
    fs::write(&kept, "kept").unwrap();
    for name in ["run", "pid"] {
        let place = place();
        fs::create_dir(place.vm()).unwrap();
        symlink(precious.path(), place.vm().join(name)).unwrap();
        let (code, said) = place.run("", &[]);
        assert_eq!(code, 2, "{name}: {said}");
        assert!(said.contains("symbolic link"), "{name}: {said}");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    }
}

#[test]
fn whatever_a_jailed_process_leaves_in_its_folder_is_removed() {
    if !can_jail() {
        return;
    }
    let precious = tempfile::tempdir().unwrap();
    let kept = precious.path().join("kept");
    fs::write(&kept, "kept").unwrap();
    let place = Place::new(endless());
    let mut vm = Running::start(place.command("", &[]));
    let run = place.vm().join("run");
    symlink(precious.path(), run.join("link")).unwrap();
    symlink(&kept, run.join(".mote-1")).unwrap();
    fs::create_dir(run.join(".mote-2")).unwrap();
    fs::write(run.join(".mote-2/x"), "x").unwrap();
    // Deeper than any path, and than there are descriptors.
    let deep = "d/".repeat(100);
    let deep = format!(
        "cd {} && for i in $(seq 30); do mkdir -p {deep} && ln -s / l && cd ./{deep}; done",
        run.display()
    );
    let status = Command::new("sh")
        .args(["-c", &deep])
        .stderr(Stdio::null())
        .status();
    status.unwrap();
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait().code(), Some(143));
    place.assert_clean();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
}

/// What a supervisor that was killed while it started leaves for a moment: its lock is held by what it had forked.
#[test]
fn a_lock_that_is_left_is_waited_for_and_one_that_is_held_is_not() {
    if !can_jail() {
        return;
    }
    let place = place();
    fs::create_dir(place.vm()).unwrap();
    fs::set_permissions(place.vm(), fs::Permissions::from_mode(0o711)).unwrap();
    let held = fs::File::open(place.vm()).unwrap();
    held.lock().unwrap();
    // Somebody who lives has it.
    fs::write(place.vm().join("pid"), format!("{}\n", std::process::id())).unwrap();
    let began = Instant::now();
    refused(
        &place,
        &["in use by process", &std::process::id().to_string()],
    );
    assert!(began.elapsed() < Duration::from_secs(4));
    // Somebody who doesn't: at last it is given up, or the lock is let go.
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    fs::write(place.vm().join("pid"), format!("{}\n", gone.id())).unwrap();
    refused(&place, &["in use by process", &gone.id().to_string()]);
    let waits = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(held);
    });
    let (code, said) = place.run("", &[]);
    assert_eq!(code, 0, "{said}");
    waits.join().unwrap();
    place.assert_clean();
}
