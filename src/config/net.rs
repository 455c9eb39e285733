//! A network device: what the guest sees, and what it leads to on the host.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ConfigError, MAX_SOCKET_PATH, OnDisconnect, Rate, RateLimit, Size, check_socket};

/// The most queue pairs: one thread for each.
pub const MAX_QUEUES: u16 = 8;

/// MTUs that virtio (virtio 1.3 §5.1.4.1) and a tap allow.
const MTU: std::ops::RangeInclusive<u16> = 68..=65521;

/// A network device (virtio-net). Exactly one of `tap` and `fd` says what it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Net {
    /// A tap of the host, by name; made if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// A tap (or macvtap) that is open already, by its descriptor: the first of `queues` in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// A passt that mote starts, with no rights of root, moves the packets (user-mode network).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
    /// The program for `user`; otherwise that of the environment variable MOTE_PASST, or `passt`
    /// in PATH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passt: Option<PathBuf>,
    /// The socket of a process that moves the packets (vhost-user-net).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<PathBuf>,
    /// mote listens at the socket `vhost_user`, and waits for that process.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub server: bool,
    /// What happens when the process at `vhost_user` goes away.
    pub on_disconnect: OnDisconnect,
    /// The guest's address; a random one of the locally administered ones by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Pairs of a receive and a transmit queue, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// The largest packet, without its Ethernet header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The host's kernel moves the packets (vhost-net).
    pub vhost: bool,
    /// Whether the guest finds the cable plugged in.
    pub link: bool,
    /// Bytes a second from the host to the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_bw: Option<Size>,
    /// Bytes that may pass at once after a pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_bw_burst: Option<Size>,
    /// Packets a second from the host to the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_pps: Option<u64>,
    /// Packets that may pass at once after a pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_pps_burst: Option<u64>,
    /// Bytes a second from the guest to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_bw: Option<Size>,
    /// Bytes that may pass at once after a pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_bw_burst: Option<Size>,
    /// Packets a second from the guest to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_pps: Option<u64>,
    /// Packets that may pass at once after a pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_pps_burst: Option<u64>,
}

impl Default for Net {
    fn default() -> Self {
        Net {
            tap: None,
            fd: None,
            user: false,
            passt: None,
            vhost_user: None,
            server: false,
            on_disconnect: OnDisconnect::Wait,
            mac: None,
            queues: 1,
            mtu: None,
            vhost: false,
            link: true,
            rx_bw: None,
            rx_bw_burst: None,
            rx_pps: None,
            rx_pps_burst: None,
            tx_bw: None,
            tx_bw_burst: None,
            tx_pps: None,
            tx_pps_burst: None,
        }
    }
}

impl Net {
    /// Whether another process moves the packets, and so must reach the guest's memory.
    pub fn is_served_elsewhere(&self) -> bool {
        self.user || self.vhost_user.is_some()
    }

    /// Refuses keys of another kind of network than this one is.
    fn validate_keys(&self) -> Result<(), ConfigError> {
        const TAP: &str = "tap=NAME or fd=N";
        const SOCKET: &str = "vhost-user=SOCKET";
        let (ours, socket) = (!self.is_served_elsewhere(), self.vhost_user.is_some());
        for (key, given, right, with) in [
            ("queues", self.queues != 1, ours, TAP),
            ("vhost", self.vhost, ours, TAP),
            ("link", !self.link, ours, TAP),
            ("rx-bw", self.rx_bw.is_some(), ours, TAP),
            ("tx-bw", self.tx_bw.is_some(), ours, TAP),
            ("rx-pps", self.rx_pps.is_some(), ours, TAP),
            ("tx-pps", self.tx_pps.is_some(), ours, TAP),
            ("server", self.server, socket, SOCKET),
            ("passt", self.passt.is_some(), self.user, "user"),
            (
                "on-disconnect",
                self.on_disconnect != OnDisconnect::default(),
                !ours,
                "user or vhost-user=SOCKET",
            ),
        ] {
            if given && !right {
                return Err(ConfigError::NetKey { key, with });
            }
        }
        match &self.vhost_user {
            Some(socket) => check_socket("--net vhost-user", socket, MAX_SOCKET_PATH),
            None => Ok(()),
        }
    }

    /// Checks what can be checked without looking at the host.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key: &'static str, value: &dyn fmt::Display, remedy: &'static str| {
            let value = value.to_string();
            Err(ConfigError::Net { key, value, remedy })
        };
        let given = [
            self.tap.is_some(),
            self.fd.is_some(),
            self.user,
            self.vhost_user.is_some(),
        ];
        let given = given.iter().filter(|given| **given).count();
        match (&self.tap, self.fd) {
            _ if self.is_served_elsewhere() && given > 1 => return Err(ConfigError::NetNowhere),
            _ if self.is_served_elsewhere() => {}
            (None, None) => return Err(ConfigError::NetNowhere),
            (Some(_), Some(fd)) => return wrong("fd", &fd, "give either tap=NAME or fd=N"),
            (Some(name), None) if name.len() > 15 => {
                return wrong("tap", name, "the name of an interface has at most 15 bytes");
            }
            (Some(name), None) if !is_interface_name(name) => {
                let remedy = "the name of an interface has no spaces, and none of / : %";
                return wrong("tap", name, remedy);
            }
            (None, Some(fd)) if fd < 0 => {
                return wrong("fd", &fd, "must be the number of an open descriptor");
            }
            _ => {}
        }
        self.validate_keys()?;
        if self.vhost && self.limits()? != [RateLimit::default(); 2] {
            let remedy = "the kernel knows no limits: leave out either vhost or rx-*, tx-*";
            return wrong("vhost", &"on", remedy);
        }
        if self.queues == 0 || self.queues > MAX_QUEUES {
            return wrong("queues", &self.queues, "must be 1 to 8");
        }
        self.limits()?;
        if let Some(mtu) = self.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return wrong("mtu", &mtu, "must be 68 to 65521");
        }
        if let Some(mac) = self.mac.filter(|mac| !mac.is_unicast()) {
            let remedy = "must be the address of one station: the first byte even, not all zero";
            return wrong("mac", &mac, remedy);
        }
        Ok(())
    }
}

