//! Standard streams and statuses.

use crate::ctr::finish;
use crate::image::{self, sha256};
use crate::world::World;

/// The harness itself: what fails here is no fault of the shim.
pub fn runc_runs_one_too(world: &World) {
    let program = ["sh", "-c", "echo hello; exit 7"];
    let command = world.command_by("io.containerd.runc.v2", &["--rm"], "by-runc", &program);
    let ended = finish(command, &[]);
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(7), "hello\n"),
        "{ended:?}"
    );
}

pub fn says_hello_and_gives_its_status(world: &World) {
    let ended = world.run(&[], "hello", &["sh", "-c", "echo hello; exit 7"]);
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(7), "hello\n"),
        "{ended:?}"
    );
    // The image's own program.
    assert_eq!(world.run(&[], "hello-again", &[]).success(), "hello\n");
}

pub fn a_large_output_is_whole(world: &World) {
    const SIZE: usize = 100 << 20;
    // A program's bytes, again and again, and a number before each, so that no two parts are alike.
    let script =
        format!("i=0; while echo $i; do cat /bin/busybox; i=$((i+1)); done | head -c {SIZE}");
    let ended = world.run(&[], "large", &["sh", "-c", &script]);
    assert_eq!(
        (ended.code, ended.out.len()),
        (Some(0), SIZE),
        "{}",
        ended.err
    );
    let program = std::fs::read(image::busybox()).unwrap();
    let mut wanted: Vec<u8> = Vec::with_capacity(SIZE + program.len() + 16);
    for number in 0.. {
        if wanted.len() >= SIZE {
            break;
        }
        wanted.extend(format!("{number}\n").as_bytes());
        wanted.extend(&program);
    }
    wanted.truncate(SIZE);
    if wanted != ended.out {
        let differs = wanted
            .iter()
            .zip(&ended.out)
            .position(|(wanted, got)| wanted != got);
        panic!("the byte at {differs:?} isn't what was written");
    }
}

pub fn input_reaches_the_program(world: &World) {
    let mut input = Vec::with_capacity(8 << 20);
    let mut state = 1_u64;
    while input.len() < 8 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        input.extend(state.to_be_bytes());
    }
    // It ends only because its input does.
    let ended = finish(world.command(&["--rm"], "input", &["sha256sum"]), &input);
    assert_eq!(
        ended.success().split(' ').next(),
        Some(sha256(&input).as_str())
    );
}

pub fn errors_come_apart_from_output(world: &World) {
    let ended = world.run(
        &[],
        "apart",
        &["sh", "-c", "echo out; echo err >&2; echo more"],
    );
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (Some(0), "out\nmore\n"),
        "{ended:?}"
    );
    assert_eq!(ended.err, "err\n");
}
