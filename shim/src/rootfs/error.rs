//! Why a container gets no root file system.

use std::io;
use std::path::{Path, PathBuf};

use motevm::image::ImageError;

/// Why a container gets no root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image can't be made.
    #[error("the root file system's image: {0}")]
    Image(#[from] ImageError),
    /// A mount fails.
    #[error("mounting {filesystem} of {from}: {source}")]
    Mount {
        /// Its type.
        filesystem: String,
        /// What is mounted.
        from: String,
        /// Why.
        source: io::Error,
    },
    /// No mount, and no folder.
    #[error(
        "there are no mounts for the root file system, and {} is no folder", .0.display()
    )]
    Nothing(PathBuf),
    /// It has to be changed before it can be mounted.
    #[error(
        "mount {0} is for containerd's mount manager, which has to resolve it before the shim gets it: start the \
         container by a client that does (ctr and CRI of containerd 2.2), or with another snapshotter"
    )]
    Template(String),
    /// The snapshot's owners are others in the container.
    #[error(
        "mount option {0}: a guest has no user namespace: start the container without one (CRI: hostUsers: true)"
    )]
    Mapped(String),
    /// Options that contradict, or are wrong.
    #[error("mount {kind}: {what}")]
    Options {
        /// Its type.
        kind: String,
        /// What is wrong.
        what: String,
    },
    /// There is nothing to make an ext4 with.
    #[error(
        "there is no mke2fs to make a container's disk with: install e2fsprogs, or keep what containers write in \
         memory (upper = \"memory\")"
    )]
    NoMke2fs,
    /// It fails.
    #[error("mke2fs: {0}")]
    Mke2fs(String),
    /// No disk is that large.
    #[error("a disk of {0} bytes for what a container writes: it has to be 4 MiB to 16 TiB")]
    Size(u64),
}

impl RootfsError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| RootfsError::Io { path, source }
    }
}
