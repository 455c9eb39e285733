//! Says of each mapping whose it is, and parts those that belong to several.

use std::collections::BTreeMap;
use std::ops::Range;

use super::amounts::{Amounts, By, FIELDS};
use super::pagemap::{Counts, Pagemap};
use super::rows::{Row, What};
use super::smaps::Mapping;
use crate::memory::places::{Kind, Place};

/// What is known of a process besides its mappings.
#[derive(Debug, Default)]
pub struct Known {
    /// The name that its program's mappings have.
    pub exe: String,
    /// The ranges that it tells.
    pub places: Vec<Place>,
    /// Whether it could not be asked for them.
    pub unasked: bool,
    /// Where threads' stack pointers are, with the threads' names.
    pub stacks: Vec<(u64, String)>,
}

/// Whose some memory is. They are told in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    what: What,
    vm: u32,
    name: Option<String>,
}

impl Owner {
    fn new(what: What, name: Option<&str>) -> Self {
        Owner {
            what,
            name: name.map(str::to_owned),
            vm: 0,
        }
    }
}

/// The rows of all mappings, in order, and how many mappings could not be parted.
pub fn sort(mappings: &[Mapping], known: &Known, pagemap: Option<&Pagemap>) -> (Vec<Row>, usize) {
    let owners = known
        .places
        .iter()
        .map(|place| (place, of_place(place, mappings)));
    let owners: Vec<_> = owners
        .filter(|(place, _)| place.kind != Kind::Stack)
        .collect();
    let mut rows: BTreeMap<Owner, (Amounts, u64)> = BTreeMap::new();
    let mut unparted = 0;
    let mut add = |owner: Owner, amounts: &Amounts, file: bool| {
        let cached = match file {
            true => amounts.resident_kib.saturating_sub(amounts.anonymous_kib),
            false => 0,
        };
        let sums = rows.entry(owner).or_default();
        sums.0 += amounts;
        sums.1 += cached;
    };
    for (index, mapping) in mappings.iter().enumerate() {
        let file = is_file(mapping);
        let mut parts = parts(
            &mapping.range,
            &owners,
            base(mapping, index, mappings, known),
        );
        // Whose is the largest gets what the others don't.
        parts.sort_by_key(|(range, _)| std::cmp::Reverse(range.end - range.start));
        let mut parts = parts.into_iter();
        let Some((_, largest)) = parts.next() else {
            continue;
        };
        let mut rest = mapping.amounts;
        for (range, owner) in parts.filter(|(_, owner)| *owner != largest) {
            let counts = pagemap.map(|map| map.count(&range, &mapping.range));
            match counts {
                Some(Ok(counts)) => {
                    let part = take(&mut rest, &counts);
                    add(owner, &part, file);
                }
                _ => unparted += 1,
            }
        }
        add(largest, &rest, file);
    }
    rows.retain(|_, (amounts, _)| *amounts != Amounts::default());
    let row = |(owner, (amounts, page_cache_kib)): (Owner, _)| Row {
        what: owner.what,
        name: owner.name,
        vm: owner.vm,
        page_cache_kib,
        amounts,
    };
    (rows.into_iter().map(row).collect(), unparted)
}

/// Takes out of `rest` what `counts` says, and no more than there is: the process goes on while it is looked
/// at, and the sum has to stay.
fn take(rest: &mut Amounts, counts: &Counts) -> Amounts {
    let before = *rest;
    let shared = counts.present_kib - counts.private_kib;
    // Clean and dirty aren't told apart page by page: in proportion.
    let of = |part: u64, kib: u64, whole: u64| match whole {
        0 => 0,
        whole => u64::try_from(u128::from(part) * u128::from(kib) / u128::from(whole) / 4 * 4)
            .unwrap_or(0)
            .min(part),
    };
    let mut part = Amounts::default();
    for (name, by, field) in FIELDS {
        let mut whole = before;
        let there = *field(&mut whole);
        let takes = match (name, by) {
            ("Private_Clean", _) => of(there, counts.private_kib, before.private_kib()),
            ("Private_Dirty", _) => counts
                .private_kib
                .saturating_sub(part.private_clean_kib)
                .min(there),
            ("Shared_Clean", _) => of(there, shared, before.shared_kib()),
            ("Shared_Dirty", _) => shared.saturating_sub(part.shared_clean_kib).min(there),
            ("KSM", _) => of(there, shared, before.shared_kib()),
            ("Pss", _) => {
                let alone = there.saturating_sub(before.private_kib());
                counts.private_kib + of(alone, shared, before.shared_kib())
            }
            ("Anonymous", _) => of(there, counts.present_kib, before.resident_kib),
            (_, By::Present) => counts.present_kib,
            (_, By::Private) => counts.private_kib,
            (_, By::Shared) => shared,
            (_, By::Huge) => counts.huge_kib,
            (_, By::Swapped) => counts.swapped_kib,
        };
        *field(&mut part) = takes.min(there);
        *field(rest) -= takes.min(there);
    }
    part
}

