//! Nothing is lost and nothing is done twice when one back-end takes over from another.

use super::*;

#[test]
fn a_record_of_requests_in_flight_goes_from_one_to_the_next() {
    let (mut setting, mut first) = Setting::new(manner(), PATIENT, 1);
    wait_for("the ring", || running(&first));
    for text in ["a", "b", "c", "d"] {
        setting.ask(text);
    }
    first.wait_kick(0);
    // Takes three, answers the second only.
    assert_eq!(first.serve(0, 3, |index| index == 1), 3);
    first.die();
    assert_eq!(first.state.lock().unwrap().done, [b"b"]);
    assert_eq!(setting.answered(), 1);
    // Asked while nobody is there.
    setting.ask("e");

    let second = Backend::listen(&setting.path, manner());
    wait_for("the ring", || running(&second));
    second.wait_kick(0);
    assert_eq!(second.asked(GET_INFLIGHT_FD), 0);
    assert_eq!(second.serve(0, 10, |_| true), 4);
    assert_eq!(second.state.lock().unwrap().done, [b"a", b"c", b"d", b"e"]);
    setting.guest.wait_interrupt();
    assert_eq!(setting.answered(), 4);
    assert_eq!(setting.shared.disconnects(), 1);

    // A driver that starts anew has nothing in flight, and no record of the last one's.
    setting.guest.set(0x70, 0);
    setting.queues = setting.guest.start(!0);
    wait_for("the ring", || running(&second));
    assert_eq!(second.asked(GET_INFLIGHT_FD), 1);
}

#[test]
fn without_a_record_the_rings_tell() {
    let plain = Manner {
        protocol: manner().protocol & !INFLIGHT,
        ..manner()
    };
    let (mut setting, mut first) = Setting::new(plain.clone(), PATIENT, 1);
    wait_for("the ring", || running(&first));
    for text in ["a", "b", "c", "d"] {
        setting.ask(text);
    }
    first.wait_kick(0);
    assert_eq!(first.serve(0, 3, |index| index < 2), 3);
    first.die();
    assert_eq!(setting.answered(), 2);
    let mut second = Backend::listen(&setting.path, plain.clone());
    wait_for("the ring", || running(&second));
    second.wait_kick(0);
    assert_eq!(second.serve(0, 10, |index| index == 1), 2);
    assert_eq!(second.state.lock().unwrap().done, [b"d"]);
    assert_eq!(setting.answered(), 1);
    // Now "d" is done and "c" isn't.
    second.die();
    let mut third = Backend::listen(&setting.path, plain.clone());
    wait_for("the ring", || running(&third));
    third.wait_kick(0);
    setting.ask("e");
    assert_eq!(third.serve(0, 10, |_| true), 2);
    assert_eq!(third.state.lock().unwrap().done, [b"c", b"e"]);
    assert_eq!(setting.answered(), 2);
    // Rings that say nothing sensible: the driver has to start anew.
    third.die();
    setting.queues[0].set_available_index(300);
    let _fourth = Backend::listen(&setting.path, plain);
    wait_for("the failure", || setting.guest.status() & 64 != 0);
}

#[test]
fn a_network_goes_down_and_up_with_its_back_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let features = VERSION_1 | PROTOCOL;
    let manner = || Manner {
        features,
        ..super::manner()
    };
    let mut first = Backend::listen(&path, manner());
    let kind = kind::Net::new([2, 0, 0, 0, 0, 7], Some(1400));
    let device = connect("net0", kind, place(&path, false)).unwrap();
    let ram = GuestRam::new(&REGIONS.map(|(s, n)| (s, n as u64)), Backing::Shared).unwrap();
    let mut guest = FakeGuest::with_memory(device, ram.memory().clone());
    guest.start(!0);
    wait_for("the ring", || running(&first));
    assert_eq!(guest.config::<8>(0), [2, 0, 0, 0, 0, 7, 1, 0]);
    assert_eq!(guest.config::<2>(10), 1400u16.to_le_bytes());
    // Address, status and MTU are mote's: the back-end doesn't hear of them.
    assert_eq!(first.state.lock().unwrap().features, features);
    first.die();
    wait_for("the link to go down", || guest.config::<1>(6) == [0]);
    let second = Backend::listen(&path, manner());
    wait_for("the ring", || running(&second));
    wait_for("the link to come up", || guest.config::<1>(6) == [1]);
}

#[test]
fn who_wants_to_hear_of_a_loss_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut backend = Backend::listen(&path, manner());
    let device = connect("vda", Blk::new(1, false), place(&path, false)).unwrap();
    let heard = Arc::new(EventFd::new(0).unwrap());
    let tell = heard.clone();
    let device = device.on_lost(Some(Arc::new(move || tell.write(1).unwrap())));
    let _setting = Setting::with(device, folder, path);
    wait_for("the ring", || running(&backend));
    backend.die();
    assert_eq!(heard.read().unwrap(), 1);
}

#[test]
fn a_guest_that_resets_again_and_again_gets_no_back_end_sooner_and_fills_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut backend = Backend::listen(&path, manner());
    let device = connect("vda", Blk::new(1, false), place(&path, false)).unwrap();
    let link = device.link.clone();
    let mut setting = Setting::with(device, folder, path);
    let delay = |setting: &mut Setting| {
        setting.guest.set(0x70, 0);
        link.lock().unwrap().delay
    };
    wait_for("the ring", || running(&backend));
    assert!(delay(&mut setting).is_zero());
    setting.queues = setting.guest.start(!0);
    wait_for("the ring", || running(&backend));
    backend.die();
    let shared = setting.shared.clone();
    wait_for("the loss", || shared.disconnects() > 0);
    wait_for("an attempt", || {
        let after_reset = delay(&mut setting);
        setting.queues = setting.guest.start(!0);
        !after_reset.is_zero()
    });
    assert!(!delay(&mut setting).is_zero());

    let levels = [0, 1, 1000].map(|s| shared.loss_level(Duration::from_secs(s)));
    use log::Level::{Debug, Warn};
    assert_eq!(levels, [Debug, Debug, Warn], "the first was told");
}

#[test]
fn a_connection_that_was_handed_over_is_used_once() {
    use std::os::fd::IntoRawFd;

    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut backend = Backend::over(theirs, manner());
    let path = PathBuf::from(format!("fd={}", ours.into_raw_fd()));
    let device = connect("vda", Blk::new(1, false), place(&path, false)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut setting = Setting::with(device, folder, path);
    wait_for("the ring", || running(&backend));
    backend.die();
    // It waits for nobody, and ends when the driver resets the device.
    wait_for("the loss", || setting.shared.disconnects() == 1);
    setting.guest.set(0x70, 0);
    let wrong = connect(
        "vda",
        Blk::new(1, false),
        place(Path::new("fd=1000000"), false),
    );
    let error = wrong.err().unwrap().to_string();
    assert!(
        error.contains("--disk vhost-user=fd=1000000") && error.contains("not open"),
        "{error}"
    );
}

#[test]
fn a_listening_socket_that_was_handed_over_is_left_there() {
    use std::os::fd::IntoRawFd;

    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&name).unwrap();
    let path = PathBuf::from(format!("fd={}", listener.into_raw_fd()));
    let backend = Backend::over(UnixStream::connect(&name).unwrap(), manner());
    let device = connect("vda", Blk::new(1, false), place(&path, true)).unwrap();
    drop((device, backend));
    assert!(name.exists());
}
