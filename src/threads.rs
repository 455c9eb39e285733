//! How a running VM gets its threads: from one that does nothing but start others.
//!
//! A vCPU thread may do next to nothing on the host ([`crate::sandbox`]), and what it starts would
//! inherit its filter, its CPUs and its priority. So while a VM runs, its threads ask the *starter* for
//! threads ([`spawn`]), and have devices set up and torn down on the *set-up* thread ([`apart`]). The
//! starter waits for nothing but such wishes, so whoever waits for it gets an answer, also the set-up
//! thread, and a thread that the set-up thread waits for. A thread that is no VM's (a test's, an
//! embedding program's) does both by itself.

use std::cell::RefCell;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::sandbox::{Confinement, ThreadKind};

/// Such threads need little stack, and what they don't have they can't make resident.
fn stack(kind: ThreadKind) -> usize {
    match kind {
        // What a file or a client gets is put together there.
        ThreadKind::Metrics | ThreadKind::Api => 256 << 10,
        _ => 128 << 10,
    }
}

type Work = Box<dyn FnOnce() + Send>;

enum Wish {
    Do(Work),
    End,
}

/// The threads that serve a VM's others. Dropping it ends them.
#[derive(Debug)]
pub struct Threads {
    starter: Option<JoinHandle<()>>,
    vm: Member,
}

/// What makes a thread one of a VM's.
#[derive(Clone, Debug)]
pub struct Member {
    starter: Sender<Wish>,
    /// Started when it is first wanted.
    setup: Arc<Mutex<Option<Setup>>>,
    confinement: Option<Arc<Confinement>>,
}

#[derive(Debug)]
struct Setup {
    wishes: Sender<Wish>,
    thread: JoinHandle<()>,
}

thread_local! {
    static MEMBER: RefCell<Option<(Member, ThreadKind)>> = const { RefCell::new(None) };
}

impl Threads {
    /// Starts the starter, confined as far as all that it starts.
    ///
    /// # Errors
    ///
    /// The host refused the thread.
    pub fn start(confinement: Option<Arc<Confinement>>) -> io::Result<Self> {
        let (starter, wishes) = channel();
        let vm = Member {
            starter,
            setup: Arc::default(),
            confinement,
        };
        let confinement = vm.confinement.clone();
        let starter = thread(ThreadKind::Starter, "mote-starter").spawn(move || {
            leave_signals_to_others();
            if let Some(confinement) = confinement {
                confinement.confine(ThreadKind::Starter);
            }
            grant(wishes);
        })?;
        Ok(Threads {
            starter: Some(starter),
            vm,
        })
    }

    /// For a thread that is to belong to the VM.
    pub fn member(&self) -> &Member {
        &self.vm
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let _ = self.vm.starter.send(Wish::End);
        let starter = self.starter.take().map(JoinHandle::join);
        let setup = self.vm.setup().take().map(|setup| {
            let _ = setup.wishes.send(Wish::End);
            setup.thread.join()
        });
        if [starter, setup]
            .into_iter()
            .flatten()
            .any(|end| end.is_err())
        {
            log::error!("a thread that starts others has panicked");
        }
    }
}

impl Member {
    /// Makes the calling thread, which was not started by [`spawn`], one of the VM's.
    pub fn join(&self, kind: ThreadKind) {
        leave_signals_to_others();
        MEMBER.set(Some((self.clone(), kind)));
        if let Some(confinement) = &self.confinement {
            confinement.confine(kind);
        }
    }

    /// Does this with the calling thread as one of the VM's, unconfined or confined as it is.
    pub fn for_now<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = MEMBER.replace(Some((self.clone(), ThreadKind::Main)));
        let result = work();
        MEMBER.set(before);
        result
    }

    /// Starts a thread of the VM's from any thread, one of the VM's or not.
    ///
    /// # Errors
    ///
    /// The host refused the thread.
    pub fn spawn<T: Send + 'static>(
        &self,
        kind: ThreadKind,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        self.spawn_prepared(kind, name, || (), |()| work())
    }

    fn spawn_prepared<P, T: Send + 'static>(
        &self,
        kind: ThreadKind,
        name: &str,
        prepare: impl FnOnce() -> P + Send + 'static,
        work: impl FnOnce(P) -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let (member, builder) = (self.clone(), thread(kind, name));
        let start = move || {
            builder.spawn(move || {
                let prepared = prepare();
                let confinement = member.confinement.clone();
                MEMBER.set(Some((member, kind)));
                if let Some(confinement) = confinement {
                    confinement.confine_further(kind);
                }
                work(prepared)
            })
        };
        have_done(&self.starter, start)?
    }

    /// As [`soon`], from any thread. What is wished for first is done first.
    pub fn soon(&self, work: impl FnOnce() + Send + 'static) {
        // Where the VM is ending, nobody misses it.
        let _ = self.starter.send(Wish::Do(Box::new(work)));
    }

    fn setup(&self) -> std::sync::MutexGuard<'_, Option<Setup>> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn setup_wishes(&self) -> io::Result<Sender<Wish>> {
        let mut setup = self.setup();
        if let Some(setup) = &*setup {
            return Ok(setup.wishes.clone());
        }
        let (sender, wishes) = channel();
        let thread = self.spawn(ThreadKind::Setup, "mote-setup", || grant(wishes))?;
        *setup = Some(Setup {
            wishes: sender.clone(),
            thread,
        });
        Ok(sender)
    }
}

