//! mote's agent: process 1 of a guest that holds containers (docs/agent.md).
//!
//! One thread and one loop ([`agent`]), which copies streams itself and forks with nothing else running. As process 1
//! it makes the guest's first mounts and calls the host; `mote-agent --host SOCKET` is for tests, where the host is a
//! Unix socket and this an ordinary process.

mod agent;
mod cgroup;
mod connection;
mod container;
mod dhcp;
mod error;
mod host;
mod init;
mod made;
mod mounts;
mod network;
mod paths;
mod process;
mod pump;
mod rights;
mod setup;
mod stats;
mod sys;
mod terminal;
mod users;

use std::process::ExitCode;

use agent::Agent;
use host::Host;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.as_slice() {
        [_, option, socket] if option == "--host" => serve(Host::Unix(socket.into())),
        _ if std::process::id() == 1 => {
            if let Err(error) = init::prepare() {
                init::give_up(&error);
            }
            if serve(Host::Vsock) != ExitCode::SUCCESS {
                init::give_up(&error::Error::new("the host doesn't answer", 0));
            }
            init::restart()
        }
        _ => {
            eprintln!("mote-agent: is process 1 of a guest (docs/agent.md)");
            ExitCode::from(2)
        }
    }
}

fn serve(host: Host) -> ExitCode {
    match Agent::new(host).and_then(|mut agent| agent.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mote-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
