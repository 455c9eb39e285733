//! The network that Debian's CNI plugins make.

use std::process::Stdio;

use serde_json::{Value, json};

use super::guest::Guest;
use super::*;

/// Where distributions and their users put them.
const FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Runs the plugin `bridge` as a container runtime does.
fn bridge(pod: &Pod, folder: &str, command: &str, config: &Value) -> Value {
    let mut plugin = Command::new(format!("{folder}/bridge"));
    let variables = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "mote-test"),
        ("CNI_NETNS", &pod.path()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", folder),
    ];
    plugin.envs(variables);
    plugin.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut plugin = to_run_in(&pod.host, &mut plugin).spawn().unwrap();
    let mut stdin = plugin.stdin.take().unwrap();
    stdin.write_all(config.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = plugin.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command}: {said}");
    serde_json::from_str(&said).unwrap_or_default()
}

#[test]
fn what_plugins_make_after_the_tap_is_joined_and_checked_and_removed() {
    let Some(pod) = Pod::new() else {
        return;
    };
    let has_bridge = |folder: &&str| Path::new(folder).join("bridge").exists();
    let Some(folder) = FOLDERS.into_iter().find(has_bridge) else {
        return not_run(
            "cni",
            "there are no CNI plugins (containernetworking-plugins)",
        );
    };
    // As with `ctr run --cni`: the monitor is there already, and its namespace gets devices later.
    pod.pod.tap().unwrap();
    assert_eq!(pod.pod.join().unwrap(), None);
    let mut config = json!({
        "cniVersion": "0.4.0",
        "name": "mote-test",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.89.0.0/24" }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
            "dataDir": pod.folder.path().join("addresses"),
        },
    });
    let result = bridge(&pod, folder, "ADD", &config);
    let link = pod.pod.join().unwrap().expect("a device");
    let [(address, prefix)] = link.addresses[..] else {
        panic!("{link:?}");
    };
    let address = std::net::Ipv4Addr::from(address);
    assert_eq!(result["ips"][0]["address"], format!("{address}/{prefix}"));
    assert_eq!(link.gateway, Some([10, 89, 0, 1]));

    let guest = Guest::start(&pod, &link);
    let gateway = std::net::Ipv4Addr::new(10, 89, 0, 1);
    traffic::exchange(&pod.host, &guest, gateway.into(), address.into());

    config["prevResult"] = result;
    bridge(&pod, folder, "CHECK", &config);
    drop(guest);
    pod.pod.remove().unwrap();
}
