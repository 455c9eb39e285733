//! A driver that does anything, out of the fuzzer's bytes, and a device whose queues are served between its
//! steps, by what the device's threads call, on the same thread.

mod memory;
pub mod queue;
pub mod transport;

use std::fmt::Display;
use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::buffers::Buffers;
use super::queue::{pop, push_used};
use super::testing::{DriverQueue, FakeGuest};
use super::worker::RequestHandler;
use super::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
use crate::bus::BusDevice;
use virtio_queue::QueueT;

/// The most steps, and requests of a queue before the driver's next one: what an input may take is bounded.
const STEPS: usize = 100;
const REQUESTS: usize = 64;

/// What serves a device's queues in place of its threads.
pub trait Served: Send {
    /// Does what there is to be done, or some of it. An error fails the device, as it ends a thread.
    fn turn(&mut self) -> Result<(), Box<dyn Display>>;

    /// Something happens on the host: what, and with which bytes.
    fn host(&mut self, what: u8, data: &[u8]) {
        let _ = (what, data);
    }
}

type Slot = Arc<Mutex<Option<(Box<dyn Served>, Arc<Interrupt>)>>>;

/// A device without threads.
struct Threadless<D, F> {
    device: D,
    /// What [`VirtioDevice::activate`] does otherwise.
    start: F,
    served: Slot,
}

impl<D, F> VirtioDevice for Threadless<D, F>
where
    D: VirtioDevice,
    F: FnMut(&mut D, Activation) -> Box<dyn Served> + Send,
{
    fn name(&self) -> &str {
        self.device.name()
    }
    fn device_type(&self) -> u32 {
        self.device.device_type()
    }
    fn features(&self) -> u64 {
        self.device.features()
    }
    fn ring_features(&self) -> u64 {
        self.device.ring_features()
    }
    fn queue_sizes(&self) -> &[u16] {
        self.device.queue_sizes()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let interrupt = activation.interrupt.clone();
        let served = (self.start)(&mut self.device, activation);
        *self.served.lock().unwrap() = Some((served, interrupt));
        Ok(())
    }
    fn reset(&mut self) {
        *self.served.lock().unwrap() = None;
        self.device.reset();
    }
}

/// Queues of requests, as a [`super::worker::WorkerPool`] serves them.
pub struct Handlers<H: RequestHandler> {
    queues: Vec<(ActiveQueue, H)>,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    buffers: Buffers,
    scratch: H::Scratch,
}

impl<H: RequestHandler> Handlers<H> {
    pub fn new(activation: Activation, mut handler: impl FnMut() -> H) -> Self {
        let queues = activation.queues.into_iter();
        Self {
            queues: queues.map(|queue| (queue, handler())).collect(),
            buffers: Buffers::new(&activation.memory),
            memory: activation.memory,
            interrupt: activation.interrupt,
            scratch: H::Scratch::default(),
        }
    }
}

impl<H: RequestHandler> Served for Handlers<H>
where
    H::Scratch: Send,
{
    fn turn(&mut self) -> Result<(), Box<dyn Display>> {
        let told = |error: virtio_queue::Error| -> Box<dyn Display> { Box::new(error) };
        for (ActiveQueue { queue, .. }, handler) in &mut self.queues {
            queue.disable_notification(&self.memory).map_err(told)?;
            for _ in 0..REQUESTS {
                let Some((chain, _)) = pop(queue, &self.memory).map_err(told)? else {
                    queue.enable_notification(&self.memory).map_err(told)?;
                    break;
                };
                let head = chain.head_index();
                let len = self.buffers.load(chain);
                let len = len.and_then(|()| handler.handle(&mut self.buffers, &mut self.scratch));
                let len = len.map_err(|error| -> Box<dyn Display> { Box::new(error) })?;
                if push_used(queue, &self.memory, head, len).map_err(told)? {
                    self.interrupt.used_buffers();
                }
            }
        }
        Ok(())
    }
}

/// A guest's address.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    /// Where the driver has its data.
    Data(u16),
    /// About the start or the end of a region.
    Edge(u8, i8),
    /// In the rings.
    Ring(u16),
    Any(u64),
}

impl Place {
    fn address(self) -> u64 {
        match self {
            Place::Data(at) => memory::DATA + u64::from(at),
            Place::Edge(which, near) => {
                let edge = memory::EDGES[usize::from(which) % memory::EDGES.len()];
                edge.wrapping_add_signed(near.into())
            }
            Place::Ring(at) => 0x1000 + u64::from(at),
            Place::Any(address) => address,
        }
    }
}

/// One buffer of a chain.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Part {
    write: bool,
    place: Place,
    len: Length,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Length {
    Short(u8),
    Long(u16),
    Any(u32),
}

impl Length {
    fn bytes(self) -> u32 {
        match self {
            Length::Short(len) => len.into(),
            Length::Long(len) => len.into(),
            Length::Any(len) => len,
        }
    }
}

