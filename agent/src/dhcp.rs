//! Asks a network for an address (DHCP, RFC 2131 and 2132), once: leases aren't renewed, which is for guests that
//! live as long as one workload.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::network::Lease;
use crate::sys;

/// How long an answer may take, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

/// BOOTP's part: everything up to the options, then their cookie (RFC 2131 section 2, 2132 section 2).
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Gets a lease for the device, which must be up.
pub fn ask(name: &str) -> Result<Lease> {
    let failed = |error| Error::of(format_args!("network {name}: DHCP"))(error);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).map_err(failed)?;
    socket.set_broadcast(true).map_err(failed)?;
    let bytes = name.as_bytes();
    // SAFETY: a name and its length.
    let bound = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            bytes.as_ptr().cast(),
            bytes.len() as libc::socklen_t,
        )
    };
    if bound != 0 {
        return Err(Error::last(format_args!("network {name}: DHCP")));
    }
    let mac = mac(name, &OwnedFd::from(socket.try_clone().map_err(failed)?))?;
    let id = u32::from_ne_bytes([mac[2], mac[3], mac[4], mac[5]]) ^ std::process::id();
    for _ in 0..TRIES {
        let discover = message(DISCOVER, id, mac, &[]);
        let Some((offer, server)) = exchange(&socket, &discover, id, mac, OFFER).map_err(failed)?
        else {
            continue;
        };
        let wanted = [
            &[50, 4][..],
            &offer.address,
            &[54, 4],
            &server.unwrap_or_default(),
        ]
        .concat();
        let request = message(REQUEST, id, mac, &wanted);
        if let Some((lease, _)) = exchange(&socket, &request, id, mac, ACK).map_err(failed)? {
            return Ok(lease);
        }
    }
    let message = format!("network {name}: DHCP: no server answers");
    Err(Error::new(message, libc::ETIMEDOUT))
}

fn mac(name: &str, socket: &OwnedFd) -> Result<[u8; 6]> {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    // SAFETY: it takes an ifreq, and fills in a hardware address.
    let data = unsafe {
        sys::ioctl(socket, libc::SIOCGIFHWADDR, &mut request)
            .map_err(Error::of(format_args!("network {name}")))?;
        request.ifr_ifru.ifru_hwaddr.sa_data
    };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(data) {
        *to = from.to_ne_bytes()[0];
    }
    Ok(mac)
}

type Answer = (Lease, Option<[u8; 4]>);

fn exchange(
    socket: &UdpSocket,
    message: &[u8],
    id: u32,
    mac: [u8; 6],
    kind: u8,
) -> std::io::Result<Option<Answer>> {
    socket.send_to(message, (Ipv4Addr::BROADCAST, 67))?;
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = [0; 1500];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv_from(&mut bytes) {
            Ok((count, _)) => match read(&bytes[..count], id, mac) {
                Some((of, lease, server)) if of == kind => return Ok(Some((lease, server))),
                Some((NAK, ..)) => return Ok(None),
                _ => {}
            },
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

fn message(kind: u8, id: u32, mac: [u8; 6], options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]); // a request, by Ethernet
    bytes[4..8].copy_from_slice(&id.to_be_bytes());
    bytes[10] = 0x80; // answers to all: there is no address yet that one could come to
    bytes[28..34].copy_from_slice(&mac);
    bytes.extend(COOKIE);
    bytes.extend([53, 1, kind]);
    bytes.extend(options);
    bytes.extend([55, 5, 1, 3, 6, 15, 26, 255]); // mask, router, name servers, domain, MTU
    bytes
}

/// The message's kind, what it offers, and the server that does. Whatever a network may send.
fn read(bytes: &[u8], id: u32, mac: [u8; 6]) -> Option<(u8, Lease, Option<[u8; 4]>)> {
    let (fixed, rest) = bytes.split_at_checked(FIXED)?;
    let mut options = rest.strip_prefix(&COOKIE)?;
    if fixed[0] != 2 || fixed[4..8] != id.to_be_bytes() || fixed[28..34] != mac {
        return None;
    }
    let address = |bytes: &[u8]| bytes.first_chunk::<4>().copied();
    let mut lease = Lease {
        address: address(&fixed[16..])?,
        prefix: 24,
        ..Lease::default()
    };
    let (mut kind, mut server) = (0, None);
    while let Some((&option, rest)) = options.split_first() {
        match option {
            0 => {
                options = rest;
                continue;
            }
            255 => break,
            _ => {}
        }
        let (&length, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(length.into())?;
        options = rest;
        match option {
            1 => lease.prefix = u32::from_be_bytes(address(value)?).leading_ones() as u8,
            3 => lease.gateway = address(value),
            6 => lease.servers = value.chunks_exact(4).filter_map(address).take(3).collect(),
            15 => {
                let text = std::str::from_utf8(value).ok();
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
                let text = text.filter(|text| text.chars().all(plain));
                lease.domain = text.map(str::to_owned);
            }
            26 => lease.mtu = value.first_chunk().map(|v| u16::from_be_bytes(*v).into()),
            53 => kind = *value.first()?,
            54 => server = address(value),
            _ => {}
        }
    }
    Some((kind, lease, server))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn offer(options: &[u8]) -> Vec<u8> {
        let mut bytes = message(OFFER, 7, MAC, &[]);
        bytes.truncate(FIXED + 4);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn an_offer_is_read() {
        let options = [
            &[53, 1, 2, 0, 1, 4, 255, 255, 0, 0, 3, 4, 10, 0, 2, 2][..],
            &[
                6, 8, 9, 9, 9, 9, 1, 1, 1, 1, 15, 3, b'a', b'.', b'b', 26, 2, 5, 220, 54, 4, 10, 0,
                2, 1, 255,
            ],
        ]
        .concat();
        let (kind, lease, server) = read(&offer(&options), 7, MAC).unwrap();
        let expected = Lease {
            address: [10, 0, 2, 15],
            prefix: 16,
            gateway: Some([10, 0, 2, 2]),
            servers: vec![[9, 9, 9, 9], [1, 1, 1, 1]],
            domain: Some("a.b".to_owned()),
            mtu: Some(1500),
        };
        assert_eq!(
            (kind, lease, server),
            (OFFER, expected, Some([10, 0, 2, 1]))
        );
    }

    #[test]
    fn what_is_anothers_or_cut_is_passed_over() {
        let good = offer(&[53, 1, 2, 3, 4, 1, 2, 3, 4, 255]);
        assert!(read(&good, 8, MAC).is_none());
        assert!(read(&good, 7, [0; 6]).is_none());
        for end in 0..good.len() {
            let _ = read(&good[..end], 7, MAC);
        }
        assert!(read(&offer(&[3, 200, 1]), 7, MAC).is_none());
        let evil = offer(&[53, 1, 2, 15, 3, b'a', b'\n', b'b', 255]);
        assert_eq!(read(&evil, 7, MAC).unwrap().1.domain, None);
    }
}
