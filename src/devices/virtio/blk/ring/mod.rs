//! `engine=io_uring`: one thread for each queue, which hands all requests that there are to the
//! kernel at once, and takes what's done likewise.
//!
//! - `uring`: the io_uring itself
//! - `queue`: the loop between it and the virtqueue
//!
//! Setting up an io_uring is slow on some hosts, so each thread does that for itself: neither the
//! boot nor the vCPU that says DRIVER_OK waits for it. That is the thread's first deed, before its own
//! system call filter, by which it can make no other. Where the host has no io_uring or forbids
//! it, the thread says so and hands its queue to a [`WorkerPool`].

mod queue;
mod uring;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::request::Requests;
use crate::devices::virtio::worker::WorkerPool;
use crate::devices::virtio::{ActivateError, ActiveQueue, Interrupt};
use crate::placement::thread;
use crate::sandbox::ThreadKind;
use crate::threads;
use queue::RingQueue;
use uring::Uring;

/// A thread that serves a queue by an io_uring. Dropping it stops it.
pub struct RingThread {
    control: Arc<Control>,
    notify: Arc<EventFd>,
    handle: Option<JoinHandle<()>>,
}

/// What the thread and its owner share.
#[derive(Default)]
struct Control {
    stopping: AtomicBool,
    /// The threads that took over, where there is no io_uring.
    instead: Mutex<Option<WorkerPool<Requests>>>,
}

/// What the thread starts with.
struct Start {
    name: String,
    max_threads: usize,
    requests: Requests,
    queue: ActiveQueue,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    control: Arc<Control>,
}

impl RingThread {
    /// Starts the thread. `max_threads` is the limit to what serves the queue besides it: the
    /// kernel's own threads, or those that take its place.
    ///
    /// # Errors
    ///
    /// The host refused the thread.
    pub fn start(
        name: &str,
        max_threads: usize,
        requests: Requests,
        queue: ActiveQueue,
        memory: GuestMemoryMmap<()>,
        interrupt: Arc<Interrupt>,
    ) -> Result<Self, ActivateError> {
        let control = Arc::new(Control::default());
        let notify = queue.notify.clone();
        let start = Start {
            name: name.to_owned(),
            max_threads,
            requests,
            queue,
            memory,
            interrupt,
            control: control.clone(),
        };
        // The kernel's threads for the ring are to be where this one is.
        let make = move || Uring::new(max_threads, thread::current().ok().as_ref());
        let serve = move |uring| start.run(uring);
        let handle = threads::spawn_prepared(ThreadKind::Ring, name, make, serve);
        let handle = handle.map_err(|source| ActivateError::Thread {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self {
            control,
            notify,
            handle: Some(handle),
        })
    }

    /// Has the thread end once it's done with its requests, and doesn't wait for it.
    pub fn begin_stop(&self) {
        self.control.stopping.store(true, Ordering::SeqCst);
        if let Some(pool) = &*self.control.instead() {
            pool.begin_stop();
        }
        if let Err(error) = self.notify.write(1) {
            log::error!("waking an io_uring's thread: {error}");
        }
    }

    /// How many threads there are now, without the kernel's own.
    pub fn threads(&self) -> usize {
        let instead = self.control.instead();
        let own = self.handle.as_ref().is_some_and(|h| !h.is_finished());
        instead.as_ref().map_or(own.into(), WorkerPool::threads)
    }
}

impl Drop for RingThread {
    /// Waits for the requests in flight.
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            log::error!("an io_uring's thread has panicked");
            assert!(
                !cfg!(test) || std::thread::panicking(),
                "an io_uring's thread has panicked"
            );
        }
        // Not while it's locked: the pool's threads are waited for.
        let pool = self.control.instead().take();
        drop(pool);
    }
}

impl Control {
    fn instead(&self) -> MutexGuard<'_, Option<WorkerPool<Requests>>> {
        self.instead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Start {
    fn run(self, uring: io::Result<Uring>) {
        match uring {
            Ok(uring) => {
                let (control, interrupt) = (self.control.clone(), self.interrupt.clone());
                let served = RingQueue::new(uring, self).serve();
                if let Err(error) = served
                    && !control.stopping.load(Ordering::SeqCst)
                {
                    interrupt.fail(&error);
                }
            }
            Err(error) => {
                self.requests.disk().report_no_ring(&error);
                self.run_threads();
            }
        }
    }

    fn run_threads(self) {
        let mut instead = self.control.instead();
        if self.control.stopping.load(Ordering::SeqCst) {
            return;
        }
        let pool = WorkerPool::start(
            &self.name,
            self.max_threads,
            self.requests,
            self.queue,
            self.memory,
            self.interrupt.clone(),
        );
        match pool {
            Ok(pool) => *instead = Some(pool),
            Err(error) => self.interrupt.fail(&error),
        }
    }
}
