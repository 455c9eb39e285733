//! Sets the guest up as the host says: mounts, names, files, network, time.

use std::fs;

use mote_agent_protocol::Setup;
use mote_agent_protocol::setup::Step;

use crate::error::{Error, Result};
use crate::paths::Root;
use crate::{mounts, network, sys};

pub fn set_up(setup: &Setup) -> Result<()> {
    setup.steps.iter().try_for_each(take)
}

fn take(step: &Step) -> Result<()> {
    match step {
        Step::Mount(mount) => mounts::mount(&Root::open("/")?, mount),
        Step::Unmount(path) => {
            for target in mounts::under(path) {
                sys::unmount(&target, libc::MNT_DETACH).map_err(Error::of(&target))?;
            }
            fs::remove_dir_all(path).map_err(Error::of(path))
        }
        Step::Folder(path) => fs::create_dir_all(path).map_err(Error::of(path)),
        Step::File(file) => Root::open(&file.root)?.write(&file.path, &file.content, file.mode),
        Step::Hostname(name) => sys::set_hostname(name).map_err(Error::of("hostname")),
        Step::Link(link) => network::set_up(link),
        Step::Clock(micros) => {
            let time = libc::timeval {
                tv_sec: (micros / 1_000_000) as libc::time_t,
                tv_usec: (micros % 1_000_000) as libc::suseconds_t,
            };
            // SAFETY: a time that lives through the call, and no zone.
            match unsafe { libc::settimeofday(&raw const time, std::ptr::null()) } {
                0 => Ok(()),
                _ => Err(Error::last("the clock")),
            }
        }
    }
}
