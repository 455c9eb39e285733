//! `linux.devices`, and the devices that each container has.

use std::path::Path;

use mote_agent_protocol::container::Device;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType as Type, LinuxResources};

use super::{SpecError, ignored, list, whole_path};

/// Those that a runtime "MUST supply by default"; `/dev/ptmx` is a link that the agent makes.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Character devices that mean the same in each Linux kernel and belong to no hardware, besides the default ones:
/// kmsg, ptmx, net/tun, fuse. Whether the guest's kernel has them shows when they are opened.
const EVERYWHERE: [(i64, i64); 4] = [(1, 11), (5, 2), (10, 200), (10, 229)];

/// The default devices, and those that are listed, which take the place of default ones.
///
/// A privileged container has all of the host's devices listed without anybody having chosen them: of those it gets the
/// ones that a guest can have, and a warning counts the rest.
///
/// # Errors
///
/// One is a device of the host's, which the guest hasn't: a node with its numbers would be something else.
pub fn of(
    listed: &[LinuxDevice],
    resources: Option<&LinuxResources>,
) -> Result<Vec<Device>, SpecError> {
    let privileged = resources.is_some_and(all_allowed);
    let mut left_out = 0;
    let mut devices = Vec::new();
    for (index, device) in listed.iter().enumerate() {
        let field = format!("linux.devices[{index}]");
        let path = whole_path(&format!("{field}.path"), device.path())?;
        let numbers = (device.major(), device.minor());
        let of_kernel = |(_, major, minor): &(&str, u32, u32)| {
            numbers == (i64::from(*major), i64::from(*minor))
        };
        let known = EVERYWHERE.contains(&numbers) || DEFAULT.iter().any(of_kernel);
        let (format, numbers) = match device.typ() {
            Type::C | Type::U if known => (libc::S_IFCHR, (numbers.0 as u32, numbers.1 as u32)),
            Type::P => (libc::S_IFIFO, (0, 0)),
            Type::A => {
                let what = format!("{path}: a is no type of a node; say b, c, u or p");
                return Err(SpecError::wrong(format!("{field}.type"), what));
            }
            _ if privileged => {
                left_out += 1;
                continue;
            }
            typ => {
                let why = format!(
                    "{path} ({} {}:{}): is a device of the host's, and the guest has others; leave it out",
                    typ.as_str(),
                    numbers.0,
                    numbers.1
                );
                return Err(SpecError::refused(field, why));
            }
        };
        devices.push(Device {
            path,
            mode: format | (device.file_mode().unwrap_or(0o666) & 0o7777),
            numbers,
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        });
    }
    if left_out > 0 {
        let why = format!("{left_out} devices of the host's, and the guest has others");
        ignored("linux.devices", &why);
    }
    for (path, major, minor) in DEFAULT {
        let listed = devices
            .iter()
            .any(|device| Path::new(&device.path) == Path::new(path));
        if !listed {
            devices.push(Device {
                path: path.to_owned(),
                mode: libc::S_IFCHR | 0o666,
                numbers: (major, minor),
                owner: (0, 0),
            });
        }
    }
    Ok(devices)
}

/// Whether its cgroup would let it use each device that there is.
fn all_allowed(resources: &LinuxResources) -> bool {
    list(resources.devices()).iter().any(|rule| {
        let all = rule.typ().is_none_or(|typ| typ == Type::A);
        rule.allow() && all && rule.major().is_none() && rule.minor().is_none()
    })
}
