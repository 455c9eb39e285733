//! The host's end of a control connection: calls from any thread, events on the one that serves.

use std::collections::HashMap;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::VERSION;
use crate::frame::{self, FrameError, TO_AGENT, TO_HOST};
use crate::message::{Answer, Call, Event, FromAgent, Hello, Refusal, Reply, Request};
use crate::within::Within;

/// Why a call has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The agent refuses.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The connection is over, or failed.
    #[error("the agent in the guest: {0}")]
    Connection(#[from] FrameError),
    /// The answer doesn't come.
    #[error("the agent in the guest didn't answer within {0:?}")]
    Late(Duration),
    /// It ended before the answer came.
    #[error("the agent in the guest went away before it answered")]
    Gone,
    /// It breaks the rules.
    #[error("the agent in the guest {0}")]
    Wrong(&'static str),
}

/// A control connection. All threads may use it; one has to be in [`Session::serve`].
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    /// That a message may take to be written.
    patience: Option<Duration>,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    last: u32,
    pending: HashMap<u32, Sender<Answer>>,
    ended: bool,
}

impl Calls {
    /// No answer comes any more: whoever waits gets to know.
    fn end(&mut self) {
        self.ended = true;
        self.pending.clear();
    }
}

/// An answer that is on its way.
#[derive(Debug)]
pub struct Waiting(Receiver<Answer>);

impl Waiting {
    /// Waits for it.
    ///
    /// # Errors
    ///
    /// The agent refuses, or is gone.
    pub fn answer(self) -> Result<Reply, CallError> {
        match self.0.recv() {
            Ok(answer) => answer.map_err(CallError::Refused),
            Err(_) => Err(CallError::Gone),
        }
    }

    /// Waits for it, but not for ever: the guest may be any.
    ///
    /// # Errors
    ///
    /// The agent refuses, is gone, or takes longer.
    pub fn answer_within(self, patience: Duration) -> Result<Reply, CallError> {
        match self.0.recv_timeout(patience) {
            Ok(answer) => answer.map_err(CallError::Refused),
            Err(RecvTimeoutError::Timeout) => Err(CallError::Late(patience)),
            Err(RecvTimeoutError::Disconnected) => Err(CallError::Gone),
        }
    }
}

impl Session {
    /// Takes a connection whose [opening](crate::Opening) has been read or sent, and waits for the agent's greeting.
    ///
    /// # Errors
    ///
    /// It doesn't come.
    pub fn open(stream: UnixStream) -> Result<(Self, Hello), CallError> {
        let first = frame::read(&mut &stream, TO_HOST)?;
        Session::begin(stream, first, None)
    }

    /// The same for a guest that may be any: the greeting comes within that time, and whatever is sent later is taken
    /// within it, or the connection is over.
    ///
    /// # Errors
    ///
    /// It doesn't come in time.
    pub fn open_within(stream: UnixStream, patience: Duration) -> Result<(Self, Hello), CallError> {
        let first = frame::read(&mut Within::new(&stream, patience), TO_HOST)?;
        stream.set_read_timeout(None).map_err(FrameError::Io)?;
        Session::begin(stream, first, Some(patience))
    }

    fn begin(
        stream: UnixStream,
        first: FromAgent,
        patience: Option<Duration>,
    ) -> Result<(Self, Hello), CallError> {
        let FromAgent::Hello(hello) = first else {
            return Err(CallError::Wrong("doesn't begin with a greeting"));
        };
        let session = Session {
            stream,
            patience,
            calls: Mutex::default(),
        };
        Ok((session, hello))
    }

    /// The protocol's version, for whoever tells people.
    pub const VERSION: u32 = VERSION;

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, whose answer can be waited for later: requests that need not each other's answers go off
    /// one after the other.
    ///
    /// # Errors
    ///
    /// It is too long, or the connection has failed.
    pub fn send(&self, request: Request) -> Result<Waiting, CallError> {
        let (sender, receiver) = channel();
        self.write(request, Some(sender))?;
        Ok(Waiting(receiver))
    }

