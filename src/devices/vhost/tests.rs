use std::cell::RefCell;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vhost::{Result, VhostUserDirtyLogRegion};
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use crate::memory::{Backing, GuestRam};

/// Writes down what it is asked.
#[derive(Default)]
struct Recorder {
    asked: RefCell<Vec<String>>,
    refuses: &'static str,
}

impl Recorder {
    fn note(&self, text: String) -> Result<()> {
        let refused = !self.refuses.is_empty() && text.starts_with(self.refuses);
        self.asked.borrow_mut().push(text);
        match refused {
            true => Err(vhost::Error::InvalidOperation),
            false => Ok(()),
        }
    }
}

impl VhostBackend for Recorder {
    fn get_features(&self) -> Result<u64> {
        Ok(0)
    }
    fn set_features(&self, features: u64) -> Result<()> {
        self.note(format!("features {features:#x}"))
    }
    fn set_owner(&self) -> Result<()> {
        self.note("owner".into())
    }
    fn reset_owner(&self) -> Result<()> {
        self.note("reset".into())
    }
    fn set_mem_table(&self, regions: &[VhostUserMemoryRegionInfo]) -> Result<Option<Vec<u64>>> {
        let text = |r: &VhostUserMemoryRegionInfo| {
            let file = r.mmap_handle >= 0;
            format!("{:#x}+{:#x} {file}", r.guest_phys_addr, r.memory_size)
        };
        let regions: Vec<_> = regions.iter().map(text).collect();
        self.note(format!("memory {}", regions.join(" ")))?;
        Ok(None)
    }
    fn set_log_base(&self, _: u64, _: Option<VhostUserDirtyLogRegion>) -> Result<()> {
        self.note("log".into())
    }
    fn set_log_fd(&self, _: RawFd) -> Result<()> {
        self.note("log fd".into())
    }
    fn set_vring_num(&self, index: usize, num: u16) -> Result<()> {
        self.note(format!("num {index} {num}"))
    }
    fn set_vring_addr(&self, index: usize, c: &VringConfigData) -> Result<()> {
        let (desc, used) = (c.desc_table_addr, c.used_ring_addr);
        self.note(format!("addr {index} {desc:#x} {:#x}", used - desc))
    }
    fn set_vring_base(&self, index: usize, base: u16) -> Result<()> {
        self.note(format!("base {index} {base}"))
    }
    fn get_vring_base(&self, index: usize) -> Result<u32> {
        self.note(format!("get base {index}"))?;
        Ok(7)
    }
    fn set_vring_call(&self, index: usize, fd: &EventFd) -> Result<()> {
        self.note(format!("call {index} {}", fd.as_raw_fd()))
    }
    fn set_vring_kick(&self, index: usize, fd: &EventFd) -> Result<()> {
        self.note(format!("kick {index} {}", fd.as_raw_fd()))
    }
    fn set_vring_err(&self, _: usize, _: &EventFd) -> Result<()> {
        self.note("err".into())
    }
}

fn queue() -> ActiveQueue {
    let mut queue = Queue::new(256).unwrap();
    queue.try_set_size(64).unwrap();
    queue.set_desc_table_address(Some(0x2000), None);
    queue.set_avail_ring_address(Some(0x3000), None);
    queue.set_used_ring_address(Some(0x4000), None);
    queue.set_ready(true);
    let notify = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    ActiveQueue {
        index: 3,
        queue,
        notify,
    }
}

#[test]
fn a_back_end_is_told_everything_and_the_kick_last() {
    let ranges = [(GuestAddress(0x1000), 8 << 20)];
    for (backing, addresses) in [
        (Backing::Anonymous, Addresses::Guest),
        (Backing::Shared, Addresses::Host),
    ] {
        let ram = GuestRam::new(&ranges, backing).unwrap();
        let memory = ram.memory();
        let call = EventFd::new(EFD_NONBLOCK).unwrap();
        let backend = Recorder::default();
        let queue = queue();
        let ring = Ring {
            index: 1,
            queue: &queue,
            base: 9,
            call: &call,
        };
        set_up(&backend, 0x123, memory).unwrap();
        set_ring(&backend, &ring, memory, addresses).unwrap();
        assert_eq!(stop_ring(&backend, 1).unwrap(), 7);
        let desc = match addresses {
            Addresses::Guest => 0x2000,
            Addresses::Host => memory.get_host_address(GuestAddress(0x2000)).unwrap() as u64,
        };
        let shared = backing == Backing::Shared;
        let expected = [
            "features 0x123".to_owned(),
            format!("memory 0x1000+0x800000 {shared}"),
            "num 1 64".to_owned(),
            "base 1 9".to_owned(),
            format!("addr 1 {desc:#x} 0x2000"),
            format!("call 1 {}", call.as_raw_fd()),
            format!("kick 1 {}", queue.notify.as_raw_fd()),
            "get base 1".to_owned(),
        ];
        assert_eq!(*backend.asked.borrow(), expected);
    }
}

#[test]
fn a_refusal_names_the_step() {
    let ram = GuestRam::new(&[(GuestAddress(0), 8 << 20)], Backing::Shared).unwrap();
    let backend = Recorder {
        refuses: "addr",
        ..Default::default()
    };
    let (queue, call) = (queue(), EventFd::new(EFD_NONBLOCK).unwrap());
    let ring = Ring {
        index: 0,
        queue: &queue,
        base: 0,
        call: &call,
    };
    let error = set_ring(&backend, &ring, ram.memory(), Addresses::Host).unwrap_err();
    let error = ActivateError::from(error).to_string();
    let expected = "setting up vhost: SET_VRING_ADDR: invalid vhost operations";
    assert_eq!(error, expected);
    assert!(!backend.asked.borrow().iter().any(|a| a.starts_with("kick")));
}
