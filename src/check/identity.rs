//! Which host this is: what a figure that was measured on it depends on.

use serde::{Deserialize, Serialize};

use super::{Root, cpu};

/// What makes one host's figures differ from another's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The processor's model.
    pub cpu: String,
    /// How many processors are online, as the kernel lists them.
    pub cpus: String,
    /// The kernel's release.
    pub kernel: String,
    /// The module behind /dev/kvm.
    pub kvm: String,
    /// The frequency governors in use; none inside most VMs.
    pub governor: String,
}

impl Identity {
    /// Reads it from /proc and /sys.
    pub fn of(root: &Root) -> Self {
        let cpuinfo = root.read("proc/cpuinfo").unwrap_or_default();
        let field = |wanted: &str| {
            let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            let mut found = lines.filter(|(key, _)| key.trim() == wanted);
            found.next().map(|(_, value)| value.trim().to_owned())
        };
        // AArch64 has numbers only.
        let numbers = || {
            Some(format!(
                "{} {}",
                field("CPU implementer")?,
                field("CPU part")?
            ))
        };
        let unknown = || "unknown".to_owned();
        let governors = cpu::governors(root);
        Identity {
            cpu: field("model name").or_else(numbers).unwrap_or_else(unknown),
            cpus: root
                .read("sys/devices/system/cpu/online")
                .unwrap_or_else(unknown),
            kernel: root
                .read("proc/sys/kernel/osrelease")
                .unwrap_or_else(unknown),
            kvm: kvm(root),
            governor: match governors.is_empty() {
                true => "none".to_owned(),
                false => governors.join(", "),
            },
        }
    }

    /// What is different on another host, in words; empty where figures can be compared.
    pub fn differences(&self, other: &Identity) -> Vec<String> {
        let pairs = [
            ("CPU", &self.cpu, &other.cpu),
            ("CPUs online", &self.cpus, &other.cpus),
            ("kernel", &self.kernel, &other.kernel),
            ("KVM", &self.kvm, &other.kvm),
            ("governor", &self.governor, &other.governor),
        ];
        let different = pairs.into_iter().filter(|(_, here, there)| here != there);
        different
            .map(|(what, here, there)| format!("{what}: {there} there, {here} here"))
            .collect()
    }
}

/// The module, and whether there is hardware behind it.
fn kvm(root: &Root) -> String {
    let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let mut loaded = modules
        .iter()
        .filter(|name| root.has(&format!("sys/module/{name}")));
    let name = loaded.next().map_or("kvm", |name| name);
    match super::has_hardware(root) {
        true => name.to_owned(),
        false => format!("{name}, emulating"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMD: &[(&str, &str)] = &[
        (
            "proc/cpuinfo",
            "processor: 0\nmodel name\t: AMD EPYC\nflags\t: svm\n",
        ),
        ("proc/sys/kernel/osrelease", "6.12.1\n"),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/module/kvm_amd/x", ""),
    ];

    #[test]
    fn a_host_is_known_by_its_files() {
        let (_dir, root) = Root::fake(AMD);
        let identity = Identity::of(&root);
        let expected = Identity {
            cpu: "AMD EPYC".to_owned(),
            cpus: "0-3".to_owned(),
            kernel: "6.12.1".to_owned(),
            kvm: "kvm_amd".to_owned(),
            governor: "none".to_owned(),
        };
        assert_eq!(identity, expected);
        assert!(identity.differences(&expected).is_empty());
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let (_dir, root) = Root::fake(AMD);
        let here = Identity::of(&root);
        let (_dir, root) =
            Root::fake(&[("proc/cpuinfo", "CPU implementer: 0x41\nCPU part: 0xd0c\n")]);
        let there = Identity::of(&root);
        assert_eq!(there.cpu, "0x41 0xd0c");
        let differences = here.differences(&there);
        assert!(differences.contains(&"CPU: 0x41 0xd0c there, AMD EPYC here".to_owned()));
        assert!(differences.contains(&"kernel: unknown there, 6.12.1 here".to_owned()));
    }
}