/// What the driver, the guest's other processors, or the host does next.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// As it should be: from reset to DRIVER_OK, with these features of those that are offered.
    Start(u64),
    /// A chain: the bytes in front, if there are some, and then the parts; made available.
    Chain(u8, bool, &'a [u8], Vec<Part>),
    Notify,
    Host(u8, &'a [u8]),
    Register(u8, u32),
    Config(u8, u8, u64),
    Read(u16, u8),
    Store(Place, &'a [u8]),
    Descriptor(u8, u8, Part, u16, u16),
    Available(u8, u16, Option<u16>),
}

/// Drives `device`; `start` does what its `activate` does but for threads.
pub fn drive<D, F>(input: &mut Unstructured, device: D, start: F)
where
    D: VirtioDevice + 'static,
    F: FnMut(&mut D, Activation) -> Box<dyn Served> + Send + 'static,
{
    drive_in(memory::fresh(), input, device, start);
}

/// The same with memory of the device's own kind.
pub fn drive_in<D, F>(memory: GuestMemoryMmap<()>, input: &mut Unstructured, device: D, start: F)
where
    D: VirtioDevice + 'static,
    F: FnMut(&mut D, Activation) -> Box<dyn Served> + Send + 'static,
{
    let served = Slot::default();
    let device = Threadless {
        device,
        start,
        served: served.clone(),
    };
    let mut run = Run::new(FakeGuest::with_memory(device, memory), served);
    run.start(!0);
    run.turn();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(input) else {
            break;
        };
        run.step(step);
        run.turn();
    }
    // Whatever has happened, a driver that starts anew finds a device.
    run.start(!0);
    assert_eq!(run.guest.status(), super::testing::DRIVER_OK);
}

struct Run {
    guest: FakeGuest,
    queues: Vec<DriverQueue>,
    served: Slot,
    /// What the fake guest has allocated since this is free again after a reset.
    mark: u64,
    chains: u64,
}

impl Run {
    fn new(mut guest: FakeGuest, served: Slot) -> Self {
        let mark = guest.alloc(1);
        Run {
            guest,
            queues: Vec::new(),
            served,
            mark,
            chains: 0,
        }
    }

    fn start(&mut self, features: u64) {
        self.guest
            .set(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
        self.guest.release(self.mark);
        self.queues = self.guest.start(features);
    }

    fn turn(&mut self) {
        let mut slot = self.served.lock().unwrap();
        if let Some((served, interrupt)) = slot.as_mut()
            && let Err(error) = served.turn()
        {
            interrupt.fail(&error);
            *slot = None;
        }
    }

    fn queue(&mut self, which: u8) -> &mut DriverQueue {
        let count = self.queues.len();
        &mut self.queues[usize::from(which) % count]
    }

    fn step(&mut self, step: Step) {
        let store = |guest: &FakeGuest, address: u64, bytes: &[u8]| {
            let _ = guest.memory.write_slice(bytes, GuestAddress(address));
        };
        match step {
            Step::Start(features) => self.start(features),
            Step::Chain(queue, indirect, data, parts) => {
                let slot = self.chains % memory::SLOTS;
                self.chains += 1;
                let at = memory::DATA + slot * memory::SLOT;
                let data = &data[..data.len().min(memory::SLOT as usize)];
                store(&self.guest, at, data);
                let front = (!data.is_empty()).then_some((at, data.len() as u32, false));
                let parts = parts.iter().take(32);
                let parts = parts.map(|part| (part.place.address(), part.len.bytes(), part.write));
                let parts: Vec<_> = front.into_iter().chain(parts).collect();
                self.chain(queue, indirect, slot, &parts);
            }
            Step::Notify => {}
            Step::Host(what, data) => {
                if let Some((served, _)) = self.served.lock().unwrap().as_mut() {
                    served.host(what, data);
                }
            }
            Step::Register(register, value) => self.guest.set(u32::from(register) & !3, value),
            Step::Config(offset, width, value) => {
                let bytes = &value.to_le_bytes()[..usize::from(width % 9)];
                self.guest.transport.write(0x100 + u64::from(offset), bytes);
            }
            Step::Read(offset, width) => {
                let mut bytes = [0; 16];
                let width = usize::from(width % 17);
                self.guest
                    .transport
                    .read(offset.into(), &mut bytes[..width]);
            }
            Step::Store(place, bytes) => store(&self.guest, place.address(), bytes),
            Step::Descriptor(queue, at, part, flags, next) => {
                let queue = self.queue(queue);
                let at = u16::from(at) % queue.size;
                queue.set_descriptor(at, part.place.address(), part.len.bytes(), flags, next);
            }
            Step::Available(queue, head, index) => {
                let queue = self.queue(queue);
                match index {
                    Some(index) => queue.set_available_index(index),
                    None => drop(queue.publish(&[head])),
                }
            }
        }
    }

    fn chain(&mut self, queue: u8, indirect: bool, slot: u64, parts: &[(u64, u32, bool)]) {
        use super::testing::Buffer::{Read, Write};
        let buffer = |&(address, len, write): &(u64, u32, bool)| match write {
            true => Write(address, len),
            false => Read(address, len),
        };
        let buffers: Vec<_> = parts.iter().map(buffer).collect();
        let queue = self.queue(queue);
        if buffers.is_empty() || buffers.len() > queue.size.into() {
            return;
        }
        let head = match indirect {
            true => queue.add_indirect(memory::TABLES + slot * 0x400, &buffers),
            false => queue.add(&buffers),
        };
        queue.publish(&[head]);
    }
}
