//! Whether cgroups favour moving processes, as each start of a VM does.
//!
//! From kernel 6.0 on a move waits for a grace period of all CPUs (up to some 40 ms), unless a
//! cgroup hierarchy is mounted with `favordynmods`. On 6.0 to 6.12 KVM_CREATE_VM moves a thread
//! too (the recovery thread of nx_huge_pages).

use super::{Check, Root};

const ID: &str = "cgroup.favordynmods";
const SUBJECT: &str = "cgroup favordynmods";

/// A cgroup mount, of a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
struct Mount<'a> {
    point: &'a str,
    version: u8,
    favordynmods: bool,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = filesystem.split(' ');
        let version = match fields.next()? {
            "cgroup2" => 2,
            "cgroup" => 1,
            _ => return None,
        };
        let options = fields.nth(1).unwrap_or_default();
        Some(Mount {
            point: mount.split(' ').nth(4)?,
            version,
            favordynmods: options.split(',').any(|option| option == "favordynmods"),
        })
    }
}

/// Where version 2's hierarchy is mounted.
pub(super) fn unified(root: &Root) -> Option<String> {
    let text = root.read("proc/self/mountinfo")?;
    let mut mounts = text.lines().filter_map(Mount::parse);
    mounts
        .find(|mount| mount.version == 2)
        .map(|mount| mount.point.to_owned())
}

/// Looks at the mounts and the kernel's version.
pub(super) fn favordynmods(root: &Root) -> Check {
    let text = root.read("proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<_> = text.lines().filter_map(Mount::parse).collect();
    // The lock is one for all hierarchies, so any of them is enough.
    if let Some(mount) = mounts.iter().find(|mount| mount.favordynmods) {
        return Check::ok(ID, SUBJECT, format!("on ({})", mount.point));
    }
    if mounts.is_empty() {
        return Check::info(ID, SUBJECT, "no cgroups are mounted");
    }
    let release = root.read("proc/sys/kernel/osrelease").unwrap_or_default();
    if major(&release).is_some_and(|major| major < 6) {
        return Check::ok(
            ID,
            SUBJECT,
            format!("kernel {release} needs none (6.0 and later do)"),
        );
    }
    let found = "off: starting a VM in a cgroup can wait up to 40 ms";
    match mounts.iter().find(|mount| mount.version == 2) {
        Some(Mount { point, .. }) => {
            let remedy = format!("sudo mount -o remount,favordynmods {point}");
            Check::slow(ID, SUBJECT, found, remedy)
        }
        None => Check::slow(
            ID,
            SUBJECT,
            format!("{found} (cgroups v1, which can't be remounted)"),
            "boot the host with cgroup_favordynmods=true on its kernel's command line (6.7 and \
             later)",
        ),
    }
}

fn major(release: &str) -> Option<u32> {
    release.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - \
        cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
    const FAVOURED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 master:1 - cgroup2 \
        cgroup2 rw,nsdelegate,favordynmods,memory_recursiveprot\n";

    fn on(mounts: &str, release: &str) -> Check {
        let files = [
            ("proc/self/mountinfo", mounts),
            ("proc/sys/kernel/osrelease", release),
        ];
        let (_dir, root) = Root::fake(&files);
        favordynmods(&root)
    }

    #[test]
    fn the_option_is_enough() {
        let check = on(FAVOURED, "6.12.1\n");
        assert_eq!(
            (check.level, check.found.as_str()),
            (Level::Ok, "on (/sys/fs/cgroup)")
        );
        let v1 = V1.replace("rw,cpu", "rw,cpu,favordynmods");
        assert_eq!(on(&v1, "6.12.1\n").level, Level::Ok);
    }

    #[test]
    fn without_it_the_remedy_names_the_mount_point() {
        for (mounts, point) in [(V2, "/sys/fs/cgroup"), (HYBRID, "/sys/fs/cgroup/unified")] {
            let check = on(mounts, "6.1.0-28-amd64\n");
            assert_eq!(check.level, Level::Slow);
            let remedy = check.remedy.unwrap();
            assert_eq!(
                remedy,
                format!("sudo mount -o remount,favordynmods {point}")
            );
        }
    }

    #[test]
    fn v1_alone_needs_a_boot_parameter() {
        let check = on(V1, "6.12.1\n");
        assert_eq!(check.level, Level::Slow);
        assert!(check.remedy.unwrap().contains("cgroup_favordynmods=true"));
    }

    #[test]
    fn older_kernels_and_hosts_without_cgroups_need_nothing() {
        assert_eq!(on(V2, "5.10.0-30-amd64\n").level, Level::Ok);
        assert_eq!(on("", "6.12.1\n").level, Level::Info);
        assert_eq!(
            on(
                "23 1 8:1 / / rw - ext4 /dev/vda1 rw\nnonsense\n - cgroup2\n",
                ""
            )
            .level,
            Level::Info
        );
    }
}
