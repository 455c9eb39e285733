//! `mounts`: the kernel's own file systems, and folders and files of the host.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use mote_agent_protocol::Mount;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use oci_spec::runtime::Mount as Asked;

use super::whole::no_id_mappings;
use super::{Place, Share, SpecError, ignored, list, one_string, whole_path};
use crate::source::{Rights, Source};

/// File systems that have no device and no server behind them.
const OF_KERNEL: [&str; 17] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "mqueue",
    "devpts",
    "cgroup",
    "cgroup2",
    "bpf",
    "debugfs",
    "tracefs",
    "securityfs",
    "hugetlbfs",
    "configfs",
    "fusectl",
    "pstore",
    "binfmt_misc",
];

/// Options that are a runtime's, and not mount(2)'s, which the agent doesn't have.
const NOT_THERE: [&str; 17] = [
    "idmap",
    "ridmap",
    "tmpcopyup",
    "rro",
    "rrw",
    "rnosuid",
    "rsuid",
    "rnodev",
    "rdev",
    "rnoexec",
    "rexec",
    "rnoatime",
    "ratime",
    "rnodiratime",
    "rrelatime",
    "rstrictatime",
    "rnosymfollow",
];

/// Propagation to where the mount comes from, which is on the other side of the wall.
const OUTWARDS: [&str; 2] = ["shared", "rshared"];

/// Whether the guest sees what the host mounts later.
const PROPAGATION: [&str; 6] = [
    "private",
    "rprivate",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
];

const SHM: &str = "/dev/shm";

/// The size of /dev/shm where nothing is said.
const SHM_SIZE: u64 = 64 << 20;

/// The mounts, in their order.
///
/// # Errors
///
/// One can't be had, or its source can't be shared.
pub fn of(asked: &[Asked], place: &Place, share: &mut Share) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = Vec::new();
    for (index, asked) in asked.iter().enumerate() {
        let one = One {
            field: format!("mounts[{index}]"),
            target: whole_path(&format!("mounts[{index}].destination"), asked.destination())?,
            options: list(asked.options()),
        };
        let why = "files have the owners in a guest that they have on the host; leave it out";
        no_id_mappings(&one.of("uidMappings"), list(asked.uid_mappings()), why)?;
        no_id_mappings(&one.of("gidMappings"), list(asked.gid_mappings()), why)?;
        one.check_options()?;
        let kind = asked.typ().as_deref().unwrap_or_default();
        one_string(&one.of("type"), kind)?;
        match kind == "bind" || one.has("bind") || one.has("rbind") {
            true => mounts.push(one.bind(asked.source().as_deref(), share)?),
            false => mounts.extend(one.of_kernel(kind, asked.source().as_deref(), place)?),
        }
    }
    Ok(mounts)
}

struct One<'a> {
    field: String,
    target: String,
    options: &'a [String],
}

