//! What containers and images may try against the agent, and each other.

mod common;

use std::fs;
use std::time::Duration;

use common::{PATIENCE, guest, sh};
use mote_agent_protocol::container::User;
use mote_agent_protocol::message::{Status, Streams};
use mote_agent_protocol::*;

#[test]
fn a_pipe_where_a_file_should_be_holds_nobody_up() {
    let Some(guest) = guest() else { return };
    let mut container = guest.container();
    container.mounts.retain(|mount| mount.target != "/etc");
    let etc = guest.folder.path().join("root/etc");
    fs::create_dir_all(&etc).unwrap();
    for name in ["passwd", "group"] {
        let path = std::ffi::CString::new(etc.join(name).to_str().unwrap()).unwrap();
        // SAFETY: a string that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o666) }, 0);
    }
    let process = Process {
        user: User::Named("0:0".to_owned()),
        ..sh("true")
    };
    let streams = Streams::default();
    guest.create(container, process, streams).unwrap();
    let write = setup::Step::File(setup::WriteFile {
        path: "/etc/passwd".to_owned(),
        root: guest
            .folder
            .path()
            .join("root")
            .to_str()
            .unwrap()
            .to_owned(),
        content: b"x".to_vec(),
        mode: 0o644,
    });
    let steps = vec![write];
    let answer = guest.call_within(PATIENCE, Request::Setup(Setup { steps }));
    assert_eq!(answer.unwrap_err().errno, libc::ENXIO);
}

#[test]
fn a_process_that_is_stopped_before_its_program_is_given_up() {
    let Some(guest) = guest() else { return };
    let streams = Streams::default();
    let made = guest.create(guest.container(), sh("true"), streams);
    let Ok(Reply::Pid(pid)) = made else {
        panic!("{made:?}")
    };
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    let answer = guest.call_within(Duration::from_secs(25), Request::Start("c".into()));
    assert_eq!(answer.unwrap_err().errno, libc::ETIMEDOUT);
    assert_eq!(guest.exited(), (Target::of("c", ""), Status::Killed(9)));
}
