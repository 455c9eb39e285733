//! The JSON of OCI layouts (image specification: image-layout.md, image-index.md, manifest.md, config.md) and of
//! `docker save`. What isn't needed is passed over.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The annotation with an image's name in a layout.
pub const NAME: &str = "org.opencontainers.image.ref.name";

/// Points at a blob.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub platform: Option<Platform>,
    pub annotations: BTreeMap<String, String>,
}

/// What an image is for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
}

/// `index.json`, a nested index, or a manifest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Manifest {
    pub manifests: Vec<Descriptor>,
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
}

/// An image's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    pub architecture: String,
    pub os: String,
    pub config: Option<Settings>,
    pub rootfs: RootFs,
}

/// The layers' digests, unpacked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    pub diff_ids: Vec<String>,
}

/// What an image says of how it is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Settings {
    /// USER or USER:GROUP.
    pub user: String,
    /// NAME=VALUE.
    pub env: Option<Vec<String>>,
    /// The program, with what always comes behind it.
    pub entrypoint: Option<Vec<String>>,
    /// What comes behind that, or the program where there is none.
    pub cmd: Option<Vec<String>>,
    /// The folder that it runs in.
    pub working_dir: String,
}

/// An image in an archive of `docker save`: `manifest.json` is a list of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Saved {
    pub config: String,
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}
