//! The kernel, and what it is given.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The kernel, and what it is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// A vmlinux or a bzImage, on AArch64 an Image.
    pub kernel_image_path: PathBuf,
    /// An initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<PathBuf>,
    /// The kernel's command line, in place of mote's own flags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}
