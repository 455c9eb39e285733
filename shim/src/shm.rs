//! Memory that a pod's containers have in common by files (shm_open(3)): where the same file system of the host's memory is
//! at /dev/shm of several containers, it is one of the guest's memory in all of them.

use std::path::{Path, PathBuf};

use containerd_shim::Result;
use mote_agent_protocol::message::Request;
use mote_agent_protocol::setup::{Setup, Step};
use mote_agent_protocol::{Container, Mount};
use oci_spec::runtime::Spec;

use crate::lock;
use crate::machine::Machine;

/// Where the guest has them.
const IN_GUEST: &str = "/run/shm";
/// Where containers have one.
const SHM: &str = "/dev/shm";

impl Machine {
    /// Gives a container that has such a file system of its own the one that others have by the same folder of the host.
    pub fn join_memory(&self, spec: &Spec, container: &mut Container) -> Result<()> {
        let mut mounts = container.mounts.iter_mut();
        let Some(mount) = mounts.rfind(|mount| mount.target == SHM && mount.kind == "tmpfs") else {
            return Ok(());
        };
        let Some(source) = source(spec) else {
            return Ok(());
        };
        let mut known = lock(&self.memory);
        let at = known.iter().position(|path| path == source);
        let place = format!("{IN_GUEST}/{}", at.unwrap_or(known.len()));
        if at.is_none() {
            let steps = vec![Step::Mount(whole(mount, &place))];
            self.call(Request::Setup(Setup { steps }))?;
            known.push(source.to_owned());
        }
        *mount = bound(mount, place);
        Ok(())
    }
}

/// The host's folder that is to be there; none of one that the container is to have for itself.
fn source(spec: &Spec) -> Option<&PathBuf> {
    let mut mounts = spec.mounts().iter().flatten().rev();
    let mount = mounts.find(|mount| mount.destination() == Path::new(SHM))?;
    match mount.typ().as_deref() {
        Some("tmpfs") => None,
        _ => mount.source().as_ref(),
    }
}

/// All of it: whoever may only read it is not the only one who has it.
fn whole(mount: &Mount, place: &str) -> Mount {
    let options = mount.options.iter().filter(|option| *option != "ro");
    Mount {
        target: place.to_owned(),
        options: options.cloned().collect(),
        ..mount.clone()
    }
}

/// The same in a container: what is the file system's is said already.
fn bound(mount: &Mount, place: String) -> Mount {
    let of_all = |option: &String| option.starts_with("size=") || option.starts_with("mode=");
    let own = mount
        .options
        .iter()
        .filter(|option| !of_all(option))
        .cloned();
    Mount {
        source: place,
        target: mount.target.clone(),
        kind: "bind".to_owned(),
        options: own.chain(["bind".to_owned()]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_one_and_rights_are_each_containers() {
        let mount = Mount::new("tmpfs", "shm", SHM, "ro,nosuid,mode=1777,size=4096");
        let all = Mount::new("tmpfs", "shm", "/run/shm/0", "nosuid,mode=1777,size=4096");
        assert_eq!(whole(&mount, "/run/shm/0"), all);
        let own = Mount::new("bind", "/run/shm/0", SHM, "ro,nosuid,bind");
        assert_eq!(bound(&mount, "/run/shm/0".to_owned()), own);
    }

    #[test]
    fn only_a_folder_of_the_hosts_is_shared() {
        let of = |mounts: &str| -> Spec {
            let text = format!(r#"{{"ociVersion": "1.0.2", "mounts": [{mounts}]}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let own = r#"{"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}"#;
        let pods = r#"{"destination": "/dev/shm", "type": "bind", "source": "/run/p/shm", "options": ["rbind"]}"#;
        assert_eq!(source(&of(own)), None);
        assert_eq!(source(&of("")), None);
        let of_pod = of(&format!("{own}, {pods}"));
        assert_eq!(source(&of_pod).unwrap(), Path::new("/run/p/shm"));
        assert_eq!(source(&of(&format!("{pods}, {own}"))), None);
    }
}
