//! The command line.

use super::super::{COMMAND_LINE_SIZE, Cmdline, CmdlineError};

fn line(defaults: &[&str], user: &[&str]) -> String {
    let mut cmdline = Cmdline::with_defaults(defaults);
    cmdline.add_device("virtio_mmio.device=4K@0xd0001000:5");
    for text in user {
        cmdline.add(*text);
    }
    cmdline.finish().unwrap().into_string().unwrap()
}

#[test]
fn the_users_parameters_win() {
    let device = "virtio_mmio.device=4K@0xd0001000:5";
    for (defaults, user, expected) in [
        (&["a=1", "b"][..], &[][..], format!("a=1 b {device}")),
        (&["a=1", "b"], &["a=2"], format!("b {device} a=2")),
        (&["a=1", "b"], &["b=x c"], format!("a=1 {device} b=x c")),
        (
            &["console=ttyS0", "q"],
            &["console=hvc0 console=tty0"],
            format!("q {device} console=hvc0 console=tty0"),
        ),
        // Keys are compared as a whole, with - and _ the same.
        (
            &["ab=1", "no_x-y"],
            &["a=2", "no-x_y"],
            format!("ab=1 {device} a=2 no-x_y"),
        ),
        // A user's device joins mote's.
        (
            &[],
            &["virtio_mmio.device=x"],
            format!("{device} virtio_mmio.device=x"),
        ),
        (&[], &["  a \t b  ", ""], format!("{device} a b")),
    ] {
        assert_eq!(line(defaults, user), expected);
    }
}

#[test]
fn a_default_is_left_out_by_name() {
    assert_eq!(
        line(&["no_x-y", "a=1", "b"], &["!no-x_y c", "!a -- !b"]),
        "b virtio_mmio.device=4K@0xd0001000:5 c -- !b"
    );
    // A name that is none of mote's is a mistake, and would do nothing in Linux either.
    let mut cmdline = Cmdline::with_defaults(&["quiet"]);
    cmdline.add("!quite");
    assert_eq!(
        cmdline.finish(),
        Err(CmdlineError::NoDefault("!quite".into()))
    );
}

#[test]
fn arguments_for_init_stay_last() {
    assert_eq!(
        line(&["a=1"], &["b -- a=3 x", "c -- y"]),
        "a=1 virtio_mmio.device=4K@0xd0001000:5 b c -- a=3 x y"
    );
    assert_eq!(
        line(&[], &["--", "b --"]),
        "virtio_mmio.device=4K@0xd0001000:5 b"
    );
    // What Linux takes for the separator, and what it doesn't.
    assert_eq!(
        line(&["x"], &["\"--\" x"]),
        "x virtio_mmio.device=4K@0xd0001000:5 -- x"
    );
    assert_eq!(
        line(&[], &["a=\"b -- c\""]),
        "virtio_mmio.device=4K@0xd0001000:5 a=\"b -- c\""
    );
    assert_eq!(
        line(&[], &["--x"]),
        "virtio_mmio.device=4K@0xd0001000:5 --x"
    );
}

#[test]
fn quotes_keep_blanks_together() {
    assert_eq!(
        line(&["a=1", "b=2"], &["\"a=x  y\" c=\"  b=3 \""]),
        "b=2 virtio_mmio.device=4K@0xd0001000:5 \"a=x  y\" c=\"  b=3 \""
    );
    let mut cmdline = Cmdline::default();
    cmdline.add("a=\"b c");
    assert_eq!(
        cmdline.finish(),
        Err(CmdlineError::OpenQuote("a=\"b c".into()))
    );
}

#[test]
fn other_characters_are_refused() {
    for (text, character) in [
        ("a\nb", '\n'),
        ("a\0", '\0'),
        ("a\r", '\r'),
        ("é", 'é'),
        ("\x7F", '\x7F'),
        ("\"\n\"", '\n'),
    ] {
        let mut cmdline = Cmdline::default();
        cmdline.add(text);
        match cmdline.finish() {
            Err(CmdlineError::Character {
                character: found, ..
            }) => assert_eq!(found, character),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn a_line_that_is_too_long_says_by_how_much() {
    let mut cmdline = Cmdline::with_defaults(&["abc"]);
    let room = COMMAND_LINE_SIZE - 1 - "abc ".len();
    cmdline.add("x".repeat(room));
    assert_eq!(
        cmdline.finish().unwrap().as_bytes_with_nul().len(),
        COMMAND_LINE_SIZE
    );
    cmdline.add_device("yz");
    let error = cmdline.finish().unwrap_err();
    assert!(error.to_string().contains("is 3 bytes too long"), "{error}");
}
