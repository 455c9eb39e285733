//! Where an image comes from: an OCI layout, as a folder or in an archive, or an archive of `docker save`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Take};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::manifest::{Config, Descriptor, Manifest, NAME, Saved, Settings};
use super::tar::{Archive, EntryKind};
use crate::boot::Architecture;

/// Longer than any that is needed.
const MOST_JSON: u64 = 4 << 20;
/// Indices in indices.
const MOST_NESTED: usize = 4;
/// Indices and manifests that are looked at.
const MOST_VISITED: usize = 1000;

/// An image that was found, with its settings, and layers to be read.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    store: Store,
    /// What the image says of how it is run.
    pub settings: Settings,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerSource>,
}

/// A layer's blob.
#[derive(Clone, Debug)]
pub struct LayerSource {
    /// The digest of what is unpacked.
    pub digest: String,
    /// How it is packed; empty where its first bytes say it.
    pub media_type: String,
    name: String,
    /// Of the blob, as it is packed.
    pub size: u64,
}

#[derive(Debug)]
enum Store {
    Folder,
    /// Where in the archive each file begins, and how long it is.
    Archive(HashMap<String, (u64, u64)>),
}

/// The way through a layout's indices.
#[derive(Default)]
struct Search {
    /// Digests of what was looked at.
    seen: HashSet<String>,
    /// Images for this architecture: the first ones, since it must be the only one.
    found: Vec<(Manifest, Config)>,
}

/// Linux's name for this architecture in images (Go's names of them).
fn architecture() -> &'static str {
    match crate::arch::ARCHITECTURE {
        Architecture::X86_64 => "amd64",
        Architecture::Aarch64 => "arm64",
    }
}

/// The path and the tag of `PATH[:TAG]`.
fn split(name: &str) -> (PathBuf, Option<String>) {
    if let Some((path, tag)) = name.rsplit_once(':')
        && !Path::new(name).exists()
        && !tag.is_empty()
        && Path::new(path).exists()
    {
        return (path.into(), Some(tag.to_owned()));
    }
    (name.into(), None)
}

