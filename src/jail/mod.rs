//! The jail of a VM's process, for production (docs/jail.md): namespaces, an empty file system, a cgroup,
//! another user, no rights, and nothing open but what the VM needs.
//!
//! [`enter`] splits the process. The supervisor stays outside, with the rights that it was started with; the
//! jailed one goes on as an ordinary `mote run`, so that a kernel, an image or a guest is met only inside.
//!
//! - `given`: what is opened before
//! - `folder`: ROOT/ID, by which VMs are told apart
//! - `cgroup`: limits of CPU time, memory and threads
//! - `namespaces` and `tree`: what the jailed process sees of the host
//! - `rights`: what it gives up
//! - `supervisor`: the two sides
//! - `sys`: system calls

mod cgroup;
mod error;
mod folder;
mod given;
mod namespaces;
mod rights;
mod supervisor;
mod sys;
mod tree;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::config::{Jail, VmConfig};
use cgroup::Cgroup;
pub use error::JailError;
use folder::Folder;
pub use given::Besides;
use given::Given;
use supervisor::{Parts, split};
use tree::Tree;

/// Where this process is after [`enter`].
#[derive(Debug)]
pub enum Side {
    /// In the jail: on with the VM.
    Jailed,
    /// Outside, and the jailed process has ended.
    Supervisor(Outcome),
}

/// How a jailed process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    status: i32,
    out_of_memory: bool,
}

impl Outcome {
    /// Its exit status, or the signal that killed it.
    ///
    /// # Errors
    ///
    /// The signal.
    pub fn status(&self) -> Result<u8, i32> {
        match libc::WIFEXITED(self.status) {
            true => Ok(libc::WEXITSTATUS(self.status) as u8),
            false => Err(libc::WTERMSIG(self.status)),
        }
    }

    /// Whether the kernel killed something in the jail for want of memory.
    pub fn is_out_of_memory(&self) -> bool {
        self.out_of_memory
    }
}

/// Who the jailed process is.
#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
    /// Made so by root; otherwise it's the user who starts the VM.
    by_root: bool,
}

impl User {
    fn of(jail: &Jail) -> Result<Self, JailError> {
        // SAFETY: take no pointers.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        if uid == 0 {
            let uid = jail.uid.ok_or(JailError::NoUser)?;
            return Ok(User {
                uid,
                gid: jail.gid.unwrap_or(uid),
                by_root: true,
            });
        }
        for (key, wanted, own) in [("uid", jail.uid, uid), ("gid", jail.gid, gid)] {
            if let Some(id) = wanted.filter(|id| *id != own) {
                return Err(JailError::OtherUser { key, id });
            }
        }
        Ok(User {
            uid,
            gid,
            by_root: false,
        })
    }

    /// Where folders of jails are.
    fn root(self, jail: &Jail) -> Result<PathBuf, JailError> {
        let own = || match self.by_root {
            true => Some(PathBuf::from("/run/mote")),
            false => Some(Path::new(&std::env::var_os("XDG_RUNTIME_DIR")?).join("mote")),
        };
        jail.root.clone().or_else(own).ok_or(JailError::NoRoot)
    }
}

/// Splits this process into a supervisor and a jailed one. For the latter, whatever `config` and `besides`
/// name is open, and named by its descriptor.
///
/// # Errors
///
/// See [`JailError`]; nothing is left behind then. This process may be in other namespaces: it can only
/// end. In the jail, too, an error can be returned.
pub fn enter(jail: &Jail, config: &mut VmConfig, besides: Besides) -> Result<Side, JailError> {
    jail.validate()?;
    let user = User::of(jail)?;
    let root = user.root(jail)?;
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(JailError::Threads);
    }
    rights::limit(jail, config)?;
    namespaces::own_mounts(&user)?;
    if let Some(name) = &jail.netns {
        namespaces::join_network(name)?;
    }
    let run = root.join(&jail.id).join("run");
    let given = Given::open(config, besides, &run)?;
    // What is made from here on can be passed through by the jail's user, whatever the umask was.
    // SAFETY: takes no pointer.
    unsafe { libc::umask(0o022) };
    let folder = Folder::claim(&root, &jail.id)?;
    let cgroup = Cgroup::make(jail)?;
    let entrance = cgroup.as_ref().map(Cgroup::entrance).transpose()?;
    let run = folder.make_run(user.uid, user.gid)?;
    namespaces::separate(jail.netns.is_none())?;
    let owner = user.by_root.then_some(user.uid);
    Tree::of(config).enter(folder.as_fd(), run.as_fd(), owner)?;
    drop(run); // here, and not in the jail, where it's closed with all else
    split(Parts {
        folder,
        cgroup,
        entrance,
        given,
        user,
    })
}
