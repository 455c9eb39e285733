//! How much of something is in memory, and in which way: the numbers of /proc/PID/smaps.

use serde::{Deserialize, Serialize};

/// Amounts in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// In memory: the sum of private and shared, clean and dirty.
    pub resident_kib: u64,
    /// The process's proportional part: a page that n processes map counts as an n-th (Pss).
    pub proportional_kib: u64,
    /// Mapped by this process alone, and as it is on disk.
    pub private_clean_kib: u64,
    /// Mapped by this process alone, and written to.
    pub private_dirty_kib: u64,
    /// Mapped by other processes too, and as it is on disk.
    pub shared_clean_kib: u64,
    /// Mapped by other processes too, and written to by any of them.
    pub shared_dirty_kib: u64,
    /// Of the resident: not a file's. The rest is page cache.
    pub anonymous_kib: u64,
    /// Of the resident: in huge pages, of anonymous memory,
    pub anon_huge_kib: u64,
    /// of shared memory (memfd),
    pub shmem_huge_kib: u64,
    /// and of files.
    pub file_huge_kib: u64,
    /// In pages of hugetlbfs, which the kernel counts as resident nowhere: used by this process alone,
    pub private_hugetlb_kib: u64,
    /// and by others too.
    pub shared_hugetlb_kib: u64,
    /// Of the resident: merged with equal pages (KSM).
    pub merged_kib: u64,
    /// Swapped out,
    pub swap_kib: u64,
    /// and the process's proportional part of that.
    pub swap_proportional_kib: u64,
}

/// By which count of pages an amount is shared out between the parts of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Present,
    Private,
    Shared,
    Huge,
    Swapped,
}

type Field = (&'static str, By, fn(&mut Amounts) -> &mut u64);

/// The names in smaps, and how each amount is shared out.
pub const FIELDS: [Field; 15] = [
    ("Rss", By::Present, |a| &mut a.resident_kib),
    ("Pss", By::Present, |a| &mut a.proportional_kib),
    ("Private_Clean", By::Private, |a| &mut a.private_clean_kib),
    ("Private_Dirty", By::Private, |a| &mut a.private_dirty_kib),
    ("Shared_Clean", By::Shared, |a| &mut a.shared_clean_kib),
    ("Shared_Dirty", By::Shared, |a| &mut a.shared_dirty_kib),
    ("Anonymous", By::Present, |a| &mut a.anonymous_kib),
    ("AnonHugePages", By::Huge, |a| &mut a.anon_huge_kib),
    ("ShmemPmdMapped", By::Huge, |a| &mut a.shmem_huge_kib),
    ("FilePmdMapped", By::Huge, |a| &mut a.file_huge_kib),
    ("Private_Hugetlb", By::Private, |a| {
        &mut a.private_hugetlb_kib
    }),
    ("Shared_Hugetlb", By::Shared, |a| &mut a.shared_hugetlb_kib),
    ("KSM", By::Shared, |a| &mut a.merged_kib),
    ("Swap", By::Swapped, |a| &mut a.swap_kib),
    ("SwapPss", By::Swapped, |a| &mut a.swap_proportional_kib),
];

impl Amounts {
    /// Takes a line of smaps, if it is one of these: `Rss:    12 kB`.
    pub fn read(&mut self, key: &str, value: &str) {
        let field = FIELDS.iter().find(|(name, ..)| *name == key);
        let number = value.split_ascii_whitespace().next();
        let number = number.and_then(|word| word.parse().ok());
        if let (Some((_, _, field)), Some(number)) = (field, number) {
            *field(self) = number;
        }
    }

    /// The mean of so many that were added up.
    pub fn divided(mut self, count: u64) -> Self {
        for (_, _, field) in FIELDS {
            *field(&mut self) /= count.max(1);
        }
        self
    }

    /// Those of this process alone.
    pub fn private_kib(&self) -> u64 {
        self.private_clean_kib + self.private_dirty_kib + self.private_hugetlb_kib
    }

    /// Those that others map too.
    pub fn shared_kib(&self) -> u64 {
        self.shared_clean_kib + self.shared_dirty_kib + self.shared_hugetlb_kib
    }

    /// In memory, with hugetlbfs.
    pub fn in_memory_kib(&self) -> u64 {
        self.resident_kib + self.private_hugetlb_kib + self.shared_hugetlb_kib
    }

    /// In huge pages of any kind.
    pub fn huge_kib(&self) -> u64 {
        self.anon_huge_kib
            + self.shmem_huge_kib
            + self.file_huge_kib
            + self.private_hugetlb_kib
            + self.shared_hugetlb_kib
    }
}

impl std::ops::AddAssign<&Amounts> for Amounts {
    fn add_assign(&mut self, other: &Amounts) {
        let mut other = *other;
        for (_, _, field) in FIELDS {
            *field(self) = field(self).saturating_add(*field(&mut other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_an_amount_of_its_own() {
        let mut amounts = Amounts::default();
        for (number, (name, ..)) in FIELDS.iter().enumerate() {
            amounts.read(name, &format!("   {} kB", 1u64 << number));
        }
        amounts.read("Locked", "4096 kB");
        let mut sum = 0;
        for (_, _, field) in FIELDS {
            sum += *field(&mut amounts);
        }
        assert_eq!(sum, (1 << FIELDS.len()) - 1);
        let once = amounts;
        amounts += &once;
        assert_eq!(amounts.swap_kib, 2 * once.swap_kib);
        assert_eq!(once.private_kib(), 4 + 8 + 1024);
        assert_eq!(once.shared_kib(), 16 + 32 + 2048);
    }
}
