//! `mote ctl SOCKET stop`: the guest is asked first.

use std::time::Duration;

use motevm::api::model::State;
use serde_json::json;

use super::client::Client;
use super::state;
use crate::cli::{CliError, say};

/// How long the process may take to end once it was told to.
const FORCED: Duration = Duration::from_secs(30);

/// Asks the guest to end, and ends it when it hasn't in this time.
pub fn stop(client: &Client, timeout: Duration) -> Result<(), CliError> {
    let before: State = client.get_json(state::PATH)?;
    // Asked before anything is done, so that the end isn't missed.
    let mut ended = client.ask("GET", "/mote/v1/ended", None)?;
    if !timeout.is_zero() && before.state != "not-started" {
        if before.state == "paused" {
            client.tell("PATCH", "/vm", &json!({ "state": "Resumed" }))?;
        }
        match client.tell("PUT", "/mote/v1/power-button", &json!({})) {
            Ok(()) if ended.comes_within(timeout)? => return Ok(()),
            Ok(()) => say(format_args!(
                "the guest hasn't ended within {timeout:?}: it is stopped"
            )),
            Err(error) => say(format_args!(
                "the guest can't be asked ({error}): it is stopped"
            )),
        }
    }
    client.tell("PUT", "/mote/v1/stop", &json!({}))?;
    match ended.comes_within(FORCED)? {
        true => Ok(()),
        false => Err(CliError::usage(
            "the VM was told to stop, and hasn't ended yet",
        )),
    }
}