impl Source {
    /// Finds the image that `PATH[:TAG]` names, for this architecture. Without a tag it must be the only one.
    ///
    /// # Errors
    ///
    /// See [`ImageError`].
    pub fn open(name: &str) -> Result<Self, ImageError> {
        let (path, tag) = split(name);
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let is_path = name.starts_with(['/', '.']);
                return Err(match is_path {
                    true => ImageError::io(&path)(error),
                    false => ImageError::Registry(name.to_owned()),
                });
            }
            other => other.map_err(ImageError::io(&path))?,
        };
        let store = match metadata.is_dir() {
            true => Store::Folder,
            false => Store::Archive(index(&path)?),
        };
        let mut source = Source {
            path,
            store,
            settings: Settings::default(),
            layers: Vec::new(),
        };
        if source.has("index.json") {
            source.find_in_layout(tag.as_deref())?;
        } else if source.has("manifest.json") {
            source.find_saved(tag.as_deref())?;
        } else {
            return Err(ImageError::Unknown(source.path));
        }
        Ok(source)
    }

    /// The layout or archive.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn has(&self, name: &str) -> bool {
        match &self.store {
            Store::Folder => self.path.join(name).is_file(),
            Store::Archive(files) => files.contains_key(name),
        }
    }

    /// A file of it, and its length.
    fn file(&self, name: &str) -> Result<(Take<File>, u64), ImageError> {
        match &self.store {
            Store::Folder => {
                let is_name = |part| matches!(part, Component::Normal(_));
                if !Path::new(name).components().all(is_name) {
                    let what = format!("names a file that isn't in it: {name}");
                    return Err(ImageError::content(&self.path, what));
                }
                let (file, size) = open_regular(&self.path.join(name))?;
                Ok((file.take(size), size))
            }
            Store::Archive(files) => {
                let none = || ImageError::content(&self.path, format!("has no {name}"));
                let (start, size) = *files.get(name).ok_or_else(none)?;
                let failed = |e| ImageError::io(&self.path)(e);
                let mut file = File::open(&self.path).map_err(failed)?;
                file.seek(SeekFrom::Start(start)).map_err(failed)?;
                Ok((file.take(size), size))
            }
        }
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let (mut file, size) = self.file(name)?;
        if size > MOST_JSON {
            return Err(ImageError::content(
                &self.path,
                format!("{name} is longer than 4 MiB"),
            ));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(ImageError::io(&self.path))?;
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, ImageError> {
        let wrong = |e| ImageError::content(&self.path, format!("{name}: {e}"));
        serde_json::from_slice(bytes).map_err(wrong)
    }

    /// A blob of JSON, which has to have the digest that names it.
    fn blob<T: DeserializeOwned>(&self, of: &Descriptor) -> Result<T, ImageError> {
        let name = self.blob_name(&of.digest)?;
        let bytes = self.bytes(&name)?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if digest != of.digest {
            let what = format!("{name} has the digest {digest}: it is damaged");
            return Err(ImageError::content(&self.path, what));
        }
        self.json(&name, &bytes)
    }

    fn blob_name(&self, digest: &str) -> Result<String, ImageError> {
        match digest.strip_prefix("sha256:").filter(|hex| is_hex(hex)) {
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => {
                let what = format!("{digest:?} is no digest that mote knows (sha256)");
                Err(ImageError::content(&self.path, what))
            }
        }
    }

    fn find_in_layout(&mut self, tag: Option<&str>) -> Result<(), ImageError> {
        let bytes = self.bytes("index.json")?;
        let index: Manifest = self.json("index.json", &bytes)?;
        let name_of = |of: &Descriptor| of.annotations.get(NAME).cloned();
        let wanted = |of: &&Descriptor| match (tag, name_of(of)) {
            (None, _) => true,
            (Some(tag), Some(name)) => {
                name == tag || name.rsplit_once(':').is_some_and(|(_, of)| of == tag)
            }
            (Some(_), None) => false,
        };
        let mut search = Search::default();
        for of in index.manifests.iter().filter(wanted) {
            self.collect(of, 0, &mut search)?;
        }
        let mut found = search.found;
        let names = index.manifests.iter().filter_map(name_of);
        let there = self.one_of(found.len(), tag, names.collect())?;
        let (manifest, config) = found.swap_remove(there);
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            let what = "the manifest and the configuration don't have the same layers";
            return Err(ImageError::content(&self.path, what));
        }
        for (layer, diff) in manifest.layers.into_iter().zip(config.rootfs.diff_ids) {
            let name = self.blob_name(&layer.digest)?;
            self.add(name, diff, layer.media_type)?;
        }
        self.settings = config.config.unwrap_or_default();
        Ok(())
    }

    /// The images for this architecture that a descriptor leads to. Each is looked at once, however often it is named:
    /// indices of indices would multiply.
    fn collect(
        &self,
        of: &Descriptor,
        depth: usize,
        search: &mut Search,
    ) -> Result<(), ImageError> {
        let fits = |platform_os: &str, platform_architecture: &str| {
            platform_os == "linux" && platform_architecture == architecture()
        };
        let platform = of.platform.as_ref();
        if platform.is_some_and(|of| !fits(&of.os, &of.architecture)) || depth > MOST_NESTED {
            return Ok(());
        }
        if search.found.len() > 1 || !search.seen.insert(of.digest.clone()) {
            return Ok(());
        }
        if search.seen.len() > MOST_VISITED {
            let what = format!("leads to more than {MOST_VISITED} indices and manifests");
            return Err(ImageError::content(&self.path, what));
        }
        let manifest: Manifest = self.blob(of)?;
        for of in &manifest.manifests {
            self.collect(of, depth + 1, search)?;
        }
        if let Some(config) = &manifest.config {
            let config: Config = self.blob(config)?;
            if fits(&config.os, &config.architecture) {
                search.found.push((manifest, config));
            }
        }
        Ok(())
    }

    fn find_saved(&mut self, tag: Option<&str>) -> Result<(), ImageError> {
        let bytes = self.bytes("manifest.json")?;
        let mut saved: Vec<Saved> = self.json("manifest.json", &bytes)?;
        let all = saved
            .iter()
            .flat_map(|saved| saved.repo_tags.iter().flatten());
        let names = all.cloned().collect();
        if let Some(tag) = tag {
            let is_it =
                |name: &String| name == tag || name.rsplit_once(':').is_some_and(|n| n.1 == tag);
            saved.retain(|saved| saved.repo_tags.iter().flatten().any(is_it));
        }
        let there = self.one_of(saved.len(), tag, names)?;
        let saved = saved.swap_remove(there);
        let bytes = self.bytes(&saved.config)?;
        let config: Config = self.json(&saved.config, &bytes)?;
        if config.architecture != architecture() {
            return Err(self.none(tag, vec![format!("one for {}", config.architecture)]));
        }
        if saved.layers.len() != config.rootfs.diff_ids.len() {
            let what = "the manifest and the configuration don't have the same layers";
            return Err(ImageError::content(&self.path, what));
        }
        for (name, diff) in saved.layers.into_iter().zip(config.rootfs.diff_ids) {
            self.add(name, diff, String::new())?;
        }
        self.settings = config.config.unwrap_or_default();
        Ok(())
    }

    fn add(&mut self, name: String, digest: String, media_type: String) -> Result<(), ImageError> {
        let hex = digest.strip_prefix("sha256:");
        if !hex.is_some_and(is_hex) {
            let what = format!("{digest:?} is no digest that mote knows (sha256)");
            return Err(ImageError::content(&self.path, what));
        }
        let size = match &self.store {
            Store::Folder => self.file(&name)?.1,
            Store::Archive(files) => files.get(&name).map_or(0, |(_, size)| *size),
        };
        self.layers.push(LayerSource {
            digest,
            media_type,
            name,
            size,
        });
        Ok(())
    }

    /// That there is one; where it is.
    fn one_of(
        &self,
        count: usize,
        tag: Option<&str>,
        names: Vec<String>,
    ) -> Result<usize, ImageError> {
        match count {
            1 => Ok(0),
            _ => Err(self.none(tag, names)),
        }
    }

    fn none(&self, tag: Option<&str>, names: Vec<String>) -> ImageError {
        ImageError::NoImage {
            path: self.path.clone(),
            wanted: match tag {
                Some(tag) => format!("of the tag {tag:?}"),
                None => "that is the only one (give a tag: PATH:TAG)".to_owned(),
            },
            architecture: architecture(),
            there: match names.is_empty() {
                true => "none with a name".to_owned(),
                false => names.join(", "),
            },
        }
    }

    /// A layer's blob, as it is packed.
    ///
    /// # Errors
    ///
    /// It isn't there.
    pub fn open_layer(&self, layer: &LayerSource) -> Result<impl Read + use<>, ImageError> {
        let (file, _) = self.file(&layer.name)?;
        Ok(file)
    }
}

