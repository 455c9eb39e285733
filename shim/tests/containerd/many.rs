//! Many containers, one after the other and at once, and those that can't start.

use crate::ctr::Session;
use crate::world::World;

/// Whether there is all the time of a day (`MOTE_LONG=1`).
pub fn is_long() -> bool {
    std::env::var_os("MOTE_LONG").is_some_and(|value| value == "1")
}

/// As many as a day has, or what an emulated machine has time for.
fn few(many: u32) -> u32 {
    match is_long() {
        true => many,
        false => many.min(5 + many / 40),
    }
}

pub fn no_fast_exit_is_lost(world: &World) {
    for number in 0..few(20) {
        let id = format!("fast-{number}");
        let ended = world.run(&[], &id, &["true"]);
        assert_eq!(
            (ended.code, ended.text().as_str()),
            (Some(0), ""),
            "{id}: {ended:?}"
        );
    }
    // The same beside another program, many times in one container.
    let mut session = world.session(&[], "fast", "echo ready; exec sleep 1000");
    session.expect("ready");
    for number in 0..20 {
        let id = format!("e{number}");
        let exec = ["task", "exec", "--exec-id", &id, "fast", "echo", &id];
        assert_eq!(world.says(&exec), format!("{id}\n"));
    }
    world.says(&["task", "kill", "--signal", "SIGKILL", "fast"]);
    assert_eq!(session.end().code, Some(137));
}

pub fn a_missing_program_is_named(world: &World) {
    let ended = world.run(&[], "missing", &["/no/such/program", "word"]);
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("/no/such/program"), "{ended:?}");
    assert!(
        ended.err.contains("no such file") || ended.err.contains("not found"),
        "{ended:?}"
    );
    world.nothing_is_left();
    // One that may not be run; and the name is free again.
    let ended = world.run(&[], "missing", &["/etc/passwd"]);
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.err.to_lowercase().contains("permission denied"),
        "{ended:?}"
    );
    assert_eq!(
        world.run(&[], "missing", &["echo", "now"]).success(),
        "now\n"
    );
}

pub fn many_at_once(world: &World) {
    let start = |number: u32| {
        let script = format!(
            "echo {number}; hostname >/dev/null; head -c 1000000 /dev/zero | wc -c; exit {number}"
        );
        world.session(&[], &format!("at-once-{number}"), &script)
    };
    let sessions: Vec<_> = (1..=few(20)).map(start).collect();
    for (number, session) in (1..).zip(sessions) {
        let ended = Session::end(session);
        assert_eq!(
            (ended.code, ended.text()),
            (Some(number), format!("{number}\n1000000\n")),
            "{ended:?}"
        );
    }
}

pub fn many_in_a_row(world: &World) {
    for number in 0..few(200) {
        let id = format!("row-{number}");
        assert_eq!(
            world.run(&[], &id, &["echo", &id]).success(),
            format!("{id}\n")
        );
        if number % 20 == 4 {
            world.nothing_is_left();
            println!("{} one after the other", number + 1);
        }
    }
}
