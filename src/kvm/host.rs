//! What this host's KVM can do: opened and asked once per process, for all VMs and vCPUs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm};

use super::native::{self, Facts};
use super::{KvmError, Vm, named};

/// Capabilities without which no VM of mote's runs, and what for.
const REQUIRED: &[(Cap, &str, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY", "guest memory"),
    (
        Cap::ReadonlyMem,
        "KVM_CAP_READONLY_MEM",
        "memory that the guest may only read",
    ),
    (
        Cap::Irqchip,
        "KVM_CAP_IRQCHIP",
        "interrupts without the monitor's help",
    ),
    (
        Cap::Irqfd,
        "KVM_CAP_IRQFD",
        "interrupts from device threads",
    ),
    (
        Cap::Ioeventfd,
        "KVM_CAP_IOEVENTFD",
        "device notifications without an exit",
    ),
    (
        Cap::ImmediateExit,
        "KVM_CAP_IMMEDIATE_EXIT",
        "stopping a vCPU with no race",
    ),
];

/// Why this host can't run VMs, and what would change that.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The device file does not exist.
    #[error("{0} is missing: {remedy}; inside a VM or container, ask its host to pass it through", remedy = native::MISSING)]
    Missing(PathBuf),
    /// The user may not open it.
    #[error(
        "{0} can't be opened by this user: add the user to the group that owns it \
         (usually: sudo usermod -aG kvm $USER, then log in again)"
    )]
    Permission(PathBuf),
    /// Opening it failed in another way.
    #[error("opening {path}: {source}")]
    Open {
        /// The device file.
        path: PathBuf,
        /// What the system call said.
        source: io::Error,
    },
    /// The file isn't KVM.
    #[error("{0} is not a KVM device: its API version can't be read")]
    NotKvm(PathBuf),
    /// An API version other than the only one there has been since 2007.
    #[error(
        "{path} speaks KVM API version {found}, mote needs {KVM_API_VERSION}: update the host's kernel"
    )]
    ApiVersion {
        /// The device file.
        path: PathBuf,
        /// The version it reports.
        found: i32,
    },
    /// A required capability is missing.
    #[error(
        "this host's KVM lacks {name}, which mote needs for {purpose}: use a newer kernel (5.10 \
         and later have it)"
    )]
    Capability {
        /// The capability's name in the kernel's documentation.
        name: &'static str,
        /// What mote uses it for.
        purpose: &'static str,
    },
    /// An ioctl on the device file failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// This host's KVM. Make one per process and share it: what it has asked KVM, it remembers.
#[derive(Debug)]
pub struct Host {
    pub(super) kvm: Kvm,
    pub(super) facts: Facts,
}

impl AsRawFd for Host {
    fn as_raw_fd(&self) -> RawFd {
        self.kvm.as_raw_fd()
    }
}

impl Host {
    /// Opens /dev/kvm and checks that it has what every VM needs.
    ///
    /// # Errors
    ///
    /// See [`HostError`]; each says what to do.
    pub fn open() -> Result<Self, HostError> {
        Self::open_path(Path::new("/dev/kvm"))
    }

    /// The same for a device file elsewhere.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn open_path(path: &Path) -> Result<Self, HostError> {
        let kvm = open_device(path)?;
        match kvm.get_api_version() {
            version if version == KVM_API_VERSION as i32 => {}
            version if version < 0 => return Err(HostError::NotKvm(path.to_owned())),
            found => {
                return Err(HostError::ApiVersion {
                    path: path.to_owned(),
                    found,
                });
            }
        }
        for &(capability, name, purpose) in REQUIRED.iter().chain(native::REQUIRED) {
            if !kvm.check_extension(capability) {
                return Err(HostError::Capability { name, purpose });
            }
        }
        Ok(Host {
            kvm,
            facts: Facts::default(),
        })
    }

    /// The value of a capability; 0 where KVM doesn't have it.
    pub fn capability(&self, capability: Cap) -> i32 {
        self.kvm.check_extension_int(capability)
    }

    /// The same by number, for capabilities that kvm-ioctls has no name for.
    pub fn capability_raw(&self, number: u32) -> i32 {
        self.kvm.check_extension_raw(number.into())
    }

    /// Makes a VM with nothing in it.
    ///
    /// # Errors
    ///
    /// The ioctl failed.
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        loop {
            match native::create_vm(&self.kvm, &self.facts) {
                // To watch the process's memory KVM takes all its locks, and gives up at any
                // signal that comes meanwhile (Linux mm_take_all_locks): a timer's, say.
                Err(e) if e.errno() == libc::EINTR => {}
                result => return named("KVM_CREATE_VM", result).map(Vm::new),
            }
        }
    }
}

/// Opens the device file, with an error that says what to do.
fn open_device(path: &Path) -> Result<Kvm, HostError> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|e| HostError::Open {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, e),
    })?;
    Kvm::new_with_path(c_path).map_err(|e| match e.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => HostError::Missing(path.to_owned()),
        libc::EACCES | libc::EPERM => HostError::Permission(path.to_owned()),
        errno => HostError::Open {
            path: path.to_owned(),
            source: io::Error::from_raw_os_error(errno),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_what_to_do() {
        let error = Host::open_path(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(matches!(error, HostError::Missing(_)));
        assert!(error.to_string().contains(native::MISSING));
    }

    #[test]
    fn a_file_that_is_not_kvm_is_refused() {
        let error = Host::open_path(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, HostError::NotKvm(_)), "{error}");
    }
}
