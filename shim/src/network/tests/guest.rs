//! A guest that is no VM: a network stack in a namespace of its own, whose eth0 is a tap too, and a thread
//! in the place of the monitor, which moves packets with their headers between the two.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::*;

/// As mote's (virtio 1.3 §5.1.6.1).
const HEADER: libc::c_int = 12;

pub struct Guest {
    pub stack: Namespace,
    end: Arc<File>,
    monitor: Option<JoinHandle<()>>,
}

impl Guest {
    /// Attaches to the pod's tap, and sets the guest's eth0 up as `link` says.
    pub fn start(pod: &Pod, link: &Link) -> Self {
        let stack = Namespace::make(&pod.folder.path().join("guest")).unwrap();
        let name = pod.pod.tap().unwrap();
        let outside = inside(&pod.pod, || attach(&name));
        let within = inside(&stack, || attach("eth0"));
        set_up(&stack, link);
        let end = eventfd();
        let stop = end.clone();
        let monitor = std::thread::spawn(move || pump([outside, within], &stop));
        Self {
            stack,
            end,
            monitor: Some(monitor),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        (&*self.end).write_all(&1_u64.to_ne_bytes()).unwrap();
        let monitor = self.monitor.take().unwrap();
        let _ = (monitor.join(), self.stack.remove());
    }
}

fn eventfd() -> Arc<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: takes no pointer, and gives a new descriptor.
    Arc::new(unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) })
}

/// Opens a tap as mote does (src/devices/virtio/net/open.rs), and offers all offloads that Linux guests do.
fn attach(name: &str) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun").unwrap();
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    let header = HEADER;
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    for (order, argument) in [
        (libc::TUNSETIFF, (&raw mut request).addr() as libc::c_ulong),
        (
            libc::TUNSETVNETHDRSZ,
            (&raw const header).addr() as libc::c_ulong,
        ),
        (libc::TUNSETOFFLOAD, offloads.into()),
    ] {
        // SAFETY: an ifreq and an int, which outlive the calls, and a number.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), order, argument) };
        assert!(done >= 0, "{name}: {}", std::io::Error::last_os_error());
    }
    file
}

fn pump(taps: [File; 2], stop: &File) {
    let mut packet = vec![0; 1 << 17];
    let of = |fd: RawFd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        let mut waits = [&taps[0], &taps[1], stop].map(|file| of(file.as_raw_fd()));
        // SAFETY: as many as it's told.
        let ready = unsafe { libc::poll(waits.as_mut_ptr(), 3, -1) };
        if ready < 0 || waits[2].revents != 0 {
            return;
        }
        for [mut from, mut to] in [[&taps[0], &taps[1]], [&taps[1], &taps[0]]] {
            match from.read(&mut packet) {
                // What the other end doesn't take is lost, as on any wire.
                Ok(length) => drop(to.write(&packet[..length])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// What the agent does with ioctls (agent/src/network.rs).
fn set_up(stack: &Namespace, link: &Link) {
    let mac = link.mac.unwrap().map(|byte| format!("{byte:02x}"));
    ip(
        stack,
        &format!(
            "link set eth0 address {} mtu {}",
            mac.join(":"),
            link.mtu.unwrap()
        ),
    );
    ip(stack, "link set eth0 up");
    for (address, prefix) in &link.addresses {
        let address = Ipv4Addr::from(*address);
        ip(stack, &format!("addr add {address}/{prefix} dev eth0"));
    }
    for (address, prefix) in &link.addresses6 {
        let address = Ipv6Addr::from(*address);
        ip(
            stack,
            &format!("addr add {address}/{prefix} dev eth0 nodad"),
        );
    }
    let direct = link.routes.iter().filter(|route| route.gateway.is_none());
    for route in direct {
        let to = Ipv4Addr::from(route.destination);
        ip(
            stack,
            &format!("route add {to}/{} dev eth0 scope link", route.prefix),
        );
    }
    for route in &link.routes {
        if let Some(gateway) = route.gateway.map(Ipv4Addr::from) {
            let to = Ipv4Addr::from(route.destination);
            ip(
                stack,
                &format!("route add {to}/{} via {gateway}", route.prefix),
            );
        }
    }
    if let Some(gateway) = link.gateway.map(Ipv4Addr::from) {
        ip(stack, &format!("route add default via {gateway}"));
    }
    if let Some(gateway) = link.gateway6.map(Ipv6Addr::from) {
        ip(
            stack,
            &format!("-6 route add default via {gateway} dev eth0"),
        );
    }
}
