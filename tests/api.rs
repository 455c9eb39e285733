//! The API (docs/api.md), as its clients see it: with tiny guests, and with clients that mean no good.

mod common;

#[path = "api/client.rs"]
mod client;
#[path = "api/clients.rs"]
mod clients;
#[path = "api/ctl.rs"]
mod ctl;
#[path = "api/docs.rs"]
mod docs;
#[path = "api/drives.rs"]
mod drives;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "api/openapi.rs"]
mod openapi;
#[path = "api/run.rs"]
mod run;
#[path = "api/serve.rs"]
mod serve;
