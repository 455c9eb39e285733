//! Which received packets the guest wants, by the address that they are sent to
//! (virtio 1.3 §5.1.6.5.1, §5.1.6.5.2).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses in a table. With more it's all of that kind, as §5.1.6.5.2 allows.
pub const MAX_ADDRESSES: usize = 64;

/// What the driver has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The device's own address.
    pub mac: [u8; 6],
    /// Everything. So it is until the driver says otherwise.
    pub promiscuous: bool,
    /// All groups.
    pub all_multicast: bool,
    /// All single stations.
    pub all_unicast: bool,
    /// No groups, but broadcasts.
    pub no_multicast: bool,
    /// No single stations.
    pub no_unicast: bool,
    /// No broadcasts.
    pub no_broadcast: bool,
    unicast: Table,
    multicast: Table,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    addresses: Vec<[u8; 6]>,
    overflow: bool,
}

impl Table {
    fn set(&mut self, addresses: &[[u8; 6]]) {
        self.overflow = addresses.len() > MAX_ADDRESSES;
        self.addresses.clear();
        if !self.overflow {
            self.addresses.extend_from_slice(addresses);
        }
    }

    fn has(&self, address: &[u8; 6]) -> bool {
        self.overflow || self.addresses.contains(address)
    }
}

impl Filter {
    /// Lets everything pass.
    pub fn new(mac: [u8; 6]) -> Self {
        Filter {
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Table::default(),
            multicast: Table::default(),
        }
    }

    /// Sets the tables of single stations and of groups.
    pub fn set_tables(&mut self, unicast: &[[u8; 6]], multicast: &[[u8; 6]]) {
        self.unicast.set(unicast);
        self.multicast.set(multicast);
    }

    /// Whether a packet to this address passes.
    pub fn passes(&self, to: &[u8; 6]) -> bool {
        if self.promiscuous {
            return true;
        }
        if *to == [0xff; 6] {
            !self.no_broadcast
        } else if to[0] & 1 != 0 {
            !self.no_multicast && (self.all_multicast || self.multicast.has(to))
        } else {
            let mine = *to == self.mac || self.all_unicast || self.unicast.has(to);
            mine && !self.no_unicast
        }
    }
}

/// The filter of a device. The threads that receive keep copies and look at a number only.
#[derive(Debug)]
pub struct SharedFilter {
    filter: Mutex<Filter>,
    generation: AtomicU32,
}

impl SharedFilter {
    /// Lets everything pass.
    pub fn new(mac: [u8; 6]) -> Self {
        SharedFilter {
            filter: Mutex::new(Filter::new(mac)),
            generation: AtomicU32::new(0),
        }
    }

    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut Filter)) {
        change(&mut self.lock());
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// A copy to start with.
    pub fn copy(&self) -> FilterCopy {
        let generation = self.generation.load(Ordering::Acquire);
        let filter = self.lock().clone();
        FilterCopy { filter, generation }
    }

    fn lock(&self) -> MutexGuard<'_, Filter> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread's own copy of a [`SharedFilter`].
#[derive(Debug)]
pub struct FilterCopy {
    filter: Filter,
    generation: u32,
}

impl FilterCopy {
    /// The filter as it is now, copied again if it has changed.
    pub fn now(&mut self, shared: &SharedFilter) -> &Filter {
        if shared.generation.load(Ordering::Acquire) != self.generation {
            *self = shared.copy();
        }
        &self.filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
    const ALL: [u8; 6] = [0xff; 6];

    fn passing(change: impl FnOnce(&mut Filter)) -> [bool; 4] {
        let mut filter = Filter::new(MINE);
        filter.promiscuous = false;
        change(&mut filter);
        [MINE, OTHER, GROUP, ALL].map(|to| filter.passes(&to))
    }

    #[test]
    fn each_wish_has_its_effect() {
        assert_eq!(passing(|f| f.promiscuous = true), [true; 4]);
        assert_eq!(passing(|_| ()), [true, false, false, true]);
        assert_eq!(
            passing(|f| f.all_multicast = true),
            [true, false, true, true]
        );
        assert_eq!(passing(|f| f.all_unicast = true), [true, true, false, true]);
        assert_eq!(
            passing(|f| f.no_unicast = true),
            [false, false, false, true]
        );
        assert_eq!(
            passing(|f| f.no_broadcast = true),
            [true, false, false, false]
        );
        let tables = |f: &mut Filter| f.set_tables(&[OTHER], &[GROUP]);
        assert_eq!(passing(tables), [true; 4]);
        let none = |f: &mut Filter| {
            f.set_tables(&[OTHER], &[GROUP]);
            f.no_multicast = true;
        };
        assert_eq!(passing(none), [true, true, false, true]);
        assert_eq!(passing(|f| f.mac = OTHER), [false, true, false, true]);
    }

    #[test]
    fn too_many_addresses_are_all() {
        let many = vec![[4; 6]; MAX_ADDRESSES + 1];
        assert_eq!(
            passing(|f| f.set_tables(&many, &[])),
            [true, true, false, true]
        );
        assert_eq!(
            passing(|f| f.set_tables(&[], &many)),
            [true, false, true, true]
        );
        let twice = |f: &mut Filter| {
            f.set_tables(&many, &many);
            f.set_tables(&[], &[]);
        };
        assert_eq!(passing(twice), [true, false, false, true]);
    }

    #[test]
    fn copies_follow() {
        let shared = SharedFilter::new(MINE);
        let mut copy = shared.copy();
        assert!(copy.now(&shared).passes(&OTHER));
        shared.change(|f| f.promiscuous = false);
        assert!(!copy.now(&shared).passes(&OTHER));
    }
}
