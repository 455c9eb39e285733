//! Packets between the host and the guest.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::guest::Guest;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A datagram to the guest, and one back.
pub fn exchange(host: &Namespace, guest: &Guest, from: IpAddr, to: IpAddr) {
    let socket = |namespace: &Namespace, address: IpAddr| {
        let socket = inside(namespace, || UdpSocket::bind((address, 0))).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (mine, theirs) = (socket(host, from), socket(&guest.stack, to));
    mine.send_to(b"hello", theirs.local_addr().unwrap())
        .unwrap();
    let mut bytes = [0; 16];
    let (length, sender) = theirs
        .recv_from(&mut bytes)
        .expect("a datagram for the guest");
    assert_eq!(&bytes[..length], b"hello");
    assert_eq!(sender, mine.local_addr().unwrap());
    theirs.send_to(b"welcome", sender).unwrap();
    let (length, sender) = mine.recv_from(&mut bytes).expect("the guest's answer");
    assert_eq!(&bytes[..length], b"welcome");
    assert_eq!(sender, theirs.local_addr().unwrap());
}

/// Much, in packets that are larger than the link's, as offloads make them.
fn stream(from: &Namespace, to: &Namespace, address: Ipv4Addr) {
    let listener = inside(to, || TcpListener::bind((address, 0))).unwrap();
    let at = listener.local_addr().unwrap();
    let mut out = inside(from, || TcpStream::connect_timeout(&at, PATIENCE)).unwrap();
    let mut back = listener.accept().unwrap().0;
    out.set_write_timeout(Some(PATIENCE)).unwrap();
    back.set_read_timeout(Some(PATIENCE)).unwrap();
    let data: Vec<u8> = (0..4_000_000_u32).map(|n| ((n * 31) >> 5) as u8).collect();
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        let data = &data;
        scope.spawn(move || out.write_all(data).unwrap());
        back.read_to_end(&mut received).unwrap();
    });
    assert!(received == data, "{} bytes came", received.len());
}

const HOST: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);

#[test]
fn packets_reach_the_guest_and_the_host() {
    let Some(pod) = Pod::with_devices() else {
        return;
    };
    assert_eq!(pod.pod.tap().unwrap(), "mote0");
    let link = pod.pod.join().unwrap().expect("a device");
    let guest = Guest::start(&pod, &link);
    exchange(&pod.host, &guest, HOST.into(), POD.into());
    stream(&pod.host, &guest.stack, POD);
    stream(&guest.stack, &pod.host, HOST);

    // Once more, while a guest runs: nothing is done twice, and what there is goes on.
    let before = filters(&pod);
    assert_eq!(pod.pod.join().unwrap(), Some(link));
    assert_eq!(pod.pod.tap().unwrap(), "mote0");
    assert_eq!(filters(&pod), before);
    exchange(&pod.host, &guest, HOST.into(), POD.into());
    drop(guest);

    pod.pod.remove().unwrap();
    let devices = ip(&pod.pod, "-o link");
    assert!(!devices.contains("mote0"), "{devices}");
    assert!(devices.contains("eth0"), "{devices}");
    let left = tc(&pod.pod, "qdisc show dev eth0");
    assert!(!left.contains("ingress"), "{left}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&pod.path()), "{mounts}");
    assert!(!Path::new(&pod.path()).exists());
    pod.pod.remove().unwrap();
}

fn filters(pod: &Pod) -> [String; 2] {
    ["eth0", "mote0"].map(|device| tc(&pod.pod, &format!("filter show dev {device} ingress")))
}

#[test]
fn others_filters_stay_and_a_device_that_came_anew_is_joined() {
    let Some(pod) = Pod::with_devices() else {
        return;
    };
    tc(&pod.pod, "qdisc add dev eth0 clsact");
    tc(
        &pod.pod,
        "filter add dev eth0 ingress pref 7 protocol ipv6 u32 match u32 1 1 at 0 flowid 1:1",
    );
    let link = pod.pod.join().unwrap().unwrap();
    let guest = Guest::start(&pod, &link);
    exchange(&pod.host, &guest, HOST.into(), POD.into());

    // The tap that the filter leads to goes away with a monitor, and another one comes.
    drop(guest);
    ip(&pod.pod, "link del mote0");
    assert_eq!(pod.pod.join().unwrap().as_ref(), Some(&link));
    let guest = Guest::start(&pod, &link);
    exchange(&pod.host, &guest, HOST.into(), POD.into());
    drop(guest);

    pod.pod.remove().unwrap();
    let left = tc(&pod.pod, "filter show dev eth0 ingress");
    assert!(left.contains("pref 7 u32"), "{left}");
    assert!(!left.contains("mirred"), "{left}");
}
