//! What a VM of a configuration is confined to: filters for the threads that it has, and the places where it
//! makes files ([`crate::sandbox`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beside::Reach;
use crate::config::{Console, Engine, Rng, VmConfig};
use crate::handed;
use crate::sandbox::{Confine, Confinement, Kept, Places, SandboxError, ThreadKind};

/// `None` where nothing is to be confined.
pub fn confinement(
    confine: Confine,
    config: &VmConfig,
    tell_memory: bool,
    reach: Option<&Reach>,
) -> Result<Option<Arc<Confinement>>, SandboxError> {
    if confine == Confine::Nothing {
        return Ok(None);
    }
    let mut places = places(config, tell_memory);
    let mut kinds = kinds(config);
    if let Some(reach) = reach {
        kinds.push(ThreadKind::Api);
        within_reach(reach, config, &mut places);
    }
    let kept = Kept {
        lock_memory: config.memory.mlock,
        any_folder: !places.is_empty(),
    };
    Confinement::new(&kinds, &places, kept).map(Some)
}

/// The threads that the VM can have, besides those that each has.
fn kinds(config: &VmConfig) -> Vec<ThreadKind> {
    let own_drives = || config.drives().filter(|drive| drive.vhost_user.is_none());
    let served = config.nets.iter().any(|net| net.is_served_elsewhere())
        || config.drives().any(|drive| drive.vhost_user.is_some())
        || !config.fs.is_empty();
    let console = &config.console;
    let has = [
        (
            ThreadKind::Worker,
            config.rng == Rng::On || matches!(console, Console::Hvc(_)),
        ),
        (ThreadKind::Drive, own_drives().next().is_some()),
        (
            ThreadKind::Ring,
            own_drives().any(|drive| drive.engine == Engine::IoUring),
        ),
        (
            ThreadKind::Net,
            config.nets.iter().any(|net| !net.is_served_elsewhere()),
        ),
        (
            ThreadKind::Vsock,
            config.vsock.as_ref().is_some_and(|vsock| !vsock.vhost),
        ),
        (
            ThreadKind::Agent,
            config.vsock.as_ref().is_some_and(|vsock| vsock.own),
        ),
        (ThreadKind::VhostUser, served),
        (ThreadKind::Balloon, config.balloon.is_some()),
        (ThreadKind::Console, *console != Console::None),
        (ThreadKind::Metrics, config.metrics.is_some()),
    ];
    let wanted = has.into_iter().filter(|(_, has)| *has);
    wanted.map(|(kind, _)| kind).collect()
}

/// What an API's thread opens: other media for drives, beside those that they have now. Of a block device that
/// is not the folder, in which all the host's disks are.
fn within_reach(reach: &Reach, config: &VmConfig, places: &mut Places) {
    let socket = reach.socket.as_deref().map(Places::folder_of);
    places.sockets.extend(socket);
    let paths = config.drives().map(|drive| &*drive.path);
    let files = paths.filter(|path| handed::number(path).is_none() && path.is_file());
    places.media = files.map(Places::folder_of).collect();
    places.media.extend_from_slice(&reach.files);
}

/// The device files of the host's kernel that serve a device: it is opened anew each time that the
/// device's driver is ready.
fn vhost(config: &VmConfig) -> Vec<PathBuf> {
    let net = config.nets.iter().any(|net| net.vhost);
    let vsock = config.vsock.as_ref().is_some_and(|vsock| vsock.vhost);
    let of = |has: bool, path| has.then(|| PathBuf::from(path));
    let files = [of(net, "/dev/vhost-net"), of(vsock, "/dev/vhost-vsock")];
    files.into_iter().flatten().collect()
}

/// Where files are made or removed by name once the guest runs.
fn places(config: &VmConfig, tell_memory: bool) -> Places {
    let metrics = config.metrics.as_ref();
    let servers = (config.drives().filter(|drive| drive.server))
        .filter_map(|drive| drive.vhost_user.as_deref())
        .chain(
            config
                .fs
                .iter()
                .filter(|fs| fs.server)
                .map(|fs| &*fs.socket),
        )
        .chain(
            (config.nets.iter().filter(|net| net.server))
                .filter_map(|net| net.vhost_user.as_deref()),
        );
    let vsock = config
        .vsock
        .iter()
        .filter_map(|vsock| vsock.socket.as_deref());
    let metrics_socket = metrics.and_then(|metrics| metrics.unix.as_deref());
    let sockets = vsock.chain(metrics_socket).chain(servers);
    let file: Option<&Path> = metrics.and_then(|metrics| metrics.file.as_deref());
    Places {
        sockets: sockets.map(Places::folder_of).collect(),
        files: file.into_iter().map(Places::folder_of).collect(),
        devices: vhost(config),
        media: Vec::new(),
        maps_files: config.drives().any(|drive| drive.dax),
        is_placed: !config.placement.is_default() || !config.numa.is_empty(),
        proc: tell_memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> VmConfig {
        toml::from_str(text).unwrap()
    }

    /// The system calls of all threads together, as a release build counts them.
    fn together(text: &str) -> usize {
        let kinds = kinds(&of(text));
        let confinement = Confinement::new(&kinds, &Places::default(), Kept::default()).unwrap();
        // fcntl, which only a debug build needs, but for VMs with a vhost-user back-end.
        let debug = cfg!(debug_assertions) && !kinds.contains(&ThreadKind::VhostUser);
        confinement.system_calls() - usize::from(debug)
    }

    /// The figures of docs/sandbox.md.
    #[test]
    fn the_lists_are_short() {
        let counts = [
            "",
            "[rootfs]\npath = 'r'",
            "[rootfs]\npath = 'r'\n[[nets]]\ntap = 't'",
            "[rootfs]\npath = 'r'\nengine = 'io_uring'\n[[nets]]\ntap = 't'\n[[fs]]\ntag = 't'\n\
             socket = 's'\n[vsock]\ncid = 3\nsocket = 'v'\n[balloon]\n[metrics]\nfile = 'm'",
        ]
        .map(together);
        assert_eq!(counts, [38, 44, 49, 68]);
    }

    #[test]
    fn a_vm_is_allowed_what_its_devices_need() {
        let small = of("console = \"none\"\nrng = \"off\"");
        assert_eq!(kinds(&small), []);
        assert_eq!(places(&small, false), Places::default());
        let large = of("[rootfs]\npath = 'r'\nengine = 'io_uring'\n\
             [[nets]]\ntap = 't'\n[[fs]]\ntag = 't'\nsocket = '/run/a/fs'\nserver = true\n\
             [vsock]\ncid = 3\nsocket = 'v'\n[balloon]\n[metrics]\nfile = '/var/m/a'\nunix = '/run/b/m'");
        assert_eq!(kinds(&large).len(), 9);
        let places = places(&large, true);
        assert_eq!(
            places.sockets,
            [Path::new("."), Path::new("/run/b"), Path::new("/run/a")]
        );
        assert_eq!(places.files, [Path::new("/var/m")]);
        assert!(places.proc);
    }
}
