//! A back-end in plain code that speaks the protocol by itself, well or, on request, badly.
//!
//! Its rings are served when the test says so. What is asked of it is done like this: a buffer that
//! it may write gets the bytes of the buffer before it, in capitals.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, MmapRegion};
use vm_memory::{GuestMemoryBackend, GuestRegionMmap};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const SET_BACKEND_REQ_FD: u32 = 21;
pub const GET_CONFIG: u32 = 24;
pub const SET_CONFIG: u32 = 25;
pub const GET_INFLIGHT_FD: u32 = 31;
pub const SET_INFLIGHT_FD: u32 = 32;

pub const MQ: u64 = 1;
pub const REPLY_ACK: u64 = 1 << 3;
pub const BACKEND_REQ: u64 = 1 << 5;
pub const CONFIG: u64 = 1 << 9;
pub const INFLIGHT: u64 = 1 << 12;
pub const PROTOCOL: u64 = 1 << 30;

const NEED_REPLY: u32 = 8;

/// What a back-end does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Twist {
    HangUp,
    Stall,
    /// An answer to something else.
    WrongRequest,
    /// Only the first bytes of the answer, and then nothing.
    Cut(usize),
    /// An answer that says it is longer than any may be.
    TooLong,
    /// A version of the protocol that there isn't.
    WrongVersion,
    /// A body of ones.
    Ones,
    /// With a descriptor that nobody wants.
    ExtraFile,
    /// Says that it failed.
    Refuse,
    /// Answers twice.
    Twice,
}

/// What a back-end is like.
#[derive(Clone)]
pub struct Manner {
    pub features: u64,
    pub protocol: u64,
    pub config: Vec<u8>,
    pub queues: u64,
    pub twist: Option<(u32, Twist)>,
}

#[derive(Default)]
pub struct Ring {
    num: u16,
    base: u16,
    addresses: [u64; 3],
    kick: Option<EventFd>,
    call: Option<EventFd>,
    pub enabled: bool,
    queue: Option<Queue>,
}

/// What it was asked and given.
#[derive(Default)]
pub struct State {
    pub asked: Vec<u32>,
    pub features: u64,
    pub config: Vec<u8>,
    memory: GuestMemoryMmap<()>,
    /// Where the front end has the regions: guest address, size, its own address.
    places: Vec<[u64; 3]>,
    pub rings: BTreeMap<u32, Ring>,
    pub inflight: Option<File>,
    /// What it was asked to do by descriptor chains, in order.
    pub done: Vec<Vec<u8>>,
    requests: Option<UnixStream>,
    stream: Option<UnixStream>,
    over: bool,
}

pub struct Backend {
    path: PathBuf,
    pub state: Arc<Mutex<State>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Backend {
    /// Listens at `path`, and serves who comes, until it is dropped.
    pub fn listen(path: &Path, manner: Manner) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        Self::new(path, manner, move || Some(listener.accept().ok()?.0))
    }

    /// Serves the front end at the other end of `stream`, once.
    pub fn over(stream: UnixStream, manner: Manner) -> Self {
        let mut stream = Some(stream);
        Self::new(Path::new("/nowhere"), manner, move || stream.take())
    }

