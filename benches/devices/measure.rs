//! What a job costs a monitor.

use std::time::Duration;

use crate::jobs::Job;
use crate::monitors::Contender;
use crate::perf::{Counters, Event};

/// What the many requests of a job should take at least, under mote: of drives, and of networks,
/// where iperf3 takes some time of its own, not always the same.
const LONG_ENOUGH: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(800)];
const LEAST: u64 = 512;

/// What is counted of each job, before the [`CALLS`].
const EVENTS: [Event; 4] = [
    Event::Tracepoint("kvm/kvm_exit"),
    Event::Tracepoint("kvm/kvm_userspace_exit"),
    Event::Tracepoint("raw_syscalls/sys_enter"),
    Event::ContextSwitches,
];

/// System calls that are told apart, where the kernel has them.
const CALLS: &str = "ioctl read write readv writev preadv pwritev preadv2 pwritev2 pread64 pwrite64 \
    ppoll poll epoll_wait epoll_pwait epoll_pwait2 futex io_uring_enter fdatasync recvmsg sendmsg \
    recvfrom sendto clone3 rt_sigprocmask";

/// What a run of a job took, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Cost {
    pub wall: f64,
    /// Of all threads, in guest mode too.
    pub cpu: f64,
    /// Of the threads that are no vCPU's.
    pub others: f64,
}

/// One contender's figures for one job, each for one request.
#[derive(Default)]
pub struct Figures {
    /// Round by round.
    pub costs: Vec<Cost>,
    pub counts: Option<Counts>,
}

/// Events in one request.
pub struct Counts {
    pub exits: f64,
    /// Of these, the ones that the monitor answered.
    pub to_user: f64,
    pub system_calls: f64,
    pub switches: f64,
    /// The system calls by name.
    pub calls: Vec<(&'static str, f64)>,
}

/// Why events can't be counted, if so.
pub fn cannot_count() -> Option<String> {
    Counters::attach(std::process::id(), &EVENTS, |_| true).err()
}

/// How many requests take long enough.
pub fn calibrate(job: &Job, contender: &mut Contender) -> u64 {
    // What starting the guest's programs takes, for the second time.
    let start = [(); 2].map(|()| run(contender, job, 8))[1];
    let enough = start + LONG_ENOUGH[usize::from(job.network)];
    let mut requests = LEAST;
    while requests < job.most && run(contender, job, requests) < enough {
        requests *= 2;
    }
    requests.min(job.most)
}

/// The number to compare with.
fn few(many: u64) -> u64 {
    many / 8
}

/// The difference of two runs, for one request.
fn of_one(low: f64, high: f64, many: u64) -> f64 {
    (high - low) / (many - few(many)) as f64
}

fn run(contender: &mut Contender, job: &Job, requests: u64) -> Duration {
    // As many characters for few as for many: the console costs both the same.
    let command = format!("{} {requests:>8}", job.command);
    let (said, time) = contender.guest.run(&command);
    assert!(said.is_empty(), "{}: {}: {said}", contender.name, job.name);
    time
}

/// A job with many requests and with few; a request's own cost.
pub fn cost_of_one(contender: &mut Contender, job: &Job, many: u64) -> Cost {
    let mut cost = |requests| -> Cost {
        let (pid, vcpu) = (contender.guest.pid(), contender.vcpu);
        let clock = [Event::TaskClock];
        let vcpus = Counters::attach(pid, &clock, |name| name.starts_with(vcpu));
        let others = Counters::attach(pid, &clock, |name| !name.starts_with(vcpu));
        let wall = run(contender, job, requests).as_nanos() as f64;
        let time =
            |counters: Result<Counters, _>| counters.map_or(f64::NAN, |c| c.read()[0] as f64);
        let others = time(others);
        Cost {
            wall,
            cpu: time(vcpus) + others,
            others,
        }
    };
    let (low, high) = (cost(few(many)), cost(many));
    Cost {
        wall: of_one(low.wall, high.wall, many),
        cpu: of_one(low.cpu, high.cpu, many),
        others: of_one(low.others, high.others, many),
    }
}

/// A round that counts.
pub fn count(contender: &mut Contender, job: &Job, many: u64, figures: &mut Figures) {
    let pid = contender.guest.pid();
    let mut events = EVENTS.to_vec();
    let mut names = Vec::new();
    for call in CALLS.split(' ') {
        let event = Event::Tracepoint(format!("syscalls/sys_enter_{call}").leak());
        if Counters::attach(pid, &[event], |_| true).is_ok() {
            events.push(event);
            names.push(call);
        }
    }
    let mut run = |requests| {
        let counters = Counters::attach(pid, &events, |_| true).expect("what there was before");
        run(contender, job, requests);
        counters.read()
    };
    let (low, high) = (run(few(many)), run(many));
    let pairs = low.iter().zip(&high);
    let counts: Vec<_> = pairs
        .map(|(low, high)| of_one(*low as f64, *high as f64, many))
        .collect();
    let (events, calls) = counts.split_at(EVENTS.len());
    figures.counts = Some(Counts {
        exits: events[0],
        to_user: events[1],
        system_calls: events[2],
        switches: events[3],
        calls: names.into_iter().zip(calls.iter().copied()).collect(),
    });
}
