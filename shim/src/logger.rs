//! Programs that take a container's output in place of pipes: `binary://PATH?KEY=VALUE`, containerd's convention for
//! loggers.
//!
//! The program has output as descriptor 3, errors as 4, and closes 5 when it is ready. The keys and values are its
//! arguments, in their order; its environment is the container's name and namespace. It ends with its input.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use log::warn;

/// How an address of one begins.
pub const SCHEME: &str = "binary://";

/// Whose output it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub namespace: String,
    pub container: String,
}

/// Starts the program and waits until it is ready. Returns where output and errors go.
pub fn start(address: &str, owner: &Owner) -> io::Result<[File; 2]> {
    let (path, query) = match address
        .strip_prefix(SCHEME)
        .unwrap_or(address)
        .split_once('?')
    {
        Some((path, query)) => (path, query),
        None => (address.strip_prefix(SCHEME).unwrap_or(address), ""),
    };
    let mut command = Command::new(decode(path)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.arg(decode(&key.replace('+', " "))?);
        if !value.is_empty() {
            command.arg(decode(&value.replace('+', " "))?);
        }
    }
    command.env_clear();
    command.env("CONTAINER_ID", &owner.container);
    command.env("CONTAINER_NAMESPACE", &owner.namespace);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (output, to_output) = io::pipe()?;
    let (errors, to_errors) = io::pipe()?;
    let (mut ready, to_ready) = io::pipe()?;
    let given = Given {
        output,
        errors,
        ready: to_ready,
    };
    let numbers = given.numbers();
    // SAFETY: system calls only, which take numbers.
    unsafe { command.pre_exec(move || place(numbers)) };
    let mut child = command.spawn()?;
    drop(given);
    // It ends when its input does. Nobody waits for it but this.
    thread::spawn(move || child.wait());
    // The end of it: the program has closed it, or has ended.
    match ready.read(&mut [0]) {
        Ok(_) => {}
        Err(error) => warn!("{address}: {error}"),
    }
    Ok([to_output, to_errors].map(|end| File::from(OwnedFd::from(end))))
}

struct Given {
    output: PipeReader,
    errors: PipeReader,
    ready: PipeWriter,
}

impl Given {
    fn numbers(&self) -> [RawFd; 3] {
        [
            self.output.as_raw_fd(),
            self.errors.as_raw_fd(),
            self.ready.as_raw_fd(),
        ]
    }
}

/// Descriptors to 3, 4 and 5. By way of higher numbers, as one may have another's place.
fn place(numbers: [RawFd; 3]) -> io::Result<()> {
    let done = |result: i32| match result {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number),
    };
    let mut high = [0; 3];
    for (from, high) in numbers.into_iter().zip(&mut high) {
        // SAFETY: takes numbers.
        *high = done(unsafe { libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 10) })?;
    }
    for (from, to) in high.into_iter().zip(3..) {
        // SAFETY: takes numbers.
        done(unsafe { libc::dup2(from, to) })?;
    }
    Ok(())
}

/// Percent-encoding undone (RFC 3986 section 2.1).
fn decode(text: &str) -> io::Result<String> {
    let wrong = || io::Error::new(ErrorKind::InvalidInput, format!("{text}: no address"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(wrong());
        };
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_logger_gets_both_streams_and_its_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let (script, out) = (folder.path().join("log it"), folder.path().join("out"));
        let text = "#!/bin/sh\nexec 5>&-\n(echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID $2 $3\"; cat <&3; cat <&4) >\"$1.part\"\n\
                    mv \"$1.part\" \"$1\"\n";
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let path = script.to_str().unwrap().replace(' ', "%20");
        let address = format!("binary://{path}?{}&level=high+up", out.display());
        let owner = Owner {
            namespace: "n".into(),
            container: "c".into(),
        };
        let [mut output, mut errors] = start(&address, &owner).unwrap();
        output.write_all(b"said\n").unwrap();
        errors.write_all(b"cried\n").unwrap();
        drop((output, errors));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !out.exists() && std::time::Instant::now() < deadline {
            thread::sleep(std::time::Duration::from_millis(5));
        }
        let got = fs::read_to_string(&out).unwrap();
        assert_eq!(got, "n/c level high up\nsaid\ncried\n");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let owner = Owner::default();
        assert!(start("binary:///nowhere/logger", &owner).is_err());
        assert!(start("binary:///bin/true%4", &owner).is_err());
    }
}
