//! What is said of each way in which /dev/kvm can be wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::check::Level;

fn path() -> PathBuf {
    PathBuf::from("/dev/kvm")
}

#[test]
fn a_plain_file_is_not_kvm() {
    let (_dir, root) = Root::fake(&[("dev/kvm", "")]);
    let check = device(&root, &open(&root));
    assert_eq!(check.level, Level::Missing);
    assert!(check.found.contains("not KVM"), "{check:?}");
}

#[test]
fn permission_names_the_group_that_has_it() {
    let groups = "root:x:0:\nkvm:x:104:someone\n";
    assert_eq!(group_name(groups, 104).as_deref(), Some("kvm"));
    assert_eq!(group_name(groups, 105), None);
    assert_eq!(group_name("a line with no fields\n\n", 0), None);

    let (_dir, root) = Root::fake(&[("dev/kvm", "")]);
    let file = root.path("dev/kvm");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o660)).unwrap();
    let gid = std::fs::metadata(&file).unwrap().gid();
    std::fs::create_dir(root.path("etc")).unwrap();
    std::fs::write(root.path("etc/group"), format!("virt:x:{gid}:\n")).unwrap();
    let check = device(&root, &Err(HostError::Permission(path())));
    let remedy = check.remedy.unwrap();
    let expected = if gid == 0 {
        "setfacl"
    } else {
        "usermod -aG virt"
    };
    assert!(remedy.contains(expected), "{remedy}");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let check = device(&root, &Err(HostError::Permission(path())));
    assert!(check.remedy.unwrap().contains("setfacl"));

    // A container's rules for devices refuse even its root.
    std::fs::write(root.path(".dockerenv"), "").unwrap();
    let check = device(&root, &Err(HostError::Permission(path())));
    assert!(check.remedy.unwrap().contains("--device /dev/kvm"));
}

#[test]
fn other_errors_keep_their_words() {
    let (_dir, root) = Root::fake(&[]);
    let version = HostError::ApiVersion {
        path: path(),
        found: 11,
    };
    assert!(device(&root, &Err(version)).found.contains("11, not 12"));
    let open = HostError::Open {
        path: path(),
        source: std::io::Error::from_raw_os_error(libc::EMFILE),
    };
    let check = device(&root, &Err(open));
    assert!(check.found.contains("Too many open files"), "{check:?}");
}

#[test]
fn a_missing_capability_is_named_and_the_device_still_opens() {
    let (_dir, root) = Root::fake(&[]);
    let lacking = Err(HostError::Capability {
        name: "KVM_CAP_IRQFD",
        purpose: "interrupts from device threads",
    });
    assert_eq!(device(&root, &lacking).level, Level::Ok);
    let check = required(&lacking).unwrap();
    assert_eq!(check.level, Level::Missing);
    assert!(check.found.contains("KVM_CAP_IRQFD"), "{check:?}");
    assert_eq!(required(&Err(HostError::Missing(path()))), None);
}

#[test]
fn optional_capabilities_are_never_a_reason_to_fail() {
    for capability in native::OPTIONAL.iter().chain(OPTIONAL) {
        let absent = capability.check(0);
        assert_eq!(absent.level, Level::Info);
        assert!(absent.remedy.unwrap().contains(capability.since));
        assert_eq!(capability.check(1).level, Level::Ok);
    }
}

#[test]
fn halt_polling_off_is_no_fault() {
    let at = |ns| {
        let (_dir, root) = Root::fake(&[("sys/module/kvm/parameters/halt_poll_ns", ns)]);
        halt_polling(&root)
    };
    assert_eq!(at("200000\n").unwrap().level, Level::Ok);
    assert!(at("200000\n").unwrap().found.contains("200 us"));
    assert_eq!(at("0\n").unwrap().level, Level::Info);
    assert_eq!(halt_polling(&Root::at("/nonexistent")), None);
}
