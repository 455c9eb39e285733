//! Every path in a configuration, for whoever opens them beforehand.

use std::path::PathBuf;

use super::{Console, Endpoint, VmConfig};

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathUse {
    /// The file is read.
    Read,
    /// The file is read and written.
    ReadWrite,
    /// The file is made anew and written.
    Write,
    /// The file is replaced by a new one, again and again.
    Replace,
    /// The socket is connected to.
    Connect,
    /// The socket is made, and listened at.
    Listen,
}

/// A path, with the option that it stands behind.
pub type PathOf<'a> = (&'static str, PathUse, &'a mut PathBuf);

impl VmConfig {
    /// All files and sockets that the VM's devices have on the host. (A tap has a name, and no path.)
    pub fn paths_mut(&mut self) -> Vec<PathOf<'_>> {
        let mut all: Vec<PathOf<'_>> = Vec::new();
        let boot = &mut self.boot;
        all.extend(
            boot.kernel
                .iter_mut()
                .map(|path| ("--kernel", PathUse::Read, path)),
        );
        all.extend(
            boot.initrd
                .iter_mut()
                .map(|path| ("--initrd", PathUse::Read, path)),
        );
        let socket = |server| match server {
            true => PathUse::Listen,
            false => PathUse::Connect,
        };
        let rootfs = self.rootfs.iter_mut().map(|disk| ("--rootfs", disk));
        let disks = self.disks.iter_mut().map(|disk| ("--disk", disk));
        for (option, disk) in rootfs.chain(disks) {
            let how = match disk.read_only || disk.cow {
                true => PathUse::Read,
                false => PathUse::ReadWrite,
            };
            all.push(match &mut disk.vhost_user {
                Some(path) => ("--disk vhost-user", socket(disk.server), path),
                None => (option, how, &mut disk.path),
            });
        }
        for fs in &mut self.fs {
            all.push(("--fs socket", socket(fs.server), &mut fs.socket));
        }
        for net in &mut self.nets {
            let how = socket(net.server);
            let path = net.vhost_user.iter_mut();
            all.extend(path.map(|path| ("--net vhost-user", how, path)));
        }
        if let Some(vsock) = &mut self.vsock {
            let path = vsock.socket.iter_mut();
            all.extend(path.map(|path| ("--vsock socket", PathUse::Listen, path)));
        }
        if let Console::File(path) | Console::Hvc(Endpoint::File(path)) = &mut self.console {
            all.push(("--console file", PathUse::Write, path));
        }
        if let Some(metrics) = &mut self.metrics {
            let (file, unix) = (metrics.file.iter_mut(), metrics.unix.iter_mut());
            all.extend(file.map(|path| ("--metrics file", PathUse::Replace, path)));
            all.extend(unix.map(|path| ("--metrics unix", PathUse::Listen, path)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_is_left_out() {
        // What the documentation shows, which has everything, and what excludes parts of it.
        let sample = include_str!("../../tests/cli/sample.toml");
        let mut config: VmConfig = toml::from_str(sample).unwrap();
        config.console = Console::Hvc(Endpoint::File("console.log".into()));
        config.nets[1].user = false;
        config.nets[1].vhost_user = Some("net.sock".into());
        let found = config.paths_mut().into_iter();
        let found: Vec<_> = found.map(|(o, u, p)| (o, u, p.clone())).collect();
        use PathUse::*;
        let expected = [
            ("--kernel", Read, "vmlinux"),
            ("--initrd", Read, "initrd.img"),
            ("--rootfs", Read, "root.ext4"),
            ("--disk", ReadWrite, "data.img"),
            ("--disk", Read, "shared.ext4"),
            ("--disk vhost-user", Listen, "blk.sock"),
            ("--fs socket", Connect, "virtiofsd.sock"),
            ("--net vhost-user", Connect, "net.sock"),
            ("--vsock socket", Listen, "v.sock"),
            ("--console file", Write, "console.log"),
            ("--metrics file", Replace, "vm.prom"),
            ("--metrics unix", Listen, "metrics.sock"),
        ];
        assert_eq!(found, expected.map(|(o, u, p)| (o, u, p.into())));
    }
}
