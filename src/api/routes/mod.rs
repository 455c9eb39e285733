//! Who answers what. What is before the start and what is after it, is each request's own to say.

mod before;
mod own;
mod running;

use serde::de::DeserializeOwned;

use super::FOLLOWS;
use super::desk::Papers;
use super::fault::Fault;
use super::http::{Answer, Reply, Request};
use super::model::{Action, ActionType, InstanceInfo, Version};

pub use own::ended;

/// Answers a request.
pub fn answer(papers: &mut Papers, request: &Request) -> Reply {
    let parts: Vec<&str> = request
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    match route(papers, request, &parts) {
        Ok(reply) => reply,
        Err(fault) => Reply::Now(Answer::fault(&fault)),
    }
}

fn route(papers: &mut Papers, request: &Request, parts: &[&str]) -> Result<Reply, Fault> {
    let now = match (request.method.as_str(), parts) {
        ("GET", []) => Ok(info(papers)),
        ("GET", ["version"]) => Ok(version()),
        ("PUT", ["actions"]) => return act(papers, body::<Action>(request)?.action_type),
        ("GET", ["machine-config"]) => Ok(Answer::of(&papers.whole.machine_config)),
        ("PUT", ["machine-config"]) => before::put_machine(papers, body(request)?),
        ("PATCH", ["machine-config"]) => before::patch_machine(papers, body(request)?),
        ("GET", ["vm", "config"]) => Ok(Answer::of(&papers.whole)),
        ("PATCH", ["vm"]) => running::patch_vm(papers, body(request)?),
        ("PUT", ["boot-source"]) => before::put_boot_source(papers, body(request)?),
        ("PUT", ["drives", id]) => before::put_drive(papers, id, body(request)?),
        ("PATCH", ["drives", id]) => running::patch_drive(papers, id, body(request)?),
        ("PUT", ["pmem", id]) => before::put_pmem(papers, id, body(request)?),
        ("PATCH", ["pmem", id]) => running::patch_pmem(papers, id, body(request)?),
        ("PUT", ["network-interfaces", id]) => before::put_network(papers, id, body(request)?),
        ("PATCH", ["network-interfaces", id]) => running::patch_network(papers, id, body(request)?),
        ("GET", ["balloon"]) => running::get_balloon(papers),
        ("PUT", ["balloon"]) => before::put_balloon(papers, body(request)?),
        ("PATCH", ["balloon"]) => running::patch_balloon(papers, body(request)?),
        ("GET", ["balloon", "statistics"]) => running::get_statistics(papers),
        ("PATCH", ["balloon", "statistics"]) => running::patch_statistics(papers, body(request)?),
        ("PUT", ["vsock"]) => before::put_vsock(papers, body(request)?),
        ("PUT", ["entropy"]) => before::put_entropy(papers, body(request)?),
        ("PUT", ["serial"]) => before::put_serial(papers, body(request)?),
        ("PUT", ["logger"]) => before::put_logger(papers, body(request)?),
        ("PUT", ["metrics"]) => before::put_metrics(papers, body(request)?),
        (method, ["mote", "v1", rest @ ..]) => return own::route(papers, request, method, rest),
        (_, path) => Err(match lacks(path) {
            Some(what) => Fault::Lacks {
                path: request.path.clone(),
                what,
            },
            None => no_request(request),
        }),
    };
    now.map(Reply::Now)
}

/// What the API has that mote follows, and mote hasn't.
fn lacks(path: &[&str]) -> Option<&'static str> {
    match path {
        ["mmds", ..] => {
            Some("metadata service (MMDS); give the guest its data by a drive or by vsock")
        }
        ["snapshot", ..] => Some("snapshots"),
        ["cpu-config"] => Some("processor templates; --cpu-mask of `mote run` hides features"),
        ["hotplug", ..] => {
            Some("memory that is plugged in later; the balloon changes what the guest has")
        }
        ["balloon", "hinting", ..] => {
            Some("free page hinting; free_page_reporting has the guest tell of them")
        }
        _ => None,
    }
}

fn no_request(request: &Request) -> Fault {
    Fault::NoRequest {
        method: request.method.clone(),
        path: request.path.clone(),
    }
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Fault> {
    match request.body.is_empty() {
        true => Err(Fault::Empty),
        false => Ok(serde_json::from_slice(&request.body)?),
    }
}

fn info(papers: &Papers) -> Answer {
    Answer::of(&InstanceInfo {
        app_name: "mote".to_owned(),
        id: papers.id.clone(),
        state: papers.state(),
        vmm_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn version() -> Answer {
    Answer::of(&Version {
        firecracker_version: FOLLOWS.to_owned(),
        mote_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn act(papers: &mut Papers, action: ActionType) -> Result<Reply, Fault> {
    match action {
        ActionType::InstanceStart => papers.ask_to_start(),
        ActionType::SendCtrlAltDel => running::press(papers).map(Reply::Now),
        ActionType::FlushMetrics => running::flush_metrics(papers).map(Reply::Now),
    }
}

/// A name in a path and in its body must be the same, and one that a device can have.
fn check_name(path: &str, body: &str) -> Result<(), Fault> {
    if path != body {
        return Err(Fault::OtherName {
            path: path.to_owned(),
            body: body.to_owned(),
        });
    }
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    match !path.is_empty() && path.len() <= 64 && path.bytes().all(fine) {
        true => Ok(()),
        false => Err(Fault::Name(path.to_owned())),
    }
}

#[cfg(test)]
mod tests;
