//! The processors for which kernels are loaded, and the words for them.

use std::fmt;

/// For which processor a kernel is.
///
/// It is always the caller's: nothing in this module depends on the processor that it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86: a vmlinux or a bzImage.
    X86_64,
    /// 64-bit Arm: an `Image`, as it is, compressed by gzip, or as an EFI zboot file.
    Aarch64,
}

impl Architecture {
    /// What a user should give: the end of a message that refuses something else.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Architecture::X86_64 => "give a vmlinux or a bzImage",
            Architecture::Aarch64 => {
                "give an arm64 Image (arch/arm64/boot/Image, or a distribution's vmlinuz)"
            }
        }
    }
}

/// As Linux names its kernels for it.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "arm64",
        })
    }
}
