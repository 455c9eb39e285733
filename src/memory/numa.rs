//! Guest memory on one NUMA node of the host.

use std::io;
use std::ops::Range;

/// linux/mempolicy.h
const MPOL_BIND: libc::c_long = 2;
const MPOL_MF_MOVE: libc::c_ulong = 2;

/// Has the pages of a mapped range come from this node of the host, and no other. Those that are
/// there already are moved.
///
/// # Errors
///
/// There is no such node, it is not in this process's cpuset, or the range isn't mapped.
pub fn bind(range: Range<u64>, node: u16) -> io::Result<()> {
    let (word, bit) = (usize::from(node) / 64, usize::from(node) % 64);
    let mut mask = vec![0u64; word + 1];
    mask[word] = 1 << bit;
    // Linux reads one bit less than it is told there are (get_nodes, mm/mempolicy.c).
    let bits = mask.len() * 64 + 1;
    // SAFETY: changes where pages of the range come from, and not what they hold; the mask has the
    // number of bits that is given, but for the one that isn't read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            range.start,
            range.end - range.start,
            MPOL_BIND,
            mask.as_ptr(),
            bits,
            MPOL_MF_MOVE,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, GuestRam};
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn memory_is_bound_to_a_node_that_is_there() {
        for backing in [Backing::Anonymous, Backing::Shared] {
            let ram = GuestRam::new(&[(GuestAddress(0), 32 << 20)], backing).unwrap();
            let range = ram.host_ranges().remove(0);
            match bind(range.clone(), 0) {
                Ok(()) => {}
                // A kernel without NUMA has no such call.
                Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => return,
                Err(e) => panic!("{e}"),
            }
            ram.memory().write_obj(1u8, GuestAddress(0x1000)).unwrap();
            // "7f..000 bind:0 anon=1 ...", by the address at which a mapping starts.
            let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
            let start = format!("{:x} ", range.start);
            let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
            assert_eq!(
                line.split(' ').nth(1),
                Some("bind:0"),
                "{backing:?}: {line}"
            );
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error() {
        let ram = GuestRam::new(&[(GuestAddress(0), 2 << 20)], Backing::Anonymous).unwrap();
        let range = ram.host_ranges().remove(0);
        for node in [1023, 63] {
            assert!(bind(range.clone(), node).is_err(), "{node}");
        }
    }
}
