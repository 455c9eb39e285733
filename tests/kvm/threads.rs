//! The vCPUs' threads by themselves, with no VM around them: what goes wrong there ends no test program,
//! and nothing is left of them.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use motevm::Host;
use motevm::bus::{Bus, BusDevice};
use motevm::memory::{Backing, GuestRam};
use motevm::vcpu::{ExitCounters, Prepare, Stop, Surroundings, VcpuThread};
use vm_memory::{Bytes, GuestAddress};

use crate::common::{PATIENCE, RAM, kvm};
use crate::native::{DEFECT, SPIN, TOUCH_DEFECT, fail, start_at};

/// A defect of the monitor's.
struct Defect;

impl BusDevice for Defect {
    fn read(&mut self, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: u64, _: &[u8]) {
        panic!("this panic is part of the test");
    }
}

/// A vCPU thread that runs `code`; its memory, and what it says when it stops.
fn vcpu_thread(host: &Host, code: &[u8]) -> (GuestRam, VcpuThread, mpsc::Receiver<Stop>) {
    vcpu_thread_with(host, code, Arc::new(|_| Ok(())))
}

fn vcpu_thread_with(
    host: &Host,
    code: &[u8],
    prepare: Prepare,
) -> (GuestRam, VcpuThread, mpsc::Receiver<Stop>) {
    let ram = GuestRam::new(&[(GuestAddress(RAM), 1 << 20)], Backing::Anonymous).unwrap();
    let entry = GuestAddress(RAM + 0x1000);
    ram.memory().write_slice(code, entry).unwrap();
    let fd = host.create_vm().unwrap();
    // SAFETY: `ram` is handed out with the thread, and dropped after it.
    unsafe { fd.set_memory(ram.memory()).unwrap() };
    let vcpu = fd.create_vcpu(0).unwrap();
    start_at(&fd, &vcpu, entry);
    let defect = || {
        let mut bus = Bus::new();
        let device = Arc::new(Mutex::new(Defect));
        bus.insert("defect", DEFECT, 1, device).unwrap();
        Arc::new(bus)
    };
    let (send, stops) = mpsc::channel();
    let send = Mutex::new(send);
    let surroundings = Surroundings {
        vm: None,
        parking: Arc::default(),
        mmio: defect(),
        ports: defect(),
        memory: ram.memory().clone(),
        read_only_memory: Vec::new(),
        prepare,
        on_start: Arc::new(|| ()),
        on_stop: Arc::new(move |stop| send.lock().unwrap().send(stop).unwrap()),
    };
    let thread = VcpuThread::start(vcpu, surroundings, Arc::new(ExitCounters::default()));
    (ram, thread.unwrap(), stops)
}

#[test]
fn a_panic_on_a_vcpu_thread_is_told_and_the_thread_can_still_be_stopped() {
    let Some(host) = kvm() else { return };
    let (_ram, thread, stops) = vcpu_thread(&host, &TOUCH_DEFECT);
    let stop = stops.recv_timeout(PATIENCE).unwrap();
    assert_eq!(stop, Stop::Failed);
    // Time enough for the thread to unwind: its vCPU must still be there.
    thread::sleep(Duration::from_millis(100));
    thread.request_stop();
    thread.join();
}

#[test]
fn a_vcpu_that_cannot_be_set_up_ends_the_vm_and_never_runs() {
    let Some(host) = kvm() else { return };
    let (_ram, thread, stops) = vcpu_thread_with(&host, &TOUCH_DEFECT, Arc::new(fail));
    let stop = stops.recv_timeout(PATIENCE).unwrap();
    assert_eq!(stop, Stop::Failed);
    thread.join();
    // It would have panicked at the device, and said so.
    assert_eq!(stops.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}

#[test]
fn a_vcpu_thread_that_is_dropped_has_ended() {
    let Some(host) = kvm() else { return };
    let (_ram, thread, stops) = vcpu_thread(&host, &SPIN);
    drop(thread);
    // The thread's end of the channel is gone, with nothing said.
    assert_eq!(stops.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}
