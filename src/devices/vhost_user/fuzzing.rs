//! A back-end that lies: whatever it answers, and asks on its own account.
//!
//! An input is a row of messages. Each begins with four bytes: the request's number, flags (1 for an answer, 2 for
//! one that comes on the socket for requests, 4 for a descriptor with it, 8 for a length that isn't true), the
//! length of the payload, and how that lies. All are said before the first question, so that nobody waits.

use std::fmt::Display;
use std::io::Write;
use std::os::fd::AsRawFd;

use virtio_queue::QueueT;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::kind::{Blk, Fs, Net};
use super::*;
use crate::devices::virtio::fuzzing::{Served, drive_in};
use crate::fuzzing::files::MemoryFile;

const ANSWER: u8 = 1;
const REQUEST: u8 = 2;
const DESCRIPTOR: u8 = 4;
const WRONG_LENGTH: u8 = 8;

struct Message<'a> {
    request: u8,
    flags: u8,
    lie: u8,
    payload: &'a [u8],
}

fn messages(mut data: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while let [request, flags, len, lie, rest @ ..] = data {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        messages.push(Message {
            request: *request,
            flags: *flags,
            lie: *lie,
            payload,
        });
        data = rest;
    }
    messages
}

impl Message<'_> {
    /// Its bytes: a header of three numbers, and the payload.
    fn bytes(&self) -> Vec<u8> {
        let len = match self.flags & WRONG_LENGTH {
            0 => self.payload.len() as u32,
            _ => u32::from(self.lie) << (self.lie % 24),
        };
        let flags = match self.flags & ANSWER {
            0 => 1 | u32::from(self.flags & 0xf0) >> 1,
            _ => 1 | 4,
        };
        let header = [u32::from(self.request), flags, len];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(self.payload);
        bytes
    }
}

/// The device's thread, as far as it talks to the back-end.
struct Talk {
    link: Arc<Mutex<Link>>,
    activation: Activation,
    stop: EventFd,
    /// What it asks of mote.
    requests: Vec<Vec<u8>>,
    started: bool,
}

impl Served for Talk {
    fn turn(&mut self) -> Result<(), Box<dyn Display>> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = &mut link.session else {
            return Ok(());
        };
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let Activation { queues, memory, .. } = &self.activation;
        for (queue, rings) in queues
            .iter()
            .zip(self.requests.iter().flat_map(|r| r.get(12..)))
        {
            // What the last back-end has left of the rings.
            let at = GuestAddress(queue.queue.avail_ring());
            let _ = vm_memory::Bytes::write_slice(memory, rings, at);
            let at = GuestAddress(queue.queue.used_ring());
            let _ = vm_memory::Bytes::write_slice(memory, &rings[rings.len() / 2..], at);
            let _ = rings::resume(&queue.queue, memory, false);
        }
        let bases = vec![0; queues.len()];
        let mut inflight = None;
        let mut result = session.start(&self.stop, &self.activation, &bases, &mut inflight);
        session.hear(&self.requests.concat());
        for _ in &self.requests {
            if result.is_ok() && session.requests() >= 0 {
                result = session.answer(&self.stop).map(drop);
            }
        }
        let _ = session.write_config(&self.stop, 32, &[1]);
        let _ = session.what_is_wrong();
        let _ = session.stop(&self.activation);
        link.session = None;
        result.map_err(|error| -> Box<dyn Display> { Box::new(error) })
    }
}

/// A back-end of a drive, a folder or a network.
pub fn vhost_user(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => talk(
            Blk::new(1 + u16::from(kind >> 4 & 1), kind & 128 != 0),
            data,
        ),
        1 => talk(Fs::new("tag", 1), data),
        _ => talk(Net::new([2, 0, 0, 0, 0, 1], None), data),
    }
}

fn talk<K: Kind>(kind: K, data: &[u8]) {
    let messages = messages(data);
    let (socket, backend) = UnixStream::pair().unwrap();
    backend.set_nonblocking(true).unwrap();
    let file = MemoryFile::new(&[0; 4096]);
    let file = std::fs::File::open(file.path()).unwrap();
    let mut requests = Vec::new();
    for message in messages.iter().take(64) {
        let bytes = message.bytes();
        match message.flags & (REQUEST | DESCRIPTOR) {
            0 => drop((&backend).write_all(&bytes)),
            DESCRIPTOR => drop(backend.send_with_fd(bytes.as_slice(), file.as_raw_fd())),
            _ => requests.push(bytes),
        }
    }
    backend.shutdown(std::net::Shutdown::Write).unwrap();
    let Ok(introduced) = Introduced::new("vda", kind, socket, Limits::default()) else {
        return;
    };
    let device = introduced.device(Peer::Client("/nowhere".into()), Limits::default());
    let mut steps = arbitrary::Unstructured::new(&[]);
    drive_in(memory(), &mut steps, device, move |device, activation| {
        Box::new(Talk {
            link: device.link.clone(),
            activation,
            stop: EventFd::new(EFD_CLOEXEC).unwrap(),
            requests: requests.clone(),
            started: false,
        })
    });
}

/// As a back-end can map it.
fn memory() -> GuestMemoryMmap<()> {
    const SIZE: usize = 0x4_0000;
    thread_local! {
        static MEMORY: GuestMemoryMmap<()> = {
            let file = MemoryFile::new(&[0; SIZE]);
            let options = std::fs::File::options().read(true).write(true).open(file.path());
            let file = FileOffset::new(options.unwrap(), 0);
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), SIZE, Some(file))]).unwrap()
        };
    }
    MEMORY.with(GuestMemoryMmap::clone)
}
