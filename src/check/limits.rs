//! What this process may have: memory and open files.

use super::{Check, Root};
use crate::config::{MIN_MEMORY, Memory, Size};

/// Open files that a VM with many vCPUs and drives needs.
const OPEN_FILES: u64 = 256;

/// The host's memory against that of a guest by default.
pub(super) fn memory(root: &Root) -> Option<Check> {
    let (id, subject) = ("memory.available", "available memory");
    let text = root.read("proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let available = Size::mib(kib >> 10);
    let guest = Memory::default().size;
    let mib = available.bytes() >> 20;
    if available < MIN_MEMORY {
        let found = format!("{mib} MiB, less than any guest needs");
        return Some(Check::missing(
            id,
            subject,
            found,
            "stop something: ps aux --sort=-rss | head shows what is large",
        ));
    }
    if available < guest {
        let found = format!("{mib} MiB, less than a guest has by default ({guest})");
        let remedy = format!("give guests less: mote run --memory {}M", mib / 2);
        return Some(Check::slow(id, subject, found, remedy));
    }
    let guests = available.bytes() / guest.bytes();
    let found = format!("{mib} MiB, for {guests} guests of the default size ({guest})");
    Some(Check::ok(id, subject, found))
}

/// The limit of open files: each vCPU, drive and event is one.
pub(super) fn open_files(root: &Root) -> Option<Check> {
    let (id, subject) = ("limits.nofile", "open files");
    let text = root.read("proc/self/limits")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut limits = line.split_whitespace();
    let (soft, hard) = (limits.next()?, limits.next()?);
    let found = format!("up to {soft} in this process");
    match soft.parse::<u64>() {
        Ok(number) if number < OPEN_FILES => {
            let found = format!("{found}: too few for VMs with many vCPUs and drives");
            let raise = match hard.parse::<u64>() {
                Ok(hard) if hard < OPEN_FILES => {
                    "raise it in /etc/security/limits.conf (nofile), and log in again"
                }
                _ => "ulimit -n 1024",
            };
            Some(Check::info(id, subject, found).with_remedy(raise))
        }
        _ => Some(Check::ok(id, subject, found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn with_memory(kib: u64) -> Check {
        let text =
            format!("MemTotal:       24684084 kB\nMemFree:  1 kB\nMemAvailable:   {kib} kB\n");
        let (_dir, root) = Root::fake(&[("proc/meminfo", &text)]);
        memory(&root).unwrap()
    }

    #[test]
    fn memory_is_measured_in_guests() {
        let check = with_memory(23_818_940);
        assert_eq!(check.level, Level::Ok);
        assert_eq!(
            check.found,
            "23260 MiB, for 181 guests of the default size (128M)"
        );
    }

    #[test]
    fn little_memory_gives_a_size_that_fits() {
        let check = with_memory(100 << 10);
        assert_eq!(check.level, Level::Slow);
        assert!(check.remedy.unwrap().ends_with("--memory 50M"));
        assert_eq!(with_memory(10 << 10).level, Level::Missing);
        assert_eq!(memory(&Root::at("/nonexistent")), None);
    }

    fn with_files(soft: &str, hard: &str) -> Check {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max processes             96365                96365                processes \n\
             Max open files            {soft:<20} {hard:<20} files     \n"
        );
        let (_dir, root) = Root::fake(&[("proc/self/limits", &text)]);
        open_files(&root).unwrap()
    }

    #[test]
    fn few_open_files_are_said() {
        assert_eq!(with_files("1024", "1048576").level, Level::Ok);
        assert_eq!(with_files("unlimited", "unlimited").level, Level::Ok);
        let check = with_files("64", "4096");
        assert_eq!(
            (check.level, check.remedy.as_deref()),
            (Level::Info, Some("ulimit -n 1024"))
        );
        assert!(
            with_files("64", "64")
                .remedy
                .unwrap()
                .contains("limits.conf")
        );
    }
}
