//! Virtqueue round trips, with no VM: a driver in plain memory, which sleeps until interrupts, and a
//! device in the same process, reached as a guest reaches it (an eventfd each way).
//!
//!     cargo bench --bench virtqueue [-- --requests N] [--json]
//!
//! The null device answers at once, so that what remains is the queue's own cost; virtio-blk reads
//! from a hole of a file in memory and from a file in the page cache. CPU time is of the device's
//! threads: the process's less the driver's. Its system calls are counted in a run of their own: by
//! the kernel's tracepoints where this may have them (root, tracefs); elsewhere by strace, which
//! slows down both sides, so that they meet otherwise than they would.

#[path = "common/driver.rs"]
mod driver;
#[path = "common/perf.rs"]
mod perf;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use driver::Driver;
use motevm::devices::virtio::blk::{BlkConfig, BlkDevice};
use motevm::devices::virtio::buffers::{Buffers, ChainError};
use motevm::devices::virtio::worker::{RequestHandler, WorkerPool};
use motevm::devices::virtio::{ActivateError, Activation, VirtioDevice};
use perf::{Counters, Event};
use serde_json::{Value, json};

const CALLS: [Event; 1] = [Event::Tracepoint("raw_syscalls/sys_enter")];
const REQUESTS: u64 = 64_000;
/// The least of so many runs is shown.
const RUNS: usize = 5;
const FILE_SIZE: u64 = 64 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Backend {
    /// A device that answers at once, with at most so many threads.
    Null(usize),
    Hole,
    PageCache,
}

struct Case {
    backend: Backend,
    /// Bytes of data in each request.
    data: u32,
    /// Requests that are made available together; the next when all are answered.
    batch: u16,
    event_idx: bool,
}

const fn case(backend: Backend, data: u32, batch: u16, event_idx: bool) -> Case {
    Case {
        backend,
        data,
        batch,
        event_idx,
    }
}

const CASES: [Case; 13] = [
    case(Backend::Null(1), 4096, 1, true),
    case(Backend::Null(1), 4096, 1, false),
    case(Backend::Null(1), 4096, 32, true),
    case(Backend::Null(1), 4096, 32, false),
    case(Backend::Null(8), 4096, 1, true),
    case(Backend::Null(8), 4096, 32, true),
    case(Backend::Hole, 4096, 1, true),
    case(Backend::Hole, 4096, 32, true),
    case(Backend::Hole, 65536, 1, true),
    case(Backend::PageCache, 4096, 1, true),
    case(Backend::PageCache, 4096, 32, true),
    case(Backend::PageCache, 65536, 1, true),
    case(Backend::PageCache, 65536, 32, true),
];

/// What one run showed, for one request.
#[derive(Clone, Copy)]
struct Sample {
    wall_ns: f64,
    cpu_ns: f64,
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let value = |name: &str| {
        let mut rest = arguments.iter().skip_while(|argument| *argument != name);
        rest.nth(1)
            .map(|n| n.parse::<u64>().unwrap_or_else(|_| panic!("{name} N")))
    };
    let requests = value("--requests").unwrap_or(REQUESTS);
    let json = arguments.iter().any(|argument| argument == "--json");
    let files = Files::make();
    perf::mount_tracefs();
    let by_strace = Counters::attach(std::process::id(), &CALLS, |_| true).is_err();
    if let Some(index) = value("--only") {
        // For strace. How many of the system calls are the driver's is for the caller to know.
        let mut driver = CASES[index as usize].driver(&files);
        run(&mut driver, requests);
        println!("{}", driver.calls);
        return;
    }
    if !json {
        println!(
            "Virtqueue round trips in one process: the least of {RUNS} runs of {requests} requests, CPU\n\
             time and system calls of the device's side for one request{}.",
            if by_strace {
                " (under strace, which changes how the two sides meet)"
            } else {
                ""
            }
        );
        println!(
            "{:<50}{:>12}{:>12}{:>12}",
            "", "per s", "CPU ns", "syscalls"
        );
    }
    let mut results = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        let mut driver = case.driver(&files);
        run(&mut driver, requests / 8);
        let samples: Vec<_> = (0..RUNS).map(|_| run(&mut driver, requests)).collect();
        driver.check(if let Backend::Null(_) = case.backend {
            0xff
        } else {
            0
        });
        let calls = if by_strace {
            drop(driver);
            system_calls(index)
        } else {
            count(&mut driver, requests)
        };
        let least = |of: fn(&Sample) -> f64| samples.iter().map(of).fold(f64::INFINITY, f64::min);
        let (wall, cpu) = (least(|s| s.wall_ns), least(|s| s.cpu_ns));
        if json {
            results.push(case.as_json(wall, cpu, calls.as_ref().ok()));
            continue;
        }
        print!("{:<50}{:>12.0}{cpu:>12.0}", case.name(), 1e9 / wall);
        match calls {
            Ok(calls) => println!("{calls:>12.3}"),
            Err(why) => println!("{:>12}  ({why})", "NOT RUN"),
        }
    }
    if json {
        println!("{:#}", json!({ "requests": requests, "cases": results }));
    }
}

