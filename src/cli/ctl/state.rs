//! `mote ctl SOCKET state`.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use motevm::api::model::{Named, State};
use serde_json::Value;

use super::client::Client;
use crate::cli::{CliError, Status, print};

/// Where the API tells it.
pub const PATH: &str = "/mote/v1/state";

/// Asks, and prints.
pub fn tell(client: &Client, as_json: bool) -> Result<(), CliError> {
    let state: Value = client.get_json(PATH)?;
    let text = match as_json {
        true => serde_json::to_string_pretty(&state).map(|text| text + "\n"),
        false => serde_json::from_value(state).map(|state| written(&state)),
    };
    let text = text.map_err(|e| CliError::new(Status::Internal, e))?;
    print("state", |out| out.write_all(text.as_bytes()))
}

/// A device's name in the API, by that or by the guest's.
pub fn id(client: &Client, kind: &str, name: &str) -> Result<String, CliError> {
    let state: State = client.get_json(PATH)?;
    let (devices, what) = match kind {
        "drives" => (state.drives, "drive"),
        _ => (state.networks, "network"),
    };
    let found = devices.iter().find(|one| one.id == name);
    let found = found.or_else(|| devices.iter().find(|one| one.device == name));
    match found {
        Some(found) => Ok(found.id.clone()),
        None => Err(CliError::new(
            Status::Refused,
            format!("there is no {what} {name}: the VM has {}", list(&devices)),
        )),
    }
}

fn written(state: &State) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("name", &state.id);
    match &state.ended {
        Some(how) => line("state", &format!("{} ({how})", state.state)),
        None => line("state", &state.state),
    }
    line(
        "process",
        &format!("{} (mote {})", state.pid, state.version),
    );
    if let Some(boot) = &state.boot {
        let after = |micros| format!("{:?}", Duration::from_micros(micros));
        if let Some(micros) = boot.first_run_us {
            line("first run", &format!("after {}", after(micros)));
        }
        if let Some(micros) = boot.init_us {
            line("init", &format!("after {}", after(micros)));
        }
        line("drives", &list(&state.drives));
        line("networks", &list(&state.networks));
    }
    text
}

fn list(devices: &[Named]) -> String {
    let one = |named: &Named| match named.id == named.device {
        true => named.id.clone(),
        false => format!("{} ({})", named.id, named.device),
    };
    match devices {
        [] => "none".to_owned(),
        devices => devices.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motevm::api::model::Boot;

    #[test]
    fn a_state_is_told_in_lines() {
        let named = |id: &str, device: &str| Named {
            id: id.to_owned(),
            device: device.to_owned(),
        };
        let state = State {
            id: "web".to_owned(),
            state: "running".to_owned(),
            version: "1.2.3".to_owned(),
            pid: 77,
            boot: Some(Boot {
                first_run_us: Some(5_120),
                init_us: None,
            }),
            ended: None,
            drives: vec![named("rootfs", "vda"), named("vdb", "vdb")],
            networks: Vec::new(),
        };
        let expected = "name      web\nstate     running\nprocess   77 (mote 1.2.3)\n\
                        first run after 5.12ms\ndrives    rootfs (vda), vdb\nnetworks  none\n";
        assert_eq!(written(&state), expected);
    }
}
