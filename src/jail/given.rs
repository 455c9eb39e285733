//! What a jailed process is given open: all that the options name, opened with the rights of whoever
//! starts mote. In the configuration, its path is replaced by its descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

use super::JailError;
use crate::config::{Console, Endpoint, PathOf, PathUse, VmConfig};
use crate::devices::virtio::net;
use crate::handed;

/// From this number on, descriptors are given that must be in a row.
const IN_A_ROW: RawFd = 100;

/// Descriptors for the jailed process.
#[derive(Default)]
pub struct Given {
    /// Opened here.
    own: Vec<OwnedFd>,
    /// Given to this process already.
    handed: Vec<RawFd>,
    /// Of this process, which goes on having them.
    shared: Vec<RawFd>,
}

/// What a jailed process is given besides what its VM's configuration names.
#[derive(Debug, Default)]
pub struct Besides<'a> {
    /// Files, whose paths are replaced in the same way.
    pub paths: Vec<PathOf<'a>>,
    /// Descriptors that this process was given, for the jailed one alone from now on.
    pub handed: Vec<RawFd>,
    /// Descriptors that both have.
    pub shared: Vec<RawFd>,
}

impl Given {
    /// Opens what `config` and `besides` name, and puts descriptors in place of the paths. What is made while
    /// the VM runs goes to the jail's /run, which is `run` outside.
    pub fn open(config: &mut VmConfig, besides: Besides, run: &Path) -> Result<Self, JailError> {
        refuse(config)?;
        let mut given = Given {
            own: Vec::new(),
            handed: besides.handed,
            shared: besides.shared,
        };
        let all = config.paths_mut().into_iter().chain(besides.paths);
        for (option, how, path) in all {
            given.replace(option, how, path, run)?;
        }
        for (index, net) in config.nets.iter_mut().enumerate() {
            if let Some(name) = net.tap.take() {
                let (queues, mtu) = net::beforehand(&name, net)?;
                net.fd = Some(given.in_a_row(queues).map_err(|source| JailError::Host {
                    what: "copying the descriptors of a tap",
                    source,
                })?);
                // One that each guest assumes isn't worth telling.
                net.mtu = net.mtu.or(mtu.filter(|mtu| *mtu != 1500));
                log::debug!("net{index} is {name}");
            } else if let Some(first) = net.fd {
                given
                    .handed
                    .extend(first..first.saturating_add(net.queues.into()));
            }
        }
        Ok(given)
    }

    /// All of them.
    pub fn numbers(&self) -> Vec<RawFd> {
        let own = self.own.iter().map(AsRawFd::as_raw_fd);
        let others = self.handed.iter().chain(&self.shared);
        own.chain(others.copied()).collect()
    }

    /// Closes what is the jailed process's alone, which has copies by now.
    pub fn close(mut self) {
        self.handed.sort_unstable();
        self.handed.dedup();
        for fd in self
            .handed
            .into_iter()
            .filter(|fd| *fd > libc::STDERR_FILENO)
        {
            // SAFETY: given to this process for the jailed one, and used by nothing else here.
            unsafe { libc::close(fd) };
        }
    }

    fn replace(
        &mut self,
        option: &'static str,
        how: PathUse,
        path: &mut PathBuf,
        run: &Path,
    ) -> Result<(), JailError> {
        if let Some(fd) = handed::number(path) {
            self.handed.push(fd);
            return Ok(());
        }
        let opened: io::Result<OwnedFd> = match how {
            PathUse::Read => open(path, OpenOptions::new().read(true)),
            PathUse::ReadWrite => open(path, OpenOptions::new().read(true).write(true)),
            PathUse::Write => {
                let mut options = OpenOptions::new();
                open(path, options.write(true).create(true).truncate(true))
            }
            PathUse::Connect => UnixStream::connect(&path).map(OwnedFd::from),
            PathUse::Replace | PathUse::Listen => {
                let mut parts = path.components();
                if !matches!(
                    (parts.next(), parts.next()),
                    (Some(Component::Normal(_)), None)
                ) {
                    return Err(JailError::Outside {
                        option,
                        path: path.clone(),
                        folder: run.to_owned(),
                    });
                }
                *path = Path::new("/run").join(&path);
                return Ok(());
            }
        };
        let opened = opened.map_err(|source| JailError::Open {
            option,
            path: path.clone(),
            source,
        })?;
        let number = opened.as_raw_fd();
        *path = match how {
            // A socket's address has little room for a name.
            PathUse::Connect => format!("fd={number}").into(),
            _ => {
                let mut named = std::ffi::OsString::from(format!("fd={number}:"));
                named.push(&path);
                named.into()
            }
        };
        self.own.push(opened);
        Ok(())
    }

    /// Copies of these that are numbered in a row; the first one's number.
    fn in_a_row(&mut self, queues: Vec<OwnedFd>) -> io::Result<RawFd> {
        let mut wanted = None;
        for queue in queues {
            let from = wanted.map_or(IN_A_ROW, |(_, next)| next);
            // SAFETY: takes no pointer.
            let copy = unsafe { libc::fcntl(queue.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: a descriptor that was just made.
            self.own.push(unsafe { OwnedFd::from_raw_fd(copy) });
            wanted = match wanted {
                None => Some((copy, copy + 1)),
                Some((first, next)) if next == copy => Some((first, next + 1)),
                // Whoever started this process has left one open there.
                Some(_) => return Err(io::ErrorKind::AddrInUse.into()),
            };
        }
        wanted
            .map(|(first, _)| first)
            .ok_or(io::ErrorKind::InvalidInput.into())
    }
}

/// What needs something in the jail that isn't there.
fn refuse(config: &VmConfig) -> Result<(), JailError> {
    if config.nets.iter().any(|net| net.user) {
        return Err(JailError::NotInside {
            option: "--net user",
            remedy: "start passt beside it (passt --vhost-user -s SOCKET), and give --net vhost-user=SOCKET",
        });
    }
    if matches!(config.console, Console::Pty | Console::Hvc(Endpoint::Pty)) {
        return Err(JailError::NotInside {
            option: "--console pty",
            remedy: "give stdio, with a pseudo-terminal of the supervisor's as standard input and output",
        });
    }
    Ok(())
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<OwnedFd> {
    // Opening a pipe must not wait for its other end.
    let file: File = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(file.into())
}
