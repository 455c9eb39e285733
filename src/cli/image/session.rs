//! The conversation with the agent while the VM runs, on threads of the VM's that are confined as all its others.
//!
//! The guest makes all connections: the first is for control, the others are the streams that it was asked for. What it
//! says is not trusted: whatever it claims, it ends its own VM.

use std::fmt::Display;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use mote_agent_protocol::container::Window;
use mote_agent_protocol::host::{self, CallError};
use mote_agent_protocol::message::{Event, Reply};
use mote_agent_protocol::{Opening, PORT, Request, Target};
use motevm::devices::virtio::vsock::OwnPort;
use motevm::sandbox::ThreadKind;
use motevm::{Stopper, VmConfig, threads};
use vmm_sys_util::eventfd::EventFd;

use super::guest::{ERROR, INPUT, NAME, OUTPUT};
use super::{Workload, guest, stdio};
use crate::cli::signals::{self, Forwarding};
use crate::cli::{CliError, Status, terminal};

#[cfg(test)]
mod tests;

/// Statuses of shells for a program that can't be run, and for one that isn't there.
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Connections of the guest's that are served at a time: more than the agent makes.
const MOST_SERVED: usize = 8;

/// A conversation, from before the VM is there.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Sent when the agent calls.
    requests: [Request; 2],
    has_terminal: bool,
    stopper: OnceLock<Stopper>,
    /// Written at each change of `state`, and by signals.
    wake: EventFd,
    state: Mutex<State>,
    /// Told of each change too, for output that waits.
    changed: Condvar,
    /// Connections that have a thread.
    served: AtomicUsize,
    has_warned: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Connections that the guest has made: each comes once.
    seen: [bool; 4],
    /// Output streams that have ended, of those that there are.
    ended: usize,
    exited: Option<u8>,
    /// Signals are the program's.
    forwarding: bool,
    /// Ctrl-A x.
    quit: bool,
    /// The control connection is over.
    over: bool,
    outcome: Option<Outcome>,
}

/// What came of it.
#[derive(Debug)]
enum Outcome {
    /// The program's status.
    Exited(u8),
    /// It was never run: why, and the status for that.
    NotRun(String, u8),
    /// The guest can't be set up.
    Failed(String),
}

impl Session {
    /// Of this workload; with a terminal if standard input and output are one.
    pub fn new(workload: &Workload, config: &VmConfig) -> Result<Self, CliError> {
        // SAFETY: takes numbers.
        let has_terminal = unsafe {
            libc::isatty(libc::STDIN_FILENO) == 1 && libc::isatty(libc::STDOUT_FILENO) == 1
        };
        let requests = [
            Request::Setup(guest::setup(config)),
            guest::create(workload, has_terminal.then(window)),
        ];
        let failed = |e| CliError::new(Status::Host, format_args!("an event file descriptor: {e}"));
        Ok(Session(Arc::new(Inner {
            requests,
            has_terminal,
            stopper: OnceLock::new(),
            wake: EventFd::new(libc::EFD_CLOEXEC).map_err(failed)?,
            state: Mutex::default(),
            changed: Condvar::new(),
            served: AtomicUsize::new(0),
            has_warned: AtomicBool::new(false),
        })))
    }

