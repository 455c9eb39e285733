//! Where a process's memory goes: of every resident page, what it is for and who else has it.
//!
//! ```text
//! /proc/PID/smaps     smaps     each mapping, and how much of it is resident
//! its own table       remote    which addresses are the guest's (memory::places)
//! /proc/PID/pagemap   pagemap   the pages of a part of a mapping
//!                     sort      whose each is  ->  rows  ->  text
//! ```
//!
//! Nothing is left out: the sum of the rows is what smaps has.

mod amounts;
mod error;
mod pagemap;
mod remote;
mod rows;
pub(crate) mod smaps;
mod sort;
mod text;

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::memory::places;

pub use amounts::Amounts;
pub use error::FootprintError;
use pagemap::Pagemap;
use remote::{Table, TableError};
pub use rows::{Row, What};
use sort::Known;
pub use text::size;

/// Of no more threads the stacks are told by name.
const MAX_THREADS: usize = 4096;

/// What a process's memory is used for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The process.
    pub pid: u32,
    /// How many VMs it runs.
    pub vms: u32,
    /// Each use.
    pub rows: Vec<Row>,
    /// The sum of the rows.
    pub total: Amounts,
    /// Of the guests' memory (RAM and mapped drives), what this process alone has.
    pub private_guest_kib: u64,
    /// Of all else, what this process alone has: what a VM costs besides the pages that its guest touches.
    pub private_besides_kib: u64,
    /// Pages of files, which are in the host's page cache whether this process runs or not.
    pub page_cache_kib: u64,
    /// What could not be told, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Footprint {
    /// Of another process.
    ///
    /// ```no_run
    /// println!("{}", motevm::footprint::Footprint::of(4711)?); // as `mote mem` prints it
    /// # Ok::<(), motevm::footprint::FootprintError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// It is no mote, has ended, or may not be looked into: see [`FootprintError`].
    pub fn of(pid: u32) -> Result<Self, FootprintError> {
        let proc = format!("/proc/{pid}");
        let proc = Path::new(&proc);
        let smaps = read(proc, pid, "smaps")?;
        let mappings = smaps::parse(&smaps);
        if mappings.is_empty() {
            return Err(FootprintError::NoMemory { pid });
        }
        let exe = fs::read_link(proc.join("exe")).map_err(|e| refused(proc, pid, "exe", e))?;
        let exe = exe.to_string_lossy().into_owned();
        let mut notes = Vec::new();
        let (table, unasked) = match remote::read(proc, &exe, &mappings) {
            Ok(table) => (table, false),
            Err(TableError::NoSection) => {
                let name = text::printable(read(proc, pid, "comm")?.trim_end());
                return Err(FootprintError::NotMote { pid, name });
            }
            Err(TableError::Version(_)) => return Err(FootprintError::OtherVersion { pid }),
            // Other users' processes were refused above. These are the same user's, protected by Yama.
            Err(TableError::Memory(e))
                if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)) =>
            {
                notes.push(
                    "the process could not be asked where its guest's kernel is (kernel.yama.ptrace_scope): \
                     that is told as other memory of the guest; root may ask"
                        .to_owned(),
                );
                (Table::default(), true)
            }
            Err(why) => return Err(FootprintError::Nonsense { pid, why }),
        };
        Ok(Self::assemble(
            proc, pid, &mappings, exe, table, unasked, notes,
        ))
    }

    /// Of this process. What can't be read is missing.
    pub fn of_this_process() -> Self {
        let proc = Path::new("/proc/self");
        let smaps = fs::read_to_string(proc.join("smaps")).unwrap_or_default();
        let exe = fs::read_link(proc.join("exe")).unwrap_or_default();
        let table = Table {
            places: places::of_this_process(),
            lost: 0,
        };
        let exe = exe.to_string_lossy().into_owned();
        let mappings = smaps::parse(&smaps);
        let notes = Vec::new();
        Self::assemble(
            proc,
            std::process::id(),
            &mappings,
            exe,
            table,
            false,
            notes,
        )
    }

    fn assemble(
        proc: &Path,
        pid: u32,
        mappings: &[smaps::Mapping],
        exe: String,
        table: Table,
        unasked: bool,
        mut notes: Vec<String>,
    ) -> Self {
        let mut places = table.places;
        let vms = number_vms(&mut places);
        if table.lost > 0 {
            notes.push(format!(
                "{} ranges of its guests found no room in its table and are told as something else",
                table.lost
            ));
        }
        let known = Known {
            exe,
            places,
            unasked,
            stacks: stacks(proc),
        };
        let pagemap = Pagemap::open(proc).ok();
        let (rows, unparted) = sort::sort(mappings, &known, pagemap.as_ref());
        if unparted > 0 {
            notes.push(format!(
                "/proc/{pid}/pagemap can't be read: {unparted} parts of mappings are told with the rest of theirs"
            ));
        }
        let mut footprint = Footprint {
            pid,
            vms: vms.max(u32::from(unasked)),
            rows,
            notes,
            ..Footprint::default()
        };
        for row in &footprint.rows {
            footprint.total += &row.amounts;
            footprint.page_cache_kib += row.page_cache_kib;
            let private = match row.what.is_of_the_guest() {
                true => &mut footprint.private_guest_kib,
                false => &mut footprint.private_besides_kib,
            };
            *private += row.amounts.private_kib();
        }
        footprint
    }

    /// The sum of the rows of one use.
    pub fn of_use(&self, what: What) -> Amounts {
        let mut sum = Amounts::default();
        for row in self.rows.iter().filter(|row| row.what == what) {
            sum += &row.amounts;
        }
        sum
    }
}

