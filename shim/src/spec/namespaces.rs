//! `linux.namespaces`, and the names of the host that are in one of them.

use mote_agent_protocol::container::Namespace;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type};

use super::{Place, SpecError, one_string};

/// The longest name that the kernel takes.
const MOST_NAME: usize = 64;

/// The namespaces that the agent is to make, or to take from the sandbox.
///
/// What the kernel has none of is left out where that makes no difference: for a guest's first container, which the
/// guest is all of, and where it would be the sandbox's.
///
/// # Errors
///
/// One can't be had.
pub fn of(listed: &[LinuxNamespace], place: &Place) -> Result<Vec<Namespace>, SpecError> {
    let mut namespaces: Vec<Namespace> = Vec::new();
    for (index, namespace) in listed.iter().enumerate() {
        let typ = namespace.typ();
        let field = format!("linux.namespaces[{index}]");
        if listed[..index].iter().any(|before| before.typ() == typ) {
            let what = format!("type {} is there already", name(typ));
            return Err(SpecError::wrong(field, what));
        }
        let kind = match typ {
            // The guest has one, which is joined with that of the pod on the host.
            Type::Network => continue,
            Type::User => {
                let why = "type user: the guest has none, since the virtual machine is the wall; leave it out \
                           (Kubernetes: hostUsers: true)";
                return Err(SpecError::refused(field, why));
            }
            Type::Time => {
                let why = "type time: there are none in the guest; leave it out";
                return Err(SpecError::refused(field, why));
            }
            Type::Mount => "mnt",
            Type::Pid | Type::Ipc | Type::Uts | Type::Cgroup => name(typ),
        };
        let there = place.kernel.namespaces.iter().any(|name| name == kind);
        let path = namespace.path().as_deref();
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let of = match (path, place.sandbox) {
            (None, _) => None,
            (Some(_), _) if typ == Type::Mount => {
                let why = "type mount: a container's mounts are its own; leave the path out";
                return Err(SpecError::refused(field + ".path", why));
            }
            (Some(_), Some(sandbox)) => Some(sandbox.to_owned()),
            (Some(path), None) => {
                let why = format!(
                    "{}: is a namespace of the host's, and the guest's first container has none to share; leave the \
                     path out",
                    path.display()
                );
                return Err(SpecError::refused(field + ".path", why));
            }
        };
        if there {
            let kind = kind.to_owned();
            namespaces.push(Namespace { kind, of });
        } else if of.is_none() && !place.is_first() {
            let kind = name(typ);
            let why = format!(
                "type {kind}: the guest's kernel has none, and containers of a pod are to be apart; \
                 configure a kernel that has (CONFIG_NAMESPACES)"
            );
            return Err(SpecError::refused(field, why));
        }
    }
    Ok(namespaces)
}

/// As the specification calls it.
fn name(typ: Type) -> &'static str {
    match typ {
        Type::Mount => "mount",
        Type::Cgroup => "cgroup",
        Type::Uts => "uts",
        Type::Ipc => "ipc",
        Type::User => "user",
        Type::Pid => "pid",
        Type::Network => "network",
        Type::Time => "time",
    }
}

/// The container's name. That of a guest's first container, where it has no namespace for it, is the guest's: whoever
/// sets the guest up gives it that one.
///
/// # Errors
///
/// It is none, or a later container has no namespace for it.
pub fn hostname(
    name: Option<&str>,
    namespaces: &[Namespace],
    place: &Place,
) -> Result<Option<String>, SpecError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    check_name("hostname", name)?;
    match namespaces.iter().any(|namespace| namespace.kind == "uts") {
        true => Ok(Some(name.to_owned())),
        false if place.is_first() => Ok(None),
        false => {
            let why =
                "a container of a pod has a name of its own only in a uts namespace; leave it out";
            Err(SpecError::refused("hostname", why))
        }
    }
}

/// The name of the domain is a kernel setting as well, in the uts namespace, or the guest's.
///
/// # Errors
///
/// It is none.
pub fn domain_name(name: Option<&str>) -> Result<Option<(String, String)>, SpecError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    check_name("domainname", name)?;
    Ok(Some(("kernel.domainname".to_owned(), name.to_owned())))
}

fn check_name(field: &str, name: &str) -> Result<(), SpecError> {
    one_string(field, name)?;
    match name.len() > MOST_NAME {
        true => Err(SpecError::wrong(
            field,
            format!("has more than {MOST_NAME} bytes"),
        )),
        false => Ok(()),
    }
}
