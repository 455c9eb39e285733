//! Threads that serve a queue.
//!
//! A [`WorkerPool`] is one thread for as long as that's enough, and more while requests wait
//! for each other. The threads take turns as leader and followers:
//!
//! - A thread that finds the queue empty *listens*: it blocks in a read of the queue's eventfd.
//!   There's at most one listener; the driver is asked to notify only while there is one.
//! - A thread that takes a request gets *help* if another waits behind it, or if this one had to
//!   wait for want of a listener: it wakes the listener or a parked thread, or starts a new one.
//!   There's no queue of jobs besides the guest's own, and no lock is held while a request is
//!   served.
//! - A thread that finds the queue empty and a listener there already *parks*, and ends if it
//!   isn't needed within a second.
//!
//! With one request at a time that's one thread and two system calls for each besides the
//! work itself: a read of the eventfd and a write of the interrupt's.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::buffers::{Buffers, ChainError};
use super::gate::Inside;
use super::queue::{pop, push_used, waiting};
use super::{ActivateError, Activation, ActiveQueue, Interrupt};
use crate::sandbox::ThreadKind;
use crate::threads;

/// How long a thread stays that isn't needed any more.
const LINGER: Duration = Duration::from_secs(1);

/// What a device does with a request.
pub trait RequestHandler: Send + Sync + 'static {
    /// What its threads are.
    const KIND: ThreadKind = ThreadKind::Worker;

    /// What a thread keeps between requests, such as buffers that are made once.
    type Scratch: Default;

    /// Serves one request; how many bytes it wrote from the start of the writable ones. An
    /// error stops the device until the driver resets it.
    ///
    /// # Errors
    ///
    /// The driver got the chain wrong, so that no answer can be given.
    fn handle(&self, buffers: &mut Buffers, scratch: &mut Self::Scratch)
    -> Result<u32, ChainError>;

    /// The queue is being stopped: a handler that waits for something else than the host's answer
    /// ends its wait, now and from now on, and gives [`ChainError::Stopped`]. Must not block.
    fn stop(&self) {}
}

/// The threads that serve one queue. Dropping it stops them.
pub struct WorkerPool<H: RequestHandler> {
    pool: Arc<Pool<H>>,
}

impl<H: RequestHandler> WorkerPool<H> {
    /// Starts the first thread. `name` is the name of all of them, at most 15 bytes.
    ///
    /// # Errors
    ///
    /// The host refused the thread.
    pub fn start(
        name: &str,
        max_threads: usize,
        handler: H,
        queue: ActiveQueue,
        memory: GuestMemoryMmap<()>,
        interrupt: Arc<Interrupt>,
    ) -> Result<Self, ActivateError> {
        let pool = Arc::new(Pool {
            name: name.to_owned(),
            max_threads,
            handler,
            memory,
            interrupt,
            notify: queue.notify,
            parked: Condvar::new(),
            state: Mutex::new(State {
                queue: queue.queue,
                listener: Listener::None,
                parked: 0,
                called: false,
                threads: 1,
                stopping: false,
                handles: Vec::new(),
            }),
        });
        let handle = pool.spawn().map_err(|source| ActivateError::Thread {
            name: name.to_owned(),
            source,
        })?;
        pool.lock().handles.push(handle);
        Ok(Self { pool })
    }

    /// Has the threads end once they are done with their requests, and doesn't wait for it.
    pub fn begin_stop(&self) {
        self.pool.end(&mut self.pool.lock());
    }

    /// Starts a pool for each queue that the driver has made ready, all with the same handler.
    ///
    /// # Errors
    ///
    /// The host refused a thread; those that were started end.
    pub fn for_each_queue(
        name: &str,
        max_threads: usize,
        handler: &H,
        activation: Activation,
    ) -> Result<Vec<Self>, ActivateError>
    where
        H: Clone,
    {
        let Activation {
            memory,
            queues,
            interrupt,
            ..
        } = activation;
        let start = |queue| {
            let (memory, interrupt) = (memory.clone(), interrupt.clone());
            Self::start(name, max_threads, handler.clone(), queue, memory, interrupt)
        };
        queues.into_iter().map(start).collect()
    }

    /// Waits for the requests in flight and ends the threads.
    pub fn stop(&mut self) {
        let mut state = self.pool.lock();
        let handles = std::mem::take(&mut state.handles);
        self.pool.end(&mut state);
        drop(state);
        for handle in handles {
            if handle.join().is_err() {
                log::error!("thread {} has panicked", self.pool.name);
                assert!(
                    !cfg!(test) || std::thread::panicking(),
                    "a worker has panicked"
                );
            }
        }
    }

    /// How many threads there are now.
    pub fn threads(&self) -> usize {
        self.pool.lock().threads
    }
}

