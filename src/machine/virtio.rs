//! Places the virtio devices: registers, interrupt line, notifications.

use std::sync::{Arc, Mutex};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::error::BuildError;
use crate::arch::{MmioDevice, layout};
use crate::bus::Buses;
use crate::config::ConfigError;
use crate::devices::virtio::registers::RegisterPage;
use crate::devices::virtio::{MmioTransport, VirtioDevice};
use crate::kvm::{self, MemorySlot};
use crate::memory::pages::{PAGE, Pages};
use crate::metrics::Registry;

/// The most virtio devices: one interrupt line each.
pub const MOST: usize = (layout::GSI_COUNT - layout::VIRTIO_GSI_START) as usize;

/// The devices' registers have this memory slot, after those of RAM; memory of devices' own comes
/// after it.
const REGISTERS_SLOT: u32 = 8;
/// The first memory slot of drives that the guest maps. They are the last ones.
pub const DAX_SLOTS: u32 = 16;

/// QueueNotify and InterruptACK (virtio 1.3 §4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_ACK: u64 = 0x64;
/// What a driver acknowledges in the usual case: used buffers.
const USED_BUFFERS: u32 = 1;

/// The registers of all virtio devices. Where the architecture allows it, the guest reads them as
/// memory, without an exit.
pub struct Registers {
    pages: Arc<Pages>,
    /// Takes the acknowledgements of used buffers, which change nothing (see
    /// [`crate::devices::virtio::Interrupt`]). Nobody reads it.
    acknowledged: EventFd,
}

impl Registers {
    /// Makes the pages and shows them to the guest. To be called before the irqchip is made, as
    /// [`kvm::Vm::set_memory`].
    pub fn new(fd: &kvm::Vm) -> Result<Self, BuildError> {
        let pages = Arc::new(Pages::new(MOST).map_err(BuildError::Event)?);
        if layout::REGISTERS_AS_MEMORY {
            let slot = MemorySlot {
                slot: REGISTERS_SLOT,
                guest: layout::VIRTIO_START,
                host: pages.host_address(),
                len: (MOST * PAGE) as u64,
                read_only: true,
            };
            // SAFETY: the pages are atomics which the guest can't write. `machine::Vm` keeps them
            // until its KVM descriptors are closed; where a build fails, no vCPU has run.
            unsafe { fd.set_slot(slot)? };
        }
        let acknowledged = EventFd::new(libc::EFD_CLOEXEC).map_err(BuildError::Event)?;
        Ok(Registers {
            pages,
            acknowledged,
        })
    }

    /// What must outlive the VM's KVM descriptors.
    pub fn pages(&self) -> Arc<Pages> {
        self.pages.clone()
    }
}

/// Gives each virtio device its page of registers, its interrupt line and its notifications.
pub struct VirtioPlacer<'a> {
    pub fd: &'a kvm::Vm,
    pub buses: &'a mut Buses,
    pub memory: &'a GuestMemoryMmap<()>,
    pub registers: &'a Registers,
    /// Where each device is, in order.
    pub placed: Vec<MmioDevice>,
    pub transports: Vec<Arc<Mutex<MmioTransport>>>,
    pub metrics: &'a mut Registry,
}

impl VirtioPlacer<'_> {
    /// Places the next device.
    pub fn place(
        &mut self,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Arc<Mutex<MmioTransport>>, BuildError> {
        let index = self.placed.len();
        if index >= MOST {
            return Err(ConfigError::TooManyDevices(index + 1, MOST).into());
        }
        let address = layout::VIRTIO_START + index as u64 * layout::MMIO_PAGE;
        let gsi = layout::VIRTIO_GSI_START + index as u32;
        // KVM takes what is written at once. An io_uring writes it without another thread only
        // where that can't block.
        let interrupt =
            EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(BuildError::Event)?;
        self.fd.register_irqfd(&interrupt, gsi)?;
        if let Some(source) = device.metrics() {
            self.metrics.add(source);
        }
        let name = format!("virtio-{}", device.name());
        let page = RegisterPage::new(&self.registers.pages, index);
        let transport = MmioTransport::new(device, self.memory.clone(), interrupt, page)
            .map_err(BuildError::Event)?;
        for (queue, notifier) in (0u32..).zip(transport.notifiers()) {
            self.fd
                .register_ioeventfd(notifier, address + QUEUE_NOTIFY, queue)?;
        }
        let acknowledged = &self.registers.acknowledged;
        self.fd
            .register_ioeventfd(acknowledged, address + INTERRUPT_ACK, USED_BUFFERS)?;
        let transport = Arc::new(Mutex::new(transport));
        self.buses
            .mmio
            .insert(&name, address, layout::MMIO_PAGE, transport.clone())?;
        self.placed.push(MmioDevice { address, gsi });
        self.transports.push(transport.clone());
        Ok(transport)
    }
}
