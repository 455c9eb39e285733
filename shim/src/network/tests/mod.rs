//! Pods with guests, in network namespaces of the tests' own, which vanish with them.

mod cni;
mod describe;
mod guest;
mod traffic;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;

/// A host, and a pod on it.
struct Pod {
    folder: tempfile::TempDir,
    host: Namespace,
    pod: Namespace,
}

impl Pod {
    /// Without any device, if this user may have such.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let make = |name| Namespace::make(&folder.path().join(name));
        let obstacle = match std::path::Path::new("/dev/net/tun").exists() {
            false => "there is no /dev/net/tun".to_owned(),
            true => match (make("host"), make("pod")) {
                (Ok(host), Ok(pod)) => return Some(Self { folder, host, pod }),
                (Err(error), _) | (_, Err(error)) => error.to_string(),
            },
        };
        not_run("tap", &obstacle);
        None
    }

    /// With what CNI's plugin bridge would make.
    fn with_devices() -> Option<Self> {
        let pod = Self::new()?;
        let path = pod.path();
        ip(
            &pod.host,
            &format!("link add vhost mtu 1400 type veth peer name eth0 mtu 1400 netns {path}"),
        );
        ip(&pod.host, "addr add 10.88.0.1/24 dev vhost");
        ip(&pod.host, "link set vhost up");
        ip(&pod.pod, "addr add 10.88.0.2/24 dev eth0");
        ip(&pod.pod, "link set eth0 up");
        ip(&pod.pod, "route add default via 10.88.0.1");
        Some(pod)
    }

    fn path(&self) -> String {
        let path = self.folder.path().join("pod");
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // What is mounted would keep the folder from being removed.
        let _ = (self.host.remove(), self.pod.remove());
    }
}

/// Says why a test has not been run. Where `MOTE_REQUIRE` names its kind, that's a failure.
fn not_run(kind: &str, obstacle: &str) {
    let required = std::env::var("MOTE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == kind), "{obstacle}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(
        std::io::stderr(),
        "NOT RUN (kind {kind}): {test}: {obstacle}"
    );
}

fn to_run_in<'a>(namespace: &Namespace, command: &'a mut Command) -> &'a mut Command {
    let namespace = namespace.clone();
    // SAFETY: setns(2) is all that is done there.
    unsafe { command.pre_exec(move || namespace.enter()) }
}

/// What a program says that runs in a namespace.
fn run(namespace: &Namespace, command: &mut Command) -> String {
    let output = to_run_in(namespace, command).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn ip(namespace: &Namespace, words: &str) -> String {
    run(namespace, Command::new("ip").args(words.split(' ')))
}

fn tc(namespace: &Namespace, words: &str) -> String {
    run(namespace, Command::new("tc").args(words.split(' ')))
}

/// Does something in a namespace, such as to make a socket.
fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    namespace.within(|_| Ok(work())).unwrap()
}
