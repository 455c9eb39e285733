//! The jail of a VM's process (`mote run --jail`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::{ConfigError, CpuList, Size};

/// The longest name.
const MAX_ID: usize = 64;

/// The jail of a VM's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jail {
    /// The VM's name on this host: of its folder and its cgroup.
    pub id: String,
    /// The user that the process becomes; as root it must be given.
    pub uid: Option<u32>,
    /// The group; the same number as the user by default.
    pub gid: Option<u32>,
    /// The folder in which the VM's own is made: /run/mote by default, without root's rights
    /// $XDG_RUNTIME_DIR/mote.
    pub root: Option<PathBuf>,
    /// The network namespace to be in, by its name or its path; by default a new one with nothing in it.
    pub netns: Option<PathBuf>,
    /// The cgroup (version 2) in which the VM's own is made.
    pub cgroup: Option<PathBuf>,
    /// How much CPU time, in CPUs.
    pub cpu: Option<CpuTime>,
    /// How much memory, the guest's and mote's own.
    pub memory: Option<Size>,
    /// How many threads.
    pub pids: Option<u64>,
    /// Which CPUs.
    pub cpus: Option<CpuList>,
    /// How many open files (RLIMIT_NOFILE).
    pub nofile: Option<u64>,
    /// How many threads its user has on the host (RLIMIT_NPROC).
    pub nproc: Option<u64>,
    /// How much locked memory (RLIMIT_MEMLOCK).
    pub memlock: Option<Size>,
    /// How large a file may become (RLIMIT_FSIZE).
    pub fsize: Option<Size>,
}

impl Jail {
    /// Whether a cgroup is asked to limit something.
    pub fn has_cgroup_limits(&self) -> bool {
        self.cpu.is_some() || self.memory.is_some() || self.pids.is_some() || self.cpus.is_some()
    }

    /// Checks what can be checked without looking at the host.
    ///
    /// # Errors
    ///
    /// A name that can't be a folder's, or a key that makes no sense.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.id.is_empty()
            || self.id.len() > MAX_ID
            || self.id.starts_with('.')
            || !self.id.chars().all(fine)
        {
            return Err(ConfigError::JailId(self.id.clone()));
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            // Root is who the jail is to keep out; all ones mean "as it is" to the kernel.
            if let Some(id @ (0 | u32::MAX)) = id {
                return Err(ConfigError::JailUser(key, id));
            }
        }
        if self.has_cgroup_limits() && self.cgroup.is_none() {
            return Err(ConfigError::JailLimits);
        }
        Ok(())
    }
}

/// An amount of CPU time: so many CPUs, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CpuTime(u32);

impl CpuTime {
    /// The microseconds in each 100 ms.
    pub fn in_100_ms(self) -> u64 {
        u64::from(self.0) * 1000
    }
}

impl FromStr for CpuTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cpus: Option<f64> = text.parse().ok();
        // 1 ms in 100 is the least that the kernel takes.
        match cpus.filter(|cpus| (0.01..=10_000.0).contains(cpus)) {
            Some(cpus) => Ok(CpuTime((cpus * 100.0).round() as u32)),
            None => Err(format!("`{text}` is no number of CPUs such as 0.5 or 2")),
        }
    }
}

impl<'de> Deserialize<'de> for CpuTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for CpuTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_folder() {
        let named = |id: &str| Jail {
            id: id.to_owned(),
            ..Jail::default()
        };
        for id in ["a", "web-1", "A_b.c", &"x".repeat(64)] {
            assert_eq!(named(id).validate(), Ok(()), "{id}");
        }
        for id in ["", ".", "..", ".a", "a/b", "a b", "ä", &"x".repeat(65)] {
            let error = named(id).validate().unwrap_err().to_string();
            assert!(error.starts_with("--jail id="), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: &dyn Fn(&mut Jail)| {
            let mut jail = Jail {
                id: "a".to_owned(),
                ..Jail::default()
            };
            change(&mut jail);
            jail.validate().unwrap_err().to_string()
        };
        assert!(refused(&|jail| jail.uid = Some(0)).starts_with("--jail uid=0: "));
        assert!(refused(&|jail| jail.gid = Some(u32::MAX)).starts_with("--jail gid="));
        assert!(refused(&|jail| jail.pids = Some(5)).contains("cgroup="));
    }

    #[test]
    fn cpu_time_is_a_number_of_cpus() {
        for (text, us) in [
            ("1", 100_000),
            ("0.5", 50_000),
            ("2.25", 225_000),
            ("0.01", 1000),
        ] {
            assert_eq!(text.parse::<CpuTime>().unwrap().in_100_ms(), us, "{text}");
        }
        for text in ["", "0", "-1", "x", "NaN", "inf", "0.001", "1e9"] {
            assert!(text.parse::<CpuTime>().is_err(), "{text}");
        }
    }
}
