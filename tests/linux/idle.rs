//! How a Linux guest idles: what its kernel says of it, and what KVM counts.

use super::*;

/// Sleeps that are shorter than the longest window.
const NAPS: &str = "for i in 1 2 3 4 5 6 7 8; do sleep 0.01; done";

/// Boots with `more` and a script; what the guest printed, and KVM's counts of its halts.
fn idle(more: &[&str], script: &str) -> (String, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("timings");
    let timings = format!("json={}", path(&json));
    let out = in_guest(&[more, &["--timings", &timings]].concat(), script);
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    (out, report["kvm"]["halts"].clone())
}

#[test]
fn kvm_polls_while_linux_halts_as_it_was_told() {
    let Some(_) = guests() else { return };
    let count = |halts: &serde_json::Value, key: &str| halts[key].as_u64().unwrap();
    let (_, off) = idle(&["--halt-poll", "off"], NAPS);
    assert!(count(&off, "halts") >= 8, "{off}");
    assert_eq!(count(&off, "polls"), 0, "{off}");
    let (_, on) = idle(&["--halt-poll", "1s"], NAPS);
    assert!(count(&on, "halts") >= 8 && count(&on, "polls") > 0, "{on}");
}

#[test]
fn linux_never_halts_where_it_polls() {
    let Some(_) = guests() else { return };
    let script = format!("dmesg | grep -c 'using polling[ ]idle threads'; {NAPS}");
    let (out, halts) = idle(&["--idle", "poll"], &script);
    assert_eq!((out.as_str(), halts["halts"].as_u64()), ("1\n", Some(0)));
    // What the user says of it wins, as of any default.
    let cmdline = format!("idle=halt mote.run=\"{NAPS}; cat /proc/cmdline\"");
    let out = finish(mote(&["--idle", "poll", "--cmdline", &cmdline])).success();
    assert!(
        out.contains("idle=halt") && !out.contains("idle=poll"),
        "{out}"
    );
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
    let stock = [
        "--kernel",
        path(&guests.debian_kernel),
        "--initrd",
        path(&guests.debian_initrd),
        "--rootfs",
        &rootfs,
        "--memory",
        "512M",
    ];
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
