//! A Linux guest whose root attacks the monitor: by registers of devices that its kernel drives meanwhile, by ports, by
//! taking drivers off and putting them back while they work. The guest may come to harm; the monitor ends as it should.

use super::dax::{ext4, program};
use super::*;

/// A guest that doesn't come to an end by itself any more is ended by SIGTERM after so many seconds.
const LONGEST: &str = "150";

/// A guest that has no need of any device that is attacked, with one of each: its root is in memory. `script` is
/// run once the program of attack.c is in /tmp.
fn attack(script: &str) -> Option<Ended> {
    let guests = guests()?;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    program(&tree, "attack")?;
    let tools = ext4(folder.path(), "tools", 8 << 20, Some(&tree));
    let drive = |name, more: &str| {
        let path = image(folder.path(), name, 4 << 20);
        format!("path={}{more}", path.display())
    };
    let script = format!(
        "mkdir -p /tmp/t; mount /dev/vda /tmp/t; cp /tmp/t/attack /tmp/attack; umount /tmp/t; {script}"
    );
    let cmdline = format!("quiet mote.run=\"{script}\"");
    let socket = format!("cid=3,socket={}", folder.path().join("v").display());
    let mote = mote(&[
        "--kernel",
        path(&guests.kernel),
        "--initrd",
        path(&guests.initrd),
        "--cmdline",
        &cmdline,
        "--disk",
        path(&tools),
        "--disk",
        &drive("a", ",queues=2"),
        "--disk",
        &drive("b", ",engine=io_uring"),
        "--disk",
        &drive("c", ",dax"),
        "--vsock",
        &socket,
        "--balloon",
        "4M,stats=1",
    ]);
    let mut command = Command::new("timeout");
    command.args(["--preserve-status", "-k", "120", LONGEST]);
    command.arg(mote.get_program()).args(mote.get_args());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ended = finish(command);
    assert!(!ended.err.contains("panicked at "), "{ended:#?}");
    Some(ended)
}

/// By itself, after a panic, after a fault that it couldn't handle, or because it went on for ever.
#[track_caller]
fn ends_as_documented(ended: &Ended) {
    let documented = matches!(ended.code, Some(0 | 4 | 5 | 143));
    assert!(documented, "{ended:#?}");
    assert!(ended.err.len() < 16 << 10, "{ended:#?}");
}

/// At once, without a word to any driver.
const RESET: &str = "echo b > /proc/sysrq-trigger";

#[test]
fn root_writes_all_over_the_registers_of_devices_at_work() {
    let script = format!(
        "for d in vdb vdc pmem0; do dd if=/dev/zero of=/dev/$d bs=4k & done 2>/dev/null; \
         /tmp/attack registers 2000 {}; {RESET}",
        native::REGISTERS
    );
    let Some(ended) = attack(&script) else { return };
    ends_as_documented(&ended);
    assert!(
        ended.out.contains("attacked") || ended.code != Some(0),
        "{ended:#?}"
    );
}

#[test]
fn root_writes_all_over_the_boards_registers() {
    let Some(ended) = attack(&format!("/tmp/attack {}; {RESET}", native::BOARD)) else {
        return;
    };
    ends_as_documented(&ended);
}

#[test]
fn drivers_come_and_go_in_a_storm_while_they_work() {
    let script = "for d in vdb vdc pmem0; do \
           (while true; do [ -b /dev/$d ] && dd if=/dev/zero of=/dev/$d bs=4k count=64; done) & \
         done 2>/dev/null; \
         storm() { \
           cd /sys/bus/$1/drivers; \
           for n in 1 2; do for at in $2; do \
             driver=${at%/*}; device=${at##*/}; \
             echo $device > $driver/unbind; echo $device > $driver/bind; \
           done; done; \
         } 2>/dev/null; \
         storm virtio '*/virtio*'; storm platform 'virtio-mmio/*virtio*'; \
         for d in /dev/vd*; do dd if=$d bs=4k count=1 2>/dev/null | wc -c; done; \
         echo warnings: $(dmesg | grep -c [W]ARNING); sleep 1; echo c > /proc/sysrq-trigger";
    let Some(ended) = attack(script) else { return };
    assert_eq!(ended.code, Some(4), "{ended:#?}");
    assert!(ended.out.contains("4096"), "{ended:#?}");
    // Of the guest's kernel, about a device that isn't as it should be.
    assert!(ended.out.contains("warnings: 0"), "{ended:#?}");
}
