//! The kernel's command line, put together from mote's defaults, mote's devices and what the
//! user says, which wins (Linux Documentation/admin-guide/kernel-parameters.rst).

use std::ffi::{CStr, CString};

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::memory_map::{self, BootTableError};

/// The most bytes of a command line, its terminating zero included (Linux
/// arch/x86/include/asm/setup.h; arm64 has the same). Linux cuts a longer one silently.
pub const COMMAND_LINE_SIZE: usize = 2048;
/// What follows this word is for init, not for the kernel.
const SEPARATOR: &str = "--";
/// Before a flag of the user's: leave out mote's default of that name, and put nothing in its place.
const LEAVE_OUT: char = '!';

/// What is wrong with a command line.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)] // each variant's message is its documentation
pub enum CmdlineError {
    #[error(
        "the kernel command line has {character:?} at byte {position} of {text:?}: \
         use printable ASCII only"
    )]
    Character {
        text: String,
        character: char,
        position: usize,
    },
    #[error("the kernel command line {0:?} has a quote that isn't closed: add a \"")]
    OpenQuote(String),
    #[error(
        "--cmdline {0:?}: mote adds no default of that name to this VM's command line; docs/boot.md has \
         those that there are, and with --cmdline-only there are none"
    )]
    NoDefault(String),
    #[error(
        "the kernel command line is {excess} bytes too long ({length} of at most {}): \
         shorten --cmdline, or leave mote's defaults out with --cmdline-only",
        COMMAND_LINE_SIZE - 1
    )]
    TooLong { length: usize, excess: usize },
}

/// Builds a command line.
///
/// The result is: mote's defaults without those that the user overrides, mote's devices, the
/// user's parameters, and after ` -- ` the user's arguments for init.
///
/// ```
/// # use motevm::boot::Cmdline;
/// let mut cmdline = Cmdline::with_defaults(&["console=ttyS0", "reboot=t", "quiet"]);
/// cmdline.add_device("virtio_mmio.device=4K@0xd0001000:5");
/// cmdline.add("console=hvc0 -- --single");
/// assert_eq!(
///     cmdline.finish()?.to_str(),
///     Ok("reboot=t quiet virtio_mmio.device=4K@0xd0001000:5 console=hvc0 -- --single")
/// );
/// # Ok::<(), motevm::boot::CmdlineError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cmdline {
    defaults: Vec<String>,
    devices: Vec<String>,
    user: Vec<String>,
}

impl Cmdline {
    /// Starts with mote's own parameters, one in each string: each gives way to a parameter of
    /// the user's with the same key (the text before `=`), or with `!` before that key, which
    /// doesn't reach the kernel.
    pub fn with_defaults(defaults: &[&str]) -> Self {
        Cmdline {
            defaults: defaults.iter().map(|text| (*text).to_string()).collect(),
            ..Cmdline::default()
        }
    }

    /// Adds a parameter of mote's that the user can't override, such as
    /// `virtio_mmio.device=`.
    pub fn add_device(&mut self, parameter: impl Into<String>) {
        self.devices.push(parameter.into());
    }

    /// Adds what the user wrote: parameters, and arguments for init after ` -- `.
    pub fn add(&mut self, text: impl Into<String>) {
        self.user.push(text.into());
    }

    /// The whole line.
    ///
    /// # Errors
    ///
    /// See [`CmdlineError`]: a character or a quote that Linux can't read, or too long a line.
    pub fn finish(&self) -> Result<CString, CmdlineError> {
        let mut parameters = Vec::new();
        let mut init_arguments = Vec::new();
        for text in &self.user {
            let words = split(text)?;
            let mut parts = words.splitn(2, |word| unquoted(word) == SEPARATOR);
            parameters.extend_from_slice(parts.next().unwrap_or_default());
            init_arguments.extend_from_slice(parts.next().unwrap_or_default());
        }
        let mut defaults = Vec::new();
        for text in &self.defaults {
            defaults.append(&mut split(text)?);
        }
        let (left_out, mut parameters): (Vec<&str>, Vec<&str>) = parameters
            .iter()
            .partition(|word| word.starts_with(LEAVE_OUT));
        let left_out: Vec<_> = left_out.iter().map(|word| &word[1..]).collect();
        for word in &left_out {
            if !defaults.iter().any(|default| same_key(default, word)) {
                return Err(CmdlineError::NoDefault(format!("{LEAVE_OUT}{word}")));
            }
        }
        let given = |word: &str| {
            let mut given = parameters.iter().chain(&left_out);
            given.any(|given| same_key(given, word))
        };
        defaults.retain(|word| !given(word));
        let mut words = defaults;
        for text in &self.devices {
            words.append(&mut split(text)?);
        }
        words.append(&mut parameters);
        if !init_arguments.is_empty() {
            words.push(SEPARATOR);
            words.append(&mut init_arguments);
        }
        let line = words.join(" ");
        let length = line.len();
        if length >= COMMAND_LINE_SIZE {
            return Err(CmdlineError::TooLong {
                length,
                excess: length - (COMMAND_LINE_SIZE - 1),
            });
        }
        // `split` lets no zero byte through, so that this error can't come.
        CString::new(line).map_err(|error| CmdlineError::Character {
            position: error.nul_position(),
            text: String::from_utf8_lossy(&error.into_vec()).into_owned(),
            character: '\0',
        })
    }
}

/// Splits into words as Linux's `next_arg` does: at blanks outside of double quotes.
fn split(text: &str) -> Result<Vec<&str>, CmdlineError> {
    let bad = |(_, character): &(usize, char)| {
        !(character.is_ascii_graphic() || matches!(character, ' ' | '\t'))
    };
    if let Some((position, character)) = text.char_indices().find(bad) {
        return Err(CmdlineError::Character {
            text: text.into(),
            character,
            position,
        });
    }
    let mut quoted = false;
    let words = text
        .split(|character: char| {
            quoted ^= character == '"';
            !quoted && matches!(character, ' ' | '\t')
        })
        .filter(|word| !word.is_empty())
        .collect();
    if quoted {
        return Err(CmdlineError::OpenQuote(text.into()));
    }
    Ok(words)
}

/// A word without the quotes around it, which Linux takes off.
fn unquoted(word: &str) -> &str {
    let word = word.strip_prefix('"').unwrap_or(word);
    word.strip_suffix('"').unwrap_or(word)
}

/// Whether two parameters have the same key. Linux takes `-` and `_` in keys as the same
/// (`parameq`).
fn same_key(a: &str, b: &str) -> bool {
    let key = |word| {
        let word: &str = unquoted(word);
        word.split('=').next().unwrap_or(word).replace('-', "_")
    };
    key(a) == key(b)
}

/// Writes the command line with its terminating zero at `at`. Returns the first address after
/// it.
///
/// # Errors
///
/// The line would not lie in guest memory, whole.
pub fn write_cmdline(
    memory: &GuestMemoryMmap<()>,
    line: &CStr,
    at: GuestAddress,
) -> Result<GuestAddress, BootTableError> {
    let bytes = line.to_bytes_with_nul();
    memory_map::write("command line", memory, bytes, at)?;
    Ok(GuestAddress(at.0.saturating_add(bytes.len() as u64)))
}
