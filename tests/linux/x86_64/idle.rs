//! How x86_64's Linux idles: HLT, which may be the guest's own, and the driver that polls before it.

use crate::idle::{NAPS, idle};
use crate::*;

#[test]
fn what_the_user_says_of_idling_wins() {
    let Some(_) = guests() else { return };
    let cmdline = format!("idle=halt mote.run=\"{NAPS}; cat /proc/cmdline\"");
    let out = finish(mote(&["--idle", "poll", "--cmdline", &cmdline])).success();
    assert!(
        out.contains("idle=halt") && !out.contains("idle=poll"),
        "{out}"
    );
}

#[test]
fn linux_says_that_it_polls() {
    let Some(_) = guests() else { return };
    let script = "dmesg | grep -c 'using polling[ ]idle threads'";
    assert_eq!(in_guest(&["--idle", "poll"], script), "1\n");
}

#[test]
fn linux_waits_without_an_exit_where_the_cpus_are_its_own() {
    let Some(_) = guests() else { return };
    if pass_through().is_some() {
        let (_, halts) = idle(&["--idle", "pass-through,force"], NAPS);
        assert_eq!(halts["halts"].as_u64(), Some(0), "{halts}");
    }
}

#[test]
fn a_stock_kernel_polls_before_it_halts_and_sees_that_its_cpus_are_its_own() {
    let Some(guests) = guests() else { return };
    let rootfs = format!("{},ro", path(&guests.rootfs));
    let stock = [&stock(&guests)[..], &["--rootfs", &rootfs]].concat();
    let script = "cat /sys/devices/system/cpu/cpuidle/current_governor; \
                  dmesg | grep -c KVM[_]HINTS_REALTIME; true";
    let lines = |mode| {
        let out = in_guest(&[stock.as_slice(), &["--idle", mode]].concat(), script);
        let lines = out.lines().filter(|line| !line.starts_with('['));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines("haltpoll"), ["haltpoll", "0"]);
    if pass_through().is_some() {
        assert_eq!(lines("pass-through,force"), ["haltpoll", "1"]);
    }
}

/// Whether this host leaves HLT to guests; said aloud if not.
fn pass_through() -> Option<()> {
    let host = common::kvm()?;
    let offered = host.capability_raw(kvm_bindings::KVM_CAP_X86_DISABLE_EXITS);
    let hlt = offered & kvm_bindings::KVM_X86_DISABLE_EXITS_HLT as i32 != 0;
    let obstacle = (!hlt).then(|| "KVM leaves HLT to no guest".to_owned());
    can_run("pass-through", obstacle).then_some(())
}
