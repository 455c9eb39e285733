//! KVM's own statistics of a VM or a vCPU, by its binary interface (Linux
//! Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD): a file that describes itself, from which the
//! values are read without stopping the vCPU.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_LINEAR_HIST,
    KVM_STATS_TYPE_LOG_HIST, KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK,
};

use super::{KvmError, named};

vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// The largest file that is read: Linux 6.18 has 5 KiB for a vCPU.
const MAX_FILE: usize = 256 << 10;
/// The sizes of `struct kvm_stats_header`, and of `struct kvm_stats_desc` without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;

/// Why there are no statistics.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    /// This kernel has none.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Reading failed.
    #[error("reading KVM's statistics: {0}")]
    Read(#[from] io::Error),
    /// The file doesn't describe itself as it should.
    #[error("KVM's statistics make no sense: {0}")]
    Malformed(&'static str),
}

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticKind {
    /// It only grows.
    Cumulative,
    /// It is what it is now.
    Instant,
    /// The largest that was seen.
    Peak,
    /// Counts in buckets of this width; the last has all above.
    LinearHistogram(u32),
    /// Counts in buckets: of 0, of 1, of 2 and 3, of 4 to 7, and so on; the last has all above.
    LogHistogram,
}

/// One of KVM's statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// KVM's name for it, for example `halt_successful_poll`.
    pub name: String,
    /// What the values mean.
    pub kind: StatisticKind,
    /// One value, or those of the buckets.
    pub values: Vec<u64>,
}

/// What is known of a statistic before its value: `at` bytes into the data.
#[derive(Debug, PartialEq, Eq)]
struct Descriptor {
    name: String,
    kind: StatisticKind,
    at: usize,
    count: usize,
}

/// The parts of the file.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    descriptors: Vec<Descriptor>,
    data_at: u64,
    data_len: usize,
}

/// The statistics of one VM or vCPU, to be read at any time and from any thread.
#[derive(Debug)]
pub struct Statistics {
    file: File,
    layout: Layout,
}

impl Statistics {
    /// Asks a VM's or a vCPU's descriptor. On a vCPU's this waits until KVM_RUN has returned, so
    /// it is done before the vCPU runs, or after. The file keeps KVM's object alive, but lets
    /// nobody run it.
    pub(super) fn of(fd: &impl AsRawFd, operation: &str) -> Result<Self, StatisticsError> {
        // SAFETY: the ioctl takes no argument and gives a new descriptor or fails.
        let stats = unsafe { vmm_sys_util::ioctl::ioctl(fd, KVM_GET_STATS_FD()) };
        if stats < 0 {
            named(operation, Err(vmm_sys_util::errno::Error::last()))?;
        }
        // SAFETY: a descriptor that nobody else has.
        let file = unsafe { File::from_raw_fd(stats) };
        let layout = Layout::parse(&read_all(&file)?)?;
        Ok(Statistics { file, layout })
    }

    /// The values now.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::Read`]
    pub fn read(&self) -> Result<Vec<Statistic>, StatisticsError> {
        let mut data = vec![0; self.layout.data_len];
        self.file.read_exact_at(&mut data, self.layout.data_at)?;
        Ok(self.layout.values(&data))
    }
}

fn read_all(file: &File) -> Result<Vec<u8>, StatisticsError> {
    let mut bytes = vec![0; 8 << 10];
    let mut len = 0;
    loop {
        match file.read_at(&mut bytes[len..], len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
        if len == MAX_FILE {
            return Err(StatisticsError::Malformed("the file has no end"));
        }
        if len == bytes.len() {
            bytes.resize((2 * len).min(MAX_FILE), 0);
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// The number at `at`, if it is in there.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

impl Layout {
    /// Reads the header and the descriptors. Nothing in them is taken to lie within the file
    /// before it was seen to.
    fn parse(bytes: &[u8]) -> Result<Self, StatisticsError> {
        use StatisticsError::Malformed;
        let word = |index: usize| {
            let word = number(bytes, index * 4).ok_or(Malformed("the header is cut off"))?;
            Ok::<_, StatisticsError>(word as usize)
        };
        // flags, name_size, num_desc, id_offset, desc_offset, data_offset. All numbers are 32 bits
        // wide, so that no sum or product of two of them overflows.
        let (flags, name_size, count) = (word(0)?, word(1)?, word(2)?);
        let (descriptors_at, data_at) = (word(4)?, word(5)?);
        if flags != 0 {
            return Err(Malformed("the header has flags of a later kernel"));
        }
        if name_size == 0 {
            return Err(Malformed("names have no length"));
        }
        if data_at < HEADER || descriptors_at < HEADER {
            return Err(Malformed("a part lies in the header"));
        }
        let data = bytes.get(data_at..);
        let data = data.ok_or(Malformed("the values lie outside of the file"))?;
        let size = DESCRIPTOR + name_size;
        let end = count.checked_mul(size);
        let end = end.and_then(|len| len.checked_add(descriptors_at));
        let table = end.and_then(|end| bytes.get(descriptors_at..end));
        let table = table.ok_or(Malformed("the descriptors lie outside of the file"))?;
        let mut descriptors = Vec::with_capacity(count);
        let mut data_len = 0;
        for bytes in table.chunks_exact(size) {
            let (Some(flags), Some(at), Some(bucket)) =
                (number(bytes, 0), number(bytes, 8), number(bytes, 12))
            else {
                return Err(Malformed("a descriptor is cut off"));
            };
            let count = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
            let end = at as usize + count * 8;
            if count == 0 || end > data.len() {
                return Err(Malformed("a value lies outside of the file"));
            }
            data_len = data_len.max(end);
            let name = &bytes[DESCRIPTOR..];
            let name = &name[..name
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len())];
            if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                return Err(Malformed("a name is none"));
            }
            let kind = match flags & KVM_STATS_TYPE_MASK {
                KVM_STATS_TYPE_CUMULATIVE => StatisticKind::Cumulative,
                KVM_STATS_TYPE_INSTANT => StatisticKind::Instant,
                KVM_STATS_TYPE_PEAK => StatisticKind::Peak,
                KVM_STATS_TYPE_LINEAR_HIST => StatisticKind::LinearHistogram(bucket),
                KVM_STATS_TYPE_LOG_HIST => StatisticKind::LogHistogram,
                _ => continue, // a kind of a later kernel
            };
            descriptors.push(Descriptor {
                name: String::from_utf8_lossy(name).into_owned(),
                kind,
                at: at as usize,
                count,
            });
        }
        Ok(Layout {
            descriptors,
            data_at: data_at as u64,
            data_len,
        })
    }

    /// The statistics with their values out of `data`, which is as long as `data_len`.
    fn values(&self, data: &[u8]) -> Vec<Statistic> {
        let value = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let statistic = |d: &Descriptor| Statistic {
            name: d.name.clone(),
            kind: d.kind,
            values: data[d.at..d.at + d.count * 8]
                .chunks_exact(8)
                .map(value)
                .collect(),
        };
        self.descriptors.iter().map(statistic).collect()
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
