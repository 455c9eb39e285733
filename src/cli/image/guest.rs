//! What the agent is asked for: the guest's mounts and network, and one container, which is the whole guest.
//!
//! There are no namespaces and no fewer rights than root's in it: the virtual machine is the wall, and there is nobody
//! else inside.

use mote_agent_protocol::container::{User, Window};
use mote_agent_protocol::message::Streams;
use mote_agent_protocol::setup::{Link, Setup, Step, WriteFile};
use mote_agent_protocol::{Container, Mount, Process, Request};
use motevm::VmConfig;

use super::Workload;

/// The container's name.
pub const NAME: &str = "image";

/// Numbers of its streams.
pub const INPUT: u64 = 1;
pub const OUTPUT: u64 = 2;
pub const ERROR: u64 = 3;

const LOWER: &str = "/run/image/lower";
const UPPER: &str = "/run/image/upper";
const ROOT: &str = "/run/image/root";

/// What goes without saying in an image's environment.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The guest's name, and its program's.
const HOSTNAME: &str = "mote";

/// Everything up to the container.
pub fn setup(config: &VmConfig) -> Setup {
    let mut steps = vec![
        Step::Mount(Mount::new("erofs", "/dev/vda", LOWER, "ro")),
        // Writes are the guest's memory, and gone with it.
        Step::Mount(Mount::new("tmpfs", "tmpfs", UPPER, "mode=755")),
        Step::Folder(format!("{UPPER}/files")),
        Step::Folder(format!("{UPPER}/work")),
        Step::Mount(Mount::new(
            "overlay",
            "overlay",
            ROOT,
            &format!("lowerdir={LOWER},upperdir={UPPER}/files,workdir={UPPER}/work"),
        )),
        Step::Hostname(HOSTNAME.to_owned()),
    ];
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n");
    for (path, text) in [
        ("/etc/hosts", hosts),
        ("/etc/hostname", format!("{HOSTNAME}\n")),
    ] {
        steps.push(Step::File(WriteFile {
            path: path.to_owned(),
            root: ROOT.to_owned(),
            content: text.into_bytes(),
            mode: 0o644,
        }));
    }
    // passt answers DHCP; whoever makes a tap sees to its addresses, in the guest by a program of the image.
    for (index, net) in config.nets.iter().enumerate() {
        steps.push(Step::Link(Link {
            name: format!("eth{index}"),
            dhcp: net.user,
            resolv: net
                .user
                .then(|| (ROOT.to_owned(), "/etc/resolv.conf".to_owned())),
            ..Link::default()
        }));
    }
    Setup { steps }
}

/// The container and its process.
pub fn create(workload: &Workload, terminal: Option<Window>) -> Request {
    let mounts = [
        ("proc", "proc", "/proc", "nosuid,nodev,noexec"),
        ("sysfs", "sysfs", "/sys", "nosuid,nodev,noexec"),
        // With the drives that the VM has besides.
        ("bind", "/dev", "/dev", "rbind"),
        ("tmpfs", "tmpfs", "/run", "nosuid,nodev,mode=755"),
    ];
    let mounts =
        mounts.map(|(kind, source, target, options)| Mount::new(kind, source, target, options));
    let mut environment = workload.environment.clone();
    let mut set = |name: &str, entry: String| {
        let has = |of: &String| of.split('=').next() == Some(name);
        if !environment.iter().any(has) {
            environment.push(entry);
        }
    };
    set("PATH", PATH.to_owned());
    set("HOSTNAME", format!("HOSTNAME={HOSTNAME}"));
    if terminal.is_some() {
        let kind = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
        set("TERM", format!("TERM={kind}"));
    }
    let process = Process {
        arguments: workload.arguments.clone(),
        environment,
        folder: workload.folder.clone(),
        user: User::Named(workload.user.clone()),
        terminal,
        ..Process::default()
    };
    Request::Create {
        name: NAME.to_owned(),
        container: Box::new(Container {
            root: ROOT.to_owned(),
            mounts: mounts.to_vec(),
            ..Container::default()
        }),
        process: Box::new(process),
        streams: Streams {
            input: Some(INPUT),
            output: Some(OUTPUT),
            error: terminal.is_none().then_some(ERROR),
        },
    }
}
