//! What is asked of a VM from outside while it runs, by any thread of the embedding program.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::devices::NetEnd;
use super::lifecycle::{Lifecycle, State};
use super::vm::Stopper;
use crate::arch::board::Buttons;
use crate::config::RateLimit;
use crate::devices::Button;
use crate::devices::virtio::balloon::{Balloon, BalloonError};
use crate::devices::virtio::blk::{BlkError, Drive};
use crate::devices::virtio::net::Link;
use crate::metrics::Registry;

/// What a drive is to have in it from now on.
#[derive(Debug)]
pub enum Medium {
    /// The image or block device at this path, or `fd=N` ([`crate::handed`]).
    Path(PathBuf),
    /// One that is open already, for writing too unless the drive is read-only; the name is for messages.
    File(File, PathBuf),
}

impl From<PathBuf> for Medium {
    fn from(path: PathBuf) -> Self {
        Medium::Path(path)
    }
}

impl From<&Path> for Medium {
    fn from(path: &Path) -> Self {
        Medium::Path(path.to_owned())
    }
}

impl From<&str> for Medium {
    fn from(path: &str) -> Self {
        Medium::Path(path.into())
    }
}

/// Why a VM doesn't do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It has ended, or it ended before it was done.
    #[error("the VM has ended")]
    Ended,
    /// There is no such device.
    #[error("there is no {what} {name:?}: the VM has {has}")]
    NoDevice {
        /// The kind of device.
        what: &'static str,
        /// What it was called.
        name: String,
        /// What there is: names, or `none`.
        has: String,
    },
    /// The device can't do this.
    #[error("{name} {why}")]
    Unable {
        /// The device.
        name: String,
        /// What is in the way, and the remedy.
        why: &'static str,
    },
    /// The guest can't be reached by this button.
    #[error("{button:?}: {why}")]
    NoButton {
        /// The button.
        button: Button,
        /// What is in the way, and the remedy.
        why: &'static str,
    },
    /// The new medium can't be used; the old one is still there.
    #[error(transparent)]
    Medium(#[from] BlkError),
    /// The balloon can't have that size.
    #[error(transparent)]
    Balloon(#[from] BalloonError),
    /// The host's KVM refused.
    #[error("{0}")]
    Kvm(String),
}

/// Controls a VM from any thread, from before its start until after its end. Clones control the same VM.
///
/// No call waits for the guest, and none makes a device's thread wait longer than the call itself takes.
/// [`pause`](Self::pause) and [`resume`](Self::resume) wait until they are done, so an async program calls them by
/// its runtime's `spawn_blocking` or the like; all others return at once, but for
/// [`replace_drive`](Self::replace_drive), which opens a file.
///
/// ```no_run
/// use motevm::{Host, VmConfig, build};
///
/// let mut config = VmConfig::default();
/// config.boot.kernel = Some("vmlinux".into());
/// let mut vm = build(&Host::open()?, &config, Default::default())?;
/// let control = vm.control();
/// let guest = std::thread::spawn(move || vm.run());
/// control.pause()?; // nothing of the guest runs now, and its memory stays as it is
/// control.resume()?;
/// control.stop();
/// guest.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
}

