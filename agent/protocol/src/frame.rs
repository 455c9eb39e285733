//! Messages in a stream: four bytes of length (little-endian), then the message, by postcard.
//!
//! A length is held to [`TO_AGENT`] or [`TO_HOST`] before memory is taken for it. A message must fill its frame; a
//! reader that finds otherwise gives up the connection, since it can't know where the next one begins.

use std::io::{self, ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message to the agent: a process with its environment.
pub const TO_AGENT: usize = 4 << 20;
/// The longest message to the host, which trusts no agent.
pub const TO_HOST: usize = 64 << 10;

const LENGTH: usize = 4;

/// Why a message can't be sent or taken.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream has failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side has closed the connection between two messages.
    #[error("the connection has ended")]
    End,
    /// A message is longer than is taken.
    #[error("a message of {0} bytes, of which {1} are taken")]
    Long(usize, usize),
    /// The bytes are none of the messages that there are.
    #[error("a message that can't be read: {0}")]
    Content(postcard::Error),
}

/// Sends a message of at most `most` bytes, in one write.
///
/// # Errors
///
/// It is longer, or the stream's.
pub fn write(
    stream: &mut impl Write,
    message: &impl Serialize,
    most: usize,
) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(message, most)?)?)
}

/// The bytes of a message.
///
/// # Errors
///
/// It is longer than `most`.
pub fn encode(message: &impl Serialize, most: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; LENGTH]).map_err(FrameError::Content)?;
    let length = bytes.len() - LENGTH;
    match u32::try_from(length) {
        Ok(number) if length <= most => bytes[..LENGTH].copy_from_slice(&number.to_le_bytes()),
        _ => return Err(FrameError::Long(length, most)),
    }
    Ok(bytes)
}

/// Reads a message of at most `most` bytes.
///
/// # Errors
///
/// The stream ends ([`FrameError::End`] where that is between messages), or what comes is none.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read, most: usize) -> Result<T, FrameError> {
    let mut length = [0; LENGTH];
    let first = loop {
        match stream.read(&mut length) {
            Ok(0) => return Err(FrameError::End),
            Ok(count) => break count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    };
    stream.read_exact(&mut length[first..])?;
    let length = check(u32::from_le_bytes(length), most)?;
    // As it comes, so that a length alone takes no memory.
    let mut bytes = Vec::new();
    let count = stream.take(length as u64).read_to_end(&mut bytes)?;
    if count < length {
        return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
    }
    decode(&bytes)
}

fn check(length: u32, most: usize) -> Result<usize, FrameError> {
    match length as usize {
        length if length <= most => Ok(length),
        length => Err(FrameError::Long(length, most)),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(FrameError::Content(postcard::Error::DeserializeBadEncoding)),
        Err(error) => Err(FrameError::Content(error)),
    }
}

/// The messages of a stream that is read in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
}

impl Pieces {
    /// Adds what has come.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if all of it is here.
    ///
    /// # Errors
    ///
    /// There is something else.
    pub fn next<T: DeserializeOwned>(&mut self, most: usize) -> Result<Option<T>, FrameError> {
        let Some((length, rest)) = self.bytes.split_first_chunk() else {
            return Ok(None);
        };
        let length = check(u32::from_le_bytes(*length), most)?;
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let message = decode(message)?;
        self.bytes.drain(..LENGTH + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;