    /// Sends a request whose answer nobody waits for: a guest that gives none costs nothing then.
    fn tell(&self, request: Request) -> Result<(), CallError> {
        self.write(request, None)
    }

    fn write(&self, request: Request, sender: Option<Sender<Answer>>) -> Result<(), CallError> {
        let mut calls = self.calls();
        if calls.ended {
            return Err(CallError::Gone);
        }
        calls.last = calls.last.checked_add(1).unwrap_or(1);
        let id = calls.last;
        let bytes = frame::encode(&Call { id, request }, TO_AGENT)?;
        if let Some(sender) = sender {
            calls.pending.insert(id, sender);
        }
        // With the lock held, so that messages don't mix.
        let written = match self.patience {
            Some(patience) => Within::new(&self.stream, patience).write_all(&bytes),
            None => (&self.stream).write_all(&bytes),
        };
        if let Err(error) = written {
            // Of a part of a message nobody can make anything: whoever waits for the lock needn't try.
            calls.end();
            self.close();
            return Err(FrameError::Io(error).into());
        }
        Ok(())
    }

    /// Sends a request and waits for its answer. Not from the thread that serves.
    ///
    /// # Errors
    ///
    /// The agent refuses, or is gone.
    pub fn call(&self, request: Request) -> Result<Reply, CallError> {
        self.send(request)?.answer()
    }

