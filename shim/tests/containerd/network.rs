//! Networks by CNI's plugins, a bridge in the tests' own network namespace.

use std::fs;
use std::process::Command;

use crate::ctr::finish;
use crate::world::World;

/// What CNI makes, and keeps.
pub const BRIDGE: &str = "mote0";
const CONFIGURATION: &str = r#"{
  "cniVersion": "0.4.0", "name": "mote",
  "plugins": [{
    "type": "bridge", "bridge": "mote0", "isGateway": true, "mtu": 1400,
    "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks",
             "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}"#;

pub fn it_runs_without_a_network(world: &World) {
    // A VM may have a device by then, but without addresses.
    let script = "ip -o addr; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo itself";
    let out = world.script(&[], "alone", script);
    let mut lines = out.lines();
    assert_eq!(lines.next_back(), Some("itself"), "{out}");
    let mut devices = lines.filter_map(|line| line.split_whitespace().nth(1));
    assert!(devices.all(|device| device == "lo"), "{out}");
}

pub fn it_reaches_the_bridge_and_is_reached(world: &World) {
    fs::write("/etc/cni/net.d/10-mote.conflist", CONFIGURATION).unwrap();
    let script = "ip -4 -o addr show dev eth0; cat /sys/class/net/eth0/mtu; ip route; \
                  ping -c 2 -W 20 10.88.0.1 >/dev/null && echo reached; echo ready; sleep 1000";
    let mut session = world.session(&["--cni"], "cni", script);
    let address = session.line();
    let address = address
        .split_whitespace()
        .find(|word| word.starts_with("10.88.0."))
        .expect(&address);
    let address = address.split('/').next().unwrap().to_owned();
    session.expect("1400");
    let mut routes = Vec::new();
    loop {
        match session.line().as_str() {
            "reached" => break,
            "ready" => panic!("the bridge doesn't answer; routes: {routes:?}"),
            route => routes.push(route.to_owned()),
        }
    }
    assert!(
        routes
            .iter()
            .any(|route| route.starts_with("default via 10.88.0.1 ")),
        "{routes:?}"
    );
    session.expect("ready");
    let mut ping = Command::new("busybox");
    ping.args(["ping", "-c", "2", "-W", "20", &address]);
    finish(ping, &[]).success();
    // A second one beside it: they reach each other.
    let second = world.script(
        &["--cni"],
        "cni2",
        &format!("ping -c 1 -W 20 {address} >/dev/null && echo reached"),
    );
    assert_eq!(second, "reached\n");
    world.says(&["task", "kill", "--signal", "SIGKILL", "cni"]);
    assert_eq!(session.end().code, Some(137));
    fs::remove_file("/etc/cni/net.d/10-mote.conflist").unwrap();
    let removed = Command::new("ip").args(["link", "delete", BRIDGE]).status();
    assert!(removed.unwrap().success());
}
