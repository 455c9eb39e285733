//! A memory balloon.

use serde::{Deserialize, Serialize};

use super::{ConfigError, Size};

/// A virtio memory balloon (`--balloon`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Balloon {
    /// How much memory the guest gives up from the start.
    pub size: Size,
    /// The guest may take it back when it has no other memory left.
    pub deflate_on_oom: bool,
    /// How often the guest tells of its memory, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<u32>,
    /// The guest tells of the memory that it frees, so that the host has it back.
    pub free_page_reporting: bool,
}

impl Default for Balloon {
    fn default() -> Self {
        Balloon {
            size: Size::new(0),
            deflate_on_oom: false,
            stats: None,
            free_page_reporting: true,
        }
    }
}

/// The longest interval of statistics, in seconds: a day.
const MAX_INTERVAL: u32 = 86_400;

impl Balloon {
    pub(super) fn validate(&self, memory: Size) -> Result<(), ConfigError> {
        if self.size >= memory {
            return Err(ConfigError::BalloonSize(self.size, memory));
        }
        match self.stats {
            Some(seconds) if seconds == 0 || seconds > MAX_INTERVAL => {
                Err(ConfigError::BalloonStats(seconds, MAX_INTERVAL))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::VmConfig;
    use super::*;

    #[test]
    fn a_balloon_is_smaller_than_the_memory() {
        let mut config: VmConfig = toml::from_str(
            "memory = \"1G\"\n[boot]\nkernel = \"k\"\n[balloon]\nsize = \"512M\"\nstats = 5",
        )
        .unwrap();
        assert_eq!(config.validate(), Ok(()));
        let balloon = config.balloon.as_mut().unwrap();
        assert!(balloon.free_page_reporting && !balloon.deflate_on_oom);
        balloon.size = Size::gib(1);
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "--balloon size=1G: the guest has only --memory 1G, and needs some of it"
        );
        config.balloon.as_mut().unwrap().size = Size::default();
        config.balloon.as_mut().unwrap().stats = Some(0);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("--balloon stats=0: "), "{error}");
    }
}
