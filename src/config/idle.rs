//! What happens while a vCPU has nothing to do: who waits for its next interrupt, and how.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::ConfigError;

/// How a vCPU waits (`--idle`). In a file it is a mode (`idle = "poll"`), or a table that has more to
/// say (`idle = { mode = "pass-through", force = true }`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Idle {
    /// What the guest does, and what KVM makes of it.
    pub mode: IdleMode,
    /// Give the guest its CPUs also where they aren't its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What the guest does with nothing to do, and what KVM makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdleMode {
    /// The guest halts, and the host's CPU is free for others.
    #[default]
    Halt,
    /// The guest's kernel polls a while before it halts (its cpuidle governor `haltpoll`).
    Haltpoll,
    /// The guest's kernel polls and never halts.
    Poll,
    /// The guest halts the host's CPU itself, without an exit.
    PassThrough,
}

/// Everything that can be said, as a table has it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    mode: IdleMode,
    force: bool,
}

impl<'de> Deserialize<'de> for Idle {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Idle;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode such as \"poll\", or a table with a mode in it")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Idle, E> {
                let mode = IdleMode::deserialize(StrDeserializer::new(text))?;
                Ok(Idle { mode, force: false })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Idle, A::Error> {
                let Table { mode, force } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Idle { mode, force })
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl Idle {
    /// `dedicated`: each vCPU has a CPU of the host to itself.
    pub(super) fn validate(self, dedicated: bool) -> Result<(), ConfigError> {
        match (self.mode, self.force) {
            (IdleMode::PassThrough, false) if !dedicated => Err(ConfigError::IdleShared),
            (IdleMode::PassThrough, _) | (_, false) => Ok(()),
            (_, true) => Err(ConfigError::IdleForce),
        }
    }
}

/// How long KVM polls for a wake-up before the thread of a halted vCPU sleeps (`--halt-poll`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HaltPoll {
    /// As the host has it for all VMs (kvm.halt_poll_ns).
    #[default]
    Host,
    /// At most this long; zero for not at all.
    Window(Duration),
}

/// The longest window: nobody answers to polling for longer.
const MAX_WINDOW: Duration = Duration::from_secs(1);

impl FromStr for HaltPoll {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let window = match text {
            "host" => return Ok(HaltPoll::Host),
            "off" => Duration::ZERO,
            _ => humantime::parse_duration(text)
                .map_err(|_| "must be a time with its unit, such as 50us, or off, or host")?,
        };
        if window > MAX_WINDOW {
            let max = humantime::format_duration(MAX_WINDOW);
            return Err(format!("is too long to poll; {max} is the most"));
        }
        Ok(HaltPoll::Window(window))
    }
}

impl fmt::Display for HaltPoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HaltPoll::Host => f.write_str("host"),
            HaltPoll::Window(Duration::ZERO) => f.write_str("off"),
            // Without the blanks that humantime puts between units.
            HaltPoll::Window(window) => {
                let text = humantime::format_duration(*window).to_string();
                f.write_str(&text.replace(' ', ""))
            }
        }
    }
}

impl Serialize for HaltPoll {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HaltPoll {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let named = |e| serde::de::Error::custom(format!("halt_poll = \"{text}\": {e}"));
        text.parse().map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use super::super::VmConfig;
    use super::*;

    #[test]
    fn a_window_is_a_time_or_a_word() {
        let us = |us| Ok(HaltPoll::Window(Duration::from_micros(us)));
        for (text, expected, shown) in [
            ("host", Ok(HaltPoll::Host), "host"),
            ("off", us(0), "off"),
            ("0us", us(0), "off"),
            ("50us", us(50), "50us"),
            ("200000ns", us(200), "200us"),
            ("1ms 500us", us(1500), "1ms500us"),
            ("1s", us(1_000_000), "1s"),
        ] {
            let window = text.parse::<HaltPoll>();
            assert_eq!(window, expected, "{text}");
            assert_eq!(window.unwrap().to_string(), shown);
            assert_eq!(shown.parse(), expected, "{shown}");
        }
        for text in [
            "",
            "50",
            "50 parsecs",
            "-1us",
            "on",
            "1s1ns",
            "99999999years",
        ] {
            assert!(text.parse::<HaltPoll>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_says_the_same() {
        let text = "halt_poll = \"50us\"\n\n[idle]\nmode = \"pass-through\"\nforce = true\n";
        let config: VmConfig = toml::from_str(text).unwrap();
        let window = Duration::from_micros(50);
        assert_eq!(config.halt_poll, HaltPoll::Window(window));
        assert_eq!(config.idle.mode, IdleMode::PassThrough);
        let again = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<VmConfig>(&again).unwrap(), config);
        let short: VmConfig = toml::from_str("halt-poll = \"off\"\nidle = \"poll\"").unwrap();
        assert_eq!(short.idle.mode, IdleMode::Poll);
        for text in [
            "idle = \"gently\"",
            "idle = true",
            "halt_poll = \"50\"",
            "halt_poll = 50",
            "[idle]\nmode = \"off\"",
        ] {
            assert!(toml::from_str::<VmConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_guest_with_cpus_of_its_own_keeps_them() {
        let idle = |mode, force| Idle { mode, force };
        let pass = IdleMode::PassThrough;
        assert_eq!(idle(pass, false).validate(true), Ok(()));
        assert_eq!(idle(pass, true).validate(false), Ok(()));
        let error = idle(pass, false).validate(false).unwrap_err().to_string();
        assert!(
            error.contains("--idle pass-through") && error.contains("--pin"),
            "{error}"
        );
        for mode in [IdleMode::Halt, IdleMode::Haltpoll, IdleMode::Poll] {
            assert_eq!(idle(mode, false).validate(false), Ok(()));
            assert!(idle(mode, true).validate(true).is_err());
        }
    }

    #[test]
    fn a_cpu_of_its_own_has_no_other_thread_of_mote() {
        for (place, dedicated) in [
            ("pin = \"2,3\"", true),
            ("pin = \"0=2,1=3\"\nio-cpus = \"0-1\"", true),
            ("pin = \"0=2,1=3\"\nio-cpus = \"0-2\"", false),
            ("pin = \"0=2,1=2\"", false),
            ("pin = \"0=2-3,1=4\"", false),
            ("pin = \"0=2\"", false),
            ("io-cpus = \"0\"", false),
        ] {
            let text = format!(
                "cpus = 2\nboot.kernel = \"k\"\nidle.mode = \"pass-through\"\n[placement]\n{place}"
            );
            let config: VmConfig = toml::from_str(&text).unwrap();
            assert_eq!(config.validate().is_ok(), dedicated, "{place}");
        }
    }
}
