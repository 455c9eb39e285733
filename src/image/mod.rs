//! Container images as root file systems: an OCI layout or an archive in, an EROFS image out, kept by its content.
//!
//! Nothing of an image is unpacked onto the host. Its layers become a tree in memory ([`tree`]), their files' content
//! goes straight into the image ([`erofs`]), and what the tree has become is written behind it. So owners, devices and
//! attributes need no rights, and no path in a layer can lead anywhere.
//!
//! - [`source`]: layouts and archives, and what is in them
//! - `manifest`: the JSON of both
//! - [`tar`]: archives, of layers and of images
//! - `layer`: a layer onto the tree
//! - [`tree`]: files by their paths
//! - [`erofs`]: the image
//! - [`cache`]: images that were made before
//! - [`folder`]: an image of a folder of the host, in place of layers

pub mod cache;
pub mod erofs;
mod error;
pub mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod layer;
mod manifest;
pub mod source;
pub mod tar;
#[cfg(test)]
pub(crate) mod tests;
pub mod tree;

use std::path::PathBuf;

pub use error::ImageError;
pub use manifest::Settings;
pub use source::Source;

/// An image that can be booted.
#[derive(Debug)]
pub struct Root {
    /// The root file system, as EROFS.
    pub path: PathBuf,
    /// What the image says of how it is run.
    pub settings: Settings,
    /// Whether it was there already.
    pub was_cached: bool,
}
