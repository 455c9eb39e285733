//! What the guest's device is to be, and what can't be a pod's network.

use super::*;

use mote_agent_protocol::setup::Route;

fn mac(pod: &Pod, device: &str) -> [u8; 6] {
    let words = ip(&pod.pod, &format!("-o link show {device}"));
    let mac = words.split("link/ether ").nth(1).unwrap();
    let bytes = mac[..17].split(':');
    let bytes: Vec<u8> = bytes
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

#[test]
fn a_bridges_pod_has_an_address_and_a_gateway() {
    let Some(pod) = Pod::with_devices() else {
        return;
    };
    let expected = Link {
        name: "eth0".into(),
        mac: Some(mac(&pod, "eth0")),
        mtu: Some(1400),
        addresses: vec![([10, 88, 0, 2], 24)],
        gateway: Some([10, 88, 0, 1]),
        ..Link::default()
    };
    assert_eq!(pod.pod.join().unwrap(), Some(expected));
    let tap = ip(&pod.pod, "-d -o link show mote0");
    for part in [
        "mtu 1400",
        "tun type tap",
        "vnet_hdr on",
        "persist on",
        ",UP",
    ] {
        assert!(tap.contains(part), "{part} in {tap}");
    }
    // What the host's own IPv6 would say there is no business of the guest's.
    assert_eq!(ip(&pod.pod, "-6 addr show dev mote0"), "");
}

#[test]
fn a_pod_without_devices_gets_none_until_they_come() {
    let Some(pod) = Pod::new() else {
        return;
    };
    assert_eq!(pod.pod.join().unwrap(), None);
    assert_eq!(pod.pod.tap().unwrap(), "mote0");
    assert_eq!(pod.pod.join().unwrap(), None);
    let path = pod.path();
    ip(
        &pod.host,
        &format!("link add vhost type veth peer name net1 netns {path}"),
    );
    ip(&pod.pod, "addr add 10.1.2.3/8 dev net1");
    assert_eq!(pod.pod.join().unwrap(), None, "it is down");
    ip(&pod.pod, "link set net1 up");
    let link = pod.pod.join().unwrap().expect("a device");
    assert_eq!(link.addresses, [([10, 1, 2, 3], 8)]);
    assert_eq!(link.name, "eth0");
    assert_eq!(link.mac, Some(mac(&pod, "net1")));
}

#[test]
fn routes_come_along() {
    let Some(pod) = Pod::new() else {
        return;
    };
    let path = pod.path();
    for (outside, device) in [("v1", "net1"), ("v2", "eth0")] {
        ip(
            &pod.host,
            &format!("link add {outside} type veth peer name {device} netns {path}"),
        );
        ip(&pod.pod, &format!("link set {device} up"));
    }
    ip(&pod.pod, "addr add 10.9.9.9/24 dev net1");
    ip(&pod.pod, "addr add 192.168.7.9/32 dev eth0");
    // Calico's, and more of each sort.
    for route in [
        "169.254.1.1 dev eth0 scope link",
        "default via 169.254.1.1 dev eth0",
        "default via 169.254.1.1 dev eth0 metric 50 mtu 1000",
        "10.96.0.0/12 via 169.254.1.1 dev eth0",
        "10.97.0.0/16 via 169.254.7.7 dev eth0 onlink",
        "10.98.0.0/16 nexthop via 10.9.9.1 dev net1 nexthop via 169.254.1.1 dev eth0",
        "10.99.0.0/16 dev net1",
        "10.100.0.0/16 via inet6 fe80::1 dev eth0",
        "10.101.0.0/16 dev eth0 table 77",
        "unreachable 10.102.0.0/16",
    ] {
        ip(&pod.pod, &format!("route add {route}"));
    }
    let link = pod.pod.join().unwrap().expect("a device");
    assert_eq!(link.mac, Some(mac(&pod, "eth0")));
    assert_eq!(link.addresses, [([192, 168, 7, 9], 32)]);
    assert_eq!(link.gateway, Some([169, 254, 1, 1]));
    let mut routes = link.routes;
    routes.sort_by_key(|route| route.destination);
    let route = |destination, prefix, gateway| Route {
        destination,
        prefix,
        gateway,
    };
    let by = Some([169, 254, 1, 1]);
    assert_eq!(
        routes,
        [
            route([10, 96, 0, 0], 12, by),
            route([10, 97, 0, 0], 16, Some([169, 254, 7, 7])),
            route([10, 98, 0, 0], 16, by),
            route([169, 254, 1, 1], 32, None),
            route([169, 254, 7, 7], 32, None),
        ]
    );
}

#[test]
fn ipv6_comes_along() {
    let Some(pod) = Pod::with_devices() else {
        return;
    };
    if !Path::new("/proc/net/if_inet6").exists() {
        return not_run("ipv6", "the host's kernel has no IPv6");
    }
    ip(&pod.host, "addr add fd00::1/64 dev vhost nodad");
    ip(&pod.pod, "addr add fd00::2/64 dev eth0 nodad");
    ip(&pod.pod, "-6 route add default via fd00::1");
    let link = pod.pod.join().unwrap().expect("a device");
    let address = |last| {
        let mut address = [0; 16];
        address[0] = 0xfd;
        address[15] = last;
        address
    };
    assert_eq!(link.addresses, [([10, 88, 0, 2], 24)]);
    assert_eq!(link.addresses6, [(address(2), 64)]);
    assert_eq!(link.gateway6, Some(address(1)));
    let guest = guest::Guest::start(&pod, &link);
    let [host, own] = [address(1), address(2)].map(std::net::IpAddr::from);
    traffic::exchange(&pod.host, &guest, host, own);
}

#[test]
fn what_is_no_pods_namespace_is_refused() {
    let said = |path: &str| Namespace::open(Path::new(path)).unwrap_err().to_string();
    assert_eq!(
        said("/proc/self/none"),
        "network namespace /proc/self/none: opening it: No such file or directory (os error 2)"
    );
    for other in ["/proc/self/ns/mnt", "/proc/self/maps"] {
        assert!(
            said(other).contains("it is no network namespace"),
            "{other}"
        );
    }
    assert!(said("/proc/thread-self/ns/net").contains("the host's own"));
    let Some(pod) = Pod::new() else {
        return;
    };
    let again = Namespace::make(Path::new(&pod.path())).unwrap_err();
    assert!(again.to_string().contains("making the file: File exists"));
    ip(&pod.pod, "link add mote0 type veth peer name other");
    let refused = pod.pod.tap().unwrap_err().to_string();
    assert!(
        refused.starts_with("network device mote0: a tap of this name"),
        "{refused}"
    );
}

#[test]
fn a_namespace_outlives_the_process_that_made_it() {
    let Some(pod) = Pod::new() else {
        return;
    };
    pod.pod.tap().unwrap();
    let path = pod.path();
    let again = Namespace::made(Path::new(&path)).unwrap();
    assert!(ip(&again, "link").contains("mote0"));
    again.remove().unwrap();
    assert!(!Path::new(&path).exists());
}
