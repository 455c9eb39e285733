//! virtio-balloon (virtio 1.3 §5.5): memory that the guest doesn't need goes back to the host.
//!
//! Two ways. The host sets a *target*, and the guest's driver gives up that many pages (inflates
//! the balloon) until the target shrinks again; or, with free page reporting, the driver tells the
//! host of free memory by itself, and uses it again without asking. In both, the host takes the
//! pages ([`crate::memory::release`]), and the guest finds zeros when it touches them again.
//!
//! - here: the device, as its driver sees it
//! - [`handle`]: the target, the statistics and the counts, as the host sees them
//! - `service`: the thread

pub mod handle;
mod service;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

use super::{ActivateError, Activation, VirtioDevice, read_config_bytes};
use crate::metrics::Source;

use handle::Shared;
pub use handle::{Balloon, BalloonError, GuestStats};
use service::{Role, Service, Stop};

/// Feature bits (§5.5.3).
const STATS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_POISON: u64 = 1 << 4;
const PAGE_REPORTING: u64 = 1 << 5;

/// The unit of all page numbers, whatever the page sizes of guest and host (§5.5.6).
pub const PAGE: u64 = 4096;

/// Configuration space (§5.5.4): num_pages and actual, free_page_hint_cmd_id, poison_val.
const NUM_PAGES: usize = 0;
const ACTUAL: usize = 4;
const POISON_VAL: usize = 12;
const CONFIG_SIZE: usize = 16;

/// Linux has at most 256 page numbers and 32 free blocks under way, and wants a reporting queue
/// of at least 32 descriptors.
const QUEUE_SIZE: u16 = 64;

/// What a balloon can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct BalloonConfig {
    /// How many bytes the guest shall give up from the start.
    pub size: u64,
    /// How many bytes the guest has, and so the largest target.
    pub memory: u64,
    /// Whether the guest may take pages back when it has no others left.
    pub deflate_on_oom: bool,
    /// How often to ask for statistics, if at all.
    pub stats: Option<Duration>,
    /// Whether the guest may tell of free pages.
    pub reporting: bool,
}

/// A virtio memory balloon.
pub struct BalloonDevice {
    config: BalloonConfig,
    shared: Arc<Shared>,
    /// With what ends it.
    thread: Option<(JoinHandle<()>, Arc<Stop>)>,
}

impl BalloonDevice {
    /// A new device. No thread is started before the driver is ready.
    pub fn new(config: BalloonConfig) -> Self {
        BalloonDevice {
            shared: Arc::new(Shared::new(&config)),
            config,
            thread: None,
        }
    }

    /// The host's end.
    pub fn handle(&self) -> Balloon {
        Balloon::new(self.shared.clone())
    }

    /// What each queue is for. They are numbered without gaps, as QEMU's devices and Linux' driver
    /// do for virtio-mmio and virtio-pci alike, though §5.5.2 has a fixed number for each.
    fn roles(features: u64) -> impl Iterator<Item = Role> {
        let optional = [(STATS_VQ, Role::Stats), (PAGE_REPORTING, Role::Reporting)];
        let optional = optional.into_iter().filter(move |(f, _)| features & f != 0);
        [Role::Inflate, Role::Deflate]
            .into_iter()
            .chain(optional.map(|(_, role)| role))
    }
}

impl VirtioDevice for BalloonDevice {
    fn name(&self) -> &str {
        "balloon"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        let mut features = 0;
        if self.config.stats.is_some() {
            features |= STATS_VQ;
        }
        if self.config.deflate_on_oom {
            features |= DEFLATE_ON_OOM;
        }
        if self.config.reporting {
            // Without PAGE_POISON, a guest that clears its pages when it frees them couldn't
            // report any.
            features |= PAGE_REPORTING | PAGE_POISON;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 4][..Self::roles(self.features()).count()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; CONFIG_SIZE];
        for (at, value) in [
            (NUM_PAGES, self.shared.target()),
            (ACTUAL, self.shared.actual()),
            (POISON_VAL, self.shared.poison()),
        ] {
            config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        read_config_bytes(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // Whole fields only: that is how every driver writes them (§4.2.2.2).
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match usize::try_from(offset) {
            Ok(ACTUAL) => self.shared.set_actual(value),
            Ok(POISON_VAL) => self.shared.set_poison(value),
            _ => {}
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let host = |what: &str| {
            let what = what.to_owned();
            move |source| ActivateError::Host { what, source }
        };
        let stop = Arc::new(Stop::new().map_err(host("making an eventfd"))?);
        let interval = self
            .config
            .stats
            .filter(|_| activation.features & STATS_VQ != 0);
        let roles: Vec<Role> = Self::roles(activation.features).collect();
        let interrupt = activation.interrupt.clone();
        let service = Service::new(
            activation,
            &roles,
            stop.clone(),
            interval,
            self.shared.clone(),
        )
        .map_err(host("making a timerfd"))?;
        let thread = service.spawn().map_err(|source| ActivateError::Thread {
            name: service::THREAD.to_owned(),
            source,
        })?;
        self.thread = Some((thread, stop));
        self.shared.go_live(interrupt);
        Ok(())
    }

    fn reset(&mut self) {
        self.shared.reset();
        let Some((thread, stop)) = self.thread.take() else {
            return;
        };
        if let Err(error) = stop.ask() {
            log::error!("balloon: ending its thread: {error}");
        }
        if thread.join().is_err() {
            log::error!("balloon: its thread has panicked");
        }
    }

    fn metrics(&self) -> Option<Arc<dyn Source>> {
        Some(self.shared.clone())
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
