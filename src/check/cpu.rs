//! The processor: what any of them has, its frequency.

use super::{Check, Root};

/// The check whose absence means an emulating KVM.
pub(super) const HARDWARE: &str = "cpu.virtualization";

/// The names of the frequency governors in use.
pub(super) fn governors(root: &Root) -> Vec<String> {
    let mut governors: Vec<_> = root
        .list("sys/devices/system/cpu")
        .iter()
        .filter_map(|cpu| {
            root.read(&format!(
                "sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor"
            ))
        })
        .collect();
    governors.sort();
    governors.dedup();
    governors
}

/// The frequency governors; nothing inside most VMs, where there are none.
pub(super) fn governor(root: &Root) -> Option<Check> {
    let (id, subject) = ("cpu.governor", "frequency governor");
    let governors = governors(root);
    if governors.is_empty() {
        return None;
    }
    let found = governors.join(", ");
    if !governors.iter().any(|governor| governor == "powersave") {
        return Some(Check::ok(id, subject, found));
    }
    Some(Check::slow(
        id,
        subject,
        format!("{found}: a boot is over before the clock has risen"),
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn with(files: &[(&str, &str)]) -> Option<Check> {
        let (_dir, root) = Root::fake(files);
        governor(&root)
    }

    #[test]
    fn powersave_on_any_cpu_is_slow() {
        let (cpu0, cpu1) = (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
        );
        let check = with(&[(cpu0, "performance\n"), (cpu1, "powersave\n")]).unwrap();
        assert_eq!(check.level, Level::Slow);
        assert!(
            check.found.starts_with("performance, powersave"),
            "{check:?}"
        );
        let check = with(&[(cpu0, "schedutil\n"), (cpu1, "schedutil\n")]).unwrap();
        assert_eq!(
            (check.level, check.found.as_str()),
            (Level::Ok, "schedutil")
        );
        assert_eq!(with(&[]), None);
    }
}
