//! The OCI runtime specification of a container, as what the agent is asked for; what it does not do is refused by its name.
//!
//! - [`container`] and [`process`]: the whole of it
//! - [`sizing`], [`sandbox_id`]: what it says of the virtual machine
//!
//! What is there for a kernel that is shared with others (devices' lists, labels of the host's security modules) is not
//! needed where a virtual machine is the wall: it is ignored, and a warning says so.

mod annotations;
mod capabilities;
mod devices;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
mod whole;

use std::error::Error;
use std::path::Path;

use mote_agent_protocol::{Container, Hello};
use oci_spec::runtime::{Linux, Spec};

use crate::source::{Rights, Source};

pub use annotations::{MEMORY, sandbox_id, sizing};
pub use process::process;

/// Where in a guest a container is to be.
pub struct Place<'a> {
    /// The guest's folder that is its root.
    pub root: &'a str,
    /// The pod's first container, as the agent names it; `None` for the first of a guest.
    pub sandbox: Option<&'a str>,
    /// What the guest's kernel has.
    pub kernel: &'a Hello,
}

impl Place<'_> {
    /// Whether the guest is the container's own, so far: what is missing around it is made by the virtual machine.
    fn is_first(&self) -> bool {
        self.sandbox.is_none()
    }
}

/// Shares a file or folder of the host, and tells where in the guest it is.
pub type Share<'a> =
    dyn FnMut(&Source, Rights) -> Result<String, Box<dyn Error + Send + Sync>> + 'a;

/// Why there can't be such a container.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It asks for what is not done: the field, why, and what to do instead.
    #[error("{0}: {1}")]
    Refused(String, String),
    /// It is none by the specification: the field, and what is wrong with it.
    #[error("{0}: {1}")]
    Wrong(String, String),
    /// A folder or file of the host can't be shared: the field, and why.
    #[error("{0}: {1}")]
    Share(String, Box<dyn Error + Send + Sync>),
}

impl SpecError {
    fn refused(field: impl Into<String>, why: impl Into<String>) -> Self {
        SpecError::Refused(field.into(), why.into())
    }

    fn wrong(field: impl Into<String>, what: impl Into<String>) -> Self {
        SpecError::Wrong(field.into(), what.into())
    }
}

/// The container that `spec` describes, without its process.
///
/// # Errors
///
/// It is refused, or wrong, or a bind mount's source can't be shared.
pub fn container(spec: &Spec, place: &Place, share: &mut Share) -> Result<Container, SpecError> {
    let none = nothing();
    let linux = spec.linux().as_ref().unwrap_or(&none);
    whole::check(spec, linux)?;
    let root = spec.root().as_ref();
    let root = root.ok_or_else(|| SpecError::wrong("root", "is not there"))?;
    let namespaces = namespaces::of(list(linux.namespaces()), place)?;
    let hostname = namespaces::hostname(spec.hostname().as_deref(), &namespaces, place)?;
    let mut sysctl: Vec<_> = linux.sysctl().iter().flatten().collect();
    sysctl.sort(); // so that of two that depend on each other the order is always the same
    let sysctl = sysctl.into_iter().map(|(name, value)| {
        one_string("linux.sysctl", name)?;
        one_string("linux.sysctl", value)?;
        Ok((name.clone(), value.clone()))
    });
    let mut sysctl = sysctl.collect::<Result<Vec<_>, _>>()?;
    sysctl.extend(namespaces::domain_name(spec.domainname().as_deref())?);
    Ok(Container {
        root: place.root.to_owned(),
        read_only: root.readonly().unwrap_or(false),
        hostname,
        mounts: mounts::of(list(spec.mounts()), place, share)?,
        devices: devices::of(list(linux.devices()), linux.resources().as_ref())?,
        masked: paths("linux.maskedPaths", list(linux.masked_paths()))?,
        read_only_paths: paths("linux.readonlyPaths", list(linux.readonly_paths()))?,
        limits: resources::limits(linux.resources().as_ref(), place)?,
        namespaces,
        sysctl,
    })
}

/// A section in which nothing is said; the crate's default says a lot.
fn nothing() -> Linux {
    serde_json::from_str("{}").expect("all of it may be left out")
}

fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn paths(field: &str, paths: &[String]) -> Result<Vec<String>, SpecError> {
    for path in paths {
        whole_path(field, Path::new(path))?;
    }
    Ok(paths.to_vec())
}

/// A path from the root on.
fn whole_path(field: &str, path: &Path) -> Result<String, SpecError> {
    let Some(text) = path.to_str().filter(|text| text.starts_with('/')) else {
        let what = format!("{}: must be a whole path", path.display());
        return Err(SpecError::wrong(field, what));
    };
    one_string(field, text)?;
    Ok(text.to_owned())
}

/// What a C program can read to its end.
fn one_string(field: &str, text: &str) -> Result<(), SpecError> {
    match text.contains('\0') {
        true => Err(SpecError::wrong(field, "has a zero byte in it")),
        false => Ok(()),
    }
}

/// Says that a field has no effect, and why none is needed.
fn ignored(field: &str, why: &str) {
    log::warn!("{field}: ignored: {why}");
    #[cfg(test)]
    tests::note(field);
}

#[cfg(test)]
mod tests;
