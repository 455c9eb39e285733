//! `mote ctl`: people's way to a VM that runs with an API.

mod client;
mod state;
mod stop;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use motevm::config::Size;
use serde_json::{Value, json};

use super::{CliError, Status, print};
use client::Client;

/// The end of `mote ctl --help`.
pub const HELP: &str = "\
Exit status:
  0    done
  1    mote itself failed
  2    a wrong argument, or there is no VM behind the socket
  10   the VM refused

Examples:
  mote run --api vm.sock --rootfs root.ext4 &        a VM that can be controlled
  mote ctl vm.sock pause                             nothing of it runs
  mote ctl vm.sock drive vdb other.img               another medium in its second drive
  mote ctl vm.sock stop --timeout 30s                an orderly end, and by force after 30 s";

/// Arguments of `mote ctl`.
#[derive(Args, Debug)]
pub struct CtlArgs {
    /// The socket that the VM was given by --api
    #[arg(value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    socket: PathBuf,
    /// Print JSON, as the API has it
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// How far the VM has come, and what it has
    State,
    /// Stop all vCPUs and devices, until it is resumed
    Pause,
    /// Let a paused VM go on
    Resume,
    /// Ask the guest for an orderly end, and end it by force after a time
    Stop {
        /// How long the guest may take; 0s asks nobody
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
        timeout: Duration,
    },
    /// Have the guest give up so much of its memory, which the host then has
    Balloon {
        /// In whole MiB, for example 256M; 0 gives all back to the guest
        size: Size,
    },
    /// Put another medium into a drive, whose size may differ
    Drive {
        /// The drive, by its name in the API, or as the guest calls it: vda, vdb, ...
        drive: String,
        /// A raw image or a block device; from the folder of its present one, or of --api-files
        #[arg(value_hint = ValueHint::FilePath)]
        path: PathBuf,
    },
    /// Plug a network's cable in or out
    Link {
        /// The network, by its name in the API, or as metrics call it: net0, net1, ...
        network: String,
        /// up or down
        state: Cable,
    },
    /// What the VM and its devices count, in the Prometheus text format
    Metrics,
    /// What the VM was made of
    Config,
    /// Add a device: not possible, see `mote ctl SOCKET attach --help`
    #[command(long_about = NO_HOTPLUG)]
    Attach {
        /// Anything
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        _what: Vec<String>,
    },
    /// Take a device away: not possible, see `mote ctl SOCKET detach --help`
    #[command(long_about = NO_HOTPLUG)]
    Detach {
        /// Anything
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        _what: Vec<String>,
    },
}

const NO_HOTPLUG: &str = "\
Devices can't be added or taken away while the guest runs: they are on virtio-mmio, where a guest's \
kernel looks once, at its start. What can change is what is in them: `drive` puts another medium into a \
drive (give an empty image at the start to have one to fill later), `link` plugs a network's cable in and out.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cable {
    Up,
    Down,
}

/// Does what was asked for.
pub fn run(args: &CtlArgs) -> Result<Status, CliError> {
    let client = Client::new(&args.socket);
    match &args.order {
        Order::State => state::tell(&client, args.json)?,
        Order::Pause => client.tell("PATCH", "/vm", &json!({ "state": "Paused" }))?,
        Order::Resume => client.tell("PATCH", "/vm", &json!({ "state": "Resumed" }))?,
        Order::Stop { timeout } => stop::stop(&client, *timeout)?,
        Order::Balloon { size } => balloon(&client, *size)?,
        Order::Drive { drive, path } => {
            let id = state::id(&client, "drives", drive)?;
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let body = json!({ "drive_id": id, "path_on_host": path });
            client.tell("PATCH", &format!("/drives/{id}"), &body)?;
        }
        Order::Link { network, state } => {
            let id = state::id(&client, "networks", network)?;
            let body = json!({ "up": matches!(state, Cable::Up) });
            client.tell("PATCH", &format!("/mote/v1/links/{id}"), &body)?;
        }
        Order::Metrics => {
            let text = client.get("/mote/v1/metrics")?;
            print("metrics", |out| out.write_all(&text))?;
        }
        Order::Config => config(&client, args.json)?,
        Order::Attach { .. } | Order::Detach { .. } => return Err(CliError::usage(NO_HOTPLUG)),
    }
    Ok(Status::Success)
}

fn balloon(client: &Client, size: Size) -> Result<(), CliError> {
    if !size.bytes().is_multiple_of(1 << 20) {
        return Err(CliError::usage(format!(
            "balloon {size}: must be a whole number of MiB, for example 256M"
        )));
    }
    let body = json!({ "amount_mib": size.bytes() >> 20 });
    client.tell("PATCH", "/balloon", &body)
}

fn config(client: &Client, as_json: bool) -> Result<(), CliError> {
    let config: Value = client.get_json("/mote/v1/config")?;
    let text = match as_json {
        true => serde_json::to_string_pretty(&config)
            .map(|text| text + "\n")
            .ok(),
        false => toml::to_string_pretty(&config).ok(),
    };
    let text = text.ok_or_else(|| CliError::new(Status::Internal, "writing the configuration"))?;
    print("configuration", |out| out.write_all(text.as_bytes()))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = |_| "must be a time: 30s, 500ms, 2m".to_owned();
    humantime::parse_duration(text).map_err(wrong)
}
