//! Which host this is: what a figure that was measured on it depends on.

use serde::{Deserialize, Serialize};

use super::{Root, cpu, native};

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
        let unknown = || "unknown".to_owned();
        let governors = cpu::governors(root);
        Identity {
            cpu: native::model(root).unwrap_or_else(unknown),
            cpus: root
                .read("sys/devices/system/cpu/online")
                .unwrap_or_else(unknown),
            kernel: root
                .read("proc/sys/kernel/osrelease")
                .unwrap_or_else(unknown),
            kvm: native::module(root),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_both_values() {
        let here = Identity {
            cpu: "AMD EPYC".to_owned(),
            kernel: "6.12.1".to_owned(),
            ..Identity::default()
        };
        let there = Identity {
            cpu: "Arm Neoverse-N1 r3p1".to_owned(),
            ..here.clone()
        };
        let differences = here.differences(&there);
        let expected = "CPU: Arm Neoverse-N1 r3p1 there, AMD EPYC here";
        assert_eq!(differences, [expected]);
        assert!(here.differences(&here.clone()).is_empty());
    }

    #[test]
    fn what_can_not_be_read_is_unknown() {
        let identity = Identity::of(&Root::at("/nonexistent"));
        assert_eq!(
            (identity.cpu.as_str(), identity.kernel.as_str()),
            ("unknown", "unknown")
        );
        assert_eq!(identity.governor, "none");
    }
}
