//! Files as block devices (linux/loop.h), for mounts that containerd means so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::error::RootfsError;

/// linux/loop.h; others may take a device between its number's being told and its use.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const MOST_TRIES: u32 = 64;

/// struct loop_config.
#[repr(C)]
struct Configuration {
    file: u32,
    block_size: u32,
    /// struct loop_info64 before its flags, and behind them.
    before: [u64; 5],
    encryption: [u32; 3],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    after: [u64; 2],
    reserved: [u64; 8],
}

/// A loop device, which is free again once nobody has it open or mounted.
#[derive(Debug)]
pub struct Device {
    /// In /dev.
    pub path: String,
    _open: File,
}

/// Makes the file one.
pub fn attach(file: &Path, is_read_only: bool) -> Result<Device, RootfsError> {
    let control_path = Path::new("/dev/loop-control");
    let control = OpenOptions::new().read(true).write(true).open(control_path);
    let control = control.map_err(RootfsError::io(control_path))?;
    let backing = OpenOptions::new()
        .read(true)
        .write(!is_read_only)
        .open(file)
        .map_err(RootfsError::io(file))?;
    let mut tries = 0;
    loop {
        // SAFETY: takes no pointer.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(RootfsError::io(control_path)(io::Error::last_os_error()));
        }
        let path = format!("/dev/loop{number}");
        let device = OpenOptions::new()
            .read(true)
            .write(!is_read_only)
            .open(&path)
            .map_err(RootfsError::io(Path::new(&path)))?;
        // SAFETY: a struct of numbers, for which zeros are valid.
        let mut configuration: Configuration = unsafe { std::mem::zeroed() };
        configuration.file = backing.as_raw_fd() as u32;
        configuration.flags = LO_FLAGS_AUTOCLEAR;
        if is_read_only {
            configuration.flags |= LO_FLAGS_READ_ONLY;
        }
        // SAFETY: the struct that the call takes.
        let done =
            unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const configuration) };
        if done == 0 {
            return Ok(Device {
                path,
                _open: device,
            });
        }
        let error = io::Error::last_os_error();
        tries += 1;
        if error.raw_os_error() != Some(libc::EBUSY) || tries == MOST_TRIES {
            return Err(RootfsError::io(Path::new(&path))(error));
        }
    }
}
