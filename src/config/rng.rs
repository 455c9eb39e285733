//! The entropy device: there unless it is switched off.

use serde::{Deserialize, Serialize};

/// Whether the guest has a virtio entropy device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rng {
    /// The host's random numbers, beside what the guest's processor gives.
    #[default]
    On,
    /// None: the guest relies on its processor (RDRAND), and its boot saves the device's exits.
    Off,
}

#[cfg(test)]
mod tests {
    use crate::config::VmConfig;

    use super::Rng;

    #[test]
    fn it_is_there_unless_switched_off() {
        let rng = |text: &str| toml::from_str::<VmConfig>(text).map(|config| config.rng);
        assert_eq!(rng(""), Ok(Rng::On));
        assert_eq!(rng("rng = \"off\""), Ok(Rng::Off));
        assert!(rng("rng = \"maybe\"").is_err());
        assert!(rng("rng = false").is_err());
    }
}
