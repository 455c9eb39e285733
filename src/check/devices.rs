//! Device files that some kinds of devices need; a plain VM needs none of them.

use std::fs::OpenOptions;
use std::io;

use super::{Check, Root};

struct Device {
    id: &'static str,
    subject: &'static str,
    module: &'static str,
    purpose: &'static str,
}

const DEVICES: &[Device] = &[
    Device {
        id: "device.tun",
        subject: "/dev/net/tun",
        module: "tun",
        purpose: "networks through a tap",
    },
    Device {
        id: "device.vhost_net",
        subject: "/dev/vhost-net",
        module: "vhost_net",
        purpose: "networks handled by the kernel",
    },
    Device {
        id: "device.vhost_vsock",
        subject: "/dev/vhost-vsock",
        module: "vhost_vsock",
        purpose: "vsock handled by the kernel",
    },
];

/// One line per device file.
pub(super) fn check(root: &Root) -> impl Iterator<Item = Check> {
    DEVICES.iter().map(|device| {
        let path = root.path(device.subject.trim_start_matches('/'));
        device.check(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .map(drop),
        )
    })
}

impl Device {
    fn check(&self, opened: io::Result<()>) -> Check {
        let info =
            |found: &str| Check::info(self.id, self.subject, format!("{found} ({})", self.purpose));
        let Err(error) = opened else {
            return Check::ok(self.id, self.subject, self.purpose);
        };
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                info("not there").with_remedy(format!("if needed: sudo modprobe {}", self.module))
            }
            Some(libc::EACCES | libc::EPERM) => info("this user may not open it").with_remedy(
                format!("if needed: sudo setfacl -m u:$USER:rw {}", self.subject),
            ),
            _ => info(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn devices_that_open_are_ok_and_the_rest_is_only_told() {
        let (_dir, root) = Root::fake(&[("dev/net/tun", "")]);
        let checks: Vec<_> = check(&root).collect();
        assert_eq!(checks[0].level, Level::Ok);
        for absent in &checks[1..] {
            assert_eq!(absent.level, Level::Info);
            assert!(absent.remedy.as_ref().unwrap().contains("modprobe vhost_"));
        }
    }

    #[test]
    fn a_denied_device_is_only_told() {
        let denied = |errno| DEVICES[0].check(Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(denied(libc::EACCES).level, Level::Info);
        assert!(denied(libc::EACCES).remedy.unwrap().contains("setfacl"));
        assert!(denied(libc::EBUSY).found.contains("busy"));
    }
}
