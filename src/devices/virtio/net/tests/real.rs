//! Real taps, in a network namespace of each test's own. They need root.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use super::super::open::{by_descriptor, by_name};
use super::*;

/// Puts this test's thread, and the processes that it starts, into a new network namespace; false
/// (said aloud) where that's not permitted.
fn alone() -> bool {
    // SAFETY: a flag; other threads of the process are not concerned.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    let obstacle = match entered {
        false => Some(format!(
            "a network namespace: {}",
            std::io::Error::last_os_error()
        )),
        true if !std::path::Path::new("/dev/net/tun").exists() => {
            Some("there is no /dev/net/tun".to_owned())
        }
        true => None,
    };
    let Some(obstacle) = obstacle else {
        return true;
    };
    let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|kind| kind == "tap"), "{obstacle}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "NOT RUN (kind tap): {test}: {obstacle}");
    false
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "ip {words}: {said}");
    said
}

fn refusal(result: Result<Opened, NetError>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn a_tap_is_made_up_and_vanishes() {
    if !alone() {
        return;
    }
    let opened = by_name("tap0", 1, Some(9000)).unwrap();
    assert_eq!((opened.taps.len(), opened.mtu), (1, Some(9000)));
    assert!(opened.taps[0].has_header());
    let least = offload::CSUM | offload::TSO4 | offload::TSO6 | offload::ECN;
    assert_eq!(opened.offloads & least, least);
    let shown = ip("link show tap0");
    assert!(
        shown.contains(",UP") && shown.contains("mtu 9000"),
        "{shown}"
    );
    assert!(refusal(by_name("tap0", 1, None)).contains("in use by another process"));
    drop(opened);
    // A process that another test starts has it, too, until its own program runs.
    wait_until("the tap to vanish", || !ip("link").contains("tap0"));
}

#[test]
fn a_tap_that_is_there_is_left_as_it_is() {
    if !alone() {
        return;
    }
    ip("tuntap add tap0 mode tap");
    ip("tuntap add tap1 mode tap multi_queue");
    ip("tuntap add tun0 mode tun");
    ip("link set tap1 mtu 1280");
    assert_eq!(by_name("tap0", 1, None).unwrap().mtu, Some(1500));
    for queues in [1, 2, 8] {
        let opened = by_name("tap1", queues, None).unwrap();
        assert_eq!(opened.taps.len(), usize::from(queues));
        assert_eq!(opened.mtu, Some(1280));
    }
    let shown = ip("link show tap0");
    assert!(!shown.contains(",UP"), "{shown}");
    let error = refusal(by_name("tap0", 2, None));
    assert!(
        error.contains("ip tuntap add tap0 mode tap multi_queue"),
        "{error}"
    );
    for other in ["lo", "tun0"] {
        let error = refusal(by_name(other, 1, None));
        assert!(error.contains("it is no tap"), "{error}");
    }
}

#[test]
fn who_may_not_is_told_what_to_ask_for() {
    if !alone() {
        return;
    }
    for name in ["mine", "smaller"] {
        ip(&format!("tuntap add {name} mode tap user 65534"));
    }
    ip("tuntap add theirs mode tap");
    // SAFETY: numbers; by itself, the call is this thread's alone.
    let dropped = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
    assert_eq!(dropped, 0);
    let own = by_name("mine", 1, None);
    let mtu = by_name("smaller", 1, Some(1400)).map(|_| ());
    let others = [by_name("theirs", 1, None), by_name("new", 2, None)];
    // SAFETY: as above.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, 0, -1) }, 0);
    if let Err(NetError::Open { source, .. }) = &own {
        // The device's node isn't everyone's here.
        assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        return;
    }
    assert!(own.is_ok(), "{own:?}");
    let error = mtu.unwrap_err().to_string();
    assert!(error.contains("ip link set smaller mtu 1400"), "{error}");
    let [theirs, new] = others.map(refusal);
    assert!(
        theirs.contains("ip tuntap add theirs mode tap user $USER"),
        "{theirs}"
    );
    assert!(new.ends_with("mode tap user $USER multi_queue"), "{new}");
}

#[test]
fn a_descriptor_must_be_an_attached_tap() {
    if !alone() {
        return;
    }
    let null = File::open("/dev/null").unwrap();
    for fd in [
        null.as_raw_fd(),
        File::open("/dev/net/tun").unwrap().as_raw_fd(),
    ] {
        let error = refusal(by_descriptor(fd, 1));
        assert!(
            error.contains("not an attached tap") || error.contains("no such"),
            "{error}"
        );
    }
    assert!(refusal(by_descriptor(54321, 1)).contains("no such descriptor"));
    let opened = by_name("tap0", 3, None).unwrap();
    let again = by_descriptor(opened.taps[0].as_raw_fd(), 1).unwrap();
    assert!(again.taps[0].has_header() && again.offloads == opened.offloads);
    // Its queues in a row, out of the way of other tests' descriptors.
    for (number, tap) in (700..).zip(&opened.taps) {
        // SAFETY: numbers that nobody else has.
        assert_eq!(unsafe { libc::dup2(tap.as_raw_fd(), number) }, number);
    }
    assert_eq!(by_descriptor(700, 3).unwrap().taps.len(), 3);
    assert!(refusal(by_descriptor(700, 4)).contains("fd=703"));
    for number in 700..703 {
        // SAFETY: this test's own.
        unsafe { libc::close(number) };
    }
}

#[test]
fn what_a_tap_refuses_is_counted_and_its_carrier_follows_the_link() {
    if !alone() {
        return;
    }
    let net = Net {
        tap: Some("tap0".to_owned()),
        mac: Some(Mac(MINE)),
        queues: 2,
        ..Net::default()
    };
    let device = NetDevice::open("net0", &net).unwrap();
    let (counts, link) = (device.common.counts.clone(), device.link());
    let (mut guest, mut queues) = FakeGuest::running(device, !0);
    let good = with_header(&frame([0xff; 6], 60));
    send(&mut guest, &mut queues[1], &good);
    assert_eq!(counts.tx.packets.get(), 1);
    // A kind of segmentation that there isn't, and a checksum beyond the end.
    let mut wrong = good.clone();
    wrong[1] = 0x77;
    send(&mut guest, &mut queues[1], &wrong);
    let mut wrong = good.clone();
    (wrong[0], wrong[6], wrong[7]) = (1, 0xff, 0xff);
    send(&mut guest, &mut queues[1], &wrong);
    assert_eq!(counts.tx.errors.get(), 2);
    ip("link set tap0 down");
    send(&mut guest, &mut queues[1], &good);
    assert_eq!(counts.tx.errors.get(), 3);
    ip("link set tap0 up");
    send(&mut guest, &mut queues[1], &good);
    assert_eq!(counts.tx.packets.get(), 2);

    // Linux may take a second to say so.
    let cut = || ip("link show tap0").contains("NO-CARRIER");
    link.set(false);
    wait_until("a lost carrier", cut);
    link.set(true);
    wait_until("a carrier", || !cut());

    // The second queue of the tap, and back to one.
    for pairs in [2, 1] {
        let command = control::command(&mut guest, &mut queues[4], &[4, 0, pairs, 0]);
        assert_eq!(command, 0);
    }
    assert!(link.is_up());
    // Someone takes it away.
    ip("link del tap0");
    wait_until("the link to go down", || !link.is_up());
    send(&mut guest, &mut queues[1], &good);
    assert_eq!(guest.status(), DRIVER_OK);
}
