//! What a malicious guest, file, peer or local user would do. Each test is one attack on the command as it is;
//! the monitor survives it, or ends with the status that the documents name: no panic, no hang, no growth.

#[allow(dead_code)] // it is for more tests than these
#[path = "../../src/devices/vhost_user/tests/backend.rs"]
mod backend;
mod board;
mod chains;
#[path = "../common/mod.rs"]
mod common;
mod configs;
mod devices;
mod driver;
#[cfg(target_arch = "x86_64")]
mod elf;
mod files;
mod images;
mod kernels;
mod memory;
mod monitor;
#[cfg_attr(target_arch = "x86_64", path = "native_x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "native_aarch64.rs")]
mod native;
mod peers;
mod probes;
mod process;
mod queues;
mod random;
mod registers;
mod script;
mod storms;
mod traced;
mod user;
mod vcpus;
#[cfg(target_arch = "x86_64")]
mod vmlinux;
mod vsock;

use monitor::Monitor;
use script::Script;

/// Whether guests can run here; if not, says so.
fn kvm() -> bool {
    common::kvm().is_some()
}

#[test]
fn a_guest_with_nothing_bad_in_mind_does_what_its_script_says() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = native::RAM + (16 << 20);
    let mut script = Script::new();
    script.write32(place, 0x64_63_62_61).wait(place, 0x6261, 10);
    script.show(place).show(place + 1);
    script
        .write(script::Width::One, place, b'x'.into())
        .times_by(3, 1, 1);
    script.show(place).along(3, 1).end();
    let ended = Monitor::of(folder.path(), &script).run();
    assert_eq!(String::from_utf8_lossy(&ended.survived().out), "abxyzalive");
}
