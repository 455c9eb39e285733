//! What each connection begins with: which it is, in 16 bytes. The agent sends it on connections that it makes, and
//! reads it on those that the host makes.

use std::io::{self, Read, Write};

use crate::VERSION;

/// The port of vsock on which either side listens, if it does.
pub const PORT: u32 = 1024;

const MAGIC: [u8; 4] = *b"mote";

/// Which connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Frames of [`crate::message`].
    Control,
    /// The bytes of one stream of a process, by the number that the host gave it. Never 0.
    Stream(u64),
}

/// Why a connection isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// It ended, or can't be read.
    #[error("reading the first bytes of a connection: {0}")]
    Io(#[from] io::Error),
    /// It is of something else.
    #[error("a connection that is not mote's agent's")]
    Foreign,
    /// It is of another version.
    #[error("the agent speaks version {0} of the protocol, and mote version {VERSION}")]
    Version(u32),
}

impl Opening {
    /// Sends it.
    ///
    /// # Errors
    ///
    /// The stream's.
    pub fn write(self, stream: &mut impl Write) -> io::Result<()> {
        let number = match self {
            Opening::Control => 0,
            Opening::Stream(number) => number,
        };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&bytes)
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't one of this protocol and version.
    pub fn read(stream: &mut impl Read) -> Result<Self, OpeningError> {
        let mut bytes = [0; 16];
        stream.read_exact(&mut bytes)?;
        let [magic, version, low, high] = [0, 4, 8, 12].map(|at| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            word
        });
        if magic != MAGIC {
            return Err(OpeningError::Foreign);
        }
        match u32::from_le_bytes(version) {
            VERSION => {}
            other => return Err(OpeningError::Version(other)),
        }
        let number = u64::from(u32::from_le_bytes(low)) | u64::from(u32::from_le_bytes(high)) << 32;
        Ok(match number {
            0 => Opening::Control,
            number => Opening::Stream(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_comes_through() {
        for opening in [
            Opening::Control,
            Opening::Stream(1),
            Opening::Stream(u64::MAX),
        ] {
            let mut bytes = Vec::new();
            opening.write(&mut bytes).unwrap();
            assert_eq!(bytes.len(), 16);
            assert_eq!(Opening::read(&mut bytes.as_slice()).unwrap(), opening);
        }
    }

    #[test]
    fn what_is_of_something_else_is_refused() {
        let mut bytes = Vec::new();
        Opening::Control.write(&mut bytes).unwrap();
        let short = Opening::read(&mut &bytes[..15]);
        assert!(matches!(short, Err(OpeningError::Io(_))));
        bytes[4] += 1;
        let other = Opening::read(&mut bytes.as_slice());
        assert!(matches!(other, Err(OpeningError::Version(2))));
        bytes[0] = b'M';
        let foreign = Opening::read(&mut bytes.as_slice());
        assert!(matches!(foreign, Err(OpeningError::Foreign)));
    }
}
