//! Where a VM's threads and memory are on the host: CPUs, scheduling, NUMA node.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::cpu_list::numbers;
use super::{ConfigError, CpuList, Policy, Sched};

/// Where a VM is on the host. What is left out is left to the host's kernel.
///
/// ```
/// let mut config = motevm::VmConfig::default();
/// config.placement.pin = Some("0=2".parse()?); // vCPU 0 on CPU 2
/// config.placement.io_cpus = Some("0-1".parse()?);
/// config.placement.sched = Some("fifo:10".parse()?);
/// config.boot.kernel = Some("vmlinux".into());
/// assert!(config.validate().is_ok());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Placement {
    /// The CPUs of each vCPU thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// The CPUs of all other threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_cpus: Option<CpuList>,
    /// How vCPU threads are scheduled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sched: Option<Sched>,
    /// The host's NUMA node whose memory the guest gets, and whose CPUs run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u16>,
}

impl Placement {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Placement::default()
    }

    pub(super) fn validate(&self, cpus: u8) -> Result<(), ConfigError> {
        let many = if cpus == 1 { "vCPU" } else { "vCPUs" };
        if let Some(pin) = &self.pin {
            let (named, last) = (pin.0.len(), pin.0.keys().next_back());
            if pin.1 && named != usize::from(cpus) {
                return Err(ConfigError::Pin(format!(
                    "{pin}: a list has one CPU for each vCPU, and there are {cpus} {many}, {named} \
                     CPUs; to pin some vCPUs only, name them: --pin 0=2,1=3"
                )));
            }
            if let Some(&id) = last.filter(|id| **id >= cpus) {
                return Err(ConfigError::Pin(no_such_vcpu(pin, id, cpus)));
            }
        }
        if let Some(sched) = &self.sched
            && let Some((&id, _)) = sched
                .named
                .iter()
                .next_back()
                .filter(|(id, _)| **id >= cpus)
        {
            return Err(ConfigError::Sched(no_such_vcpu(sched, id, cpus)));
        }
        Ok(())
    }

    /// How the vCPU `id` is scheduled.
    pub fn policy(&self, id: u8) -> Policy {
        self.sched
            .as_ref()
            .map_or(Policy::Other, |sched| sched.of(id))
    }
}

fn no_such_vcpu(option: &impl fmt::Display, id: u8, cpus: u8) -> String {
    format!(
        "{option}: there is no vCPU {id}; --cpus {cpus} gives 0 to {}",
        cpus - 1
    )
}

/// Which vCPU runs on which CPUs of the host (`--pin`): `0=2,1=3-4`, or one CPU for each, `2-5`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin(
    /// By the vCPU's number.
    BTreeMap<u8, CpuList>,
    /// Written as a list, and so meant for all vCPUs.
    bool,
);

impl Pin {
    /// The CPUs of the vCPU `id`, if it is pinned.
    pub fn of(&self, id: u8) -> Option<&CpuList> {
        self.0.get(&id)
    }

    /// The pinned vCPUs and their CPUs.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &CpuList)> {
        self.0.iter().map(|(id, cpus)| (*id, cpus))
    }

    /// One CPU for each vCPU, in this order.
    fn in_order(text: &str) -> Result<Self, String> {
        let mut pin = BTreeMap::new();
        let mut all = Vec::new();
        for part in text.split(',') {
            all.extend(numbers(part)?);
        }
        for (id, cpu) in all.iter().enumerate() {
            if all[..id].contains(cpu) {
                return Err(format!(
                    "CPU {cpu} is given twice; to pin two vCPUs to one CPU, name them: 0={cpu},1={cpu}"
                ));
            }
            let id = u8::try_from(id).map_err(|_| "more CPUs than a VM has vCPUs".to_owned())?;
            pin.insert(id, [*cpu].into_iter().collect());
        }
        Ok(Pin(pin, true))
    }
}

