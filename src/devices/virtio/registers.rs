//! A device's registers as memory: what its driver reads.
//!
//! The page is the truth for every register and for the configuration space. Where the host can
//! give it to the guest as read-only memory ([`crate::arch::layout::REGISTERS_AS_MEMORY`]), a
//! driver's reads don't leave the guest at all; otherwise they exit and the transport answers them
//! from the same page. Writes exit always, and the transport brings the page up to date before
//! the guest goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;

use crate::arch::cpu::publish;
use crate::memory::pages::{self, Pages};

/// The largest configuration space, in bytes.
pub const CONFIG_SIZE: usize = 256;

/// The registers of one device.
#[derive(Clone, Debug)]
pub struct RegisterPage {
    pages: Arc<Pages>,
    index: usize,
}

impl RegisterPage {
    /// The page `index` of `pages`.
    pub fn new(pages: &Arc<Pages>, index: usize) -> Self {
        assert!(index < pages.count(), "no page {index}");
        let pages = pages.clone();
        Self { pages, index }
    }

    /// A page that no guest reads by itself.
    ///
    /// # Errors
    ///
    /// The host has no memory.
    pub fn alone() -> io::Result<Self> {
        Ok(Self::new(&Arc::new(Pages::new(1)?), 0))
    }

    /// Fills `data` with what a driver reads at `offset`.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = offset.min(pages::PAGE as u64) as usize;
        pages::read_bytes(self.pages.page(self.index), offset, data);
    }

    pub(super) fn get(&self, register: u32) -> u32 {
        u32::from_le(self.word(register).load(Ordering::SeqCst))
    }

    pub(super) fn set(&self, register: u32, value: u32) {
        let word = self.word(register);
        word.store(value.to_le(), Ordering::SeqCst);
        publish(word);
    }

    pub(super) fn or(&self, register: u32, bits: u32) {
        let word = self.word(register);
        word.fetch_or(bits.to_le(), Ordering::SeqCst);
        publish(word);
    }

    pub(super) fn and(&self, register: u32, bits: u32) {
        let word = self.word(register);
        word.fetch_and(bits.to_le(), Ordering::SeqCst);
        publish(word);
    }

    /// Writes to the configuration space; one thread at a time.
    pub(super) fn set_config(&self, offset: usize, data: &[u8]) {
        let offset = VIRTIO_MMIO_CONFIG as usize + offset;
        let words = self.pages.page(self.index);
        pages::write_bytes(words, offset, data);
        let changed = offset / 4..(offset + data.len()).div_ceil(4);
        words[changed.start.min(words.len())..changed.end.min(words.len())]
            .iter()
            .for_each(publish);
    }

    fn word(&self, register: u32) -> &std::sync::atomic::AtomicU32 {
        &self.pages.page(self.index)[register as usize / 4]
    }
}