impl Net {
    /// The limits of what goes to the guest, and of what comes from it.
    ///
    /// # Errors
    ///
    /// A rate of 0, or a burst without a rate.
    pub fn limits(&self) -> Result<[RateLimit; 2], ConfigError> {
        let rate = |key, per_second, burst| Rate::new("--net", key, per_second, burst);
        let bytes = |size: Option<Size>| size.map(|size| size.bytes());
        Ok([
            RateLimit {
                ops: rate("rx-pps", self.rx_pps, self.rx_pps_burst)?,
                bytes: rate("rx-bw", bytes(self.rx_bw), bytes(self.rx_bw_burst))?,
            },
            RateLimit {
                ops: rate("tx-pps", self.tx_pps, self.tx_pps_burst)?,
                bytes: rate("tx-bw", bytes(self.tx_bw), bytes(self.tx_bw_burst))?,
            },
        ])
    }
}

/// What Linux takes for a name (dev_valid_name), and no `%`, by which it would number it itself.
fn is_interface_name(name: &str) -> bool {
    let fine = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':' | '%');
    !name.is_empty() && name != "." && name != ".." && name.chars().all(fine)
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it's the address of one station, and not of a group or of none.
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2);
            let hex = part.filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()));
            let value = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            *byte = value.ok_or_else(|| format!("`{text}` is not like 02:00:00:00:00:01"))?;
        }
        match parts.next() {
            None => Ok(Mac(mac)),
            Some(_) => Err(format!("`{text}` has more than six bytes")),
        }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(name: &str) -> Net {
        Net {
            tap: Some(name.to_owned()),
            ..Net::default()
        }
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mac: Mac = "02:00:5e:10:00:fF".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 0x5e, 0x10, 0, 0xff]));
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for wrong in [
            "",
            "02",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "02:00:5e:10:0:01",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        assert!("+2:00:5e:10:00:01".parse::<Mac>().is_err());
    }

    #[test]
    fn a_network_of_another_process_has_keys_of_its_own() {
        let net = |text: &str| toml::from_str::<Net>(text).unwrap().validate();
        for right in [
            "user = true\nmtu = 1400",
            "user = true\npasst = '/bin/passt'",
            "vhost-user = 's'\nserver = true\non-disconnect = 'exit'",
        ] {
            assert_eq!(net(right), Ok(()), "{right}");
        }
        for wrong in [
            "user = true\ntap = 'tap0'",
            "user = true\nvhost-user = 's'",
            "user = true\nserver = true",
            "tap = 't'\nserver = true",
            "tap = 't'\npasst = 'p'",
            "fd = 3\non-disconnect = 'exit'",
            "user = true\nqueues = 2",
            "vhost-user = 's'\nvhost = true",
            "vhost-user = 's'\nrx-pps = 5",
            "vhost-user = 's'\npasst = 'p'",
            "vhost-user = 's'\nmac = '01:00:00:00:00:00'",
            "vhost-user = 's'\nmtu = 1",
        ] {
            let error = net(wrong).unwrap_err().to_string();
            assert!(error.starts_with("--net"), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_wrong_value_is_named() {
        assert_eq!(tap("tap0").validate(), Ok(()));
        let fd = |fd| Net {
            fd: Some(fd),
            ..Net::default()
        };
        assert_eq!(fd(3).validate(), Ok(()));
        assert_eq!(Net::default().validate(), Err(ConfigError::NetNowhere));
        let mut both = tap("tap0");
        both.fd = Some(3);
        let mut queues = tap("tap0");
        queues.queues = 9;
        let mut none = tap("tap0");
        none.queues = 0;
        let mut mtu = tap("tap0");
        mtu.mtu = Some(67);
        let mut group = tap("tap0");
        group.mac = Some(Mac([1, 0, 0, 0, 0, 1]));
        let mut limited = tap("tap0");
        (limited.vhost, limited.tx_pps) = (true, Some(5));
        for (net, expected) in [
            (limited, "--net vhost=on: "),
            (both, "--net fd=3: "),
            (tap("a-name-of-sixteen"), "--net tap=a-name-of-sixteen: "),
            (tap("a/b"), "--net tap=a/b: "),
            (tap("tap%d"), "--net tap=tap%d: "),
            (fd(-1), "--net fd=-1: "),
            (queues, "--net queues=9: "),
            (none, "--net queues=0: "),
            (mtu, "--net mtu=67: "),
            (group, "--net mac=01:00:00:00:00:01: "),
        ] {
            let error = net.validate().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_file_says_the_same_as_it_prints() {
        let text = "tap = \"tap0\"\nmac = \"02:00:00:00:00:01\"\nrx-bw = \"10M\"\nlink = false";
        let net: Net = toml::from_str(text).unwrap();
        assert_eq!(net.rx_bw, Some(Size::mib(10)));
        assert!(!net.link && net.queues == 1);
        let printed = toml::to_string(&net).unwrap();
        assert_eq!(toml::from_str::<Net>(&printed).unwrap(), net);
        assert!(toml::from_str::<Net>("tap = \"a\"\nip = \"1.2.3.4\"").is_err());
    }
}
