//! `process.capabilities`: names as bits.

use mote_agent_protocol::container::Capabilities;
use oci_spec::runtime::{Capability as Cap, LinuxCapabilities};

use super::ignored;

/// By their numbers (linux/capability.h).
const BY_NUMBER: [Cap; 41] = [
    Cap::Chown,
    Cap::DacOverride,
    Cap::DacReadSearch,
    Cap::Fowner,
    Cap::Fsetid,
    Cap::Kill,
    Cap::Setgid,
    Cap::Setuid,
    Cap::Setpcap,
    Cap::LinuxImmutable,
    Cap::NetBindService,
    Cap::NetBroadcast,
    Cap::NetAdmin,
    Cap::NetRaw,
    Cap::IpcLock,
    Cap::IpcOwner,
    Cap::SysModule,
    Cap::SysRawio,
    Cap::SysChroot,
    Cap::SysPtrace,
    Cap::SysPacct,
    Cap::SysAdmin,
    Cap::SysBoot,
    Cap::SysNice,
    Cap::SysResource,
    Cap::SysTime,
    Cap::SysTtyConfig,
    Cap::Mknod,
    Cap::Lease,
    Cap::AuditWrite,
    Cap::AuditControl,
    Cap::Setfcap,
    Cap::MacOverride,
    Cap::MacAdmin,
    Cap::Syslog,
    Cap::WakeAlarm,
    Cap::BlockSuspend,
    Cap::AuditRead,
    Cap::Perfmon,
    Cap::Bpf,
    Cap::CheckpointRestore,
];

fn bits(set: Option<&std::collections::HashSet<Cap>>) -> u64 {
    let Some(set) = set else { return 0 };
    let numbers = BY_NUMBER.iter().enumerate();
    let of_set = numbers.filter(|(_, capability)| set.contains(capability));
    of_set.fold(0, |bits, (number, _)| bits | 1 << number)
}

/// The five sets. The specification has "the sets of capabilities for the process": one that is not there is empty,
/// and where there are none at all, all five are. (The agent's `None` would be all capabilities.)
///
/// What the kernel would refuse, since another set hasn't got it (capabilities(7)), "cannot be granted" and so is left
/// out with a warning, as the specification wants it.
pub fn of(capabilities: Option<&LinuxCapabilities>) -> Capabilities {
    let Some(sets) = capabilities else {
        return Capabilities::default();
    };
    let within = |field: &str, asked: u64, most: u64| {
        let lost = asked & !most;
        if lost != 0 {
            let lost = BY_NUMBER.iter().enumerate();
            let lost = lost.filter(|(number, _)| (asked & !most) >> number & 1 == 1);
            let names: Vec<_> = lost
                .map(|(_, capability)| format!("CAP_{capability}"))
                .collect();
            let why = format!(
                "{} can't be granted without the other sets",
                names.join(" ")
            );
            ignored(&format!("process.capabilities.{field}"), &why);
        }
        asked & most
    };
    let bounding = bits(sets.bounding().as_ref());
    let permitted = bits(sets.permitted().as_ref());
    let inheritable = within("inheritable", bits(sets.inheritable().as_ref()), bounding);
    let effective = within("effective", bits(sets.effective().as_ref()), permitted);
    let ambient = within(
        "ambient",
        bits(sets.ambient().as_ref()),
        permitted & inheritable,
    );
    Capabilities {
        bounding,
        effective,
        permitted,
        inheritable,
        ambient,
    }
}
