//! What is at the other end of a guest's network: a tap and an iperf3 server in a network namespace
//! of the guest's own, so that nothing of the host's network is touched.

use std::process::{Child, Command, Stdio};

/// A namespace with a tap. Dropping it deletes it, and ends the server.
pub struct Network {
    name: String,
    server: Option<Child>,
}

/// The tap's name in the namespace.
pub const TAP: &str = "tap0";

impl Network {
    /// Needs root, and iproute2 and iperf3.
    pub fn new(number: usize) -> Result<Self, String> {
        let name = format!("mote-bench-{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let mut network = Self { name, server: None };
        let n = &network.name;
        ip(&["-n", n, "link", "set", "lo", "up"])?;
        ip(&["-n", n, "tuntap", "add", TAP, "mode", "tap", "vnet_hdr"])?;
        ip(&["-n", n, "addr", "add", "10.9.0.1/24", "dev", TAP])?;
        ip(&["-n", n, "link", "set", TAP, "up"])?;
        let mut server = network.command("iperf3");
        server.arg("-s").stdin(Stdio::null()).stdout(Stdio::null());
        let server = server.spawn().map_err(|e| format!("iperf3: {e}"))?;
        network.server = Some(server);
        Ok(network)
    }

    /// A command that runs in the namespace; its process is the command's own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|e| format!("ip: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), said.trim())),
    }
}
