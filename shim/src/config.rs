//! What whoever runs the machine says of the VMs: a TOML file.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Names another file than [`DEFAULT`].
pub const VARIABLE: &str = "MOTE_SHIM_CONFIG";
/// Where the file is looked for. It need not be there.
pub const DEFAULT: &str = "/etc/mote/containerd.toml";

/// The file's content; what is left out has its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The monitor: a path, or a name that is looked for in PATH.
    pub mote: PathBuf,
    /// The guest's kernel; mote's own default where none is named.
    pub kernel: Option<PathBuf>,
    /// More for the kernel's command line.
    pub cmdline: Option<String>,
    /// Where what belongs to running VMs is.
    pub state: PathBuf,
    /// Where images of root file systems are kept.
    pub cache: PathBuf,
    /// How the guest gets root file systems.
    pub rootfs: Rootfs,
    /// Where containers' writes go, with `rootfs = "block"`.
    pub upper: Upper,
    /// How large they can become, with `upper = "disk"`, in bytes.
    pub upper_size: u64,
    /// The program that shares folders.
    pub virtiofsd: PathBuf,
    /// The VM's memory in MiB, where nothing is asked for.
    pub memory: u64,
    /// What the guest's kernel and agent have besides a limit that is asked for, in MiB.
    pub memory_overhead: u64,
    /// The most that can be asked for, in MiB.
    pub max_memory: u64,
    /// vCPUs, where nothing is asked for.
    pub vcpus: u32,
    /// The most that can be asked for.
    pub max_vcpus: u32,
    /// Seconds that a guest may take until its agent calls.
    pub boot_timeout: u64,
    /// What mote tells in its log: off, error, warn, info, debug or trace.
    pub log: String,
    /// Whether the monitor is in a jail.
    pub jail: bool,
    /// The first of the 65,536 users of whom each jailed monitor is another one.
    pub jail_users: u32,
}

/// How the guest gets root file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rootfs {
    /// As drives: images that are made of snapshots, kept, and shared by VMs.
    Block,
    /// By virtiofsd: the snapshots themselves.
    Virtiofs,
}

/// Where a container's writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upper {
    /// Into the guest's memory.
    Memory,
    /// Onto a drive of its own, which is gone with it.
    Disk,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mote: "mote".into(),
            kernel: None,
            cmdline: None,
            state: "/run/mote".into(),
            cache: "/var/cache/mote/containerd".into(),
            rootfs: Rootfs::Block,
            upper: Upper::Disk,
            upper_size: 10 << 30,
            virtiofsd: "/usr/libexec/virtiofsd".into(),
            memory: 256,
            memory_overhead: 64,
            max_memory: 1 << 20,
            vcpus: 1,
            max_vcpus: 64,
            boot_timeout: 30,
            log: "warn".to_owned(),
            jail: true,
            jail_users: 0x4d00_0000,
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It says what can't be.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What, in one line.
        message: String,
    },
}

impl Config {
    /// From the file that `named` is, by the environment or a request, else from the one at [`DEFAULT`], if it is there.
    ///
    /// # Errors
    ///
    /// The file can't be read, or says what can't be.
    pub fn read(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Config::default());
            }
            Err(error) => {
                let path = path.to_owned();
                return Err(ConfigError::Read { path, error });
            }
        };
        let content = |message: String| ConfigError::Content {
            path: path.to_owned(),
            message,
        };
        let config: Config =
            toml::from_str(&text).map_err(|e| content(e.to_string().trim().replace('\n', " ")))?;
        match config.wrong() {
            Some(what) => Err(content(what)),
            None => Ok(config),
        }
    }

    fn wrong(&self) -> Option<String> {
        let at_least_one = |name: &str, value: u64| {
            (value == 0).then(|| format!("{name} = 0: must be at least 1"))
        };
        at_least_one("memory", self.memory)
            .or_else(|| at_least_one("vcpus", self.vcpus.into()))
            .or_else(|| at_least_one("boot_timeout", self.boot_timeout))
            .or_else(|| {
                let too_many = self.vcpus > self.max_vcpus || self.max_vcpus > 64;
                too_many.then(|| {
                    let (vcpus, most) = (self.vcpus, self.max_vcpus);
                    format!("vcpus = {vcpus}, max_vcpus = {most}: must be in order, and at most 64")
                })
            })
            .or_else(|| {
                let relative = [("state", &self.state), ("cache", &self.cache)];
                let mut relative = relative.iter().filter(|(_, path)| !path.is_absolute());
                relative.next().map(|(name, path)| {
                    format!(
                        "{name} = {:?}: must be a whole path",
                        path.display().to_string()
                    )
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        fs::write(&path, text).unwrap();
        Config::read(Some(&path)).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = read("memory = 512\nrootfs = \"virtiofs\"\n").unwrap();
        assert_eq!((config.memory, config.vcpus), (512, 1));
        assert_eq!(config.rootfs, Rootfs::Virtiofs);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, part) in [
            ("memori = 1", "memori"),
            ("memory = 0", "memory = 0: must be at least 1"),
            ("vcpus = 3\nmax_vcpus = 2", "max_vcpus = 2"),
            ("state = \"run\"", "state = \"run\": must be a whole path"),
            ("upper = \"nowhere\"", "nowhere"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let none = Config::read(Some(Path::new("/nowhere/c.toml")));
        assert!(none.unwrap_err().to_string().contains("/nowhere/c.toml"));
    }
}