/// A regular file, and its length. A device or a pipe that a link leads to isn't even opened.
fn open_regular(path: &Path) -> Result<(File, u64), ImageError> {
    let place = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .map_err(ImageError::io(path))?;
    let metadata = place.metadata().map_err(ImageError::io(path))?;
    if !metadata.is_file() {
        return Err(ImageError::content(path, "is no regular file"));
    }
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()));
    Ok((file.map_err(ImageError::io(path))?, metadata.len()))
}

/// Files of an archive.
fn index(path: &Path) -> Result<HashMap<String, (u64, u64)>, ImageError> {
    let failed = |error: super::error::LayerError| ImageError::content(path, error.to_string());
    let file = File::open(path).map_err(ImageError::io(path))?;
    let mut archive = Archive::new(BufReader::new(file));
    let mut files = HashMap::new();
    let mut links = Vec::new();
    while let Some(entry) = archive.entry().map_err(failed)? {
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let name = name.trim_start_matches("./").to_owned();
        match entry.kind {
            EntryKind::File => {
                files.insert(name, (archive.position(), entry.size));
            }
            // docker save: a layer that an earlier image has, too.
            EntryKind::Hard | EntryKind::Symbolic => {
                links.push((name, String::from_utf8_lossy(&entry.link).into_owned()));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        let target = target.trim_start_matches("../").trim_start_matches("./");
        if let Some(place) = files.get(target).copied() {
            files.insert(name, place);
        }
    }
    Ok(files)
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Bytes as they are in a digest.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
