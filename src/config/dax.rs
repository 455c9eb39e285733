//! A drive that the guest maps instead of copying from it: `dax`.

use super::{ConfigError, Disk};

/// What becomes of a guest's writes to a drive that it maps (virtio-pmem).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaxMode {
    /// Nothing (`ro`): the guest may only read. Any number of VMs share the file.
    ReadOnly,
    /// They are in the file, at once for whoever maps it, durably after a flush.
    Shared,
    /// They are this VM's own and thrown away at its end (`cow`). Any number of VMs share the file.
    Private,
}

impl Disk {
    /// How the guest maps the drive, if it does.
    pub fn dax_mode(&self) -> Option<DaxMode> {
        self.dax.then_some(match (self.read_only, self.cow) {
            (true, _) => DaxMode::ReadOnly,
            (false, true) => DaxMode::Private,
            (false, false) => DaxMode::Shared,
        })
    }

    /// Refuses what has no meaning for a drive that is mapped, or for one that isn't.
    pub(super) fn validate_dax(&self) -> Result<(), ConfigError> {
        let path = || self.path.clone();
        if self.cow && !self.dax {
            return Err(ConfigError::CowWithoutDax(path()));
        }
        if self.cow && self.read_only {
            return Err(ConfigError::CowReadOnly(path()));
        }
        // A mapping has no requests that the other options could say something of.
        let only = Disk {
            path: path(),
            dax: self.dax,
            read_only: self.read_only,
            cow: self.cow,
            ..Disk::default()
        };
        if self.dax && *self != only {
            return Err(ConfigError::OnlyWithoutDax(path()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_their_contradictions() {
        let disk =
            |text: &str| -> Disk { toml::from_str(&format!("path = \"a\"\n{text}")).unwrap() };
        for (text, mode) in [
            ("", None),
            ("ro = true", None),
            ("dax = true", Some(DaxMode::Shared)),
            ("dax = true\nro = true", Some(DaxMode::ReadOnly)),
            ("dax = true\ncow = true", Some(DaxMode::Private)),
        ] {
            assert_eq!(disk(text).dax_mode(), mode, "{text}");
            assert_eq!(disk(text).validate_dax(), Ok(()));
        }
        for (text, word) in [
            ("cow = true", "dax"),
            ("dax = true\ncow = true\nro = true", "one of"),
            ("dax = true\nid = \"x\"", "id"),
            ("dax = true\ncache = \"none\"", "cache"),
            ("dax = true\nqueues = 2", "queues"),
            ("dax = true\niops = 100", "limits"),
            ("dax = true\nvhost-user = \"sock\"", "vhost-user"),
        ] {
            let message = disk(text).validate_dax().unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