impl Case {
    fn name(&self) -> String {
        let backend = match self.backend {
            Backend::Null(1) => "null, 1 thread".to_owned(),
            Backend::Null(threads) => format!("null, up to {threads} threads"),
            Backend::Hole => "blk, hole".to_owned(),
            Backend::PageCache => "blk, file".to_owned(),
        };
        let size = self.data >> 10;
        let ring = if self.event_idx { "event idx" } else { "flags" };
        format!("{backend}, {size} KiB, {} at a time, {ring}", self.batch)
    }

    fn as_json(&self, wall: f64, cpu: f64, calls: Option<&f64>) -> Value {
        json!({
            "case": self.name(),
            "per_second": 1e9 / wall,
            "device_cpu_ns": cpu,
            "device_system_calls": calls,
        })
    }

    fn driver(&self, files: &Files) -> Driver {
        let device: Box<dyn VirtioDevice> = match self.backend {
            Backend::Null(threads) => Box::new(NullDevice {
                threads,
                workers: None,
            }),
            Backend::Hole => Box::new(files.open(&files.hole)),
            Backend::PageCache => Box::new(files.open(&files.file)),
        };
        Driver::new(device, self.event_idx, self.batch, self.data)
    }
}

fn run(driver: &mut Driver, requests: u64) -> Sample {
    let rounds = requests / u64::from(driver.requests());
    let requests = (rounds * u64::from(driver.requests())) as f64;
    let cpu = || cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    let (start, cpu_start) = (Instant::now(), cpu());
    for _ in 0..rounds {
        driver.round();
    }
    Sample {
        wall_ns: start.elapsed().as_nanos() as f64 / requests,
        cpu_ns: (cpu() - cpu_start) / requests,
    }
}

/// The device's system calls for one request, by tracepoints.
fn count(driver: &mut Driver, requests: u64) -> Result<f64, String> {
    let of_the_device = |name: &str| name.starts_with("mote-");
    let counters = Counters::attach(std::process::id(), &CALLS, of_the_device)?;
    run(driver, requests);
    Ok(counters.read()[0] as f64 / requests as f64)
}

fn cpu_ns(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes a timespec where there is one.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "clock_gettime");
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The device's system calls for one request, by two runs under strace that differ in length.
fn system_calls(case: usize) -> Result<f64, String> {
    const FEW: u64 = 320;
    const MANY: u64 = 3200;
    let count = |requests: u64| -> Result<f64, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let summary = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-c", "-o"])
            .arg(summary.path())
            .arg(program);
        strace.args([
            "--only",
            &case.to_string(),
            "--requests",
            &requests.to_string(),
        ]);
        let output = strace.output().map_err(|e| format!("strace: {e}"))?;
        let text = std::fs::read_to_string(summary.path()).map_err(|e| e.to_string())?;
        // "100.00    0.000044           1        29         1 total"
        let total = text.lines().find(|line| line.ends_with(" total"));
        let total = total.and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
        let own = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse::<f64>();
        match (total, own) {
            (Some(total), Ok(own)) => Ok(total - own),
            _ => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    };
    Ok((count(MANY)? - count(FEW)?) / (MANY - FEW) as f64)
}

/// The images.
struct Files {
    hole: PathBuf,
    file: PathBuf,
    _folders: [tempfile::TempDir; 2],
}

impl Files {
    fn make() -> Self {
        let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (hole, file) = (memory.path().join("hole"), folder.path().join("file"));
        let made = File::create(&hole).and_then(|file| file.set_len(FILE_SIZE));
        made.expect("an image of nothing");
        std::fs::write(&file, vec![0x5a; FILE_SIZE as usize]).expect("an image");
        Self {
            hole,
            file,
            _folders: [memory, folder],
        }
    }

    fn open(&self, path: &Path) -> BlkDevice {
        let config = BlkConfig {
            read_only: true,
            ..BlkConfig::new("vda", path)
        };
        BlkDevice::open(&config).expect("the image")
    }
}

/// A device that answers each request at once, without a look at it but for the last byte.
struct NullDevice {
    threads: usize,
    workers: Option<WorkerPool<Nothing>>,
}

impl VirtioDevice for NullDevice {
    fn name(&self) -> &str {
        "null"
    }

    fn device_type(&self) -> u32 {
        0xffff
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.remove(0);
        let (memory, interrupt) = (activation.memory, activation.interrupt);
        let workers =
            WorkerPool::start("mote-null", self.threads, Nothing, queue, memory, interrupt)?;
        self.workers = Some(workers);
        Ok(())
    }

    fn reset(&mut self) {
        self.workers = None;
    }
}

struct Nothing;

impl RequestHandler for Nothing {
    type Scratch = ();

    fn handle(&self, buffers: &mut Buffers, (): &mut ()) -> Result<u32, ChainError> {
        if !buffers.split_tail(1) {
            return Err(ChainError::NoStatus);
        }
        buffers.tail.write(&[0xff]);
        Ok(0)
    }
}
