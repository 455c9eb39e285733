//! A shared folder (virtio-fs), served by another process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, MAX_SOCKET_PATH, check_socket};

/// A shared folder (virtio-fs).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fs {
    /// The name by which the guest mounts it, 1 to 36 bytes.
    pub tag: String,
    /// The socket of the process that serves it (virtiofsd).
    pub socket: PathBuf,
    /// mote listens at the socket, and waits for that process.
    #[serde(default)]
    pub server: bool,
    /// Queues for requests, 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// What happens when that process goes away.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
}

/// What happens when the process that serves a device goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// Requests wait until it is there again.
    #[default]
    Wait,
    /// The VM ends.
    Exit,
}

/// The most queues for requests.
const MAX_QUEUES: u16 = 63;

impl Fs {
    pub(super) fn validate_all(all: &[Fs]) -> Result<(), ConfigError> {
        for (index, fs) in all.iter().enumerate() {
            fs.validate()?;
            if all[..index].iter().any(|other| other.tag == fs.tag) {
                return Err(ConfigError::FsTagTwice(fs.tag.clone()));
            }
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let length = self.tag.len();
        if length == 0 || length > 36 || self.tag.contains('\0') {
            return Err(ConfigError::FsTag(self.tag.clone()));
        }
        let queues = self.queues.unwrap_or(1);
        if queues == 0 || queues > MAX_QUEUES {
            return Err(ConfigError::FsQueues(queues, MAX_QUEUES));
        }
        check_socket("--fs socket", &self.socket, MAX_SOCKET_PATH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fs(tag: &str) -> Fs {
        Fs {
            tag: tag.to_owned(),
            socket: "s".into(),
            server: false,
            queues: None,
            on_disconnect: OnDisconnect::Wait,
        }
    }

    #[test]
    fn a_tag_is_short_and_given_once() {
        assert_eq!(Fs::validate_all(&[fs("a"), fs(&"b".repeat(36))]), Ok(()));
        for wrong in [
            vec![fs("")],
            vec![fs(&"c".repeat(37))],
            vec![fs("a\0b")],
            vec![fs("a"), fs("a")],
        ] {
            let error = Fs::validate_all(&wrong).unwrap_err().to_string();
            assert!(error.starts_with("--fs tag="), "{error}");
        }
        for queues in [0, 64] {
            let mut fs = fs("a");
            fs.queues = Some(queues);
            let error = fs.validate().unwrap_err().to_string();
            assert!(error.starts_with("--fs queues="), "{error}");
        }
    }
}
