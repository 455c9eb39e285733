//! A drive: which file, and how the host handles it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, MAX_SOCKET_PATH, OnDisconnect, Rate, RateLimit, Size, check_socket};

/// The most queues that a drive can have: one for each vCPU that a VM can have.
pub const MAX_QUEUES: u16 = super::MAX_CPUS as u16;

/// A drive (virtio-blk).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// A raw image or a block device.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub path: PathBuf,
    /// The socket of another process that serves the drive (vhost-user-blk), instead of `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<PathBuf>,
    /// mote listens at the socket `vhost_user`, and waits for that process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub server: bool,
    /// What happens when the process at `vhost_user` goes away.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_disconnect: OnDisconnect,
    /// The guest may not write to it.
    #[serde(default, rename = "ro")]
    pub read_only: bool,
    /// The drive's serial number as the guest sees it, at most 20 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether the host's page cache stands in between, and what a flush does.
    #[serde(default)]
    pub cache: Cache,
    /// How the host's file is read and written.
    #[serde(default)]
    pub engine: Engine,
    /// The guest maps it (virtio-pmem) instead of reading and writing blocks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dax: bool,
    /// With `dax`: the guest's writes are its own, and thrown away at its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cow: bool,
    /// Number of queues, 1 to [`MAX_QUEUES`]. Linux uses no more of them than it has CPUs.
    #[serde(default, skip_serializing_if = "Queues::is_default")]
    pub queues: Queues,
    /// The most requests in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Requests that may pass at once after a pause; a tenth of a second's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops_burst: Option<u64>,
    /// The most bytes in a second, read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bw: Option<Size>,
    /// Bytes that may pass at once after a pause; a tenth of a second's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bw_burst: Option<Size>,
}

/// What stands between guest and file, and what a flush of the guest's does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Through the page cache; a guest flush is an fdatasync.
    #[default]
    Writeback,
    /// O_DIRECT; a guest flush is still an fdatasync.
    None,
    /// Through the page cache; a guest flush does nothing. For data that may be lost when the
    /// host fails.
    Unsafe,
}

/// How the host's file is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Engine {
    /// Threads that block in the host's system calls, as many as there are requests at a time.
    #[default]
    #[serde(rename = "threads")]
    Threads,
    /// One thread for each queue, with an io_uring. Threads where the host has none.
    #[serde(rename = "io_uring")]
    IoUring,
}

/// A number of queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Queues(pub u16);

impl Default for Queues {
    fn default() -> Self {
        Queues(1)
    }
}

impl Queues {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Disk {
    /// A drive that is this file, and all else by default.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Disk {
            path: path.into(),
            ..Disk::default()
        }
    }

    /// The limits that `iops`, `bw` and their bursts stand for.
    ///
    /// # Errors
    ///
    /// A rate of 0, or a burst without a rate.
    pub fn rate_limit(&self) -> Result<RateLimit, ConfigError> {
        let (bw, bw_burst) = (self.bw.map(Size::bytes), self.bw_burst.map(Size::bytes));
        Ok(RateLimit {
            ops: Rate::new("--disk", "iops", self.iops, self.iops_burst)?,
            bytes: Rate::new("--disk", "bw", bw, bw_burst)?,
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(id) = &self.id {
            let printable = id.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
            if id.is_empty() || id.len() > 20 || !printable {
                return Err(ConfigError::DiskId(id.clone()));
            }
        }
        let Queues(queues) = self.queues;
        if queues == 0 || queues > MAX_QUEUES {
            return Err(ConfigError::DiskQueues(queues));
        }
        self.rate_limit()?;
        self.validate_vhost_user()
    }

    fn validate_vhost_user(&self) -> Result<(), ConfigError> {
        let Some(socket) = &self.vhost_user else {
            let refused = [
                ("server", self.server),
                ("on-disconnect", !is_default(&self.on_disconnect)),
            ];
            return match refused.iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(ConfigError::DiskNotVhostUser(key)),
                None if is_empty(&self.path) => Err(ConfigError::DiskPath),
                None => Ok(()),
            };
        };
        if !is_empty(&self.path) || is_empty(socket) {
            return Err(ConfigError::DiskPath);
        }
        let refused = [
            ("id", self.id.is_some()),
            ("cache", !is_default(&self.cache)),
            ("engine", !is_default(&self.engine)),
            ("iops", self.iops.is_some()),
            ("bw", self.bw.is_some()),
            ("dax", self.dax),
            ("cow", self.cow),
        ];
        match refused.iter().find(|(_, given)| *given) {
            Some((key, _)) => {
                let socket = socket.display().to_string();
                Err(ConfigError::DiskVhostUser(socket, key))
            }
            None => check_socket("--disk vhost-user", socket, MAX_SOCKET_PATH),
        }
    }
}

fn is_empty(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_written() {
        let text = r#"
            path = "a.img"
            ro = true
            id = "x"
            cache = "unsafe"
            engine = "io_uring"
            queues = 4
            iops = 1000
            iops-burst = 2000
            bw = "10M"
            bw-burst = "1G"
        "#;
        let disk: Disk = toml::from_str(text).unwrap();
        assert_eq!(disk.validate(), Ok(()));
        assert_eq!((disk.cache, disk.engine), (Cache::Unsafe, Engine::IoUring));
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let limit = RateLimit {
            ops: rate(1000, 2000),
            bytes: rate(10 << 20, 1 << 30),
        };
        assert_eq!(disk.rate_limit(), Ok(limit));
        let printed = toml::to_string(&disk).unwrap();
        assert_eq!(toml::from_str::<Disk>(&printed).unwrap(), disk);
        let plain: Disk = toml::from_str("path = \"b\"").unwrap();
        assert_eq!(plain, Disk::at("b"));
        assert_eq!(plain.rate_limit(), Ok(RateLimit::default()));
    }

    #[test]
    fn a_drive_is_a_file_or_someone_elses() {
        let disk = |text: &str| toml::from_str::<Disk>(text).unwrap().validate();
        assert_eq!(disk("vhost-user = 's'\nserver = true\nqueues = 2"), Ok(()));
        for wrong in [
            "",
            "path = 'a'\nvhost-user = 's'",
            "vhost-user = ''",
            "path = 'a'\nserver = true",
            "path = 'a'\non-disconnect = 'exit'",
            "vhost-user = 's'\ncache = 'none'",
            "vhost-user = 's'\nid = 'x'",
            "vhost-user = 's'\niops = 5",
        ] {
            let error = disk(wrong).unwrap_err().to_string();
            assert!(error.starts_with("--disk"), "{wrong}: {error}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let disk = |change: &dyn Fn(&mut Disk)| {
            let mut disk = Disk::at("a");
            change(&mut disk);
            disk.validate().unwrap_err().to_string()
        };
        for queues in [0, 65] {
            let message = disk(&|d| d.queues = Queues(queues));
            assert!(message.contains("1 to 64"), "{message}");
        }
        assert!(disk(&|d| d.iops = Some(0)).contains("--disk iops"));
        assert!(disk(&|d| d.bw_burst = Some(Size::mib(1))).contains("bw-burst without bw"));
        assert!(disk(&|d| d.id = Some("x".repeat(21))).contains("20 bytes"));
    }
}