    /// Reads what the agent says until the connection ends, which is no error. Each event is told once, in
    /// order, and acknowledged after that; `after` is the number of the last one that was told on an earlier connection,
    /// else 0.
    ///
    /// # Errors
    ///
    /// The agent says what makes no sense. The connection is over then.
    pub fn serve(
        &self,
        mut after: u64,
        mut on_event: impl FnMut(u64, Event),
    ) -> Result<(), CallError> {
        let result = loop {
            match frame::read(&mut &self.stream, TO_HOST) {
                Ok(FromAgent::Answer(id, answer)) => {
                    // What nobody waits for any more is dropped.
                    if let Some(sender) = self.calls().pending.remove(&id) {
                        let _ = sender.send(answer);
                    }
                }
                Ok(FromAgent::Event(number, _)) if number <= after => {}
                Ok(FromAgent::Event(number, event)) => {
                    after = number;
                    on_event(number, event);
                    if self.tell(Request::Acknowledge(number)).is_err() {
                        break Ok(());
                    }
                }
                Ok(FromAgent::Hello(_)) => {
                    break Err(CallError::Wrong("greets twice on one connection"));
                }
                Err(FrameError::End | FrameError::Io(_)) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.calls().end();
        self.close();
        result
    }

    /// Ends the connection, from any thread; [`Session::serve`] returns then.
    pub fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Status, Target};
    use std::io::Read;
    use std::thread;
    use std::time::Instant;

    fn hello() -> FromAgent {
        FromAgent::Hello(Hello::default())
    }

    fn say(mut stream: &UnixStream, message: &FromAgent) {
        frame::write(&mut stream, message, TO_HOST).unwrap();
    }

    #[test]
    fn answers_find_their_calls_and_events_come_once_and_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            say(&theirs, &hello());
            let first: Call = frame::read(&mut &theirs, TO_AGENT).unwrap();
            let second: Call = frame::read(&mut &theirs, TO_AGENT).unwrap();
            // In the other order, with events in between, of which one is old.
            say(&theirs, &FromAgent::Answer(second.id, Ok(Reply::Pid(2))));
            let exited = |name, number, code| {
                let event = Event::Exited(Target::of(name, ""), Status::Exited(code));
                FromAgent::Event(number, event)
            };
            say(&theirs, &exited("old", 3, 0));
            say(&theirs, &exited("a", 4, 7));
            say(&theirs, &FromAgent::Answer(99, Ok(Reply::Done)));
            say(&theirs, &FromAgent::Answer(first.id, Ok(Reply::Pid(1))));
            let acknowledged: Call = frame::read(&mut &theirs, TO_AGENT).unwrap();
            assert_eq!(acknowledged.request, Request::Acknowledge(4));
        });
        let (session, greeting) = Session::open(ours).unwrap();
        assert_eq!(greeting, Hello::default());
        let mut events = Vec::new();
        thread::scope(|scope| {
            let first = session.send(Request::Start("a".into())).unwrap();
            let second = session.send(Request::Start("b".into())).unwrap();
            let serving = scope.spawn(|| session.serve(3, |_, event| events.push(event)));
            assert_eq!(first.answer().unwrap(), Reply::Pid(1));
            assert_eq!(second.answer().unwrap(), Reply::Pid(2));
            serving.join().unwrap().unwrap();
        });
        agent.join().unwrap();
        let expected = Event::Exited(Target::of("a", ""), Status::Exited(7));
        assert_eq!(events, [expected]);
        let gone = session.call(Request::Shutdown);
        assert!(matches!(gone, Err(CallError::Gone)));
    }

    #[test]
    fn who_waits_learns_that_the_agent_is_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        say(&theirs, &hello());
        let (session, _) = Session::open(ours).unwrap();
        let waiting = session.send(Request::Shutdown).unwrap();
        drop(theirs);
        session.serve(0, |_, _| {}).unwrap();
        assert!(matches!(waiting.answer(), Err(CallError::Gone)));
    }

    #[test]
    fn an_agent_that_never_answers_is_not_waited_for_for_ever() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        say(&theirs, &hello());
        let (session, _) = Session::open(ours).unwrap();
        let waiting = session.send(Request::Shutdown).unwrap();
        let late = waiting.answer_within(Duration::from_millis(20));
        assert!(matches!(late, Err(CallError::Late(_))));
    }

    #[test]
    fn an_agent_that_never_reads_or_says_little_at_a_time_is_not_waited_for_either() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        say(&theirs, &hello());
        let patience = Duration::from_millis(200);
        let (session, _) = Session::open_within(ours, patience).unwrap();
        let begin = Instant::now();
        // A little is taken meanwhile, which doesn't begin the time anew.
        let mut reader = theirs.try_clone().unwrap();
        thread::spawn(move || {
            while reader.read(&mut [0; 100]).is_ok_and(|n| n > 0) {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let failed = loop {
            if let Err(error) = session.send(Request::Start("x".repeat(20_000))) {
                break error;
            }
        };
        assert!(matches!(failed, CallError::Connection(_)), "{failed}");
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{:?}",
            begin.elapsed()
        );
        assert!(matches!(
            session.send(Request::Shutdown),
            Err(CallError::Gone)
        ));
        // A greeting that comes a byte at a time.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let greeting = frame::encode(&hello(), TO_HOST).unwrap();
        thread::spawn(move || {
            for byte in greeting {
                thread::sleep(Duration::from_millis(100));
                if theirs.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
        assert!(Session::open_within(ours, patience).is_err());
    }

    #[test]
    fn acknowledgements_are_not_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        say(&theirs, &hello());
        let (session, _) = Session::open(ours).unwrap();
        let agent = thread::spawn(move || {
            for number in 1..=100 {
                say(
                    &theirs,
                    &FromAgent::Event(number, Event::OutOfMemory("x".into())),
                );
                let _: Call = frame::read(&mut &theirs, TO_AGENT).unwrap();
            }
        });
        session
            .serve(0, |_, _| assert!(session.calls().pending.is_empty()))
            .unwrap();
        agent.join().unwrap();
    }

    #[test]
    fn an_agent_that_breaks_the_rules_ends_the_connection() {
        let answer = FromAgent::Answer(1, Ok(Reply::Done));
        let (ours, theirs) = UnixStream::pair().unwrap();
        say(&theirs, &answer);
        assert!(matches!(Session::open(ours), Err(CallError::Wrong(_))));
        for wrong in [
            [9, 0, 0, 0, 255, 255, 255, 255, 255, 1, 1, 1, 1].to_vec(),
            u32::MAX.to_le_bytes().to_vec(),
            frame::encode(&hello(), TO_HOST).unwrap(),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            say(&theirs, &hello());
            theirs.write_all(&wrong).unwrap();
            let (session, _) = Session::open(ours).unwrap();
            assert!(session.serve(0, |_, _| {}).is_err());
        }
    }
}
