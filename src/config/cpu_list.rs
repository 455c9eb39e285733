//! A set of CPU numbers, written as Linux writes it: 0-3,8,10-31:2/4 (cpuset(7), "List format").

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One more than the highest number of a CPU: the most that a Linux kernel can be built for.
pub const CPU_NUMBERS: u16 = 8192;

/// A set of CPUs, of the host's or of the guest's. What a user writes has one CPU at least; what
/// the kernel shows may have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuList(BTreeSet<u16>);

impl CpuList {
    /// What a file of the kernel's says, which may be that there are none; `None` if it isn't a
    /// list.
    pub fn of_kernel(text: &str) -> Option<Self> {
        match text.trim() {
            // Linux's word for an empty boot parameter is "(null)" (isolated, nohz_full).
            "" | "(null)" => Some(CpuList::default()),
            text => text.parse().ok(),
        }
    }

    /// What a file of the kernel's says as a mask: hexadecimal words of 32 bits, the highest first.
    pub fn of_mask(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for (index, word) in text.trim().rsplit(',').enumerate() {
            let word = u32::from_str_radix(word, 16).ok()?;
            let first = u16::try_from(index * 32).ok()?;
            if first >= CPU_NUMBERS {
                return None;
            }
            let set = (0..32).filter(|bit| word >> bit & 1 == 1);
            cpus.extend(set.map(|bit| first + bit));
        }
        Some(CpuList(cpus))
    }

    /// Whether `cpu` is in it.
    pub fn contains(&self, cpu: u16) -> bool {
        self.0.contains(&cpu)
    }

    /// From the lowest number to the highest.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are in both.
    pub fn and(&self, other: &CpuList) -> CpuList {
        CpuList(self.0.intersection(&other.0).copied().collect())
    }

    /// Those that are in either.
    pub fn or(&self, other: &CpuList) -> CpuList {
        CpuList(self.0.union(&other.0).copied().collect())
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &CpuList) -> CpuList {
        CpuList(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<u16> for CpuList {
    fn from_iter<I: IntoIterator<Item = u16>>(cpus: I) -> Self {
        CpuList(cpus.into_iter().collect())
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            cpus.extend(numbers(part)?);
        }
        Ok(CpuList(cpus))
    }
}

/// The CPUs of one part, in order: `8`, `0-3`, or `0-31:2/4` (the first 2 of each 4).
pub(super) fn numbers(part: &str) -> Result<Vec<u16>, String> {
    let wrong = || format!("`{part}` is not a list of CPUs; write for example 2,3 or 2-5");
    let (range, groups) = match part.split_once(':') {
        Some((range, groups)) => (range, Some(groups)),
        None => (part, None),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first, part)?, number(last, part)?),
        None if groups.is_none() => (number(range, part)?, number(range, part)?),
        None => return Err(wrong()),
    };
    if first > last {
        return Err(format!("`{part}`: {first} is after {last}"));
    }
    let (used, size) = match groups {
        None => (1, 1),
        Some(groups) => {
            let (used, size) = groups.split_once('/').ok_or_else(wrong)?;
            (number(used, part)?, number(size, part)?)
        }
    };
    if used == 0 || used > size {
        return Err(format!(
            "`{part}`: of each {size} CPUs, 1 to {size} can be taken"
        ));
    }
    Ok((first..=last)
        .filter(|cpu| (cpu - first) % size < used)
        .collect())
}

/// Digits only: no sign, no space, no other way to write a number.
fn number(text: &str, part: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "`{part}` is not a list of CPUs; write for example 2,3 or 2-5"
        ));
    }
    let number = text.parse().ok().filter(|number| *number < CPU_NUMBERS);
    number.ok_or_else(|| {
        format!(
            "`{part}`: CPUs have numbers up to {}",
            CPU_NUMBERS.saturating_sub(1)
        )
    })
}

impl fmt::Display for CpuList {
    /// As the kernel prints it: runs as ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            match first == last {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuList {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CpuList> for String {
    fn from(list: CpuList) -> String {
        list.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_linux_writes_is_read_and_comes_back() {
        for (text, cpus, printed) in [
            ("0", vec![0], "0"),
            ("0-3", vec![0, 1, 2, 3], "0-3"),
            ("5,0-1,1-2", vec![0, 1, 2, 5], "0-2,5"),
            ("3-3", vec![3], "3"),
            ("0,2,4", vec![0, 2, 4], "0,2,4"),
            ("0-7:2/4", vec![0, 1, 4, 5], "0-1,4-5"),
            ("1-6:1/2", vec![1, 3, 5], "1,3,5"),
            ("8191", vec![8191], "8191"),
            ("007", vec![7], "7"),
        ] {
            let list: CpuList = text.parse().unwrap();
            assert_eq!(list.iter().collect::<Vec<_>>(), cpus, "{text}");
            assert_eq!(list.to_string(), printed);
        }
    }

    #[test]
    fn nonsense_is_refused_in_one_line() {
        for text in [
            "",
            " ",
            ",",
            "1,",
            ",1",
            "1,,2",
            "a",
            "-1",
            "+1",
            "1-",
            "-",
            "1--2",
            "1 ",
            " 1",
            "1-2-3",
            "3-1",
            "8192",
            "65536",
            "99999999999999999999",
            "0-99999999999",
            "1:1/2",
            "0-3:",
            "0-3:1",
            "0-3:/",
            "0-3:0/2",
            "0-3:3/2",
            "0-3:1/0",
            "0-3:0/0",
            "1.5",
            "0x1",
            "٣",
            "1\n",
            "all",
            "N",
            "^1",
        ] {
            let error = text.parse::<CpuList>().expect_err(text);
            assert!(error.lines().count() == 1 || text.contains('\n'), "{error}");
        }
        assert!(
            "3-1"
                .parse::<CpuList>()
                .unwrap_err()
                .contains("3 is after 1")
        );
        assert!("9000".parse::<CpuList>().unwrap_err().contains("8191"));
    }

    #[test]
    fn the_kernel_may_say_that_there_are_none() {
        for text in ["", "\n", "(null)\n"] {
            assert_eq!(CpuList::of_kernel(text), Some(CpuList::default()));
        }
        assert_eq!(CpuList::of_kernel("0-1\n").unwrap().len(), 2);
        assert_eq!(CpuList::of_kernel("two"), None);
    }

    #[test]
    fn masks_are_read_from_the_right() {
        let list = |text: &str| CpuList::of_mask(text).map(|list| list.to_string());
        assert_eq!(list("3\n").as_deref(), Some("0-1"));
        assert_eq!(list("00000001,80000000").as_deref(), Some("31-32"));
        assert_eq!(list("0").as_deref(), Some(""));
        for wrong in ["", "g", "1,", "100000000"] {
            assert_eq!(list(wrong), None, "{wrong}");
        }
        assert_eq!(list(&["1"; 300].join(",")), None);
        assert_eq!(list(&["1"; 5000].join(",")), None);
    }

    #[test]
    fn sets_are_sets() {
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!(list("0-3").and(&list("2-5")), list("2-3"));
        assert_eq!(list("0-3").or(&list("5")), list("0-3,5"));
        assert_eq!(list("0-3").without(&list("1-5")), list("0"));
        assert!(list("0").without(&list("0")).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_an_error(text in "[0-9,:/ -]{0,40}") {
            if let Ok(list) = text.parse::<CpuList>() {
                prop_assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list);
            }
        }

        #[test]
        fn any_set_comes_back(cpus in proptest::collection::btree_set(0u16..8192, 1..100)) {
            let list: CpuList = cpus.into_iter().collect();
            prop_assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list);
        }
    }
}
