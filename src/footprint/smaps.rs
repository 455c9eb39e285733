//! /proc/PID/smaps: each mapping of a process, and how much of it is resident (proc_pid_smaps(5)).

use std::ops::Range;

use super::amounts::Amounts;

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<u64>,
    /// Whether it can be written to and executed.
    pub writable: bool,
    pub executable: bool,
    /// Whether it is anonymous and nobody may touch it, as in front of a stack.
    pub guard: bool,
    /// Whether writes are seen by whoever else maps the same.
    pub shared: bool,
    /// The offset in the file.
    pub offset: u64,
    /// 0 where there is no file behind it.
    pub inode: u64,
    /// The file's name, or the kernel's name for it in brackets, or nothing.
    pub name: String,
    /// Whether core dumps leave it out (VmFlags `dd`), as mote asks for all that is the guest's.
    pub not_dumped: bool,
    pub amounts: Amounts,
}

/// Reads all mappings. Lines that are unknown are passed over: kernels add some now and then.
pub fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::with_capacity(64);
    for line in text.lines() {
        let Some((first, rest)) = line.split_once([' ', '\t']) else {
            continue;
        };
        match first.strip_suffix(':') {
            None => mappings.extend(head(first, rest)),
            Some(key) => {
                let Some(mapping) = mappings.last_mut() else {
                    continue;
                };
                if key == "VmFlags" {
                    mapping.not_dumped = rest.split_ascii_whitespace().any(|flag| flag == "dd");
                } else {
                    mapping.amounts.read(key, rest);
                }
            }
        }
    }
    mappings
}

/// A mapping's first line: `start-end rwxp offset major:minor inode   name`.
fn head(addresses: &str, rest: &str) -> Option<Mapping> {
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = addresses.split_once('-')?;
    let range = hex(start)?..hex(end)?;
    let mut words = rest.splitn(5, ' ');
    let permissions = words.next()?.as_bytes();
    let offset = hex(words.next()?)?;
    let _device = words.next()?;
    let inode = words.next()?.parse().ok()?;
    let name = words.next().unwrap_or("").trim_start();
    let has = |at: usize, flag| permissions.get(at) == Some(&flag);
    (range.start < range.end).then(|| Mapping {
        range,
        writable: has(1, b'w'),
        executable: has(2, b'x'),
        shared: has(3, b's'),
        guard: permissions.starts_with(b"---") && inode == 0,
        offset,
        inode,
        name: name.to_owned(),
        ..Mapping::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_its_head_and_its_amounts() {
        let text = "\
            7f1000000000-7f1008000000 rw-p 00000000 00:00 0 \n\
            Size:             131072 kB\n\
            Rss:               20480 kB\n\
            Pss:               20479 kB\n\
            Private_Dirty:     20480 kB\n\
            AnonHugePages:     18432 kB\n\
            THPeligible:           1\n\
            VmFlags: rd wr mr mw me ac dd hg \n\
            7f2000000000-7f2000001000 r-xs 00002000 fe:01 77                 /a b (deleted)\n\
            Rss:                   4 kB\n";
        let mappings = parse(text);
        assert_eq!(mappings.len(), 2);
        let ram = &mappings[0];
        assert_eq!(ram.range, 0x7f10_0000_0000..0x7f10_0800_0000);
        assert!(ram.writable && !ram.executable && !ram.shared && ram.not_dumped);
        assert_eq!((ram.inode, ram.name.as_str()), (0, ""));
        assert_eq!(ram.amounts.resident_kib, 20480);
        assert_eq!(ram.amounts.proportional_kib, 20479);
        assert_eq!(ram.amounts.anon_huge_kib, 18432);
        let file = &mappings[1];
        assert_eq!((file.offset, file.inode), (0x2000, 77));
        assert_eq!(file.name, "/a b (deleted)");
        assert!(file.executable && file.shared && !file.writable && !file.not_dumped);
    }

    #[test]
    fn odd_input_is_no_mapping_and_no_panic() {
        for text in [
            "",
            "\n\n",
            "Rss: 4 kB",
            "Rss:",
            "zz-yy rw-p 0 0:0 0",
            "2000-1000 rw-p 0 0:0 0 x",
            "1000-1000 rw-p 0 0:0 0 x",
            "1000 rw-p 0 0:0 0 x",
            "1000-2000",
            "1000-2000 rw-p",
            "1000-2000 rw-p zz 0:0 0",
            "1000-2000 rw-p 0 0:0 many",
            "ffffffffffffffff1-2 rw-p 0 0:0 0",
        ] {
            assert_eq!(parse(text), [], "{text:?}");
        }
        let odd = parse("1000-2000 r 0 0:0 0\nRss: lots kB\nRss: 18446744073709551616 kB\nPss:\n");
        assert_eq!(odd.len(), 1);
        assert_eq!(odd[0].amounts, Amounts::default());
        assert!(!odd[0].writable);
    }

    #[test]
    fn this_process_has_a_stack_and_a_program() {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mappings = parse(&text);
        assert!(mappings.iter().any(|m| m.name == "[stack]"));
        assert!(mappings.iter().any(|m| m.executable && m.inode != 0));
        assert!(mappings.iter().any(|m| m.amounts.resident_kib > 0));
    }
}
