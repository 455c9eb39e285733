use super::super::gate;
use super::super::report::tests::report;
use super::*;

/// Boots of some milliseconds, with a little noise that is the same each time.
fn boots(count: u64, us: u64) -> Vec<u64> {
    (0..count).map(|n| us + n * 7919 % 1000).collect()
}

fn of(load: u64, boot: u64, exits: u64) -> Report {
    report(&vec![load; 40], &boots(40, boot), &vec![exits; 40])
}

fn within(text: &str, report: &Report) -> Verdict {
    budget(&gate::budget(text).unwrap(), report)
}

fn against(text: &str, report: &Report, base: &Report) -> Verdict {
    regression(&gate::regression(text).unwrap(), report, base)
}

#[test]
fn a_budget_is_kept_or_the_largest_part_is_named() {
    let report = of(5000, 40_000, 42);
    for text in [
        "p95=50ms",
        "kernel-load=5ms",
        "exits=42",
        "exits.virtio-blk=21",
        "exits.rng=0",
    ] {
        assert!(within(text, &report).passed, "{text}");
    }
    let late = within("p95=40ms", &report);
    assert!(!late.passed);
    assert!(
        late.found.starts_with("exec-to-init p95 is 40."),
        "{}",
        late.found
    );
    assert!(
        late.found.contains("largest part is first-run-to-init"),
        "{}",
        late.found
    );
    let exits = within("exits=41", &report);
    assert_eq!(
        (exits.passed, exits.found.as_str()),
        (false, "exits max is 42, 41 allowed")
    );
    for text in ["exits=5ms", "kernel-load.p50=5", "syscalls=100"] {
        assert!(!within(text, &report).passed, "{text}");
    }
}

#[test]
fn the_same_again_passes() {
    let report = of(5000, 40_000, 42);
    for text in [
        "p50=0%",
        "p90=0%",
        "kernel-load.p50=0%",
        "exits=0",
        "p50=0us",
    ] {
        let verdict = against(text, &report, &report);
        assert!(verdict.passed, "{verdict:?}");
    }
}

#[test]
fn the_phase_that_grew_is_named() {
    let (base, slow) = (of(5000, 40_000, 42), of(12_000, 47_000, 42));
    let verdict = against("p50=5%", &slow, &base);
    assert!(!verdict.passed);
    for part in [
        "exec-to-init p50",
        "+17.",
        "grew most is kernel-load: 5.000 -> 12.00 ms",
    ] {
        assert!(verdict.found.contains(part), "{part}: {}", verdict.found);
    }
    assert!(
        against("p50=20%", &slow, &base).passed,
        "that much was allowed"
    );
    assert!(
        against("p50=8ms", &slow, &base).passed,
        "that much was allowed"
    );
    assert!(
        against("p50=5%", &base, &slow).passed,
        "faster is never wrong"
    );
}

#[test]
fn noise_is_not_a_regression() {
    // The median is 6 % higher, but each sample spreads over all of the other.
    let wide = |shift: u64| -> Vec<u64> { (0..20).map(|n| 30_000 + shift + n * 2000).collect() };
    let base = report(&[5000; 20], &wide(0), &[42; 20]);
    let new = report(&[5000; 20], &wide(3000), &[42; 20]);
    let verdict = against("p50=5%", &new, &base);
    assert!(
        verdict.passed && verdict.found.contains("noise alone"),
        "{verdict:?}"
    );
}

#[test]
fn too_few_runs_are_refused_beforehand() {
    let base = of(5000, 40_000, 42);
    let check = |text: &str, runs| {
        let regression = gate::regression(text).unwrap();
        check_runs(&regression, &base, runs, &base).map_err(|e| e.to_string())
    };
    assert_eq!(check("p50=5%", 20), Ok(()));
    assert_eq!(check("exits=0", 1), Ok(()), "counts are exact");
    let error = check("p95=5%", 20).unwrap_err();
    assert!(error.contains("20 runs and a baseline of 40"), "{error}");
    assert!(check("p50=5%", 2).unwrap_err().contains("--runs"));
}

#[test]
fn counts_are_compared_exactly_and_the_device_is_named() {
    let (base, more) = (of(5000, 40_000, 42), of(5000, 40_000, 44));
    let verdict = against("exits=0", &more, &base);
    assert!(!verdict.passed);
    assert_eq!(
        verdict.found,
        "exits p50: 42 -> 44, +4.8 %; of them exits.virtio-blk 21 -> 22"
    );
    assert!(against("exits=2", &more, &base).passed);
    assert!(against("exits=5%", &more, &base).passed);
    assert!(against("exits=0", &base, &more).passed);
    // One run that went another way is not a change.
    let mut stray = vec![42; 40];
    stray[7] = 43;
    let stray = report(&[5000; 40], &boots(40, 40_000), &stray);
    assert!(against("exits=0", &stray, &base).passed);
}