/// What all clones share.
pub(super) struct Shared {
    pub stopper: Stopper,
    pub lifecycle: Arc<Lifecycle>,
    /// The drives, in the configuration's order, as [`super::devices::Placed`] has them.
    pub drives: Vec<(String, Option<Drive>)>,
    /// The network devices, likewise.
    pub nets: Vec<(String, Option<NetEnd>)>,
    pub balloon: Option<Balloon>,
    pub buttons: Buttons,
    pub metrics: Registry,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Control {
    pub(super) fn new(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        Control { shared }
    }

    /// How far the VM has come.
    pub fn state(&self) -> State {
        self.shared.lifecycle.state()
    }

    /// Stops every vCPU and every device at a defined point, and returns when they have. From then until
    /// [`resume`](Self::resume) the guest runs no instruction, no request of its drivers is taken or in flight,
    /// nothing is written to its memory, and its clocks stand still. A VM that is paused already stays so. One
    /// that hasn't been started begins paused.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// control.pause()?;
    /// // A consistent moment: copy the disk image, look at the metrics.
    /// control.resume()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::Ended`]
    pub fn pause(&self) -> Result<(), ControlError> {
        self.shared.lifecycle.wish(true)
    }

    /// Lets a paused VM go on, and returns when it does. One that runs is left alone.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ended`]
    pub fn resume(&self) -> Result<(), ControlError> {
        self.shared.lifecycle.wish(false)
    }

    /// Makes [`super::Vm::run`] return [`super::Exit::Stopped`], whether the VM runs, is paused, or isn't started
    /// yet. The guest isn't asked; [`press`](Self::press) asks it.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// control.stop();
    /// assert!(control.pause().is_err()); // now, or soon
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(&self) {
        self.shared.stopper.stop();
    }

    /// Asks the guest's kernel for an orderly end. Whether and when the guest obeys is its own business; that of a
    /// paused one, once it goes on.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// use std::time::Duration;
    /// use motevm::State;
    /// use motevm::machine::Button;
    ///
    /// if control.press(Button::CtrlAltDel).is_ok() {
    ///     std::thread::sleep(Duration::from_secs(10)); // or wait for what `run` returns
    /// }
    /// if control.state() != State::Ended {
    ///     control.stop();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::NoButton`] where the machine has no such button, or the guest's kernel has no driver that
    /// listens; [`ControlError::Ended`].
    pub fn press(&self, button: Button) -> Result<(), ControlError> {
        match self.state() {
            State::Ended => return Err(ControlError::Ended),
            State::NotStarted => {
                let why = "the VM isn't started";
                return Err(ControlError::NoButton { button, why });
            }
            State::Running | State::Paused => {}
        }
        let pressed = self.shared.buttons.press(button);
        pressed.map_err(|why| ControlError::NoButton { button, why })?;
        self.shared.lifecycle.wake();
        Ok(())
    }

    /// The names of the drives, in the configuration's order, the root file system's first: `vda`, `vdb`, ...,
    /// and `pmem0`, ... for those that the guest maps. Metrics have the same names.
    pub fn drives(&self) -> impl Iterator<Item = &str> {
        self.shared.drives.iter().map(|(name, _)| name.as_str())
    }

    /// The names of the network devices, in the configuration's order: `net0`, `net1`, ...
    pub fn nets(&self) -> impl Iterator<Item = &str> {
        self.shared.nets.iter().map(|(name, _)| name.as_str())
    }

    /// Takes what is in a drive out and puts another medium in, which may have another size: new requests go to
    /// the new one, and the guest's driver is told of the capacity (virtio 1.3 §5.2.4). What was in flight ends
    /// on the old one. All else that was configured (`ro`, `cache=`, limits) stays. The capacity in bytes.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// let bytes = control.replace_drive("vdb", "/images/other.img")?;
    /// println!("the guest sees {bytes} bytes");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::NoDevice`], [`ControlError::Unable`], [`ControlError::Medium`], [`ControlError::Ended`];
    /// the old medium stays.
    pub fn replace_drive(
        &self,
        drive: &str,
        medium: impl Into<Medium>,
    ) -> Result<u64, ControlError> {
        let drive = self.drive(drive)?;
        let result = match medium.into() {
            Medium::Path(path) => drive.replace(&path),
            Medium::File(file, name) => drive.replace(Path::new(&format!(
                "fd={}:{}",
                file.as_raw_fd(),
                name.display()
            ))),
        };
        Ok(result.ok_or(ControlError::Ended)??)
    }

    /// Gives a drive other limits, from the next request on; [`RateLimit::default`] takes them away.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// use motevm::config::{Rate, RateLimit};
    ///
    /// let bytes = Rate { per_second: 50 << 20, burst: 100 << 20 };
    /// control.set_drive_limits("vda", RateLimit { ops: None, bytes: Some(bytes) })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::NoDevice`], [`ControlError::Unable`], [`ControlError::Ended`]
    pub fn set_drive_limits(&self, drive: &str, limits: RateLimit) -> Result<(), ControlError> {
        match self.drive(drive)?.set_limits(&limits) {
            true => Ok(()),
            false => Err(ControlError::Ended),
        }
    }

    /// Gives a network device other limits, of what goes to the guest and of what comes from it, from the next
    /// packet on. `None` leaves a direction as it is.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// use motevm::config::RateLimit;
    ///
    /// control.set_net_limits("net0", None, Some(RateLimit::default()))?; // no limit any more
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::NoDevice`], [`ControlError::Unable`], [`ControlError::Ended`]
    pub fn set_net_limits(
        &self,
        net: &str,
        to_guest: Option<RateLimit>,
        from_guest: Option<RateLimit>,
    ) -> Result<(), ControlError> {
        let (_, limits) = self.net(net)?;
        let why = "is served by the host's kernel (vhost), which knows no limits";
        let limits = limits.as_ref().ok_or_else(|| unable(net, why))?;
        if let Some(limit) = to_guest {
            limits.set_to_guest(&limit);
        }
        if let Some(limit) = from_guest {
            limits.set_from_guest(&limit);
        }
        Ok(())
    }

    /// The cable of a network device.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// control.link("net0")?.set(false); // the guest sees that it was pulled out
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::NoDevice`]; [`ControlError::Unable`] where another process serves it.
    pub fn link(&self, net: &str) -> Result<&Link, ControlError> {
        Ok(&self.net(net)?.0)
    }

    /// The balloon, where the configuration has one.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// use motevm::config::Size;
    ///
    /// if let Some(balloon) = control.balloon() {
    ///     balloon.set_target(Size::mib(256))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn balloon(&self) -> Option<&Balloon> {
        self.shared.balloon.as_ref()
    }

    /// What the VM and its devices count.
    ///
    /// ```no_run
    /// # fn with(control: &motevm::Control) -> Result<(), motevm::machine::ControlError> {
    /// print!("{}", control.metrics().render());
    /// # Ok(())
    /// # }
    /// ```
    pub fn metrics(&self) -> &Registry {
        &self.shared.metrics
    }

    fn drive(&self, name: &str) -> Result<&Drive, ControlError> {
        let found = self.shared.drives.iter().find(|(drive, _)| drive == name);
        let (_, drive) = found.ok_or_else(|| no_device("drive", name, self.drives()))?;
        let why =
            "is mapped by the guest, or served by another process: only that one could change it";
        drive.as_ref().ok_or_else(|| unable(name, why))
    }

    fn net(&self, name: &str) -> Result<&NetEnd, ControlError> {
        let found = self.shared.nets.iter().find(|(net, _)| net == name);
        let (_, net) = found.ok_or_else(|| no_device("network device", name, self.nets()))?;
        let why = "is served by another process, which has its cable and its limits";
        net.as_ref().ok_or_else(|| unable(name, why))
    }
}

fn unable(name: &str, why: &'static str) -> ControlError {
    let name = name.to_owned();
    ControlError::Unable { name, why }
}

fn no_device<'a>(
    what: &'static str,
    name: &str,
    has: impl Iterator<Item = &'a str>,
) -> ControlError {
    let has = has.collect::<Vec<_>>().join(", ");
    ControlError::NoDevice {
        what,
        name: name.to_owned(),
        has: if has.is_empty() { "none".into() } else { has },
    }
}
