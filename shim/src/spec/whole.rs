//! What of a specification is refused, or ignored, whatever else is in it.

use oci_spec::runtime::{Hook, Linux, LinuxIdMapping, LinuxPersonalityDomain, Spec};

use super::{SpecError, ignored, list};

/// # Errors
///
/// There is such a thing in it.
pub fn check(spec: &Spec, linux: &Linux) -> Result<(), SpecError> {
    if !spec.version().starts_with("1.") {
        let what = format!("`{}`: must be a version 1", spec.version());
        return Err(SpecError::wrong("ociVersion", what));
    }
    other_systems(spec)?;
    hooks(spec)?;
    let no_mappings = "the guest has no user namespaces, since the virtual machine is the wall; \
                       leave it out (Kubernetes: hostUsers: true)";
    for (field, mappings) in [
        ("linux.uidMappings", linux.uid_mappings()),
        ("linux.gidMappings", linux.gid_mappings()),
        ("uidMappings", spec.uid_mappings()),
        ("gidMappings", spec.gid_mappings()),
    ] {
        no_id_mappings(field, list(mappings), no_mappings)?;
    }
    let refused = |is: bool, field: &str, why: &str| match is {
        true => Err(SpecError::refused(field, why)),
        false => Ok(()),
    };
    let some = |map: Option<usize>| map.is_some_and(|len| len > 0);
    refused(
        some(linux.time_offsets().as_ref().map(|offsets| offsets.len())),
        "linux.timeOffsets",
        "there are no time namespaces in the guest; leave it out",
    )?;
    refused(
        some(linux.net_devices().as_ref().map(|devices| devices.len())),
        "linux.netDevices",
        "a network device of the host's can't be moved into a guest; have it made in the pod's network namespace (CNI)",
    )?;
    refused(
        linux.intel_rdt().is_some(),
        "linux.intelRdt",
        "a guest has no shares of the host's caches to give; leave it out",
    )?;
    refused(
        linux.memory_policy().is_some(),
        "linux.memoryPolicy",
        "a guest has no NUMA nodes of the host's; leave it out",
    )?;
    if let Some(personality) = linux.personality() {
        let plain = personality.domain() == LinuxPersonalityDomain::PerLinux;
        refused(
            !plain || !list(personality.flags()).is_empty(),
            "linux.personality",
            "programs run as the guest's kernel runs them; leave it out",
        )?;
    }
    match linux.rootfs_propagation().as_deref().unwrap_or_default() {
        // No mount comes out of a guest or into it, so these are all as private as they can be.
        "" | "private" | "rprivate" | "slave" | "rslave" | "unbindable" | "runbindable" => {}
        other => refused(
            true,
            "linux.rootfsPropagation",
            &format!(
                "`{other}`: no mount of a guest's can come out to the host; say private \
                 (Kubernetes: a mountPropagation other than Bidirectional)"
            ),
        )?,
    }
    if linux
        .mount_label()
        .as_deref()
        .is_some_and(|label| !label.is_empty())
    {
        ignored(
            "linux.mountLabel",
            "the guest has no SELinux, the virtual machine is the wall",
        );
    }
    Ok(())
}

fn other_systems(spec: &Spec) -> Result<(), SpecError> {
    for (field, is_there) in [
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        if is_there {
            let why = "the guest's system is Linux; leave it out";
            return Err(SpecError::refused(field, why));
        }
    }
    if spec.vm().is_some() {
        let why = "the virtual machine is set up by the shim's configuration and by annotations (io.mote.memory, \
                   io.mote.vcpus); leave it out";
        return Err(SpecError::refused("vm", why));
    }
    Ok(())
}

/// # Errors
///
/// There are some.
pub fn no_id_mappings(
    field: &str,
    mappings: &[LinuxIdMapping],
    why: &str,
) -> Result<(), SpecError> {
    match mappings.is_empty() {
        true => Ok(()),
        false => Err(SpecError::refused(field, why)),
    }
}

/// Programs that are to run in the container's namespaces, which are in the guest, where the host's files aren't. The
/// others are the shim's to run.
fn hooks(spec: &Spec) -> Result<(), SpecError> {
    let Some(hooks) = spec.hooks() else {
        return Ok(());
    };
    for (field, hooks) in [
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
    ] {
        if let Some(hook) = list(hooks).first() {
            return Err(SpecError::refused(
                format!("hooks.{field}"),
                hook_text(hook),
            ));
        }
    }
    Ok(())
}

fn hook_text(hook: &Hook) -> String {
    format!(
        "{}: would run in namespaces that are in a guest, where the host's programs aren't; createRuntime and poststop run \
         on the host",
        hook.path().display()
    )
}
