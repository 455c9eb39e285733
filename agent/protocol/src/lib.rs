//! What mote and its agent in the guest say to each other (docs/agent.md): both sides use this crate, so there
//! is one description of it.
//!
//! - [`opening`]: what each connection begins with
//! - [`frame`]: messages in a stream, of bounded size
//! - [`message`]: requests, answers and events
//! - [`container`], [`setup`]: what they carry
//! - [`host`]: the host's end of a control connection, with a guest that may be slow ([`within`])
//!
//! Neither side trusts the other: a length is checked before memory is taken for it, names and numbers when
//! they are used.

pub mod container;
pub mod frame;
pub mod host;
pub mod message;
pub mod opening;
pub mod setup;
pub mod within;

pub use container::{Container, Mount, Process};
pub use message::{Answer, Call, Event, FromAgent, Hello, Refusal, Reply, Request, Target};
pub use opening::{Opening, PORT};
pub use setup::Setup;

/// The version of all that is described here. Either side refuses another's.
pub const VERSION: u32 = 1;
