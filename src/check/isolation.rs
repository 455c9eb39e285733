//! What keeps guests apart from the host and from each other, beyond KVM: docs/production.md has the settings.
//! None of it is needed for a VM that is trusted, so the worst that is said here is `info`, with a remedy.

use std::io;

use super::{Check, Root, cgroup};

/// All of them.
pub(super) fn check(root: &Root) -> Vec<Check> {
    let checks = [
        Some(seccomp(root)),
        Some(landlock(landlock_version())),
        vulnerabilities(root),
        threads_of_a_core(root),
        merging(root),
        swap(root),
        user_namespaces(root),
        cgroups(root),
    ];
    checks.into_iter().flatten().collect()
}

/// System call filters.
fn seccomp(root: &Root) -> Check {
    let (id, subject) = ("isolation.seccomp", "system call filters");
    let actions = root.read("proc/sys/kernel/seccomp/actions_avail");
    match actions.is_some_and(|actions| actions.split(' ').any(|action| action == "trap")) {
        true => Check::ok(id, subject, "seccomp filters"),
        false => {
            let remedy = "a kernel with CONFIG_SECCOMP_FILTER (every distribution's has it)";
            Check::info(id, subject, "this kernel has none").with_remedy(remedy)
        }
    }
}

/// Landlock's version, as the kernel tells it.
fn landlock_version() -> io::Result<u32> {
    const VERSION: u32 = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no pointer, and makes nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// Rules for files (version 1), TCP (4, Linux 6.7) and abstract sockets (6, Linux 6.12):
/// Documentation/userspace-api/landlock.rst.
fn landlock(version: io::Result<u32>) -> Check {
    let (id, subject) = ("isolation.landlock", "Landlock");
    let error = match version {
        Ok(version @ 6..) => {
            return Check::ok(
                id,
                subject,
                format!("version {version}: files, TCP, sockets"),
            );
        }
        Ok(version) => {
            let has = if version < 4 {
                "files only"
            } else {
                "files and TCP"
            };
            let found = format!("version {version}: {has}");
            return Check::info(id, subject, found).with_remedy("Linux 6.12 or newer has it all");
        }
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Check::info(id, subject, "this kernel has it, but it is off")
            .with_remedy("add landlock to lsm= on the host kernel's command line"),
        _ => Check::info(id, subject, "this kernel has none")
            .with_remedy("Linux 5.13 or newer, with CONFIG_SECURITY_LANDLOCK"),
    }
}

/// The processor's defects by which guests can read what isn't theirs, as the kernel judges them.
fn vulnerabilities(root: &Root) -> Option<Check> {
    let (id, subject) = ("isolation.vulnerabilities", "processor's defects");
    let folder = "sys/devices/system/cpu/vulnerabilities";
    let names = root.list(folder);
    if names.is_empty() {
        return None;
    }
    let judged = names
        .iter()
        .filter_map(|name| Some((name, root.read(&format!("{folder}/{name}"))?)));
    // "Vulnerable: ..." and "Mitigation: ...; SMT vulnerable"
    let open = judged.filter(|(_, text)| text.to_lowercase().contains("vulnerable"));
    let open: Vec<_> = open.map(|(name, _)| name.as_str()).collect();
    if open.is_empty() {
        let found = format!("{} known ones are absent or mitigated", names.len());
        return Some(Check::ok(id, subject, found));
    }
    let found = format!("open: {}", open.join(", "));
    let remedy = format!(
        "newer microcode and kernel, SMT off, no mitigations=off; grep . /{folder}/* says more"
    );
    Some(Check::info(id, subject, found).with_remedy(remedy))
}

/// Guests on the siblings of a core share most of what side channels are made of.
fn threads_of_a_core(root: &Root) -> Option<Check> {
    let (id, subject) = ("isolation.smt", "SMT");
    let found = "on: VMs on one core can learn of each other";
    let remedy = "where guests aren't trusted: echo off | sudo tee /sys/devices/system/cpu/smt/control, \
                  or whole cores for each (--pin)";
    Some(match root.number("sys/devices/system/cpu/smt/active")? {
        0 => Check::ok(id, subject, "off, or not there"),
        _ => Check::info(id, subject, found).with_remedy(remedy),
    })
}

fn merging(root: &Root) -> Option<Check> {
    let (id, subject) = ("isolation.ksm", "page merging (KSM)");
    let found = "on: VMs with --ksm can learn what pages others have";
    Some(match root.number("sys/kernel/mm/ksm/run")? {
        1 => {
            Check::info(id, subject, found).with_remedy("echo 2 | sudo tee /sys/kernel/mm/ksm/run")
        }
        _ => Check::ok(id, subject, "off"),
    })
}

fn swap(root: &Root) -> Option<Check> {
    let (id, subject) = ("isolation.swap", "swap");
    let text = root.read("proc/swaps")?;
    let devices = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next());
    // zram's are memory.
    let disks: Vec<_> = devices
        .filter(|device| !device.starts_with("/dev/zram"))
        .collect();
    if disks.is_empty() {
        return Some(Check::ok(id, subject, "none to a disk"));
    }
    let found = format!(
        "on {}: guests' memory can end up there, and stay",
        disks.join(", ")
    );
    let remedy = "sudo swapoff -a, encrypt it, or --mlock";
    Some(Check::info(id, subject, found).with_remedy(remedy))
}

