//! Back-ends that come, go, stall and talk nonsense, with a driver in plain memory.

mod backend;
mod hostile;
mod reconnect;

use std::path::PathBuf;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ};

use self::backend::*;
use super::kind::Blk;
use super::*;
use crate::devices::virtio::testing::{
    Buffer, DriverQueue, FakeGuest, REGIONS, VERSION_1, leave_socket,
};
use crate::memory::{Backing, GuestRam};

const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const BLK_MQ: u64 = 1 << VIRTIO_BLK_F_MQ;

fn manner() -> Manner {
    let mut config = vec![0; 60];
    config[0] = 100; // sectors
    config[34] = 4; // queues
    Manner {
        features: VERSION_1 | PROTOCOL | FLUSH | BLK_MQ | 1 << 63,
        protocol: MQ | REPLY_ACK | CONFIG | INFLIGHT | BACKEND_REQ | 1 << 4,
        config,
        queues: 4,
        twist: None,
    }
}

fn place(path: &Path, server: bool) -> Place<'_> {
    Place {
        option: "--disk vhost-user",
        path,
        server,
    }
}

/// Time enough for whoever wants to answer.
const PATIENT: Limits = Limits {
    answer: Duration::from_secs(60),
    stop: Duration::from_secs(60),
};
/// For those who don't.
const SHORT: Limits = Limits {
    answer: Duration::from_millis(300),
    stop: Duration::from_millis(300),
};

/// A device whose back-end may take its time.
fn connect<K: Kind>(name: &str, kind: K, place: Place) -> Result<VhostUserDevice<K>, ConnectError> {
    VhostUserDevice::connect_within(name, kind, place, PATIENT)
}

/// A guest with a drive that someone serves.
struct Setting {
    guest: FakeGuest,
    queues: Vec<DriverQueue>,
    shared: Arc<Shared>,
    path: PathBuf,
    // Last: the guest's view goes first.
    _ram: GuestRam,
    _folder: tempfile::TempDir,
}

impl Setting {
    fn new(manner: Manner, limits: Limits, queues: u16) -> (Self, Backend) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let backend = Backend::listen(&path, manner);
        let mut device = None;
        // On a busy host a good back-end, too, may take longer than is granted to a bad one.
        wait_for("an introduction in time", || {
            let (kind, place) = (Blk::new(queues, false), place(&path, false));
            device = VhostUserDevice::connect_within("vda", kind, place, limits).ok();
            device.is_some()
        });
        (Self::with(device.unwrap(), folder, path), backend)
    }

    fn with(device: VhostUserDevice<Blk>, folder: tempfile::TempDir, path: PathBuf) -> Self {
        let ranges = REGIONS.map(|(start, size)| (start, size as u64));
        let ram = GuestRam::new(&ranges, Backing::Shared).unwrap();
        let shared = device.shared.clone();
        let mut guest = FakeGuest::with_memory(device, ram.memory().clone());
        let queues = guest.start(!0);
        Setting {
            guest,
            queues,
            shared,
            path,
            _ram: ram,
            _folder: folder,
        }
    }

    /// A request to the first queue, not answered yet: where its answer goes.
    fn ask(&mut self, text: &str) -> u64 {
        let from = self.guest.alloc_with(text.as_bytes());
        let to = self.guest.alloc(text.len());
        let len = text.len() as u32;
        let queue = &mut self.queues[0];
        let head = queue.add(&[Buffer::Read(from, len), Buffer::Write(to, len)]);
        queue.publish(&[head]);
        let notifier = self.guest.transport.notifiers()[0].clone();
        notifier.write(1).unwrap();
        to
    }

    fn answered(&mut self) -> usize {
        std::iter::from_fn(|| self.queues[0].take_used()).count()
    }
}

fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    crate::devices::virtio::testing::wait_until(what, condition);
}

fn running(backend: &Backend) -> bool {
    let state = backend.state.lock().unwrap();
    state.rings.get(&0).is_some_and(|ring| ring.enabled)
}

#[test]
fn a_back_end_serves_the_drivers_rings() {
    let (mut setting, backend) = Setting::new(manner(), PATIENT, 1);
    wait_for("the ring", || running(&backend));
    let config: [u8; 8] = setting.guest.config(0);
    assert_eq!(config[0], 100);
    let queues: [u8; 2] = setting.guest.config(34);
    assert_eq!(u16::from_le_bytes(queues), 1);
    {
        let state = backend.state.lock().unwrap();
        // What the back-end doesn't have (event index), and what is not the driver's to accept, is
        // not there.
        assert_eq!(state.features, VERSION_1 | PROTOCOL | FLUSH | BLK_MQ);
    }
    let to = setting.ask("hello");
    backend.wait_kick(0);
    assert_eq!(backend.serve(0, 10, |_| true), 1);
    setting.guest.wait_interrupt();
    assert_eq!(setting.guest.load(to, 5), b"HELLO");
    assert_eq!(setting.answered(), 1);
    // A reset stops the rings, and the connection stays for the next driver.
    setting.guest.set(0x70, 0);
    assert_eq!(backend.asked(GET_VRING_BASE), 1);
    setting.queues = setting.guest.start(!0);
    wait_for("the ring again", || running(&backend));
    setting.ask("again");
    backend.wait_kick(0);
    assert_eq!(backend.serve(0, 10, |_| true), 1);
    assert_eq!((backend.asked(SET_OWNER), setting.answered()), (1, 1));
}

