//! What mote has beyond the API that it follows: the paths under /mote/v1.

use super::{body, no_request, running};
use crate::api::desk::Papers;
use crate::api::fault::Fault;
use crate::api::http::{Answer, Reply, Request};
use crate::api::model::{Boot, Ended, InstanceState, LinkUpdate, State};
use crate::machine::{Button, ControlError, Exit};

/// Answers one; `rest` is behind /mote/v1.
pub fn route(
    papers: &mut Papers,
    request: &Request,
    method: &str,
    rest: &[&str],
) -> Result<Reply, Fault> {
    let now = match (method, rest) {
        ("GET", ["ended"]) => return Ok(papers.ask_for_the_end()),
        ("GET", ["state"]) => Ok(state(papers)),
        ("GET", ["config"]) => config(papers),
        ("GET", ["metrics"]) => metrics(papers),
        ("PUT", ["power-button"]) => press(papers),
        ("PUT", ["stop"]) => {
            papers.stop();
            Ok(Answer::done())
        }
        ("PATCH", ["links", id]) => link(papers, id, body(request)?),
        _ => Err(no_request(request)),
    };
    now.map(Reply::Now)
}

fn state(papers: &Papers) -> Answer {
    let vm = papers.vm("state").ok();
    let exit = papers.exit();
    let state = match (papers.state(), &exit) {
        (_, Some(_)) => "ended",
        (InstanceState::NotStarted, None) => "not-started",
        (InstanceState::Running, None) => "running",
        (InstanceState::Paused, None) => "paused",
    };
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Answer::of(&State {
        id: papers.id.clone(),
        state: state.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        boot: vm.map(|vm| Boot {
            first_run_us: vm.boot.first_run().map(micros),
            init_us: vm.boot.init().map(micros),
        }),
        ended: exit.as_ref().map(|exit| how(exit).to_owned()),
        drives: vm.map(|vm| papers.drives(&vm.control)).unwrap_or_default(),
        networks: vm
            .map(|vm| papers.networks(&vm.control))
            .unwrap_or_default(),
    })
}

/// All that mote knows of the VM, in the words of its own files.
fn config(papers: &Papers) -> Result<Answer, Fault> {
    match &papers.config {
        Some(config) => Ok(Answer::of(config)),
        None => Ok(Answer::of(&papers.whole.config()?)),
    }
}

fn metrics(papers: &Papers) -> Result<Answer, Fault> {
    let control = &papers.vm("metrics")?.control;
    Ok(Answer::text(control.metrics().render()))
}

/// By the button that this machine has.
fn press(papers: &Papers) -> Result<Answer, Fault> {
    let control = &papers.vm("power-button")?.control;
    match control.press(Button::Power) {
        Err(ControlError::NoButton { .. }) => control.press(Button::CtrlAltDel)?,
        result => result?,
    }
    Ok(Answer::done())
}

fn link(papers: &Papers, id: &str, update: LinkUpdate) -> Result<Answer, Fault> {
    let control = &papers.vm("links")?.control;
    let device = running::find(papers.networks(control), "network interface", id)?;
    control.link(&device)?.set(update.up);
    Ok(Answer::done())
}

/// Tells how the VM has ended; `None` is the monitor's own failure.
pub fn ended(exit: Option<&Exit>) -> Answer {
    Answer::of(&Ended {
        how: exit.map_or("failed", how).to_owned(),
    })
}

fn how(exit: &Exit) -> &'static str {
    match exit {
        Exit::PowerOff => "power-off",
        Exit::Reset => "reset",
        Exit::Panic => "panic",
        Exit::Crash(_) => "crash",
        Exit::Stopped => "stopped",
        Exit::Failed => "failed",
        Exit::Quit => "quit",
        Exit::Disconnected => "disconnected",
        Exit::Reached => "reached",
    }
}