impl One<'_> {
    fn of(&self, name: &str) -> String {
        format!("{}.{name}", self.field)
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }

    fn refused(&self, name: &str, why: &str) -> SpecError {
        SpecError::refused(self.of(name), format!("{}: {why}", self.target))
    }

    fn check_options(&self) -> Result<(), SpecError> {
        for option in self.options {
            one_string(&self.of("options"), option)?;
            if NOT_THERE.contains(&&**option) {
                let why = format!("{option}: the agent has no such option; leave it out");
                return Err(self.refused("options", &why));
            }
            if OUTWARDS.contains(&&**option) {
                let why = format!(
                    "{option}: no mount of a guest's can come out to the host; say rprivate or rslave \
                     (Kubernetes: a mountPropagation other than Bidirectional)"
                );
                return Err(self.refused("options", &why));
            }
        }
        Ok(())
    }

    fn mount(&self, kind: &str, source: &str) -> Mount {
        Mount {
            source: source.to_owned(),
            target: self.target.clone(),
            kind: kind.to_owned(),
            options: self.options.to_vec(),
        }
    }

    /// `None` for one that a guest's first container can do without.
    fn of_kernel(
        &self,
        kind: &str,
        source: Option<&Path>,
        place: &Place,
    ) -> Result<Option<Mount>, SpecError> {
        if !OF_KERNEL.contains(&kind) {
            let why = format!(
                "`{kind}`: the guest has no devices or servers of the host's to mount; mount it on the host, and bind that"
            );
            return Err(self.refused("type", &why));
        }
        let (kind, missing) = match kind {
            // The guest has version 2 only.
            "cgroup" | "cgroup2" => ("cgroup2", place.kernel.controllers.is_empty()),
            // Its kernel can have message queues and no namespaces of them, but who leaves out one leaves out the other.
            "mqueue" => (
                kind,
                !place.kernel.namespaces.iter().any(|name| name == "ipc"),
            ),
            _ => (kind, false),
        };
        if missing {
            if place.is_first() {
                ignored(
                    &self.field,
                    &format!("{}: the guest's kernel has no {kind}", self.target),
                );
                return Ok(None);
            }
            let why = format!("the guest's kernel has no {kind}; configure one that has");
            return Err(self.refused("type", &why));
        }
        let source = source
            .and_then(Path::to_str)
            .filter(|source| !source.is_empty());
        let source = source.unwrap_or(kind);
        one_string(&self.of("source"), source)?;
        Ok(Some(self.mount(kind, source)))
    }

    /// A part of the host's file system, which the guest gets by way of `share`.
    fn bind(&self, source: Option<&Path>, share: &mut Share) -> Result<Mount, SpecError> {
        let source = source.unwrap_or(Path::new(""));
        whole_path(&self.of("source"), source)?;
        let found = Source::find(source);
        if Path::new(&self.target) == Path::new(SHM)
            && let Some(size) = shared_memory(found.as_ref().ok())
        {
            return Ok(self.shared_memory(size));
        }
        let found = found.map_err(|error| self.no_source(source, &error))?;
        self.check_source(&found)?;
        let inside = share(&found, self.rights())
            .map_err(|error| SpecError::Share(self.of("source"), error))?;
        let mut mount = self.mount("bind", &inside);
        if !self.has("bind") && !self.has("rbind") {
            mount.options.push("bind".to_owned()); // of type `bind`: the agent goes by options
        }
        Ok(mount)
    }

    fn rights(&self) -> Rights {
        let last = |of: &[&str]| {
            let mut options = self.options.iter().rev();
            options.find(|option| of.contains(&option.as_str()))
        };
        let is_slave = |option: &String| option.ends_with("slave");
        Rights {
            read_only: last(&["ro", "rw"]).is_some_and(|option| option == "ro"),
            with_mounts: self.has("rbind"),
            follows: last(&PROPAGATION).is_some_and(is_slave),
        }
    }

    fn no_source(&self, source: &Path, error: &std::io::Error) -> SpecError {
        let what = format!("{}: {}: {error}", self.target, source.display());
        SpecError::wrong(self.of("source"), what)
    }

    /// Programs of a guest have memory in common with each other, and not with the host's: so it is a file system of
    /// the guest's, of the size that the host's has.
    fn shared_memory(&self, size: u64) -> Mount {
        let options = self.options.iter().filter(|option| {
            let of_bind = option.as_str() == "bind" || option.as_str() == "rbind";
            !of_bind && !option.ends_with("private") && !option.ends_with("slave")
        });
        let mut options: Vec<String> = options.cloned().collect();
        for option in ["nosuid", "nodev", "noexec", "mode=1777"] {
            if !options.iter().any(|given| given == option) {
                options.push(option.to_owned());
            }
        }
        options.push(format!("size={size}"));
        Mount {
            options,
            ..self.mount("tmpfs", "shm")
        }
    }

    /// Refuses what is something only on the host.
    fn check_source(&self, found: &Source) -> Result<(), SpecError> {
        let source = found.path();
        let of_kernel = ["/proc", "/sys", "/dev"]
            .iter()
            .find(|folder| source.starts_with(folder));
        if let Some(folder) = of_kernel
            && !source.starts_with(SHM)
        {
            let why = format!(
                "{}: is of the host's {folder}, and the guest has its own; mount that by its type, or leave it out",
                source.display()
            );
            return Err(self.refused("source", &why));
        }
        let kind = found.file_type();
        let kind = kind.map_err(|error| self.no_source(source, &error))?;
        let what = match () {
            () if kind.is_socket() => "a socket",
            () if kind.is_fifo() => "a pipe",
            () if kind.is_block_device() || kind.is_char_device() => "a device",
            () => return Ok(()),
        };
        let why = format!(
            "{}: is {what}, which doesn't lead into a guest; leave it out",
            source.display()
        );
        Err(self.refused("source", &why))
    }
}

/// The size of the shared memory that this is; `None` of a folder as any other.
fn shared_memory(found: Option<&Source>) -> Option<u64> {
    // As of a sandbox whose shim makes it, or of one that is gone.
    let Some(found) = found else {
        return Some(SHM_SIZE);
    };
    let kind = fstatfs(found).ok()?.filesystem_type();
    if kind != TMPFS_MAGIC {
        return None;
    }
    let found = fstatvfs(found).ok()?;
    let size = found.blocks().saturating_mul(found.fragment_size());
    Some(if size == 0 { SHM_SIZE } else { size })
}
