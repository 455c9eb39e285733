//! kvm.nx_huge_pages: KVM's mitigation of the iTLB multihit defect of some Intel CPUs, which
//! splits the huge pages that a guest runs code from (Linux admin-guide/hw-vuln/multihit.rst).

use super::{Check, Root};

const ID: &str = "kvm.nx_huge_pages";
const SUBJECT: &str = "nx_huge_pages";

/// Turns it off for good; it works only while there are no VMs.
const NEVER: &str =
    "with no VM running: echo never | sudo tee /sys/module/kvm/parameters/nx_huge_pages";

/// Turns it on again, on CPUs that need it.
const AUTO: &str = "where guests aren't trusted: sudo modprobe -r kvm_intel kvm && \
    sudo modprobe kvm nx_huge_pages=auto && sudo modprobe kvm_intel";

/// Whether this CPU needs the mitigation. Unknown counts as yes; "VMX disabled" only says that
/// no VM runs at the moment.
fn affected(root: &Root) -> bool {
    let cpu = root.read("sys/devices/system/cpu/vulnerabilities/itlb_multihit");
    let safe = |state: &str| state == "Not affected" || state.ends_with("VMX unsupported");
    !cpu.as_deref().is_some_and(safe)
}

fn setting(root: &Root) -> Option<String> {
    root.read("sys/module/kvm/parameters/nx_huge_pages")
}

/// What spares each VM its recovery thread, which there is also when the mitigation is off:
/// only where it costs no safety.
pub(super) fn no_thread(root: &Root) -> Option<&'static str> {
    let thread = setting(root)? != "never";
    (thread && !affected(root)).then_some(NEVER)
}

/// Weighs the setting against whether the CPU needs it.
pub(super) fn check(root: &Root) -> Option<Check> {
    let setting = setting(root)?;
    let on = matches!(setting.as_str(), "Y" | "1");
    let word = if setting == "never" { "never" } else { "off" };
    Some(match (on, affected(root)) {
        (true, false) => {
            let found =
                "on, though this CPU has no iTLB multihit defect: guest code gets 4 KiB pages";
            Check::slow(ID, SUBJECT, found, NEVER)
        }
        (true, true) => {
            let found = "on, for this CPU's iTLB multihit defect: guest code gets 4 KiB pages";
            let remedy = format!(
                "leave it on where guests aren't trusted: without it one can hang the host. \
                 Else {NEVER}"
            );
            Check::slow(ID, SUBJECT, found, remedy)
        }
        (false, true) => {
            let found =
                format!("{word}, and by this CPU's iTLB multihit defect a guest can hang the host");
            Check::info(ID, SUBJECT, found).with_remedy(AUTO)
        }
        (false, false) => {
            let found = format!("{word}: this CPU has no iTLB multihit defect");
            Check::ok(ID, SUBJECT, found)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn with(setting: &str, cpu: Option<&str>) -> Check {
        let mut files = vec![("sys/module/kvm/parameters/nx_huge_pages", setting)];
        files.extend(cpu.map(|cpu| ("sys/devices/system/cpu/vulnerabilities/itlb_multihit", cpu)));
        let (_dir, root) = Root::fake(&files);
        check(&root).unwrap()
    }

    #[test]
    fn on_is_slow_and_the_remedy_tells_the_price() {
        let check = with("Y\n", Some("Not affected\n"));
        assert_eq!(check.level, Level::Slow);
        assert_eq!(check.remedy.as_deref(), Some(NEVER));
        for cpu in [
            Some("KVM: Mitigation: Split huge pages\n"),
            Some("KVM: Mitigation: VMX disabled\n"),
            None,
        ] {
            let check = with("Y\n", cpu);
            assert_eq!(check.level, Level::Slow);
            assert!(check.remedy.unwrap().contains("hang the host"));
        }
    }

    #[test]
    fn off_is_ok_where_the_cpu_is_not_affected() {
        for setting in ["N\n", "never\n"] {
            for cpu in ["Not affected\n", "KVM: Mitigation: VMX unsupported\n"] {
                assert_eq!(with(setting, Some(cpu)).level, Level::Ok);
            }
            let check = with(setting, Some("KVM: Vulnerable\n"));
            assert_eq!(check.level, Level::Info);
            assert!(
                check
                    .found
                    .starts_with(if setting == "N\n" { "off" } else { "never" })
            );
            assert!(check.remedy.is_some());
        }
    }

    #[test]
    fn the_thread_is_spared_only_where_it_is_safe() {
        let of = |setting, cpu| {
            let (_dir, root) = Root::fake(&[
                ("sys/module/kvm/parameters/nx_huge_pages", setting),
                ("sys/devices/system/cpu/vulnerabilities/itlb_multihit", cpu),
            ]);
            no_thread(&root)
        };
        assert_eq!(of("N\n", "Not affected\n"), Some(NEVER));
        assert_eq!(of("never\n", "Not affected\n"), None);
        assert_eq!(of("N\n", "KVM: Vulnerable\n"), None);
        assert_eq!(no_thread(&Root::at("/nonexistent")), None);
    }

    #[test]
    fn hosts_without_the_parameter_have_no_line() {
        assert_eq!(check(&Root::at("/nonexistent")), None);
    }
}
