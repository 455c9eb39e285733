//! How a VM is used and how it ends.

use super::*;

#[test]
fn input_reaches_the_guests_shell() {
    let Some(_) = guests() else { return };
    let mut command = mote(&[]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The input must survive the time before the guest's shell reads it.
    input
        .write_all(b"echo answer-$((40 + 2))\necho $(tty)\nexit\n")
        .unwrap();
    drop(input);
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&stdout);
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("answer-42"), "{text}");
}

#[test]
fn each_way_to_end_has_its_exit_status() {
    let Some(_) = guests() else { return };
    assert_eq!(
        boot(&[], "true").code,
        Some(0),
        "init's own end is a reboot"
    );
    assert_eq!(boot(&[], "reboot; sleep 20").code, Some(0));
    assert_eq!(boot(&[], "poweroff; sleep 20").code, Some(0));
    let panic = boot(&[], "echo c > /proc/sysrq-trigger");
    assert_eq!(panic.code, Some(4), "{panic:?}");
    assert!(panic.err.contains("kernel panicked"), "{panic:?}");
}

#[test]
fn a_missing_root_panics_with_advice() {
    let Some(guests) = guests() else { return };
    let ended = finish(mote(&[
        "--kernel",
        path(&guests.kernel),
        "--cmdline",
        "root=/dev/vdx",
    ]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("hint: "), "{ended:?}");
}

#[test]
fn sigterm_ends_a_running_guest() {
    let Some(_) = guests() else { return };
    let mut child = mote(&["--cmdline", "mote.run=\"echo up; sleep 1000\""])
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"up") {
        assert_eq!(
            out.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    // SAFETY: a process that this test started and has not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
