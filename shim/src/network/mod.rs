//! The pod's network namespace: what CNI plugins have made there becomes the guest's.
//!
//! The monitor runs in that namespace, on a tap of ours. What comes in by CNI's device goes out by the tap, and
//! the other way round ([`redirect`]); the guest's eth0 has that device's MAC, MTU, addresses and routes.
//!
//! CNI's device keeps its addresses. The host's network stack gets no packet of it, so nobody answers
//! twice; and CNI plugins (CHECK, and DEL for what they masquerade), containerd, and [`Namespace::join`]
//! itself when it's called again read there what the pod's addresses are.

mod device;
mod netlink;
mod redirect;
mod routes;
mod tap;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mote_agent_protocol::setup::Link;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use netlink::Netlink;

/// Why there's no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There's no such file, or it can't be made.
    #[error("network namespace {}: {what}: {source}", path.display())]
    File {
        /// The namespace's.
        path: PathBuf,
        /// What was done with it.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is something else.
    #[error("network namespace {}: it is no network namespace; it has to be a file like /proc/PID/ns/net", .0.display())]
    OtherKind(PathBuf),
    /// It is the one that the shim is in.
    #[error("network namespace {}: it is the host's own, whose devices a guest can't have; give the pod one of its own", .0.display())]
    Own(PathBuf),
    /// The thread that is to work there can't.
    #[error("network namespace: {what}: {source}")]
    Enter {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel doesn't say what there is.
    #[error("network namespace: reading its {what}: {source}")]
    Read {
        /// Of what.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refuses something about a device.
    #[error("network device {device}: {what}: {source}")]
    Device {
        /// Its name.
        device: String,
        /// What was done with it.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// What can fail so.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, what, source }
    }

    fn entering(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Enter { what, source }
    }

    fn reading(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { what, source }
    }

    fn of(device: &str, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let device = device.to_owned();
        move |source| Self::Device {
            device,
            what,
            source,
        }
    }
}

/// A network namespace. It stays for as long as this does.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
    path: PathBuf,
    /// Where it's mounted, if by us.
    made: Option<PathBuf>,
}

impl Namespace {
    /// One that others made: a pod's, at /var/run/netns/NAME or /proc/PID/ns/net.
    ///
    /// # Errors
    ///
    /// There's none there, or it is the shim's own.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |what| Error::file(path, what);
        let file = File::open(path).map_err(failed("opening it"))?;
        // SAFETY: it takes no argument.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(Error::OtherKind(path.to_owned()));
        }
        let own = std::fs::metadata(OWN).map_err(failed("comparing it with the shim's"))?;
        let it = file.metadata().map_err(failed("comparing it"))?;
        if (own.dev(), own.ino()) == (it.dev(), it.ino()) {
            return Err(Error::Own(path.to_owned()));
        }
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            made: None,
        })
    }

    /// A new one with no devices, which is mounted at `path`: a file that isn't there yet.
    ///
    /// # Errors
    ///
    /// The file is there, or the kernel refuses.
    pub fn make(path: &Path) -> Result<Self> {
        let failed = |what| Error::file(path, what);
        File::create_new(path).map_err(failed("making the file"))?;
        let mounted = apart(|| {
            // SAFETY: takes no pointer, and concerns this thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(failed("making it")(io::Error::last_os_error()));
            }
            mount(
                Some(OWN),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|error| failed("mounting it")(error.into()))
        });
        if let Err(error) = mounted {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Self::made(path)
    }

    /// One that [`Namespace::make`] made, maybe in an earlier process.
    ///
    /// # Errors
    ///
    /// There's none there.
    pub fn made(path: &Path) -> Result<Self> {
        let mut namespace = Self::open(path)?;
        namespace.made = Some(path.to_owned());
        Ok(namespace)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the calling thread into it, by one system call, as is fit for what is between fork and exec
    /// (`pre_exec`, to which a clone goes).
    ///
    /// # Errors
    ///
    /// The kernel refuses: the user isn't root.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: takes no pointer.
        match unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes the tap for the monitor, if it isn't there, has it up, and tells its name.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or another kind of device has that name.
    pub fn tap(&self) -> Result<String> {
        self.within(|netlink| Ok(tap::make(netlink)?.name))
    }

    /// Joins the device that CNI plugins made with the tap. Tells what the guest's eth0 is to be; none if
    /// there's no such device (yet). May be called again: what is joined stays so.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn join(&self) -> Result<Option<Link>> {
        self.within(|netlink| {
            let Some((device, addresses)) = device::pods(netlink)? else {
                return Ok(None);
            };
            let link = routes::link(netlink, &device, &addresses)?;
            let tap = tap::make(netlink)?;
            if let Some(mtu) = device.mtu.filter(|_| device.mtu != tap.mtu) {
                tap::set_mtu(netlink, &tap, mtu)?;
            }
            redirect::set(netlink, &device, &tap)?;
            redirect::set(netlink, &tap, &device)?;
            Ok(Some(link))
        })
    }

    /// Takes away what [`Namespace::tap`], [`Namespace::join`] and [`Namespace::make`] made. May be called again.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn remove(&self) -> Result<()> {
        self.within(|netlink| {
            tap::remove(netlink)?;
            redirect::remove(netlink)
        })?;
        let Some(path) = &self.made else {
            return Ok(());
        };
        match umount2(path, MntFlags::MNT_DETACH) {
            // It isn't there, or no mount any more.
            Ok(()) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => {}
            Err(error) => return Err(Error::file(path, "unmounting it")(error.into())),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::file(path, "removing the file")),
        }
    }

    /// Works on the namespace's devices.
    fn within<T: Send>(&self, work: impl FnOnce(&Netlink) -> Result<T> + Send) -> Result<T> {
        apart(|| {
            self.enter().map_err(Error::entering("entering it"))?;
            let netlink = Netlink::open().map_err(Error::entering("a netlink socket"))?;
            work(&netlink)
        })
    }
}

/// The namespace of the thread that looks.
const OWN: &str = "/proc/thread-self/ns/net";

/// Works on a thread of its own, which may change its namespace: the process's others stay in theirs.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("network".into())
            .spawn_scoped(scope, work)
            .map_err(Error::entering("starting a thread"))?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