#[test]
fn the_driver_writes_the_configuration_and_hears_of_changes() {
    let (mut setting, backend) = Setting::new(manner(), PATIENT, 1);
    wait_for("the ring", || running(&backend));
    use crate::bus::BusDevice;
    setting.guest.transport.write(0x100 + 32, &[1]);
    setting.guest.transport.write(0x100, &[9]); // the capacity is not the driver's
    wait_for("SET_CONFIG", || backend.asked(SET_CONFIG) == 1);
    assert_eq!(backend.state.lock().unwrap().config[32], 1);
    assert_eq!(setting.guest.config::<1>(0), [100]);
    while setting.guest.irq.read().is_ok() {}
    backend.state.lock().unwrap().config[0] = 200;
    let message = [2u32, 1, 0].iter().flat_map(|n| n.to_ne_bytes());
    backend.request(&message.collect::<Vec<u8>>());
    assert_ne!(setting.guest.wait_interrupt() & 2, 0);
    assert_eq!(setting.guest.config::<1>(0), [200]);
    let mut samples = crate::metrics::Samples::default();
    setting.shared.collect(&mut samples);
    let text = samples.to_string();
    for line in [
        "mote_vhost_user_connected{device=\"vda\"} 1",
        "mote_vhost_user_config_writes_total{device=\"vda\"} 1",
        "mote_vhost_user_config_reads_total{device=\"vda\"} 1",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_back_end_with_nothing_but_the_rings_will_do() {
    // No protocol features at all: no configuration, so not a drive; a folder needs none.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let features = VERSION_1;
    let plain = Manner {
        features,
        ..manner()
    };
    let backend = Backend::listen(&path, plain);
    let kind = kind::Fs::new("data", 1);
    let device = connect("fs0", kind, place(&path, false)).unwrap();
    let ram = GuestRam::new(&REGIONS.map(|(s, n)| (s, n as u64)), Backing::Shared).unwrap();
    let mut guest = FakeGuest::with_memory(device, ram.memory().clone());
    assert_eq!(guest.start(!0).len(), 2);
    assert_eq!(&guest.config::<6>(0), b"data\0\0");
    assert_eq!(guest.config::<4>(36), [1, 0, 0, 0]);
    wait_for("the rings", || backend.asked(SET_VRING_KICK) == 2);
    assert_eq!(backend.asked(SET_VRING_ENABLE), 0);
    drop(guest);
    let error = connect("vda", Blk::new(1, false), place(&path, false));
    let error = error.err().unwrap().to_string();
    assert!(error.contains("VHOST_USER_PROTOCOL_F_CONFIG"), "{error}");
}

#[test]
fn who_listens_waits_for_the_back_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    // Left by someone who is dead.
    leave_socket(&path);
    let connect = {
        let path = path.clone();
        std::thread::spawn(move || {
            VhostUserDevice::connect_within("vda", Blk::new(2, false), place(&path, true), PATIENT)
        })
    };
    let mut backend = None;
    wait_for("the socket", || {
        let there = UnixStream::connect(&path);
        // The first to come is served: so be that one.
        there.is_ok_and(|stream| {
            backend = Some(Backend::over(stream, manner()));
            true
        })
    });
    let backend = backend.unwrap();
    let device = connect.join().unwrap().unwrap();
    let mut setting = Setting::with(device, folder, path);
    wait_for("the ring", || running(&backend));
    setting.ask("x");
    backend.wait_kick(0);
    drop(backend);
    let second = Backend::over(UnixStream::connect(&setting.path).unwrap(), manner());
    wait_for("the ring of the second", || running(&second));
    second.wait_kick(0);
    assert_eq!(second.serve(0, 10, |_| true), 1);
    assert_eq!(setting.answered(), 1);
    let path = setting.path.clone();
    drop(setting);
    assert!(!path.exists());
}

#[test]
fn a_socket_with_nobody_behind_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let refusal = |server| {
        let device = connect("vda", Blk::new(1, false), place(&path, server));
        device.err().unwrap().to_string()
    };
    let message = refusal(false);
    assert!(message.starts_with("--disk vhost-user=/"), "{message}");
    assert!(message.contains("start the back-end first"), "{message}");
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let message = refusal(true);
    assert!(message.contains("in use"), "{message}");
}