/// The number of a vCPU; `part` is where it stands.
pub(super) fn vcpu(text: &str, part: &str) -> Result<u8, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| format!("`{part}`: `{text}` is not the number of a vCPU"))
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            return Pin::in_order(text);
        }
        let mut pin = BTreeMap::<u8, CpuList>::new();
        let mut current = None;
        // What has no vCPU of its own goes on with the last one's: 0=2,4-5,1=3.
        for part in text.split(',') {
            let (id, cpus) = match (part.split_once('='), current) {
                (Some((id, cpus)), _) => {
                    let id = vcpu(id, part)?;
                    if pin.contains_key(&id) {
                        return Err(format!("vCPU {id} is given twice"));
                    }
                    (id, cpus)
                }
                (None, Some(id)) => (id, part),
                (None, None) => return Err(format!("`{part}` has no vCPU; write 0={part}")),
            };
            current = Some(id);
            let cpus: CpuList = cpus.parse()?;
            let all = pin.entry(id).or_default();
            *all = all.or(&cpus);
        }
        Ok(Pin(pin, false))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (id, cpus)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            match self.1 {
                true => write!(f, "{separator}{cpus}")?,
                false => write!(f, "{separator}{id}={cpus}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> String {
        pin.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cpus, VmConfig};
    use super::*;

    fn pin(text: &str) -> Vec<(u8, String)> {
        let pin: Pin = text.parse().unwrap();
        assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin, "{text}");
        pin.iter()
            .map(|(id, cpus)| (id, cpus.to_string()))
            .collect()
    }

    fn pairs(pairs: &[(u8, &str)]) -> Vec<(u8, String)> {
        pairs
            .iter()
            .map(|(id, cpus)| (*id, (*cpus).to_owned()))
            .collect()
    }

    #[test]
    fn vcpus_are_named_or_take_the_list_in_its_order() {
        assert_eq!(pin("0=2,1=3"), pairs(&[(0, "2"), (1, "3")]));
        assert_eq!(pin("1=2-3"), pairs(&[(1, "2-3")]));
        assert_eq!(pin("0=2,4-5,1=3"), pairs(&[(0, "2,4-5"), (1, "3")]));
        assert_eq!(pin("2-4"), pairs(&[(0, "2"), (1, "3"), (2, "4")]));
        assert_eq!(pin("5,3"), pairs(&[(0, "5"), (1, "3")]));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", "=", "0=", "=2", "a=2", "0=a", "0=2,0=3", "2,0=3", "0=2,", "256=1", "-1=1",
            "0=1=2", "2,2", "0-300", "2-5,3", "0 = 2", "٠=1",
        ] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
        let error = "2,0=3".parse::<Pin>().unwrap_err();
        assert!(error.contains("write 0=2"), "{error}");
    }

    fn validate(cpus: u8, toml: &str) -> Result<(), String> {
        let text = format!("[boot]\nkernel = \"k\"\n[placement]\n{toml}");
        let mut config: VmConfig = toml::from_str(&text).unwrap();
        config.cpus = Cpus(cpus);
        config.validate().map_err(|e| e.to_string())
    }

    #[test]
    fn vcpus_that_do_not_exist_are_named() {
        assert_eq!(validate(2, "pin = \"1=3\"\nsched = \"1=fifo:1\""), Ok(()));
        assert_eq!(
            validate(2, "pin = \"0=1,2=3\"").unwrap_err(),
            "--pin 0=1,2=3: there is no vCPU 2; --cpus 2 gives 0 to 1"
        );
        assert_eq!(
            validate(1, "sched = \"1=fifo:1\"").unwrap_err(),
            "--sched other,1=fifo:1: there is no vCPU 1; --cpus 1 gives 0 to 0"
        );
    }

    #[test]
    fn a_list_is_for_all_vcpus() {
        assert_eq!(validate(2, "pin = \"2-3\""), Ok(()));
        for cpus in [1, 3] {
            let error = validate(cpus, "pin = \"2-3\"").unwrap_err();
            assert!(
                error.starts_with("--pin 2,3: a list has one CPU"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_says_the_same_as_it_prints() {
        let text = "[placement]\npin = \"0=2,1=3\"\nio-cpus = \"0-1\"\nsched = \"fifo:10\"\nnuma-node = 1\n";
        let config: VmConfig = toml::from_str(text).unwrap();
        let printed = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<VmConfig>(&printed).unwrap(), config);
        assert!(toml::from_str::<VmConfig>("[placement]\npin = \"x\"").is_err());
    }
}