    fn new(
        path: &Path,
        manner: Manner,
        mut next: impl FnMut() -> Option<UnixStream> + Send + 'static,
    ) -> Self {
        let state = Arc::new(Mutex::new(State {
            config: manner.config.clone(),
            ..State::default()
        }));
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            while let Some(stream) = next() {
                {
                    let mut state = shared.lock().unwrap();
                    if state.over {
                        return;
                    }
                    state.stream = Some(stream.try_clone().unwrap());
                }
                while one_request(&stream, &manner, &shared).is_some() {}
                let mut state = shared.lock().unwrap();
                state.stream = None;
                if state.over {
                    return;
                }
            }
        });
        Backend {
            path: path.to_owned(),
            state,
            thread: Some(thread),
        }
    }

    pub fn asked(&self, request: u32) -> usize {
        let state = self.state.lock().unwrap();
        state.asked.iter().filter(|r| **r == request).count()
    }

    /// Takes at most `count` chains of a ring, and answers those that `answer` says; how many were taken.
    pub fn serve(&self, ring: u32, count: usize, answer: impl Fn(usize) -> bool) -> usize {
        self.state.lock().unwrap().serve(ring, count, answer)
    }

    /// The driver has kicked, or the front end for it.
    pub fn wait_kick(&self, ring: u32) {
        let kick = {
            let state = self.state.lock().unwrap();
            let kick = state.rings[&ring].kick.as_ref().unwrap();
            kick.try_clone().unwrap()
        };
        kick.read().unwrap();
    }

    /// Sends a request of its own.
    pub fn request(&self, bytes: &[u8]) {
        let state = self.state.lock().unwrap();
        let mut requests = state.requests.as_ref().unwrap();
        requests.write_all(bytes).unwrap();
    }

    /// Says something on the main socket that nobody asked for.
    pub fn blurt(&self, bytes: &[u8]) {
        let state = self.state.lock().unwrap();
        let mut stream = state.stream.as_ref().unwrap();
        stream.write_all(bytes).unwrap();
    }

    /// Hangs up, and lets nobody in any more.
    pub fn die(&mut self) {
        {
            let mut state = self.state.lock().unwrap();
            state.over = true;
            if let Some(stream) = state.stream.take() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        // Nobody else finds it any more, and its thread stops waiting.
        let gone = self.path.with_extension("gone");
        let _ = std::fs::rename(&self.path, &gone);
        let _ = UnixStream::connect(&gone);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.die();
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Reads one request and answers it; `None` when the connection is over.
fn one_request(mut stream: &UnixStream, manner: &Manner, state: &Mutex<State>) -> Option<()> {
    let mut header = [0u8; 12];
    let mut fds = [0; 16];
    let mut iovec = [libc::iovec {
        iov_base: header.as_mut_ptr().cast(),
        iov_len: header.len(),
    }];
    // SAFETY: a buffer of this function, with its length.
    let (bytes, count) = unsafe { stream.recv_with_fds(&mut iovec, &mut fds) }.ok()?;
    if bytes != 12 {
        return None;
    }
    let mut files: Vec<File> = fds[..count]
        .iter()
        // SAFETY: descriptors that were just received.
        .map(|fd| unsafe { File::from_raw_fd(*fd) })
        .collect();
    let (request, flags) = (number(&header, 0), number(&header, 4));
    let mut body = vec![0; number(&header, 8) as usize];
    stream.read_exact(&mut body).ok()?;

    let twist = manner.twist.filter(|(r, _)| *r == request).map(|(_, t)| t);
    match twist {
        Some(Twist::HangUp) => {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return None;
        }
        Some(Twist::Stall) => {
            // Until the other side has had enough.
            let mut byte = [0];
            let _ = stream.read(&mut byte);
            return None;
        }
        _ => {}
    }
    let mut sent = None;
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(request);
        let answer = state.answer(manner, request, &body, &mut files);
        sent = sent.or(state
            .inflight
            .as_ref()
            .map(|file| file.try_clone().unwrap()));
        answer
    };
    let answer = match answer {
        Some(answer) => answer,
        // Before the feature is agreed upon, nobody waits for this.
        None if flags & NEED_REPLY != 0 && manner.protocol & REPLY_ACK != 0 => {
            0u64.to_ne_bytes().to_vec()
        }
        None => return Some(()),
    };
    let mut reply = [request, 5, answer.len() as u32]
        .iter()
        .flat_map(|n| n.to_ne_bytes())
        .collect::<Vec<u8>>();
    reply.extend(&answer);
    match twist {
        Some(Twist::WrongRequest) => reply[0] ^= 3,
        Some(Twist::Cut(len)) => reply.truncate(len),
        Some(Twist::TooLong) => reply[10] = 0xff,
        Some(Twist::WrongVersion) => reply[4] = 6,
        Some(Twist::Ones) => reply[12..].fill(0xff),
        Some(Twist::Refuse) => reply[12] = 1,
        Some(Twist::Twice) => reply.extend(reply.clone()),
        _ => {}
    }
    let with_file = request == GET_INFLIGHT_FD || twist == Some(Twist::ExtraFile);
    let file = sent.or_else(|| File::open("/dev/null").ok()).unwrap();
    let fds = [file.as_raw_fd()];
    let fds = if with_file { &fds[..] } else { &[] };
    stream.send_with_fds(&[&reply[..]], fds).ok()?;
    if let Some(Twist::Cut(_)) = twist {
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        return None;
    }
    Some(())
}

impl State {
    fn answer(
        &mut self,
        manner: &Manner,
        request: u32,
        body: &[u8],
        files: &mut Vec<File>,
    ) -> Option<Vec<u8>> {
        let long_answer = |value: u64| Some(value.to_ne_bytes().to_vec());
        match request {
            GET_FEATURES => return long_answer(manner.features),
            GET_PROTOCOL_FEATURES => return long_answer(manner.protocol),
            GET_QUEUE_NUM => return long_answer(manner.queues),
            SET_FEATURES => self.features = long(body, 0),
            SET_MEM_TABLE => self.map(body, files),
            GET_CONFIG => {
                let size = number(body, 4) as usize;
                let mut answer = body[..12].to_vec();
                answer.extend(&self.config[..size]);
                return Some(answer);
            }
            SET_CONFIG => {
                let (offset, size) = (number(body, 0) as usize, number(body, 4) as usize);
                self.config[offset..offset + size].copy_from_slice(&body[12..12 + size]);
            }
            GET_INFLIGHT_FD => {
                let file = tempfile::tempfile().unwrap();
                file.set_len(4096).unwrap();
                self.inflight = Some(file);
                let mut answer = body.to_vec();
                answer[..8].copy_from_slice(&4096u64.to_ne_bytes());
                return Some(answer);
            }
            SET_INFLIGHT_FD => self.inflight = Some(files.remove(0)),
            SET_BACKEND_REQ_FD => {
                let file = std::os::fd::OwnedFd::from(files.remove(0));
                self.requests = Some(UnixStream::from(file));
            }
            SET_VRING_NUM => self.ring(body).num = number(body, 4) as u16,
            SET_VRING_BASE => self.ring(body).base = number(body, 4) as u16,
            SET_VRING_ADDR => {
                self.ring(body).addresses = [long(body, 8), long(body, 16), long(body, 24)];
            }
            SET_VRING_CALL => self.ring(body).call = Some(event(files.remove(0))),
            SET_VRING_KICK => {
                self.ring(body).kick = Some(event(files.remove(0)));
                self.begin(number(body, 0));
            }
            SET_VRING_ENABLE => self.ring(body).enabled = number(body, 4) != 0,
            GET_VRING_BASE => {
                let index = number(body, 0);
                let ring = self.rings.remove(&index);
                let base = ring.and_then(|r| r.queue).map_or(0, |q| q.next_avail());
                let answer = [index, base.into()];
                return Some(answer.iter().flat_map(|n| n.to_ne_bytes()).collect());
            }
            _ => {}
        }
        None
    }

    fn ring(&mut self, body: &[u8]) -> &mut Ring {
        self.rings.entry(number(body, 0)).or_default()
    }

    fn map(&mut self, body: &[u8], files: &mut Vec<File>) {
        assert_eq!(number(body, 0) as usize, files.len());
        self.places.clear();
        let mut regions = Vec::new();
        for (index, file) in files.drain(..).enumerate() {
            let at = 8 + 32 * index;
            let [guest, size, address, offset] = [0, 8, 16, 24].map(|field| long(body, at + field));
            self.places.push([guest, size, address]);
            let mapping = MmapRegion::from_file(FileOffset::new(file, offset), size as usize);
            regions.push(GuestRegionMmap::new(mapping.unwrap(), GuestAddress(guest)).unwrap());
        }
        self.memory = GuestMemoryMmap::from_regions(regions).unwrap();
    }

    fn begin(&mut self, index: u32) {
        let places = &self.places;
        let guest = |address: u64| {
            let inside = |p: &&[u64; 3]| (p[2]..p[2] + p[1]).contains(&address);
            let place = places.iter().find(inside).expect("a ring in a region");
            let guest = address - place[2] + place[0];
            (Some(guest as u32), Some((guest >> 32) as u32))
        };
        let ring = self.rings.get_mut(&index).unwrap();
        let mut queue = Queue::new(1024).unwrap();
        queue.try_set_size(ring.num).unwrap();
        let [desc, used, avail] = ring.addresses.map(guest);
        queue.set_desc_table_address(desc.0, desc.1);
        queue.set_used_ring_address(used.0, used.1);
        queue.set_avail_ring_address(avail.0, avail.1);
        queue.set_next_avail(ring.base);
        queue.set_next_used(ring.base);
        queue.set_ready(true);
        ring.queue = Some(queue);
    }

    /// First those that the last back-end has left, by its record.
    fn serve(&mut self, index: u32, count: usize, answer: impl Fn(usize) -> bool) -> usize {
        let ring = self.rings.get_mut(&index).unwrap();
        assert!(ring.enabled);
        let queue = ring.queue.as_mut().unwrap();
        let memory = &self.memory;
        let mut heads: Vec<(u16, Option<Vec<u8>>)> = Vec::new();
        if let Some(file) = &self.inflight {
            let mut record = [0; 1024];
            file.read_exact_at(&mut record, 0).unwrap();
            let left = record.iter().filter(|b| **b == 1).count() as u16;
            // What is in flight has been taken from the ring before.
            let used = queue.used_idx(memory, Ordering::Acquire).unwrap().0;
            if left > 0 {
                for (head, _) in record.iter().enumerate().filter(|(_, b)| **b == 1) {
                    heads.push((head as u16, None));
                }
                queue.set_next_avail(used + left);
            }
        }
        while heads.len() < count {
            let Some(chain) = queue.iter(memory).unwrap().next() else {
                break;
            };
            heads.push((chain.head_index(), None));
            if let Some(file) = &self.inflight {
                file.write_all_at(&[1], chain.head_index().into()).unwrap();
            }
        }
        for (place, (head, _)) in heads.iter().enumerate() {
            let table = queue.desc_table();
            let descriptor = |at: u16| -> (u64, u32, u16) {
                let at = GuestAddress(table + 16 * u64::from(at));
                let raw: [u64; 2] = memory.read_obj(at).unwrap();
                (raw[0], raw[1] as u32, (raw[1] >> 48) as u16)
            };
            if !answer(place) {
                continue;
            }
            let (address, len, next) = descriptor(*head);
            let mut bytes = vec![0; len as usize];
            memory
                .read_slice(&mut bytes, GuestAddress(address))
                .unwrap();
            self.done.push(bytes.clone());
            bytes.make_ascii_uppercase();
            let (address, _, _) = descriptor(next);
            memory.write_slice(&bytes, GuestAddress(address)).unwrap();
            queue.add_used(memory, *head, len).unwrap();
            if let Some(file) = &self.inflight {
                file.write_all_at(&[0], (*head).into()).unwrap();
            }
        }
        ring.call.as_ref().unwrap().write(1).unwrap();
        assert!(memory.num_regions() > 0);
        heads.len()
    }
}

fn event(file: File) -> EventFd {
    // SAFETY: the descriptor of an eventfd, given away by its owner.
    unsafe { EventFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(file)) }
}