/// Starts a thread for the one that calls: by the VM's starter, so that it inherits nothing from the
/// caller. `name` has at most 15 bytes.
///
/// # Errors
///
/// The host refused the thread.
pub fn spawn<T: Send + 'static>(
    kind: ThreadKind,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    spawn_prepared(kind, name, || (), |()| work())
}

/// The same for a thread that needs something made which its kind may not make: the new thread does that first,
/// while it is confined as the starter is. `prepare` must see nothing that is the guest's to write.
///
/// # Errors
///
/// As for [`spawn`].
pub fn spawn_prepared<P, T: Send + 'static>(
    kind: ThreadKind,
    name: &str,
    prepare: impl FnOnce() -> P + Send + 'static,
    work: impl FnOnce(P) -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    match MEMBER.with_borrow(Clone::clone) {
        Some((member, _)) => member.spawn_prepared(kind, name, prepare, work),
        None => thread(kind, name).spawn(|| work(prepare())),
    }
}

/// Has something small done soon: by the VM's starter, which must not be kept waiting; at once where the
/// calling thread is no VM's.
pub fn soon(work: impl FnOnce() + Send + 'static) {
    match MEMBER.with_borrow(Clone::clone) {
        Some((member, _)) => member.soon(work),
        None => work(),
    }
}

/// A place where devices are set up and torn down while the caller waits.
pub struct Apart(Option<Sender<Wish>>);

/// The set-up thread of the calling thread's VM; the calling thread itself where that is none.
///
/// # Errors
///
/// The host refused the thread.
pub fn apart() -> io::Result<Apart> {
    let wishes = match MEMBER.with_borrow(Clone::clone) {
        None | Some((_, ThreadKind::Setup)) => None,
        Some((member, _)) => Some(member.setup_wishes()?),
    };
    Ok(Apart(wishes))
}

impl Apart {
    /// Does this there.
    ///
    /// # Panics
    ///
    /// `work` has panicked there.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match &self.0 {
            Some(wishes) => {
                have_done(wishes, work).expect("the set-up thread lives as long as vCPUs")
            }
            None => work(),
        }
    }
}

fn have_done<T: Send + 'static>(
    by: &Sender<Wish>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let ended = || io::Error::other("the VM is ending");
    let (done, result) = channel();
    let work = Box::new(move || drop(done.send(work())));
    by.send(Wish::Do(work)).map_err(|_| ended())?;
    result.recv().map_err(|_| ended())
}

/// Grants wishes until the end is wished for.
fn grant(wishes: std::sync::mpsc::Receiver<Wish>) {
    for wish in wishes {
        match wish {
            Wish::Do(work) => work(),
            Wish::End => break,
        }
    }
}

/// What is sent to the process is handled by the thread that runs the VM, or another of the embedding
/// program's: a VM's own threads may not do what a handler does. They, and those that they start, get
/// what is meant for a thread: faults, and what makes a vCPU leave its guest.
fn leave_signals_to_others() {
    let own = [
        libc::SIGSYS,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGABRT,
        vmm_sys_util::signal::SIGRTMIN(),
    ];
    // SAFETY: a signal set is plain bits, filled by the first call; the numbers are valid.
    let result = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in own {
            libc::sigdelset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if result != 0 {
        log::debug!("blocking signals: error {result}");
    }
}

fn thread(kind: ThreadKind, name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(stack(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_thread_of_no_vm_starts_threads_and_sets_up_devices_by_itself() {
        let own = thread::current().id();
        assert_eq!(apart().unwrap().run(move || thread::current().id()), own);
        let started = spawn(ThreadKind::Worker, "mote-test", name).unwrap();
        assert_eq!(started.join().unwrap(), "mote-test");
    }

    #[test]
    fn a_vms_thread_has_others_do_it() {
        let threads = Threads::start(None).unwrap();
        let member = threads.member().clone();
        let vcpu = thread::spawn(move || {
            member.join(ThreadKind::Vcpu);
            assert_eq!(apart().unwrap().run(name), "mote-setup");
            // From there, too, and from a thread that was started so.
            let nested = || spawn(ThreadKind::Worker, "mote-b", name).unwrap();
            let from_setup = apart().unwrap().run(nested);
            assert_eq!(from_setup.join().unwrap(), "mote-b");
            let a = spawn(ThreadKind::Worker, "mote-a", nested).unwrap();
            assert_eq!(a.join().unwrap().join().unwrap(), "mote-b");
            // Set-up within a set-up waits for nobody.
            let inner = || apart().unwrap().run(name);
            assert_eq!(apart().unwrap().run(inner), "mote-setup");
        });
        vcpu.join().unwrap();
        let member = threads.member().clone();
        drop(threads);
        let late = member.spawn(ThreadKind::Worker, "mote-late", name);
        assert!(late.unwrap_err().to_string().contains("ending"));
    }

    #[test]
    fn a_set_up_may_wait_for_a_thread_that_wants_another() {
        let threads = Threads::start(None).unwrap();
        let member = threads.member().clone();
        let vcpu = thread::spawn(move || {
            member.join(ThreadKind::Vcpu);
            apart().unwrap().run(|| {
                let wants = || drop(spawn(ThreadKind::Worker, "mote-b", || ()).unwrap().join());
                let a = spawn(ThreadKind::Worker, "mote-a", wants).unwrap();
                a.join().unwrap();
            });
        });
        vcpu.join().unwrap();
    }
}
