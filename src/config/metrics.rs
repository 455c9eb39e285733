//! Where the VM's metrics go.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, MAX_SOCKET_PATH, check_socket};

/// Where the VM's metrics go (`--metrics`): a file, a socket, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metrics {
    /// A file that is written anew at intervals and when the VM ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// How often the file is written, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<u32>,
    /// A Unix socket that answers whoever connects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<PathBuf>,
}

/// How often the file is written where nothing is said, in seconds.
pub const DEFAULT_INTERVAL: u32 = 10;

/// The longest interval, in seconds: a day.
const MAX_INTERVAL: u32 = 86_400;

impl Metrics {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let wrong = match (&self.file, self.interval) {
            (None, None) if self.unix.is_none() => "give file=PATH or unix=PATH".to_owned(),
            (None, Some(_)) => "interval= is for file=PATH, which is not given".to_owned(),
            (Some(_), Some(seconds)) if seconds == 0 || seconds > MAX_INTERVAL => {
                format!("interval={seconds}: it is 1 to {MAX_INTERVAL} seconds")
            }
            _ => {
                return match &self.unix {
                    Some(socket) => check_socket("--metrics unix", socket, MAX_SOCKET_PATH),
                    None => Ok(()),
                };
            }
        };
        Err(ConfigError::Metrics(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_go_somewhere() {
        let wrong = |text: &str| {
            let metrics: Metrics = toml::from_str(text).unwrap();
            metrics.validate().err().map(|e| e.to_string())
        };
        let is = |text: &str| Some(format!("--metrics {text}"));
        assert_eq!(wrong(""), is("give file=PATH or unix=PATH"));
        assert_eq!(
            wrong("unix = \"s\"\ninterval = 3"),
            is("interval= is for file=PATH, which is not given")
        );
        assert_eq!(
            wrong("file = \"f\"\ninterval = 0"),
            is("interval=0: it is 1 to 86400 seconds")
        );
        assert_eq!(wrong("unix = \"s\"\nfile = \"f\"\ninterval = 1"), None);
    }
}
