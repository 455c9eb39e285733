//! What is wrong with a request, as Firecracker's API tells of it: status 400 and a `fault_message`.

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::machine::ControlError;

/// Why a request isn't done.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nothing has that path, or not with that method.
    #[error("{method} {path}: the API has no such request")]
    NoRequest {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The API that mote follows has it, and mote hasn't.
    #[error("{path}: mote has no {what}")]
    Lacks {
        /// The path.
        path: String,
        /// What it would be for.
        what: &'static str,
    },
    /// A field of which mote hasn't what it asks for.
    #[error("{field}: {why}")]
    Field {
        /// The field's name, or its way there.
        field: &'static str,
        /// What is in the way, and the remedy.
        why: String,
    },
    /// The body isn't what belongs there.
    #[error("the body isn't what is asked for here: {0}")]
    Body(#[from] serde_json::Error),
    /// There is no body.
    #[error("the body is empty: a JSON object is asked for here")]
    Empty,
    /// The body is too long.
    #[error("the body is longer than {} bytes", super::http::MAX_BODY)]
    TooLong,
    /// The path and the body name different things.
    #[error("the path names `{path}` and the body `{body}`: they must be the same")]
    OtherName {
        /// In the path.
        path: String,
        /// In the body.
        body: String,
    },
    /// A name that none may have.
    #[error("`{0}`: a name has 1 to 64 letters, digits, `_`, `-` and `.`")]
    Name(String),
    /// No device has that name.
    #[error("there is no {what} `{id}`")]
    NoDevice {
        /// Which kind.
        what: &'static str,
        /// The name.
        id: String,
    },
    /// It can be said before the start only.
    #[error("{0}: not supported after the microVM has started")]
    Started(&'static str),
    /// It can be asked after the start only.
    #[error("{0}: not supported before the microVM has started")]
    NotStarted(&'static str),
    /// A file that isn't there, or can't be read.
    #[error("{field} {}: {source}", path.display())]
    File {
        /// The field's name.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system call said.
        source: std::io::Error,
    },
    /// The VM can't be as it was described.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The VM doesn't do it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The VM could not be started.
    #[error("starting the microVM: {0}")]
    Start(String),
}

impl Fault {
    /// Of a field.
    pub fn field(field: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Fault::Field { field, why }
    }
}
