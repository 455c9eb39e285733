//! The vsock muxer: any packets of the guest, and any programs on the host.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::Unstructured;

use super::*;
use crate::devices::virtio::fuzzing::{Served, drive};

const CID: u32 = 3;
/// The guest finds a program at this port of the host.
const PORT: u32 = 1;
/// Programs at once, and turns of the muxer between the driver's steps.
const PROGRAMS: usize = 4;
const TURNS: usize = 4;

struct Inline {
    muxer: Muxer,
    path: PathBuf,
    listener: Arc<UnixListener>,
    programs: Vec<UnixStream>,
}

impl Served for Inline {
    fn turn(&mut self) -> Result<(), Box<dyn Display>> {
        for _ in 0..TURNS {
            match self.muxer.turn(true) {
                Ok(Some(true)) => {}
                Ok(_) => break,
                Err(error) => return Err(Box::new(error)),
            }
        }
        Ok(())
    }

    fn host(&mut self, what: u8, data: &[u8]) {
        let which = usize::from(what >> 4) % PROGRAMS;
        if let 0..=2 = what % 8 {
            let program = match what % 8 {
                0 => self.listener.accept().map(|(program, _)| program).ok(),
                _ => UnixStream::connect(&self.path).ok(),
            };
            let Some(mut program) = program else { return };
            program.set_nonblocking(true).unwrap();
            if what % 8 == 1 {
                let _ = program.write_all(format!("CONNECT {which}\n").as_bytes());
            }
            let _ = program.write_all(data);
            self.programs.truncate(PROGRAMS - 1);
            self.programs.insert(0, program);
            return;
        }
        if what % 8 == 7 {
            let _ = self.muxer.given.transport_reset.write(1);
            return;
        }
        let Some(program) = self.programs.get_mut(which) else {
            return;
        };
        match what % 8 {
            3 => drop(program.write_all(data)),
            4 => drop(program.read(&mut vec![0; 1 << data.len().min(17)])),
            5 => drop(program.shutdown(match data.len() % 3 {
                0 => Shutdown::Write,
                1 => Shutdown::Read,
                _ => Shutdown::Both,
            })),
            _ => drop(self.programs.remove(which)),
        }
    }
}

/// A folder of this process's, and a name in it that nobody else has.
fn fresh_path() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let folder = std::env::temp_dir().join(format!("mote-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string())
}

/// The device, its driver and its programs.
pub fn vsock(data: &[u8]) {
    let path = fresh_path();
    let limits = Limits {
        connections: PROGRAMS + 2,
        handshake: HANDSHAKE,
    };
    let device = VsockDevice::with_limits(CID, SocketFile::bind(&path).unwrap(), limits).unwrap();
    let at_port = format!("{}_{PORT}", path.display());
    let listener = UnixListener::bind(&at_port).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = Arc::new(listener);
    drive(
        &mut Unstructured::new(data),
        device,
        move |device, activation| {
            let given = Given {
                cid: device.cid.into(),
                limits: device.limits,
                socket: device.socket.clone(),
                counts: device.counts.clone(),
                stop: Arc::new(EventFd::new(EFD_CLOEXEC).unwrap()),
                transport_reset: device.transport_reset.clone(),
                erred: device.erred.clone(),
            };
            Box::new(Inline {
                muxer: Muxer::new(given, activation).unwrap(),
                path: path.clone(),
                listener: listener.clone(),
                programs: Vec::new(),
            })
        },
    );
    std::fs::remove_file(at_port).unwrap();
}
