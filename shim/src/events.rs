//! What containerd is told: each event once, in the order in which they come here, also by way of a containerd that is
//! started again meanwhile.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use containerd_shim::protos::protobuf::MessageDyn;
use containerd_shim::protos::ttrpc::context;
use containerd_shim::publisher::RemotePublisher;
use log::warn;

/// Between attempts to reach a containerd that isn't there.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long it is tried: who restarts containerd takes less.
const ATTEMPTS: usize = 300;
/// That an answer to an event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the thread is given.
enum Told {
    /// A topic and its message.
    Event(String, Box<dyn MessageDyn>),
    /// To be said once it comes to this.
    Flush(SyncSender<()>),
}

/// Where events go. They are sent by a thread of its own, so that nobody waits for containerd.
#[derive(Debug)]
pub struct Events {
    queue: Sender<Told>,
}

impl Events {
    /// To containerd's socket at `address`, beginning with a connection that is there.
    pub fn new(publisher: RemotePublisher, namespace: String, address: String) -> Self {
        let (queue, told) = channel();
        let send = move || send_all(publisher, &namespace, &address, &told);
        thread::spawn(send);
        Events { queue }
    }

    /// Tells of an event.
    pub fn tell<E: containerd_shim::event::Event + MessageDyn>(&self, event: E) {
        // The thread ends with the process.
        let _ = self.queue.send(Told::Event(event.topic(), Box::new(event)));
    }

    /// Waits until containerd has been told of all so far, or as long as that.
    pub fn flush(&self, patience: Duration) {
        let (done, all) = sync_channel(1);
        let _ = self.queue.send(Told::Flush(done));
        if all.recv_timeout(patience).is_err() {
            warn!("containerd may not have learned of all that happened");
        }
    }
}

fn send_all(first: RemotePublisher, namespace: &str, address: &str, told: &Receiver<Told>) {
    let mut publisher = Some(first);
    while let Ok(told) = told.recv() {
        let (topic, event) = match told {
            Told::Event(topic, event) => (topic, event),
            Told::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        for attempt in 1..=ATTEMPTS {
            if publisher.is_none() {
                publisher = RemotePublisher::new(address).ok();
            }
            let sent = publisher.as_ref().map(|publisher| {
                let context = context::with_duration(PATIENCE);
                publisher.publish(context, &topic, namespace, event.clone_box())
            });
            match sent {
                Some(Ok(())) => break,
                Some(Err(error)) => {
                    warn!("telling containerd of {topic}: {error}");
                    // Of no connection any more, or of a containerd that ended while it answered.
                    publisher = None;
                }
                None if attempt == ATTEMPTS => warn!("containerd never learns of {topic}"),
                None => {}
            }
            thread::sleep(PAUSE);
        }
    }
}
