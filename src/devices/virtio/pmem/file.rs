//! The file behind a drive that the guest maps: flushes, and writes that it can't take.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use super::open::PmemConfig;
use crate::bus::BusDevice;
use crate::config::DaxMode;
use crate::metrics::{Counter, Histogram, Samples, Source};
use crate::threads;

/// An open image that the guest maps, shared by the device and the vCPU threads.
pub struct DaxFile {
    config: PmemConfig,
    file: File,
    size: u64,
    /// The guest has written where nothing takes it, and no flush has told it so.
    lost: AtomicBool,
    /// What the log has seen, a bit for each kind.
    reported: AtomicU8,
    flushes: Counter,
    flush_errors: Counter,
    flush_time: Histogram,
    ignored_writes: Counter,
}

const FLUSH_FAILED: u8 = 1;
const WRITE_IGNORED: u8 = 2;
const NO_PAGE: u8 = 4;

impl DaxFile {
    pub(super) fn new(config: PmemConfig, file: File, size: u64) -> Self {
        Self {
            config,
            file,
            size,
            lost: AtomicBool::new(false),
            reported: AtomicU8::new(0),
            flushes: Counter::new(),
            flush_errors: Counter::new(),
            flush_time: Histogram::new(),
            ignored_writes: Counter::new(),
        }
    }

    /// What the user wanted.
    pub fn config(&self) -> &PmemConfig {
        &self.config
    }

    /// For the mapping.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// In bytes, when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes durable what the guest has written. What it wrote and nothing took makes the first
    /// flush after it fail: a guest that asks is told.
    ///
    /// # Errors
    ///
    /// The host's: then nothing is known of what is durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        let start = Instant::now();
        let result = match self.config.mode {
            DaxMode::Shared => self.file.sync_data(),
            DaxMode::ReadOnly | DaxMode::Private => Ok(()),
        };
        self.flushes.inc();
        self.flush_time.record(start.elapsed());
        if let Err(error) = &result {
            let text = format_args!("flushing: {error}: the guest gets an I/O error");
            self.report(FLUSH_FAILED, text);
        }
        let lost = self.lost.swap(false, Ordering::AcqRel);
        let result = match lost {
            true => result.and(Err(io::ErrorKind::ReadOnlyFilesystem.into())),
            false => result,
        };
        if result.is_err() {
            self.flush_errors.inc();
        }
        result
    }

    /// Why the host has no page for the guest, if this file can be the reason.
    pub fn trouble(&self) -> Option<String> {
        let path = self.config.path.display();
        let metadata = match self.file.metadata() {
            Ok(metadata) => metadata,
            Err(e) => return Some(format!("drive {path} has gone while in use: {e}")),
        };
        if !metadata.file_type().is_block_device() && metadata.len() < self.size {
            return Some(format!(
                "drive {path} has shrunk while in use, from {} to {} bytes: a file that a guest \
                 maps (dax) must stay as it is",
                self.size,
                metadata.len()
            ));
        }
        (self.config.mode == DaxMode::Shared).then(|| {
            format!(
                "the host may have had no room for a page of drive {path}, or failed to read one: \
                 see the host's kernel log; `fallocate -l {} {path}` gives a sparse image its room \
                 before it is mapped (dax)",
                self.size
            )
        })
    }

    /// A line for the host's log, at `warn` the first time that it is of this kind.
    fn report(&self, kind: u8, text: std::fmt::Arguments) {
        let level = match self.reported.fetch_or(kind, Ordering::Relaxed) & kind {
            0 => log::Level::Warn,
            _ => log::Level::Debug,
        };
        log::log!(level, "drive {}: {text}", self.config.path.display());
    }
}

impl Source for DaxFile {
    fn collect(&self, samples: &mut Samples) {
        let labels = &[("device", self.config.name.as_str())];
        let mut counter = |name, help, value: &Counter| {
            samples.counter(name, help, labels, value.get());
        };
        counter(
            "mote_pmem_flushes_total",
            "Flushes that the guest asked for.",
            &self.flushes,
        );
        counter(
            "mote_pmem_flush_errors_total",
            "Flushes that failed.",
            &self.flush_errors,
        );
        counter(
            "mote_pmem_ignored_writes_total",
            "Writes of the guest to where it may only read.",
            &self.ignored_writes,
        );
        let help = "How long a flush took the host.";
        samples.histogram("mote_pmem_flush_seconds", help, labels, &self.flush_time);
    }
}

/// What the guest meets where KVM can't let it reach the mapping, and hands its access to the
/// monitor: above all a write to where it may only read.
pub struct Beyond {
    file: Arc<DaxFile>,
    /// Where the guest may only read.
    read_only: Range<u64>,
}

impl Beyond {
    /// For all of a drive, of which the guest may only read a part.
    pub fn new(file: Arc<DaxFile>, read_only: Range<u64>) -> Self {
        Self { file, read_only }
    }

    fn no_page(&self, offset: u64) {
        let file = self.file.clone();
        // A vCPU's thread may not look at files.
        threads::soon(move || {
            let trouble = file.trouble();
            let trouble = trouble.as_deref();
            let trouble = trouble.unwrap_or("the host can't read its mapping");
            file.report(NO_PAGE, format_args!("no page at {offset:#x}: {trouble}"));
        });
    }
}

impl BusDevice for Beyond {
    /// Rare: where an instruction is emulated and the host has no page, KVM asks the monitor.
    /// Elsewhere KVM_RUN fails.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.no_page(offset);
    }

    fn write(&mut self, offset: u64, _: &[u8]) {
        self.file.lost.store(true, Ordering::Release);
        if !self.read_only.contains(&offset) {
            return self.no_page(offset);
        }
        self.file.ignored_writes.inc();
        let text = match self.file.config.mode {
            DaxMode::ReadOnly => {
                "the guest writes to it, though it is `ro`: ignored. Mount it read-only there \
                 (-o ro), or use `cow`"
            }
            _ => {
                "the guest writes beyond the end of the file: ignored, and its next flush fails. \
                 Give the file more room (`truncate`) before it is mapped"
            }
        };
        self.file
            .report(WRITE_IGNORED, format_args!("{text} (at {offset:#x})"));
    }
}
