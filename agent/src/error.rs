//! What can't be done, for the host to show.

use std::fmt;
use std::io;

use mote_agent_protocol::Refusal;

/// What was tried and why it failed, in one line; and Linux's number of it.
#[derive(Debug)]
pub struct Error(pub Refusal);

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(message: impl Into<String>, errno: i32) -> Self {
        let message = message.into();
        Error(Refusal { message, errno })
    }

    /// What the kernel said last, of this.
    pub fn last(what: impl fmt::Display) -> Self {
        Self::of(what)(io::Error::last_os_error())
    }

    /// For `map_err`.
    pub fn of(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let errno = error.raw_os_error().unwrap_or(0);
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            Error::new(format!("{what}: {text}"), errno)
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}
