//! Back-ends that do what they must not.

use super::*;

/// Each request of the introduction and of the start.
const INTRODUCTION: [u32; 7] = [
    GET_FEATURES,
    GET_PROTOCOL_FEATURES,
    SET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM,
    SET_OWNER,
    SET_BACKEND_REQ_FD,
    GET_CONFIG,
];
const START: [u32; 10] = [
    SET_FEATURES,
    SET_MEM_TABLE,
    GET_INFLIGHT_FD,
    SET_INFLIGHT_FD,
    SET_VRING_NUM,
    SET_VRING_BASE,
    SET_VRING_ADDR,
    SET_VRING_CALL,
    SET_VRING_KICK,
    SET_VRING_ENABLE,
];
const QUICK: [Twist; 7] = [
    Twist::HangUp,
    Twist::WrongRequest,
    Twist::TooLong,
    Twist::WrongVersion,
    Twist::Ones,
    Twist::ExtraFile,
    Twist::Refuse,
];

fn twisted(request: u32, twist: Twist) -> Manner {
    let twist = Some((request, twist));
    Manner { twist, ..manner() }
}

/// Whether this twist of this request can be seen at all.
fn matters(request: u32, twist: Twist) -> bool {
    let is_get = matches!(
        request,
        GET_FEATURES | GET_PROTOCOL_FEATURES | GET_QUEUE_NUM | GET_CONFIG | GET_INFLIGHT_FD
    );
    match (request, twist) {
        (SET_PROTOCOL_FEATURES, Twist::HangUp) => true,
        // Not acknowledged: whether that is done is what it is about.
        (SET_PROTOCOL_FEATURES, _) => false,
        // More features and other numbers than there are change nothing that is asked for.
        (GET_FEATURES | GET_PROTOCOL_FEATURES, Twist::Ones) => false,
        (GET_INFLIGHT_FD, Twist::Ones | Twist::ExtraFile) => false,
        (_, Twist::Refuse) => !is_get,
        _ => true,
    }
}

#[test]
fn a_wrong_introduction_is_an_error_at_once() {
    for request in INTRODUCTION {
        for twist in QUICK {
            if !matters(request, twist) {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let _backend = Backend::listen(&path, twisted(request, twist));
            let place = place(&path, false);
            let device = VhostUserDevice::connect_within("vda", Blk::new(1, false), place, PATIENT);
            let error = device.map(drop).expect_err(&format!("{request} {twist:?}"));
            assert!(error.to_string().contains("can't be used"), "{error}");
        }
    }
}

#[test]
fn a_stall_of_the_introduction_has_an_end() {
    for request in [GET_FEATURES, GET_CONFIG] {
        for twist in [Twist::Stall, Twist::Cut(4), Twist::Cut(15)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let _backend = Backend::listen(&path, twisted(request, twist));
            let place = place(&path, false);
            let device = VhostUserDevice::connect_within("vda", Blk::new(1, false), place, SHORT);
            let error = device.err().unwrap().to_string();
            assert!(error.contains("did not answer within"), "{error}");
        }
    }
}

#[test]
fn what_goes_wrong_at_the_start_is_tried_again() {
    for request in START {
        for twist in QUICK.into_iter().chain([Twist::Twice]) {
            if !matters(request, twist) {
                continue;
            }
            let (mut setting, mut bad) = Setting::new(twisted(request, twist), PATIENT, 1);
            let (shared, what) = (setting.shared.clone(), format!("{request} {twist:?}"));
            setting.ask("x");
            wait_for(&what, || shared.disconnects() > 0);
            bad.die();
            let good = Backend::listen(&setting.path, manner());
            wait_for(&what, || running(&good));
            good.wait_kick(0);
            assert_eq!(good.serve(0, 10, |_| true), 1, "{what}");
            assert_eq!(setting.answered(), 1, "{what}");
        }
    }
}

#[test]
fn a_stall_holds_nobody_up() {
    for twist in [Twist::Stall, Twist::Cut(7)] {
        let (mut setting, mut bad) = Setting::new(twisted(SET_VRING_ADDR, twist), SHORT, 1);
        let shared = setting.shared.clone();
        setting.ask("x");
        wait_for("the time limit", || shared.disconnects() > 0);
        bad.die();
        let good = Backend::listen(&setting.path, manner());
        wait_for("the ring", || running(&good));
    }
    // A reset waits for the answer, but not for ever. Later, another back-end may do.
    let (mut setting, mut bad) = Setting::new(twisted(GET_VRING_BASE, Twist::Stall), SHORT, 1);
    wait_for("the ring", || running(&bad));
    setting.guest.set(0x70, 0);
    bad.die();
    let good = Backend::listen(&setting.path, manner());
    setting.queues = setting.guest.start(!0);
    wait_for("the ring", || running(&good));
    // Neither does it wait for a start that stalls, nor for a back-end that isn't there.
    drop(good);
    setting.guest.set(0x70, 0);
    let stalls = twisted(SET_FEATURES, Twist::Stall);
    let (mut setting, bad) = Setting::new(stalls, PATIENT, 1);
    wait_for("the stall", || bad.asked(SET_OWNER) == 1);
    setting.guest.set(0x70, 0);
}

#[test]
fn nonsense_at_work_is_the_end_of_a_back_end_and_of_nobody_else() {
    let nonsense: [&dyn Fn(&Backend); 5] = [
        &|backend| backend.blurt(&[0; 1]),
        &|backend| backend.blurt(&[0xff; 4000]),
        &|backend| backend.request(&[0xff; 12]),
        // A length that no message has, and one that is a lie.
        &|backend| backend.request(&[2, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]),
        &|backend| backend.request(&[9, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1]),
    ];
    for (index, talk) in nonsense.iter().enumerate() {
        let (setting, bad) = Setting::new(manner(), SHORT, 1);
        wait_for("the ring", || running(&bad));
        talk(&bad);
        let shared = setting.shared.clone();
        wait_for(&format!("{index}"), || shared.disconnects() > 0);
    }
}

#[test]
fn a_successor_must_be_able_to_do_the_same() {
    let (setting, mut backend) = Setting::new(manner(), PATIENT, 4);
    wait_for("the ring", || running(&backend));
    backend.die();
    let (path, shared) = (setting.path.clone(), setting.shared.clone());
    let mut refused = 0;
    for poor in [
        Manner {
            features: manner().features & !FLUSH,
            ..manner()
        },
        Manner {
            queues: 3,
            ..manner()
        },
        Manner {
            features: PROTOCOL,
            ..manner()
        },
    ] {
        let mut poor = Backend::listen(&path, poor);
        wait_for("the refusal", || shared.refused() > refused);
        poor.die();
        refused = shared.refused();
    }
    let good = Backend::listen(&path, manner());
    wait_for("the ring", || running(&good));
}

#[test]
fn too_few_queues_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _backend = Backend::listen(&path, manner());
    let device = connect("vda", Blk::new(5, false), place(&path, false));
    let error = device.err().unwrap().to_string();
    assert!(
        error.contains("it has 4 queues, and 5 are needed"),
        "{error}"
    );
}