/// The parts of a mapping, in order, without gaps, neighbours that have one owner as one.
fn parts(whole: &Range<u64>, owners: &[(&Place, Owner)], base: Owner) -> Vec<(Range<u64>, Owner)> {
    let inside = |(place, _): &&(&Place, Owner)| {
        place.range.start < whole.end && place.range.end > whole.start
    };
    let owners: Vec<_> = owners.iter().filter(inside).collect();
    let ends = owners
        .iter()
        .flat_map(|(place, _)| [place.range.start, place.range.end]);
    let mut borders: Vec<_> = ends.filter(|at| whole.contains(at)).collect();
    borders.extend([whole.start, whole.end]);
    borders.sort_unstable();
    borders.dedup();
    let mut parts: Vec<(Range<u64>, Owner)> = Vec::with_capacity(1);
    for pair in borders.windows(2) {
        let here = owners
            .iter()
            .filter(|(place, _)| place.range.contains(&pair[0]));
        // The kernel's text is a part of RAM.
        let owner = here.max_by_key(|(place, _)| place.kind);
        let owner = owner.map_or_else(|| base.clone(), |(_, owner)| owner.clone());
        match parts.last_mut() {
            Some((range, same)) if *same == owner => range.end = pair[1],
            _ => parts.push((pair[0]..pair[1], owner)),
        }
    }
    parts
}

/// The owner of what a process tells.
fn of_place(place: &Place, mappings: &[Mapping]) -> Owner {
    let (what, name) = match place.kind {
        Kind::Ram => (What::GuestMemory, None),
        Kind::KernelText => (What::GuestKernelText, None),
        Kind::Registers => (What::Registers, None),
        Kind::Stack => (What::Stack, None),
        Kind::MappedDrive => {
            // Behind the file's end is anonymous memory that fills up its last unit.
            let file = mappings.iter().find(|m| {
                is_file(m) && m.range.start < place.range.end && m.range.end > place.range.start
            });
            (What::MappedDrive, file.map(|m| m.name.clone()))
        }
    };
    Owner {
        what,
        name,
        vm: match place.kind {
            Kind::Stack => 0,
            _ => place.vm,
        },
    }
}

/// The owner of a mapping of which the process says nothing.
fn base(mapping: &Mapping, index: usize, mappings: &[Mapping], known: &Known) -> Owner {
    let name = mapping.name.as_str();
    let of_program = |m: &Mapping| m.inode != 0 && m.name == known.exe;
    let simple = |what| Owner::new(what, None);
    if of_program(mapping) {
        return simple(match (mapping.executable, mapping.writable) {
            (true, _) => What::Code,
            (false, true) => What::Data,
            (false, false) => What::ReadOnlyData,
        });
    }
    match name {
        "[heap]" => return simple(What::Heap),
        "[stack]" => return Owner::new(What::Stack, Some("main")),
        _ if name.starts_with("[v") || name == "[uprobes]" => return simple(What::Vdso),
        _ if name.starts_with("anon_inode:kvm-") => return simple(What::Kvm),
        _ if name.starts_with("anon_inode:[io_uring]") => return simple(What::IoUring),
        _ => {}
    }
    if known.unasked && mapping.not_dumped {
        return match is_file(mapping) {
            true => Owner::new(What::MappedDrive, Some(name)),
            false => simple(What::GuestMemory),
        };
    }
    if is_shared_memory(name) {
        return Owner::new(What::SharedMemory, Some(name));
    }
    if is_file(mapping) {
        return Owner::new(What::MappedFile, Some(name));
    }
    let before = index.checked_sub(1).map(|index| &mappings[index]);
    if before.is_some_and(|m| of_program(m) && m.writable && m.range.end == mapping.range.start) {
        return simple(What::Data); // what the program starts with as zeros
    }
    let here = |address: &u64| mapping.range.contains(address);
    if let Some((_, thread)) = known.stacks.iter().find(|(at, _)| here(at)) {
        return Owner::new(What::Stack, Some(thread));
    }
    let told = known
        .places
        .iter()
        .find(|p| p.kind == Kind::Stack && here(&p.range.start));
    if let Some(place) = told {
        return Owner::new(What::Stack, Some(&format!("mote-vcpu{}", place.detail)));
    }
    // A thread that ran just now, or its stack for signals: behind pages that nobody may touch.
    let guarded = |m: &Mapping| m.guard && m.range.end == mapping.range.start;
    if mapping.writable && before.is_some_and(guarded) {
        return Owner::new(What::Stack, Some("another thread"));
    }
    simple(What::Anonymous)
}

/// Whether its pages are a file's, in the page cache.
fn is_file(mapping: &Mapping) -> bool {
    let name = mapping.name.as_str();
    mapping.inode != 0 && !is_shared_memory(name) && !name.starts_with("anon_inode:")
}

/// A memfd, or shared memory without a name.
fn is_shared_memory(name: &str) -> bool {
    let starts = ["/memfd:", "/dev/zero (deleted)", "/dev/shm/", "/SYSV"];
    starts.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests;
