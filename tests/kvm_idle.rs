//! Tiny guests that halt: KVM polls for them or not, as it was told, and counts what it does.

mod common;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Code, METRICS, kvm, run_and_stop};
use motevm::arch::{CpuOptions, idle, irqchip, layout, responder, vcpus};
use motevm::bus::Bus;
use motevm::config::{HaltPoll, Idle, IdleMode, Metrics};
use motevm::machine::{Halts, Values};
use motevm::memory::{Backing, GuestRam};
use motevm::vcpu::{ExitCounters, Surroundings, VcpuThread};
use motevm::{Exit, Host};
use vmm_sys_util::eventfd::EventFd;

/// How long an answer may take, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn answered(event: &EventFd) {
    let mut polled = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd.
    let ready = unsafe { libc::poll(&raw mut polled, 1, PATIENCE.as_millis() as i32) };
    assert_eq!(ready, 1, "the guest answered");
    event.read().unwrap();
}

/// Wakes a guest that has halted until `enough` of what KVM has counted, and gives that.
fn wake(
    host: &Host,
    set_up: impl FnOnce(&motevm::kvm::Vm),
    enough: impl Fn(u32, Halts) -> bool,
) -> Halts {
    let fd = host.create_vm().unwrap();
    let ranges = layout::ram_ranges(responder::MEMORY);
    let ram = GuestRam::new(&ranges, Backing::Anonymous).unwrap();
    let memory = ram.memory().clone();
    // SAFETY: `ram` is dropped after the thread and after `fd`, which are dropped by name below.
    unsafe { fd.set_memory(&memory).unwrap() };
    irqchip::prepare(&fd).unwrap();
    let irqchip = irqchip::create(host, &fd, 1).unwrap();
    set_up(&fd);
    let options = CpuOptions {
        cpus: 1,
        mask: &[],
        own_waits: idle::OwnWaits::default(),
        pmu: false,
    };
    let mut cpus = vcpus::create(host, &fd, &irqchip, &options).unwrap();
    cpus.enter(responder::write(&memory).unwrap(), &memory)
        .unwrap();
    let (request, answer) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    fd.register_irqfd(&request, responder::GSI).unwrap();
    fd.register_ioeventfd(&answer, responder::ANSWER, responder::ANSWER_VALUE)
        .unwrap();
    let vcpu = cpus.vcpus.remove(0);
    let statistics = vcpu.statistics().unwrap();
    let surroundings = Surroundings {
        vm: None,
        parking: Arc::default(),
        mmio: Arc::new(Bus::new()),
        ports: Arc::new(Bus::new()),
        memory,
        read_only_memory: Vec::new(),
        prepare: cpus.prepare,
        on_start: Arc::new(|| ()),
        on_stop: Arc::new(|stop| panic!("{stop:?}")),
    };
    let thread = VcpuThread::start(vcpu, surroundings, Arc::new(ExitCounters::default())).unwrap();
    answered(&answer);
    let deadline = Instant::now() + PATIENCE;
    let mut asked = 0;
    let halts = loop {
        // The statistics are read while the vCPU is in KVM_RUN.
        let halts = Halts::of(&statistics.read().unwrap());
        if enough(asked, halts) || Instant::now() > deadline {
            break halts;
        }
        request.write(1).unwrap();
        answered(&answer);
        asked += 1;
    };
    drop(thread);
    drop(fd);
    drop(ram);
    halts
}

#[test]
fn kvm_polls_for_a_halted_guest_as_it_was_told() {
    let Some(host) = kvm() else { return };
    let set = |window| move |fd: &motevm::kvm::Vm| fd.set_halt_poll(window).unwrap();
    // It halts again after each answer, but where the next request was there before.
    let off = wake(&host, set(Duration::ZERO), |asked, halts| {
        halts.halts >= 50 || halts.halts == 0 && asked >= 1000
    });
    assert_eq!((off.polls, off.polled_in_vain_ns), (0, 0));
    let obstacle = (off.halts == 0).then(|| "KVM leaves halts to all guests".to_owned());
    if !common::can_run("halts", obstacle) {
        return;
    }
    assert!(off.halts >= 50, "{off:?}");
    // KVM begins to poll once a halt was shorter than the window.
    let on = wake(&host, set(Duration::from_secs(1)), |_, halts| {
        halts.polls >= 10
    });
    assert!(on.polls >= 10 && on.polls_in_time <= on.polls, "{on:?}");
}

/// Whether a guest has halting to itself, so that what is tried about that is.
fn can_pass_through(own: idle::OwnWaits) -> bool {
    let obstacle = (!own.halt).then(|| idle::NO_PASS_THROUGH.to_owned());
    common::can_run("pass-through", obstacle)
}

#[test]
fn a_guest_that_halts_by_itself_still_answers() {
    let Some(host) = kvm() else { return };
    let mut own = idle::OwnWaits::default();
    wake(
        &host,
        |fd| own = idle::pass_through(&host, fd).unwrap(),
        |asked, _| asked >= 50,
    );
    can_pass_through(own);
}

#[test]
fn a_guest_that_halts_by_itself_is_stopped() {
    let Some(host) = kvm() else { return };
    let own = idle::pass_through(&host, &host.create_vm().unwrap()).unwrap();
    if !can_pass_through(own) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new().halt().spin();
    let mut vm = code.vm(&host, folder.path(), |config| {
        config.idle = Idle {
            mode: IdleMode::PassThrough,
            force: true,
        };
    });
    assert_eq!(run_and_stop(&mut vm), Exit::Stopped);
}

#[test]
fn the_report_and_the_metrics_have_what_kvm_counts() {
    let Some(host) = kvm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let code = Code::new().print("abc").reset();
    let mut vm = code.vm(&host, folder.path(), |config| {
        config.halt_poll = HaltPoll::Window(Duration::from_micros(50));
        config.metrics = Some(Metrics {
            file: Some(folder.path().join("metrics")),
            ..Metrics::default()
        });
    });
    vm.run().unwrap();
    let kvm = vm.report().kvm.unwrap();
    assert_eq!(kvm.vcpus.len(), 1);
    let Values::One(exits) = kvm.vcpus[0]["exits"] else {
        panic!("{kvm:?}")
    };
    assert!(exits >= 4, "three bytes and the reset are exits: {kvm:?}");
    assert!(kvm.vm.contains_key("remote_tlb_flush"), "{kvm:?}");
    let text = std::fs::read_to_string(folder.path().join("metrics")).unwrap();
    let names = [
        "mote_kvm_exits_total{vcpu=\"0\"} ",
        "mote_kvm_halt_polls_total{vcpu=\"0\",result=\"in_vain\"} ",
        "mote_kvm_halt_sleep_seconds_count ",
    ];
    for name in names.into_iter().chain(METRICS) {
        assert!(text.contains(name), "{name}\n{text}");
    }
}
