//! All that one benchmark found, and its JSON, which the next one may take as its baseline.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use motevm::VmConfig;
use motevm::check::Identity;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::gate::Verdict;
use super::samples::{INIT, MARKER, Series};
use crate::cli::CliError;

/// What the JSON says it is. The number grows when older versions of mote couldn't read it.
const SCHEMA: &str = "mote-bench-boot";
const VERSION: u32 = 1;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    schema: String,
    version: u32,
    /// mote's version.
    pub mote: String,
    /// When, in seconds since 1970.
    pub taken: u64,
    pub host: Identity,
    pub guest: Guest,
    pub plan: Plan,
    /// Times, in microseconds.
    pub phases: Vec<Series>,
    pub counts: Vec<Series>,
    /// Why system calls were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_counted: Option<String>,
    /// The other monitor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versus: Option<Versus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Verdict>,
}

/// What was booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    pub images: Vec<Image>,
    /// The VM, as of a configuration file. Another version of mote may know other keys.
    pub config: Value,
    /// What ended each run.
    pub until: String,
}

/// A file that the guest got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub role: String,
    pub path: String,
    pub bytes: u64,
    /// BLAKE3 of its contents, in hexadecimal.
    pub blake3: String,
}

/// How it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub runs: u32,
    pub warmup: u32,
    pub parallel: u32,
}

/// Another monitor, run in turn with mote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versus {
    pub command: String,
    /// The text on the console that ended each run.
    pub marker: String,
    /// From start to marker, as for mote.
    pub seen: Series,
    /// mote's median by the other's, and its interval at 95 %.
    pub ratio: f64,
    pub interval: (f64, f64),
}

impl Report {
    /// One with nothing measured yet.
    pub fn new(guest: Guest, plan: Plan, host: Identity) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Report {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            mote: env!("CARGO_PKG_VERSION").to_owned(),
            taken: now.map_or(0, |now| now.as_secs()),
            host,
            guest,
            plan,
            phases: Vec::new(),
            counts: Vec::new(),
            not_counted: None,
            versus: None,
            gates: Vec::new(),
        }
    }

    pub fn phase(&self, name: &str) -> Option<&Series> {
        self.phases.iter().find(|series| series.name == name)
    }

    pub fn count(&self, name: &str) -> Option<&Series> {
        self.counts.iter().find(|series| series.name == name)
    }

    /// The phase that one means by "boot time": up to where the runs ended.
    pub fn whole(&self) -> &'static str {
        match self.guest.until.as_str() {
            "init" => INIT,
            _ => MARKER,
        }
    }

    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be written as JSON: no map has other keys than strings.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Reads one that was written before; `option` names it in errors.
    pub fn read(path: &Path, option: &str) -> Result<Self, CliError> {
        let text = fs::read(path);
        let named = |e: &dyn std::fmt::Display| {
            CliError::usage(format!("{option} {}: {e}", path.display()))
        };
        let text = text.map_err(|e| {
            named(&format_args!(
                "{e}; `mote bench boot --json FILE` makes one"
            ))
        })?;
        Self::parse(&text).map_err(|e| named(&e))
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(text)
            .map_err(|e| format!("not a report of `mote bench boot --json`: {e}"))?;
        if head.schema != SCHEMA {
            let other = head.schema;
            return Err(format!(
                "not a report of `mote bench boot` but of {other:?}"
            ));
        }
        if head.version != VERSION {
            return Err(format!(
                "its format is number {}, and this mote ({}) reads number {VERSION}: make it anew with \
                 `mote bench boot --json FILE`",
                head.version,
                env!("CARGO_PKG_VERSION")
            ));
        }
        let report: Report = serde_json::from_slice(text).map_err(|e| format!("damaged: {e}"))?;
        let empty = |series: &Series| series.values.is_empty();
        if report.phases.is_empty() || report.phases.iter().chain(&report.counts).any(empty) {
            return Err("damaged: there are no values in it".to_owned());
        }
        Ok(report)
    }
}

impl Guest {
    /// Reads the images, for their hashes.
    pub fn of(config: &VmConfig, until: String) -> Result<Self, CliError> {
        let rootfs = config.rootfs.as_ref().map(|disk| disk.path.as_path());
        let files = [
            ("kernel", config.boot.kernel.as_deref()),
            ("initrd", config.boot.initrd.as_deref()),
            ("rootfs", rootfs.filter(|path| !path.as_os_str().is_empty())),
        ];
        let given = files
            .into_iter()
            .filter_map(|(role, path)| Some((role, path?)));
        let images = given.map(|(role, path)| {
            Image::of(role, path)
                .map_err(|e| CliError::usage(format!("--{role} {}: {e}", path.display())))
        });
        Ok(Guest {
            images: images.collect::<Result<_, _>>()?,
            config: serde_json::to_value(config).unwrap_or_default(),
            until,
        })
    }

    /// What is different in another guest, in words.
    pub fn differences(&self, other: &Guest) -> Vec<String> {
        let mut differences = Vec::new();
        let hash = |guest: &Guest, role: &str| {
            let image = guest.images.iter().find(|image| image.role == role);
            image.map(|image| image.blake3.clone())
        };
        for role in ["kernel", "initrd", "rootfs"] {
            if hash(self, role) != hash(other, role) {
                differences.push(format!("another {role}"));
            }
        }
        if self.until != other.until {
            let (there, here) = (&other.until, &self.until);
            differences.push(format!("runs end at {there} there, at {here} here"));
        }
        // Where the images are doesn't matter, what they are does.
        let fields = |guest: &Guest| {
            let mut config = guest.config.clone();
            for path in ["/boot/kernel", "/boot/initrd", "/rootfs/path"] {
                if let Some(path) = config.pointer_mut(path) {
                    *path = Value::Null;
                }
            }
            config
        };
        let (here, there) = (fields(self), fields(other));
        let names = |value: &Value| -> Vec<String> {
            let fields = value.as_object().into_iter().flatten();
            fields.map(|(name, _)| name.clone()).collect()
        };
        let mut all = [names(&here), names(&there)].concat();
        all.sort_unstable();
        all.dedup();
        let different = all.iter().filter(|name| here.get(name) != there.get(name));
        differences.extend(different.map(|name| {
            let of = |value: &Value| {
                value
                    .get(name)
                    .map_or("nothing".to_owned(), |v| v.to_string())
            };
            format!("{name}: {} there, {} here", of(&there), of(&here))
        }));
        differences
    }
}

impl Image {
    fn of(role: &str, path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Ok(Image {
                role: role.to_owned(),
                path: path.display().to_string(),
                bytes: 0,
                blake3: "not a file".to_owned(),
            });
        }
        let mut hash = blake3::Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => {
                    hash.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
        Ok(Image {
            role: role.to_owned(),
            path: path.display().to_string(),
            bytes,
            blake3: hash.finalize().to_hex().to_string(),
        })
    }

    /// The hash, short.
    pub fn short_hash(&self) -> &str {
        self.blake3.get(..12).unwrap_or(&self.blake3)
    }
}

#[cfg(test)]
pub mod tests;
