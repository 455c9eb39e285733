//! A vCPU thread takes its place on the host before it runs the guest, and waits until all have theirs:
//! a place that can't be had is an error of the start, and no guest has run then.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::config::CpuList;
use crate::kvm::Vcpu;
use crate::placement::{PlacementError, VcpuPlace, thread};

/// What one vCPU thread is given for that.
pub struct Seat {
    place: VcpuPlace,
    own: CpuList,
    taken: Sender<Result<(), PlacementError>>,
    go: Receiver<()>,
}

/// Where the one who starts vCPU threads waits until all are in their places.
pub struct Gate {
    go: Vec<Sender<()>>,
    taken: Receiver<Result<(), PlacementError>>,
}

impl Gate {
    /// A seat for each of `places`. A vCPU that has no CPUs of its own is on `own`.
    pub fn new(places: &[VcpuPlace], own: &CpuList) -> (Self, Vec<Seat>) {
        let (taken, results) = channel();
        let (mut seats, mut gates) = (Vec::new(), Vec::new());
        for place in places {
            let (open, go) = channel();
            gates.push(open);
            seats.push(Seat {
                place: place.clone(),
                own: own.clone(),
                taken: taken.clone(),
                go,
            });
        }
        let gate = Gate {
            go: gates,
            taken: results,
        };
        (gate, seats)
    }

    /// Waits until all vCPU threads are in their places, and lets them run the guest. On an error, or
    /// when it is dropped before, they end instead.
    ///
    /// # Errors
    ///
    /// The first place that could not be had.
    pub fn open(self) -> Result<(), PlacementError> {
        for _ in &self.go {
            // A thread that has gone without a word has panicked, which ends the VM by itself.
            self.taken.recv().unwrap_or(Ok(()))?;
        }
        for go in &self.go {
            let _ = go.send(());
        }
        Ok(())
    }
}

impl Seat {
    /// Takes the place, on the vCPU's thread; whether the guest may run.
    pub(super) fn take(self, vcpu: &mut Vcpu) -> bool {
        // From Linux 6.13 on, the first KVM_RUN of a VM makes a thread of this process's, which
        // recovers huge pages. It is to be where other threads are, not where this one will be.
        vcpu.enter_and_leave();
        let id = vcpu.id();
        let result = thread::become_vcpu(id, &self.place, &self.own);
        let _ = self.taken.send(result);
        drop(self.taken);
        self.go.recv().is_ok()
    }
}
