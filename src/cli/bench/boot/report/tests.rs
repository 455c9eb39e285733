use super::*;

/// A report of runs whose boots took `boots` microseconds, `load` of them for the kernel.
pub fn report(load: &[u64], boots: &[u64], exits: &[u64]) -> Report {
    let guest = Guest {
        images: Vec::new(),
        config: serde_json::to_value(VmConfig::default()).unwrap(),
        until: "init".to_owned(),
    };
    let runs = boots.len() as u32;
    let plan = Plan {
        runs,
        warmup: 0,
        parallel: 1,
    };
    let mut report = Report::new(guest, plan, Identity::default());
    let series = |name: &str, values: Vec<u64>| Series {
        name: name.to_owned(),
        values,
    };
    let guest_part = boots
        .iter()
        .zip(load)
        .map(|(boot, load)| boot - load)
        .collect();
    report.phases = vec![
        series("kernel-load", load.to_vec()),
        series("exec-to-first-run", load.to_vec()),
        series("first-run-to-init", guest_part),
        series(INIT, boots.to_vec()),
    ];
    report.counts = vec![
        series("exits", exits.to_vec()),
        series(
            "exits.virtio-blk",
            exits.iter().map(|exits| exits / 2).collect(),
        ),
    ];
    report
}

#[test]
fn what_is_written_can_be_read() {
    let mut written = report(&[5, 6], &[50, 60], &[42, 42]);
    written.not_counted = Some("because".to_owned());
    let text = written.to_json();
    assert_eq!(Report::parse(text.as_bytes()), Ok(written));
    // Scripts find the figures with no arithmetic.
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["phases"][3]["p50"], 55.0);
}

#[test]
fn another_file_is_told_from_a_report() {
    let good = report(&[5], &[50], &[42]).to_json();
    for (text, expected) in [
        ("", "not a report"),
        ("{\"schema\": 5}", "not a report"),
        ("{\"exec_to_init_us\": 5}", "not a report"),
        (
            &good.replace("mote-bench-boot", "mote-bench-idle"),
            "but of \"mote-bench-idle\"",
        ),
        (
            &good.replace("\"version\": 1", "\"version\": 7"),
            "number 7",
        ),
        (&good.replace("\"phases\"", "\"faces\""), "damaged"),
        (&good[..good.len() / 2], "not a report"),
        (&good.replace("50\n", "\"fifty\"\n"), "damaged"),
    ] {
        let error = Report::parse(text.as_bytes()).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let error = Report::read(Path::new("/nonexistent.json"), "--baseline");
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("--baseline /nonexistent.json: ") && error.contains("--json"));
}

#[test]
fn images_are_known_by_their_contents() {
    let folder = tempfile::tempdir().unwrap();
    let guest = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let mut config = VmConfig::default();
        config.boot.kernel = Some(path);
        Guest::of(&config, "init".to_owned()).unwrap()
    };
    let (one, same, other) = (guest("a", "1"), guest("b", "1"), guest("c", "2"));
    assert_eq!(
        one.images[0].blake3,
        blake3::hash(b"1").to_hex().to_string()
    );
    assert!(one.differences(&same).is_empty());
    assert_eq!(one.differences(&other), ["another kernel"]);
    let mut larger = same;
    larger.config["cpus"] = 4.into();
    larger.config["steam"] = true.into();
    assert_eq!(
        one.differences(&larger),
        ["cpus: 4 there, 1 here", "steam: true there, nothing here"]
    );
}
