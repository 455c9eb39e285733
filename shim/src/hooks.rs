//! Programs of the host that a specification has run around a container's life (OCI runtime specification, config.md,
//! POSIX-platform Hooks), as nerdctl does for its networks. Those that would run in the container's namespaces are refused.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use containerd_shim::{Error, Result};
use oci_spec::runtime::{Hook, Spec};
use serde_json::json;

/// For one that says nothing of its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// When a hook runs, and how the container is by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Made, with the namespaces of the host's that it has: prestart and createRuntime.
    Creating,
    /// Its program runs: poststart.
    Started,
    /// It is deleted: poststop.
    Stopped,
}

/// Runs a specification's hooks for this moment, one after the other, up to the first that fails.
pub fn run(spec: &Spec, moment: Moment, id: &str, bundle: &Path, pid: u32) -> Result<()> {
    let Some(all) = spec.hooks() else {
        return Ok(());
    };
    let (lists, status) = match moment {
        Moment::Creating => (vec![all.prestart(), all.create_runtime()], "creating"),
        Moment::Started => (vec![all.poststart()], "running"),
        Moment::Stopped => (vec![all.poststop()], "stopped"),
    };
    let mut state = json!({
        "ociVersion": spec.version(), "id": id, "status": status, "bundle": bundle, "annotations": spec.annotations(),
    });
    if moment != Moment::Stopped {
        state["pid"] = pid.into();
    }
    let state = state.to_string();
    for hook in lists.into_iter().flatten().flatten() {
        run_one(hook, bundle, &state).map_err(|error| {
            let path = hook.path().display();
            Error::FailedPreconditionError(format!("hook {path}: {error}"))
        })?;
    }
    Ok(())
}

fn run_one(hook: &Hook, bundle: &Path, state: &str) -> io::Result<()> {
    let mut command = Command::new(hook.path());
    command.args(hook.args().iter().flatten().skip(1));
    let pairs = hook
        .env()
        .iter()
        .flatten()
        .filter_map(|entry| entry.split_once('='));
    command.env_clear().envs(pairs).current_dir(bundle);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that isn't interested may have ended by now.
        let _ = stdin.write_all(state.as_bytes());
    }
    let given = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    end_within(child, given.map_or(PATIENCE, Duration::from_secs))
}

/// Waits for it, and kills it when it takes too long.
fn end_within(child: Child, patience: Duration) -> io::Result<()> {
    let pid = child.id();
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match ended.recv_timeout(patience) {
        Ok(output) => output?,
        Err(RecvTimeoutError::Timeout) => {
            // Its thread hasn't reaped it: the number is its own still.
            // SAFETY: takes numbers.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("took more than {patience:?}"),
            ));
        }
        Err(RecvTimeoutError::Disconnected) => {
            return Err(io::Error::other("its thread has ended"));
        }
    };
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = crate::monitor::line(&output.stderr);
            let status = crate::monitor::told(output.status);
            Err(io::Error::other(format!("{status}: {said}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn spec(moment: &str, script: &str, timeout: Option<u32>) -> Spec {
        let mut hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b c"] });
        if let Some(timeout) = timeout {
            hook["timeout"] = timeout.into();
        }
        let spec = json!({ "ociVersion": "1.1.0", "annotations": { "k": "v" }, "hooks": { moment: [hook] } });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn hooks_get_the_state_at_their_moment() {
        let bundle = tempfile::tempdir().unwrap();
        let run = |spec: &Spec, moment| run(spec, moment, "c1", bundle.path(), 77);
        for (name, moment, status) in [
            ("prestart", Moment::Creating, "creating"),
            ("createRuntime", Moment::Creating, "creating"),
            ("poststart", Moment::Started, "running"),
            ("poststop", Moment::Stopped, "stopped"),
        ] {
            let spec = spec(name, "test \"$A\" = 'b c' && cat >got", None);
            run(&spec, moment).unwrap();
            let got = fs::read_to_string(bundle.path().join("got")).unwrap();
            let got: serde_json::Value = serde_json::from_str(&got).unwrap();
            assert_eq!((&got["id"], &got["status"]), (&"c1".into(), &status.into()));
            assert_eq!(got["annotations"]["k"], "v");
            assert_eq!(got["pid"].as_u64(), (status != "stopped").then_some(77));
            // At other moments it isn't run.
            fs::remove_file(bundle.path().join("got")).unwrap();
            let others = [Moment::Creating, Moment::Started, Moment::Stopped];
            for other in others.into_iter().filter(|other| *other != moment) {
                run(&spec, other).unwrap();
            }
            assert!(!bundle.path().join("got").exists());
        }
    }

    #[test]
    fn one_that_fails_or_takes_too_long_is_named() {
        let bundle = tempfile::tempdir().unwrap();
        let run = |script: &str, timeout| {
            let spec = spec("createRuntime", script, timeout);
            let failed = run(&spec, Moment::Creating, "c1", bundle.path(), 1);
            failed.unwrap_err().to_string()
        };
        let error = run("echo no network >&2; exit 3", None);
        assert!(
            error.contains("hook /bin/sh: status 3: no network"),
            "{error}"
        );
        let error = run("sleep 1000", Some(1));
        assert!(error.contains("took more than 1s"), "{error}");
    }
}
