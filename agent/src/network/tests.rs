//! Devices set up in a network namespace of the test's own.

use std::io::Write;
use std::process::Command;

use super::*;

#[test]
fn a_prefix_is_a_mask() {
    assert_eq!(mask(0), [0; 4]);
    assert_eq!(mask(8), [255, 0, 0, 0]);
    assert_eq!(mask(23), [255, 255, 254, 0]);
    assert_eq!(mask(32), [255; 4]);
    assert_eq!(mask(200), [255; 4]);
}

/// Puts the test's thread into a network namespace with a pair of devices, eth0 and peer.
fn alone() -> bool {
    // SAFETY: takes no pointer, and concerns this thread only.
    let obstacle = match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Command::new("ip")
            .args("link add eth0 type veth peer name peer".split(' '))
            .output()
            .map_err(|error| format!("ip: {error}"))
            .and_then(|output| match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            })
            .err(),
        _ => Some(format!("no namespace: {}", io::Error::last_os_error())),
    };
    let Some(obstacle) = obstacle else {
        return true;
    };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "NOT RUN: {test}: {}", obstacle.trim());
    false
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_device_gets_what_a_pods_has() {
    if !alone() {
        return;
    }
    ip("link set peer up");
    let mut link = Link {
        name: "eth0".into(),
        mac: Some([2, 0xab, 0, 0, 0xff, 9]),
        mtu: Some(1440),
        addresses: vec![([192, 168, 7, 9], 32)],
        routes: vec![
            Route {
                destination: [10, 96, 0, 0],
                prefix: 12,
                gateway: Some([169, 254, 1, 1]),
            },
            Route {
                destination: [169, 254, 1, 1],
                prefix: 32,
                gateway: None,
            },
        ],
        gateway: Some([169, 254, 1, 1]),
        ..Link::default()
    };
    set_up(&link).unwrap();
    // The shim says it at a container's start again: CNI may have come between.
    set_up(&link).unwrap();
    let device = ip("addr show dev eth0");
    for part in ["02:ab:00:00:ff:09", "mtu 1440", "inet 192.168.7.9/32 "] {
        assert!(device.contains(part), "{part} in {device}");
    }
    let routes = ip("route");
    for part in [
        "default via 169.254.1.1 dev eth0",
        "10.96.0.0/12 via 169.254.1.1 dev eth0",
        "169.254.1.1 dev eth0 scope link",
    ] {
        assert!(routes.contains(part), "{part} in {routes}");
    }
    assert_eq!(routes.trim().lines().count(), 3, "{routes}");

    link.routes[0].gateway = Some([172, 16, 0, 1]);
    let refused = set_up(&link).unwrap_err().to_string();
    assert!(refused.contains("10.96.0.0/12 by 172.16.0.1"), "{refused}");
}

#[test]
fn a_device_gets_addresses_of_ipv6() {
    if !alone() || sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0).is_err() {
        return;
    }
    ip("link set peer up");
    let address = |last| {
        let mut address = [0; 16];
        address[0] = 0xfd;
        address[15] = last;
        address
    };
    let link = Link {
        name: "eth0".into(),
        addresses6: vec![(address(9), 64), (address(10), 128)],
        gateway6: Some(address(1)),
        ..Link::default()
    };
    set_up(&link).unwrap();
    set_up(&link).unwrap();
    let device = ip("-6 addr show dev eth0");
    assert!(device.contains("inet6 fd00::9/64 "), "{device}");
    assert!(device.contains("inet6 fd00::a/128 "), "{device}");
    let routes = ip("-6 route show default");
    assert!(routes.contains("default via fd00::1 dev eth0"), "{routes}");
}
