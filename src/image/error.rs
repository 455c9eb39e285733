//! Why an image can't be used.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image can't be used. Each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such file, and it looks like what a registry has.
    #[error(
        "{0}: there is no such file or folder. mote fetches nothing from registries: \
         `skopeo copy docker://{0} oci:FOLDER:TAG` makes a layout of it, and --image FOLDER:TAG runs that \
         (or `docker save -o FILE {0}`, and --image FILE)"
    )]
    Registry(String),
    /// It is none of the forms that are read.
    #[error(
        "{}: neither an OCI layout (a folder or an archive with index.json in it) nor an archive of `docker \
         save` (with manifest.json)", .0.display()
    )]
    Unknown(PathBuf),
    /// None of its images is the wanted one.
    #[error("{}: has no image {wanted} for {architecture}; it has {there}", path.display())]
    NoImage {
        /// The layout or archive.
        path: PathBuf,
        /// The tag.
        wanted: String,
        /// The architecture.
        architecture: &'static str,
        /// What there is.
        there: String,
    },
    /// Something in it is not as the specification has it.
    #[error("{}: {what}", path.display())]
    Content {
        /// The layout or archive.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A layer is wrong.
    #[error("{}: layer {digest}: {error}", path.display())]
    Layer {
        /// The layout or archive.
        path: PathBuf,
        /// Its digest.
        digest: String,
        /// What is wrong.
        error: LayerError,
    },
    /// There is no folder to keep images in.
    #[error(
        "there is no folder to keep root file systems in: set HOME, XDG_CACHE_HOME or MOTE_CACHE"
    )]
    NoCache,
}

impl ImageError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| ImageError::Io { path, source }
    }

    pub(super) fn content(path: &Path, what: impl Into<String>) -> Self {
        ImageError::Content {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

/// What is wrong with a layer, or how it is kept.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It can't be read, or what is made of it can't be written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It isn't packed as it says, or in no way that is known.
    #[error("unknown media type {0}")]
    MediaType(String),
    /// A tar archive is wrong at this byte.
    #[error("the archive at byte {0}: {1}")]
    Tar(u64, &'static str),
    /// What is unpacked is not what it is said to be.
    #[error("has the digest {0}: it is damaged, or another one")]
    Digest(String),
    /// An entry makes no sense.
    #[error("{}: {what}", String::from_utf8_lossy(path))]
    Entry {
        /// Its path.
        path: Vec<u8>,
        /// What is wrong with it.
        what: &'static str,
    },
}
