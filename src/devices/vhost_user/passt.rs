//! A user-mode network: passt, started by mote, with one end of a pair of sockets.
//!
//! The other end is mote's, and nobody else has it: when mote ends, in whatever way, passt sees
//! its client hang up and ends too (`--one-off`).

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::VhostUserError;
use super::wait;
use crate::sandbox;

/// What to do where there is no passt that will do.
const REMEDY: &str = "install one of 2024_11 or newer (apt install passt), \
                      or name it: --net user,passt=PATH, or MOTE_PASST";

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no user-mode network.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// There is no such program.
    #[error("--net user: there is no passt in PATH; {REMEDY}")]
    Missing,
    /// The one that the user named can't be run.
    #[error("--net user: {path}: {source}; {REMEDY}")]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It started, and is of no use.
    #[error("--net user: {path} can't be used: {source}{said}; {REMEDY}")]
    Useless {
        /// The program.
        path: PathBuf,
        /// What went wrong.
        source: VhostUserError,
        /// What it said itself.
        said: String,
    },
}

/// A passt, started anew whenever a connection is wanted.
#[derive(Debug)]
pub struct Passt {
    program: PathBuf,
    mtu: Option<u16>,
    running: Option<(Child, PipeReader)>,
}

impl Passt {
    /// Looks for the program: what the user has named, MOTE_PASST, PATH.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn find(named: Option<&Path>, mtu: Option<u16>) -> Result<Self, PasstError> {
        let given = named.map(Path::to_owned);
        let given = given.or_else(|| std::env::var_os("MOTE_PASST").map(PathBuf::from));
        let program = match given {
            Some(path) => path,
            None => in_path("passt").ok_or(PasstError::Missing)?,
        };
        Ok(Passt {
            program,
            mtu,
            running: None,
        })
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.program
    }

    /// Ends the one that runs, and starts another; the connection to it.
    ///
    /// # Errors
    ///
    /// The host refused, or the program can't be run.
    ///
    /// A confined VM starts no program: once it runs, a passt that has ended stays so.
    pub fn connect(&mut self) -> io::Result<UnixStream> {
        if sandbox::is_confined() {
            if self.running.is_some() {
                log::warn!(
                    "passt has ended, and its network with it: a confined VM starts no program \
                     (--no-sandbox)"
                );
                self.end();
            }
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.end();
        let (ours, its) = UnixStream::pair()?;
        let (errors, said) = io::pipe()?;
        // What it says must never make it wait for a reader.
        set_nonblocking(&said)?;
        let mut command = Command::new(&self.program);
        command.args(["--quiet", "--foreground", "--one-off", "--no-map-gw"]);
        command.args(["--vhost-user", "--fd", &its.as_raw_fd().to_string()]);
        if let Some(mtu) = self.mtu {
            command.args(["--mtu", &mtu.to_string()]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        let fd = its.as_raw_fd();
        // SAFETY: runs in the child before exec, and only makes a system call that signal handlers may.
        unsafe { command.pre_exec(move || keep_open(fd)) };
        let child = command.spawn()?;
        // This process's copies of the other ends: passt must be the only one that has them.
        drop((command, its));
        self.running = Some((child, errors));
        Ok(ours)
    }

    /// What the one that runs has complained of, once it has ended.
    pub fn complaint(&mut self) -> String {
        let Some((mut child, mut errors)) = self.running.take() else {
            return String::new();
        };
        end(&mut child, &mut errors);
        let mut text = Vec::new();
        let _ = errors.by_ref().take(4096).read_to_end(&mut text); // as much as there is
        let text = String::from_utf8_lossy(&text);
        let first = text.lines().map(str::trim).find(|line| !line.is_empty());
        first.map_or(String::new(), |line| format!(" ({line})"))
    }

    fn end(&mut self) {
        if let Some((mut child, mut errors)) = self.running.take() {
            end(&mut child, &mut errors);
        }
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.end();
    }
}

fn end(child: &mut Child, errors: &mut PipeReader) {
    if !sandbox::is_confined() {
        let _ = child.kill(); // it has ended already, if not
    } else if !has_ended(errors) {
        return log::warn!("passt doesn't end, although nobody uses it any more: it is left alone");
    }
    if let Err(error) = child.wait() {
        log::debug!("waiting for passt: {error}");
    }
}

/// Waits until it has ended, which it does when its client hangs up (`--one-off`): a confined process
/// may have no right to kill it. Nobody else has the other end of this pipe.
fn has_ended(errors: &mut PipeReader) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut said = [0; 256];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match wait::readable([errors.as_raw_fd()], Some(left)) {
            Ok([true]) if errors.read(&mut said).is_ok_and(|count| count > 0) => {}
            Ok([true]) => return true,
            _ => return false,
        }
    }
}

/// Hands one descriptor down to the program that is started, and no other: one that mote itself
/// was started with (`--net fd=N`) is not passt's business. Not as its standard input, which many
/// a passt refuses.
fn keep_open(fd: RawFd) -> io::Result<()> {
    // A host before Linux 5.11 has no such call, and its programs get what mote was given.
    // SAFETY: takes no pointer, and closes nothing before the program starts.
    unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        )
    };
    // SAFETY: takes no pointer; the descriptor is open.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_nonblocking(pipe: &PipeWriter) -> io::Result<()> {
    let fd = pipe.as_raw_fd();
    // SAFETY: takes no pointer; the descriptor is open.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let runs = |file: &PathBuf| {
        let meta = file.metadata();
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::wait_until;

    #[test]
    fn the_program_gets_one_descriptor_and_its_standard_ones() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("passt");
        // Says what it was given, and by which option.
        let script = "#!/bin/sh\necho $7 > $0.fd\nls /proc/$$/fd > $0.new\nmv $0.new $0.all\n";
        std::fs::write(&program, script).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        // As if mote had been started with it: not closed when a program starts.
        let file = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: takes no pointer.
        let inherited = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 200) };
        assert!(inherited >= 200);
        let mut passt = Passt::find(Some(&program), None).unwrap();
        // Another test's thread may be starting a program while ours is just written (ETXTBSY).
        let mut connection = None;
        wait_until("a program that can be started", || {
            connection = passt.connect().ok();
            connection.is_some()
        });
        // It ends at once, and its end of the connection with it.
        let _ = connection.unwrap().read(&mut [0]);
        let (mut child, _errors) = passt.running.take().unwrap();
        child.wait().unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let all = read("passt.all");
        let has = |fd: &str| all.lines().any(|line| line == fd);
        assert!(has(read("passt.fd").trim()), "{all}");
        assert!(!has(&inherited.to_string()), "{all}");
        // SAFETY: this test's own.
        unsafe { libc::close(inherited) };
    }
}
