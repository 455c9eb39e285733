//! How a Linux guest idles: what its kernel says of it, and what KVM counts.

use super::*;

/// Sleeps that are shorter than the longest window.
pub const NAPS: &str = "for i in 1 2 3 4 5 6 7 8; do sleep 0.01; done";

/// Boots with `more` and a script; what the guest printed, and KVM's counts of its halts.
pub fn idle(more: &[&str], script: &str) -> (String, serde_json::Value) {
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
    let script = format!("{NAPS}; echo napped; cat /proc/cmdline");
    let (out, halts) = idle(&["--idle", "poll"], &script);
    assert!(
        out.contains("napped\n") && out.contains(native::POLLS),
        "{out}"
    );
    assert_eq!(halts["halts"].as_u64(), Some(0), "{halts}");
}
