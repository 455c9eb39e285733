//! The device's own life: reset, the transport's reset, its file.

use super::*;

#[test]
fn a_reset_by_the_driver_ends_all_and_the_next_driver_begins_anew() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let old = stream(1, 80);
    let mut program = guest.connect(&listener, &old);
    let (mut other, _) = guest.connect_from_host(2);
    guest.fake.set(0x70, 0);
    assert_eq!(rest(&mut program), b"");
    assert_eq!(rest(&mut other), b"");
    assert_eq!(guest.counts.open(), 0);

    // A program that comes while there's no driver waits for one.
    let mut early = UnixStream::connect(guest.socket()).unwrap();
    early.write_all(b"CONNECT 3\n").unwrap();
    guest.restart(EVENT_IDX);
    let (header, _) = guest.receive();
    assert_eq!((header.op, header.dst_port), (op::REQUEST, 3));
    guest.say(&stream(3, header.src_port), op::RESPONSE);
    let mut line = String::new();
    BufReader::new(&early).read_line(&mut line).unwrap();
    assert!(line.starts_with("OK "), "{line}");
    // Nothing is left of the old connection.
    guest.say(&old, op::RW);
    guest.expect(&old, op::RST);
    guest.connect(&listener, &old);
}

#[test]
fn a_reset_of_the_transport_ends_all_and_the_guest_is_told() {
    for early in [true, false] {
        let mut guest = Guest::new();
        let listener = guest.listen(80);
        let old = stream(1, 80);
        let mut program = guest.connect(&listener, &old);
        let at = guest.fake.alloc(8);
        guest.fake.store(at, &[0xff; 8]);
        let give = |guest: &mut Guest| {
            let head = guest.event.add(&[Write(at, 4)]);
            guest.fake.kick(&mut guest.event, &[head]);
        };
        if early {
            give(&mut guest);
        }
        guest.transport_reset.write(1).unwrap();
        assert_eq!(rest(&mut program), b"");
        if !early {
            give(&mut guest);
        }
        assert_eq!(guest.fake.wait_used(&mut guest.event).1, 4);
        assert_eq!(guest.fake.load(at, 8), [0, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(guest.counts.open(), 0);
        guest.connect(&listener, &old);
    }
}

#[test]
fn the_socket_goes_with_the_device() {
    let guest = Guest::new();
    let (path, folder) = (guest.socket(), guest.folder.path().to_owned());
    assert!(path.exists());
    let error = VsockDevice::new(3, Some(&path), None).err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(!error.is_hosts());
    let Guest {
        fake,
        folder: _keep,
        ..
    } = guest;
    drop(fake);
    assert!(!path.exists());
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}