impl<H: RequestHandler> Drop for WorkerPool<H> {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Listener {
    None,
    /// Blocked in the read, or about to be.
    Waiting,
    /// The same, and this process has already written the eventfd.
    Woken,
}

struct State {
    queue: Queue,
    listener: Listener,
    parked: usize,
    /// A thread that was started or woken from its parking hasn't come yet. It will look at the
    /// queue, and get further help if that's wanted: nobody else need be called meanwhile.
    called: bool,
    threads: usize,
    stopping: bool,
    handles: Vec<JoinHandle<()>>,
}

struct Pool<H> {
    name: String,
    max_threads: usize,
    handler: H,
    memory: GuestMemoryMmap<()>,
    interrupt: Arc<Interrupt>,
    notify: Arc<EventFd>,
    parked: Condvar,
    /// Never locked while a request is served or a system call waits.
    state: Mutex<State>,
}

impl<H: RequestHandler> Pool<H> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let pool = self.clone();
        threads::spawn(H::KIND, &self.name, move || pool.run())
    }

    fn run(self: Arc<Self>) {
        let inside = self.interrupt.gate().enter();
        let mut buffers = Buffers::new(&self.memory);
        let mut scratch = H::Scratch::default();
        let result = self.serve(&mut buffers, &mut scratch, &inside);
        drop(inside);
        let mut state = self.lock();
        state.threads -= 1;
        if let Err(error) = result {
            // Once for the device, though several threads may trip over it.
            if !state.stopping {
                self.end(&mut state);
                drop(state);
                self.interrupt.fail(&error);
            }
        }
    }

    /// Serves requests until the pool stops, this thread isn't needed, or the driver errs.
    fn serve(
        self: &Arc<Self>,
        buffers: &mut Buffers,
        scratch: &mut H::Scratch,
        inside: &Inside,
    ) -> Result<(), ServeError> {
        let mut state = self.lock();
        state.called = false;
        let mut interrupt = false;
        // Whether a request came while this thread was busy and nobody was there to hear it.
        let mut missed = false;
        let mut lingered = false;
        loop {
            if self.interrupt.gate().is_closed() {
                // Without the lock: those who are still inside need it.
                drop(state);
                self.interrupt_if(&mut interrupt);
                inside.make_way();
                state = self.lock();
            }
            let next = match state.stopping {
                true => None,
                false => pop(&mut state.queue, &self.memory)?,
            };
            if let Some((chain, more)) = next {
                if more || missed {
                    self.get_help(&mut state);
                }
                drop(state);
                self.interrupt_if(&mut interrupt);
                let head = chain.head_index();
                buffers.load(chain)?;
                let len = self.handler.handle(buffers, scratch)?;
                state = self.lock();
                // Before the driver hears of this one, and may send another because of it.
                missed = state.listener == Listener::None && waiting(&state.queue, &self.memory)?;
                interrupt = push_used(&mut state.queue, &self.memory, head, len)?;
                lingered = false;
            } else if interrupt {
                drop(state);
                self.interrupt_if(&mut interrupt);
                state = self.lock();
            } else if state.stopping {
                return Ok(());
            } else if state.listener == Listener::None {
                #[cfg(test)]
                tests::dawdle();
                // False if something came before the driver could see that it's to notify.
                if !state.queue.enable_notification(&self.memory)? {
                    state.listener = Listener::Waiting;
                    drop(state);
                    let read = self.interrupt.gate().outside(|| self.notify.read());
                    state = self.lock();
                    state.listener = Listener::None;
                    read.map_err(ServeError::Notify)?;
                }
                state.queue.disable_notification(&self.memory)?;
                (missed, lingered) = (false, false);
            } else if lingered {
                return Ok(());
            } else {
                state.parked += 1;
                // Back inside without the lock: those who are still inside need it.
                let timed_out = self.interrupt.gate().outside(|| self.park(state));
                state = self.lock();
                // Also after a time-out: a call that came with it may have found nobody else.
                state.called = false;
                (missed, lingered) = (false, timed_out);
            }
        }
    }

    /// Waits until this thread is called, or isn't needed. True after a time-out.
    fn park(&self, state: MutexGuard<State>) -> bool {
        let waited = self.parked.wait_timeout(state, LINGER);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state.parked -= 1;
        timeout.timed_out()
    }

    fn interrupt_if(&self, wanted: &mut bool) {
        if std::mem::take(wanted) {
            self.interrupt.used_buffers();
        }
    }

    /// Has another thread look at the queue, if there is or can be one that is free.
    fn get_help(self: &Arc<Self>, state: &mut State) {
        match state.listener {
            _ if state.called => {}
            Listener::Woken => {}
            Listener::Waiting => {
                state.listener = Listener::Woken;
                self.wake_listener();
            }
            Listener::None if state.parked > 0 => {
                state.called = true;
                self.parked.notify_one();
            }
            Listener::None if state.threads < self.max_threads => {
                state.handles.retain(|handle| !handle.is_finished());
                match self.spawn() {
                    Ok(handle) => {
                        state.handles.push(handle);
                        state.threads += 1;
                        state.called = true;
                    }
                    Err(error) => log::debug!("no further thread {}: {error}", self.name),
                }
            }
            Listener::None => {}
        }
    }

    /// Has all threads end once they are done with their requests.
    fn end(&self, state: &mut State) {
        state.stopping = true;
        self.handler.stop();
        self.parked.notify_all();
        self.wake_listener();
    }

    fn wake_listener(&self) {
        if let Err(error) = self.notify.write(1) {
            log::error!("waking thread {}: {error}", self.name);
        }
    }
}

/// Why a pool stops by itself.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("{0}")]
    Queue(virtio_queue::Error),
    #[error("reading a queue's eventfd: {0}")]
    Notify(std::io::Error),
}

impl From<virtio_queue::Error> for ServeError {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Queue(error)
    }
}

#[cfg(test)]
mod tests;