    /// Whether the program has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.0.has_terminal
    }

    /// Where the guest finds it.
    pub fn port(&self) -> OwnPort {
        let session = self.clone();
        OwnPort {
            port: PORT,
            on_connect: Arc::new(move |stream| session.accept(stream)),
        }
    }

    /// Gives a connection a thread, which ends with it; one too many is closed.
    fn accept(&self, stream: UnixStream) {
        let Some(served) = Served::one_more(&self.0) else {
            return self
                .0
                .warn("the guest makes more connections than its agent needs");
        };
        let session = self.clone();
        let serve = move || {
            session.serve(stream);
            drop(served);
        };
        if let Err(error) = threads::spawn(ThreadKind::Agent, "mote-agent", serve) {
            self.0.warn(error);
        }
    }

    /// Has signals go to the program once it runs, and Ctrl-A x end the VM by this.
    pub fn start(&self, stopper: Stopper) -> Forwarding {
        let _ = self.0.stopper.set(stopper);
        Forwarding::new(self.0.wake.as_raw_fd(), self.0.has_terminal)
    }

    /// The command's status, once the VM has ended: the program's, if it came to one.
    pub fn status(&self, of_vm: Status) -> Result<Status, CliError> {
        let state = self.0.state();
        match (&state.outcome, of_vm) {
            (_, Status::Signal(_)) if state.exited.is_none() => Ok(of_vm),
            (Some(Outcome::Exited(code)), _) => Ok(Status::Passed(*code)),
            (Some(Outcome::NotRun(why, code)), _) => Err(CliError::new(
                Status::Passed(*code),
                format_args!("--image: {why}"),
            )),
            (Some(Outcome::Failed(why)), _) => Err(CliError::new(
                Status::Internal,
                format_args!("--image: in the guest: {why}"),
            )),
            (None, Status::Success) => Err(CliError::new(
                Status::Internal,
                "--image: the guest ended before its program did; --console file=PATH shows what its \
                 kernel and its agent said",
            )),
            (None, other) => Ok(other),
        }
    }

    /// A connection of the guest's, on a thread of its own.
    fn serve(&self, stream: UnixStream) {
        let opening = match Opening::read(&mut &stream) {
            Ok(opening) => opening,
            Err(error) => return self.0.warn(error),
        };
        let number = match opening {
            Opening::Control => 0,
            Opening::Stream(number) => number,
        };
        // Each once, and only those that were asked for.
        let mut state = self.0.state();
        let seen = usize::try_from(number).ok();
        match seen.and_then(|number| state.seen.get_mut(number)) {
            Some(seen) if !*seen => *seen = true,
            _ => return,
        }
        drop(state);
        match number {
            0 => self.control(stream),
            INPUT => {
                if stdio::copy_input(&stream, self.0.has_terminal) {
                    self.0.quit();
                }
            }
            number => {
                let fd = match number {
                    ERROR => libc::STDERR_FILENO,
                    _ => libc::STDOUT_FILENO,
                };
                self.0.wait_until_forwarding();
                stdio::copy_output(&stream, fd);
                self.0.change(|state| state.ended += 1);
            }
        }
    }

    fn control(&self, stream: UnixStream) {
        let session = match host::Session::open(stream) {
            Ok((session, hello)) => {
                log::debug!("--image: {hello:?}");
                Arc::new(session)
            }
            Err(error) => return self.0.end(Outcome::Failed(error.to_string())),
        };
        let (serving, inner) = (session.clone(), self.0.clone());
        let serve = move || {
            let first = Target::of(NAME, "");
            let result = serving.serve(0, |_, event| match event {
                Event::Exited(target, status) if target == first => {
                    inner.exited(status.code());
                }
                _ => {}
            });
            if let Err(error) = result {
                log::warn!("--image: {error}");
            }
            inner.change(|state| state.over = true);
        };
        if let Err(error) = threads::spawn(ThreadKind::Agent, "mote-agent", serve) {
            return self.0.end(Outcome::Failed(error.to_string()));
        }
        let outcome = match self.run(&session) {
            Ok(outcome) => outcome,
            Err(Outcome::Exited(_)) => None,
            Err(outcome) => Some(outcome),
        };
        if let Some(outcome) = outcome {
            self.0.end(outcome);
        }
        // The guest restarts, which ends the VM; or it doesn't answer any more.
        if session.call(Request::Shutdown).is_err()
            && let Some(stopper) = self.0.stopper.get()
        {
            stopper.stop();
        }
    }

    /// From the guest's setting-up to the program's end, and that of all that it wrote. `None` where there is none
    /// to wait for any more.
    fn run(&self, session: &host::Session) -> Result<Option<Outcome>, Outcome> {
        let failed = |error: CallError| Outcome::Failed(error.to_string());
        let not_run = |error: CallError| match &error {
            CallError::Refused(refusal) if refusal.errno == libc::ENOENT => {
                Outcome::NotRun(error.to_string(), NOT_FOUND)
            }
            CallError::Refused(_) => Outcome::NotRun(error.to_string(), NOT_RUN),
            _ => Outcome::Failed(error.to_string()),
        };
        // All at once: they come in their order.
        let [setup, create] = &self.0.requests;
        let setup = session.send(setup.clone()).map_err(failed)?;
        let create = session.send(create.clone()).map_err(failed)?;
        let start = session
            .send(Request::Start(NAME.to_owned()))
            .map_err(failed)?;
        setup.answer().map_err(failed)?;
        create.answer().map_err(not_run)?;
        let Reply::Pid(_) = start.answer().map_err(not_run)? else {
            return Err(Outcome::Failed(
                "the agent's answer makes no sense".to_owned(),
            ));
        };
        self.0.started();
        if self.0.has_terminal {
            // It may have changed before.
            self.tell(session, Request::Resize(Target::of(NAME, ""), window()));
        }
        self.0.change(|state| state.forwarding = true);
        let outputs = if self.0.has_terminal { 1 } else { 2 };
        loop {
            let state = self.0.state();
            let done = state.exited.filter(|_| state.ended >= outputs);
            let (quit, over) = (state.quit, state.over);
            drop(state);
            if let Some(code) = done {
                return Ok(Some(Outcome::Exited(code)));
            }
            if quit || over {
                return Ok(None);
            }
            let _ = self.0.wake.read();
            for signal in signals::taken() {
                let target = Target::of(NAME, "");
                self.tell(
                    session,
                    match signal {
                        libc::SIGWINCH => Request::Resize(target, window()),
                        signal => Request::Signal {
                            target,
                            signal,
                            all: false,
                        },
                    },
                );
            }
        }
    }

    /// Asks for something without which it goes on, too.
    fn tell(&self, session: &host::Session, request: Request) {
        if let Err(error) = session.call(request) {
            log::debug!("--image: {error}");
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
        let _ = self.wake.write(1);
    }

    /// Signals and keys are the program's, unless it has ended already.
    fn started(&self) {
        self.change(|state| {
            if state.exited.is_none() {
                signals::forward();
                if self.has_terminal {
                    terminal::make_raw();
                }
            }
        });
    }

    /// They are mote's again: what the program left behind may keep its outputs open.
    fn exited(&self, status: u8) {
        self.change(|state| {
            state.exited = Some(status);
            signals::keep();
            if self.has_terminal {
                terminal::make_cooked();
            }
        });
    }

    /// Ctrl-A x ends the VM, whatever else is waited for.
    fn quit(&self) {
        signals::quit();
        if let Some(stopper) = self.stopper.get() {
            stopper.stop();
        }
        self.change(|state| state.quit = true);
    }

    /// Until signals go to the program, or it is clear that they never will: whoever has seen the program say something
    /// may send it a signal, and means the program by it.
    fn wait_until_forwarding(&self) {
        let waits = |state: &mut State| !state.forwarding && !state.over && state.outcome.is_none();
        let state = self.changed.wait_while(self.state(), waits);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }

    /// Tells of what the guest can do as often as it likes: once.
    fn warn(&self, what: impl Display) {
        match self.has_warned.swap(true, Ordering::Relaxed) {
            false => log::warn!("--image: {what}"),
            true => log::debug!("--image: {what}"),
        }
    }

    fn end(&self, outcome: Outcome) {
        self.change(|state| {
            state.outcome.get_or_insert(outcome);
        });
    }
}

/// One of the connections that are served, as long as this lives.
struct Served(Arc<Inner>);

impl Served {
    fn one_more(of: &Arc<Inner>) -> Option<Self> {
        // It is taken back in any case.
        let served = Served(of.clone());
        let before = of.served.fetch_add(1, Ordering::AcqRel);
        (before < MOST_SERVED).then_some(served)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served.fetch_sub(1, Ordering::AcqRel);
    }
}

fn window() -> Window {
    let (columns, rows) = stdio::window();
    Window { columns, rows }
}

const _: () = assert!(
    OUTPUT < 4 && ERROR < 4 && INPUT < 4,
    "each has a place in State::seen"
);