/// Numbers the VMs from 1 on, in the order of their building; how many there are.
fn number_vms(places: &mut [places::Place]) -> u32 {
    let of_vm = |place: &&places::Place| place.vm != 0;
    let mut numbers: Vec<_> = places.iter().filter(of_vm).map(|place| place.vm).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for place in places {
        let index = numbers.binary_search(&place.vm);
        place.vm = index.map_or(0, |index| index as u32 + 1);
    }
    numbers.len() as u32
}

/// The stack pointers of the threads that wait in a system call, with the threads' names.
fn stacks(proc: &Path) -> Vec<(u64, String)> {
    let Ok(tasks) = fs::read_dir(proc.join("task")) else {
        return Vec::new();
    };
    let stack = |task: io::Result<fs::DirEntry>| {
        let task = task.ok()?.path();
        let name = fs::read_to_string(task.join("comm")).ok()?;
        // "number arguments... sp pc"; "running" of one that runs.
        let text = fs::read_to_string(task.join("syscall")).ok()?;
        let pointer = text.split_ascii_whitespace().rev().nth(1)?;
        let pointer = u64::from_str_radix(pointer.strip_prefix("0x")?, 16).ok()?;
        Some((pointer, name.trim_end().to_owned()))
    };
    tasks.take(MAX_THREADS).filter_map(stack).collect()
}

fn read(proc: &Path, pid: u32, file: &str) -> Result<String, FootprintError> {
    // Names of files may be anything.
    let bytes = fs::read(proc.join(file)).map_err(|e| refused(proc, pid, file, e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn refused(proc: &Path, pid: u32, file: &str, source: io::Error) -> FootprintError {
    match source.raw_os_error() {
        Some(libc::ESRCH) => FootprintError::NoProcess { pid },
        Some(libc::ENOENT) if !proc.exists() => FootprintError::NoProcess { pid },
        Some(libc::ENOENT) => FootprintError::NoMemory { pid },
        Some(libc::EACCES | libc::EPERM) => FootprintError::Denied { pid },
        _ => FootprintError::Read {
            path: proc.join(file).display().to_string(),
            source,
        },
    }
}
