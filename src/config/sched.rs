//! How the host's kernel schedules vCPU threads: `fifo:10`, or for each vCPU (sched(7)).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The lowest and the highest real-time priority that Linux has (sched(7)).
pub const PRIORITIES: std::ops::RangeInclusive<u8> = 1..=99;

/// How one thread is scheduled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// As any other thread.
    #[default]
    Other,
    /// Real-time with this priority: runs until it waits, or one of a higher priority comes.
    Fifo(u8),
    /// The same, in turns with others of its priority.
    RoundRobin(u8),
}

impl Policy {
    /// The priority, if it is a real-time policy.
    pub fn priority(self) -> Option<u8> {
        match self {
            Policy::Other => None,
            Policy::Fifo(priority) | Policy::RoundRobin(priority) => Some(priority),
        }
    }
}

/// How the vCPU threads are scheduled (`--sched`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sched {
    /// Those that aren't named.
    pub all: Policy,
    /// Those that are, by the vCPU's number.
    pub named: BTreeMap<u8, Policy>,
    /// What could starve the VM or the host is a warning only.
    pub force: bool,
}

impl Sched {
    /// How the vCPU `id` is scheduled.
    pub fn of(&self, id: u8) -> Policy {
        self.named.get(&id).copied().unwrap_or(self.all)
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` must be fifo:1 to fifo:99, rr:1 to rr:99, or other");
        let (name, priority) = match text.split_once(':') {
            None if text == "other" => return Ok(Policy::Other),
            None => return Err(wrong()),
            Some(parts) => parts,
        };
        let digits = priority.bytes().all(|byte| byte.is_ascii_digit());
        let priority = priority
            .parse()
            .ok()
            .filter(|p| digits && PRIORITIES.contains(p));
        match (name, priority) {
            ("fifo", Some(priority)) => Ok(Policy::Fifo(priority)),
            ("rr", Some(priority)) => Ok(Policy::RoundRobin(priority)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Other => f.write_str("other"),
            Policy::Fifo(priority) => write!(f, "fifo:{priority}"),
            Policy::RoundRobin(priority) => write!(f, "rr:{priority}"),
        }
    }
}

impl FromStr for Sched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut all, mut named, mut force) = (None, BTreeMap::new(), false);
        for part in text.split(',') {
            if part == "force" {
                force = true;
            } else if let Some((id, policy)) = part.split_once('=') {
                let id = super::placement::vcpu(id, part)?;
                if named.insert(id, policy.parse()?).is_some() {
                    return Err(format!("vCPU {id} is given twice"));
                }
            } else if all.replace(part.parse()?).is_some() {
                return Err(format!(
                    "`{part}`: one policy is for all vCPUs; name others by 0={part}"
                ));
            }
        }
        if all.is_none() && named.is_empty() {
            return Err("`force` goes with a policy, such as fifo:10,force".to_owned());
        }
        let all = all.unwrap_or_default();
        Ok(Sched { all, named, force })
    }
}

impl fmt::Display for Sched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.all)?;
        for (id, policy) in &self.named {
            write!(f, ",{id}={policy}")?;
        }
        f.write_str(if self.force { ",force" } else { "" })
    }
}

impl TryFrom<String> for Sched {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Sched> for String {
    fn from(sched: Sched) -> String {
        sched.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_for_all_vcpus_or_for_named_ones() {
        for (text, first, second, printed) in [
            ("fifo:10", Policy::Fifo(10), Policy::Fifo(10), "fifo:10"),
            ("rr:1", Policy::RoundRobin(1), Policy::RoundRobin(1), "rr:1"),
            ("other", Policy::Other, Policy::Other, "other"),
            (
                "0=fifo:99,1=other",
                Policy::Fifo(99),
                Policy::Other,
                "other,0=fifo:99,1=other",
            ),
            (
                "1=rr:5",
                Policy::Other,
                Policy::RoundRobin(5),
                "other,1=rr:5",
            ),
            (
                "fifo:7,1=other,force",
                Policy::Fifo(7),
                Policy::Other,
                "fifo:7,1=other,force",
            ),
        ] {
            let sched: Sched = text.parse().unwrap();
            assert_eq!((sched.of(0), sched.of(1)), (first, second), "{text}");
            assert_eq!(sched.force, text.ends_with("force"));
            assert_eq!(sched.to_string(), printed);
            assert_eq!(printed.parse::<Sched>().unwrap(), sched);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "fifo",
            "fifo:",
            "fifo:0",
            "fifo:100",
            "fifo:+1",
            "fifo:-1",
            "fifo:1000",
            "rr",
            "rr:0",
            "other:1",
            "idle",
            "deadline:1",
            "FIFO:1",
            "fifo:1,",
            "fifo:1,rr:2",
            "0=",
            "=fifo:1",
            "x=fifo:1",
            "0=fifo:1,0=other",
            "300=fifo:1",
            "force",
            "fifo:1 ",
            "-1=other",
        ] {
            assert!(text.parse::<Sched>().is_err(), "{text}");
        }
        let error = "fifo:100".parse::<Sched>().unwrap_err();
        assert!(error.contains("fifo:1 to fifo:99"), "{error}");
    }
}