/// What ordinary users may do with namespaces: each one is more of the kernel for whoever attacks it.
fn user_namespaces(root: &Root) -> Option<Check> {
    let (id, subject) = ("isolation.user_namespaces", "unprivileged user namespaces");
    let most = root.number("proc/sys/user/max_user_namespaces")?;
    let settings = [
        ("user.max_user_namespaces", most == 0),
        (
            "kernel.unprivileged_userns_clone",
            root.number("proc/sys/kernel/unprivileged_userns_clone") == Some(0),
        ),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            root.number("proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
        ),
    ];
    let by = settings.iter().find(|(_, forbids)| *forbids);
    let found = match by {
        Some((setting, _)) => format!("not for everybody ({setting})"),
        None => "every user may make them".to_owned(),
    };
    Some(Check::info(id, subject, found))
}

/// Whether this process's cgroup has the controllers by which a VM is bounded.
fn cgroups(root: &Root) -> Option<Check> {
    const WANTED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
    let (id, subject) = ("isolation.cgroup", "cgroup limits");
    let own = root.read("proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let controllers = cgroup::unified(root).zip(own).and_then(|(mount, own)| {
        let file = format!("{mount}{own}/cgroup.controllers");
        root.read(file.trim_start_matches('/'))
    });
    let controllers = controllers.unwrap_or_default();
    let (here, lacking): (Vec<_>, Vec<_>) = WANTED
        .into_iter()
        .partition(|wanted| controllers.split(' ').any(|name| name == *wanted));
    Some(match (here.is_empty(), lacking.is_empty()) {
        (_, true) => Check::ok(id, subject, format!("version 2, with {}", here.join(", "))),
        (true, _) => Check::info(id, subject, "no controllers of version 2 in this cgroup")
            .with_remedy("systemd.unified_cgroup_hierarchy=1, and Delegate=yes in the unit"),
        _ => {
            let found = format!("version 2, without {}", lacking.join(", "));
            let remedy = format!("Delegate={} in the unit", WANTED.join(" "));
            Check::info(id, subject, found).with_remedy(remedy)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    /// Of each: the files, what is told of them, and whether all is well.
    #[test]
    fn each_setting_is_told() {
        const DEFECTS: &str = "sys/devices/system/cpu/vulnerabilities";
        let (l1tf, mds) = (&format!("{DEFECTS}/l1tf"), &format!("{DEFECTS}/mds"));
        let mounts = "35 24 0:30 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let (mounts, own) = (
            ("proc/self/mountinfo", mounts),
            ("proc/self/cgroup", "0::/a.slice\n"),
        );
        let controllers = "sys/fs/cgroup/a.slice/cgroup.controllers";
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n";
        let zram =
            &format!("{swaps}/dev/zram0                              partition\t1\t0\t100\n");
        let disk = &format!("{zram}/dev/sda2                               partition\t1\t0\t-2\n");
        let namespaces = ("proc/sys/user/max_user_namespaces", "95000\n");
        let not_for_all = ("proc/sys/kernel/unprivileged_userns_clone", "0\n");
        let actions = "proc/sys/kernel/seccomp/actions_avail";
        let smt = "sys/devices/system/cpu/smt/active";
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, bool);
        let cases: &[Case] = &[
            (
                "seccomp",
                &[(actions, "kill_process trap errno\n")],
                "filters",
                true,
            ),
            ("seccomp", &[(actions, "log\n")], "none", false),
            ("seccomp", &[], "none", false),
            (
                "vulnerabilities",
                &[(l1tf, "Not affected\n")],
                "1 known",
                true,
            ),
            (
                "vulnerabilities",
                &[
                    (l1tf, "Vulnerable\n"),
                    (mds, "Mitigation: Clear CPU buffers; SMT vulnerable\n"),
                ],
                "open: l1tf, mds",
                false,
            ),
            ("smt", &[(smt, "0\n")], "off", true),
            ("smt", &[(smt, "1\n")], "one core", false),
            ("ksm", &[("sys/kernel/mm/ksm/run", "2\n")], "off", true),
            ("ksm", &[("sys/kernel/mm/ksm/run", "1\n")], "--ksm", false),
            ("swap", &[("proc/swaps", swaps)], "none", true),
            ("swap", &[("proc/swaps", zram)], "none", true),
            ("swap", &[("proc/swaps", disk)], "on /dev/sda2:", false),
            ("user_namespaces", &[namespaces], "every user", false),
            (
                "user_namespaces",
                &[namespaces, not_for_all],
                "(kernel.unpriv",
                false,
            ),
            (
                "cgroup",
                &[mounts, own, (controllers, "cpuset cpu io memory pids\n")],
                "with cpu, cpuset",
                true,
            ),
            (
                "cgroup",
                &[mounts, own, (controllers, "memory pids\n")],
                "without cpu, cpuset",
                false,
            ),
            ("cgroup", &[mounts, own], "no controllers", false),
            (
                "cgroup",
                &[("proc/self/cgroup", "4:memory:/a\n")],
                "no controllers",
                false,
            ),
        ];
        for (id, files, found, well) in cases {
            let (_dir, root) = Root::fake(files);
            let id = format!("isolation.{id}");
            let check = check(&root).into_iter().find(|check| check.id == id);
            let check = check.unwrap();
            assert!(check.found.contains(found), "{check:?}");
            let expected = if *well { Level::Ok } else { Level::Info };
            assert_eq!(check.level, expected, "{check:?}");
        }
        let (_dir, nothing) = Root::fake(&[]);
        assert_eq!(check(&nothing).len(), 2, "nobody knows of the others");
    }

    #[test]
    fn what_landlock_lacks_is_told() {
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        for (version, found, level) in [
            (Ok(7), "version 7", Level::Ok),
            (Ok(4), "files and TCP", Level::Info),
            (Ok(1), "files only", Level::Info),
            (failed(libc::EOPNOTSUPP), "off", Level::Info),
            (failed(libc::ENOSYS), "none", Level::Info),
        ] {
            let check = landlock(version);
            assert!(check.found.contains(found), "{check:?}");
            assert_eq!(check.level, level, "{check:?}");
        }
    }
}
