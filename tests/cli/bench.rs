//! `mote bench boot` with tiny guests: what it writes, its gates and their exit status, another
//! monitor beside it, and that nothing is left of either.

use super::*;

/// Signals the boot timer, prints a text, and never ends.
fn booting(more_exits: u32) -> (tempfile::TempDir, String) {
    let more = (0..more_exits).fold(Code::new(), |code, _| code.exit_in_vain());
    let code = more.write_byte(BOOT_TIMER, 123);
    guest(code.print("a guest is up\n").spin())
}

fn bench(kernel: &str, more: &[&str]) -> (i32, String, String) {
    outcome(&[&["bench", "boot", "--kernel", kernel, "--runs", "8"], more].concat())
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A series of a report.
fn series<'a>(report: &'a serde_json::Value, kind: &str, name: &str) -> &'a serde_json::Value {
    let all = report[kind].as_array().unwrap();
    let found = all.iter().find(|series| series["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn boots_are_measured_counted_and_written_in_all_forms() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = booting(5);
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (a, b, c) = (file("a.json"), file("a.md"), file("a.html"));
    let more = [
        "--warmup",
        "1",
        "--parallel",
        "2",
        "--json",
        &a,
        "--md",
        &b,
        "--html",
        &c,
    ];
    let (code, out, err) = bench(&kernel, &more);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.contains("8 boots until init") && out.contains("kernel-load"),
        "{out}"
    );
    let report = json(Path::new(&a));
    for phase in [
        "exec-to-kvm-open",
        "exec-to-first-run",
        "first-run-to-init",
        "exec-to-init",
    ] {
        let values = series(&report, "phases", phase)["values"]
            .as_array()
            .unwrap();
        assert_eq!(values.len(), 8, "{phase}");
    }
    // Five writes to a port, and the one to the boot timer.
    let exits = series(&report, "counts", "exits");
    assert_eq!(
        (exits["min"].as_f64(), exits["max"].as_f64()),
        (Some(6.0), Some(6.0))
    );
    assert!(series(&report, "counts", "faults")["min"].as_f64() > Some(1.0));
    match report["not_counted"].as_str() {
        None => {
            let calls = series(&report, "counts", "syscalls");
            assert!(calls["min"].as_f64() > Some(20.0), "{calls}");
        }
        Some(why) => assert!(why.contains("ptrace"), "{why}"),
    }
    let hash = report["guest"]["images"][0]["blake3"].as_str().unwrap();
    assert_eq!(
        hash,
        blake3::hash(&fs::read(&kernel).unwrap()).to_hex().as_str()
    );
    assert_ne!(report["host"]["cpu"], "");
    let (md, html) = (
        fs::read_to_string(&b).unwrap(),
        fs::read_to_string(&c).unwrap(),
    );
    assert!(md.contains("| exec-to-init |"), "{md}");
    assert!(html.contains("<svg") && html.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_gate_that_does_not_pass_has_an_exit_status_of_its_own() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = booting(5);
    let base = folder.path().join("base.json");
    let base = base.to_str().unwrap();
    let (code, _, err) = bench(&kernel, &["--json", base, "--budget", "exits=6"]);
    assert_eq!(code, 0, "{err}");
    // The same again. Its times are those of a machine that does other things, too.
    let same = [
        "--baseline",
        base,
        "--max-regression",
        "exits=0,bytes-loaded=0",
    ];
    let (code, out, err) = bench(&kernel, &same);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(
        out.matches("\n  ok    --max-regression").count(),
        2,
        "{out}"
    );

    let (code, out, err) = bench(&kernel, &["--budget", "exits=5", "--budget", "p50=1us"]);
    assert_eq!((code, err.lines().count()), (8, 2), "{err}");
    assert!(err.contains("exits max is 6, 5 allowed"), "{err}");
    assert!(err.contains("the largest part is "), "{err}");
    assert!(out.contains("FAIL  --budget p50=1us"), "{out}");

    let (_other, slower) = booting(7);
    let (code, _, err) = bench(
        &slower,
        &["--baseline", base, "--max-regression", "exits=0"],
    );
    assert_eq!(code, 8, "{err}");
    assert!(
        err.contains("warning: the baseline is of another guest: another kernel"),
        "{err}"
    );
    assert!(
        err.contains("exits p50: 6 -> 8") && err.contains(EXITS_IN_VAIN),
        "{err}"
    );
}

#[test]
fn a_phase_that_grew_is_named() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = booting(0);
    let base = folder.path().join("base.json");
    let base = base.to_str().unwrap();
    let (code, _, err) = bench(&kernel, &["--json", base]);
    assert_eq!(code, 0, "{err}");
    // A baseline in which all was over in a microsecond, but for the guest's part.
    let mut report = json(Path::new(base));
    for series in report["phases"].as_array_mut().unwrap() {
        let us = if series["name"] == "first-run-to-init" {
            1_000_000_000
        } else {
            1
        };
        series["values"].as_array_mut().unwrap().fill(us.into());
    }
    fs::write(base, report.to_string()).unwrap();
    let (code, _, err) = bench(&kernel, &["--baseline", base]);
    assert_eq!(code, 8, "{err}");
    assert!(
        err.contains("exec-to-init p50: 0.001 ms -> ") && err.contains("what grew most is "),
        "{err}"
    );
    assert!(!err.contains("grew most is first-run-to-init"), "{err}");
}

#[test]
fn a_baseline_that_cannot_be_compared_is_refused() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = booting(0);
    let path = folder.path().join("base.json");
    let base = path.to_str().unwrap();
    assert_eq!(bench(&kernel, &["--json", base]).0, 0);
    let good = json(&path);
    let with = |pointer: &str, value: serde_json::Value| {
        let mut report = good.clone();
        *report.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, report.to_string()).unwrap();
    };
    with("/host/cpu", "another".into());
    let (code, _, err) = bench(&kernel, &["--baseline", base]);
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("CPU: another there") && err.contains("--any-host"),
        "{err}"
    );
    let any = [
        "--baseline",
        base,
        "--any-host",
        "--max-regression",
        "exits=0",
    ];
    let (code, _, err) = bench(&kernel, &any);
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("warning: the baseline is from another host"),
        "{err}"
    );
    with("/version", 99.into());
    let (code, _, err) = bench(&kernel, &["--baseline", base]);
    assert!(code == 2 && err.contains("number 99"), "{err}");
    let few = ["--runs", "2", "--baseline", base];
    fs::write(&path, good.to_string()).unwrap();
    let (code, _, err) = outcome(&[&["bench", "boot", "--kernel", &kernel], &few[..]].concat());
    assert!(
        code == 2 && err.contains("can't be told from noise"),
        "{err}"
    );
}

#[test]
fn another_monitor_is_measured_in_turn_and_leaves_nothing() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = booting(0);
    let json_file = folder.path().join("a.json");
    // A slow monitor that doesn't end by itself, and starts another process.
    let pids = folder.path().join("pids");
    let script = format!(
        "sleep 1000 & echo $! >> {}; sleep 0.3; echo a guest is up; wait",
        pids.display()
    );
    let command = format!("sh -c '{script}'");
    let until = ["--vs-until", "serial:guest is up", "--vs", &command];
    let more = ["--warmup", "0", "--budget", "ratio=1000", "--json"];
    let (code, out, err) = bench(
        &kernel,
        &[&until[..], &more, &[json_file.to_str().unwrap()]].concat(),
    );
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("times as long as sh"), "{out}");
    let report = json(&json_file);
    let theirs = &report["versus"]["seen"];
    assert_eq!(theirs["values"].as_array().unwrap().len(), 8);
    assert!(theirs["min"].as_f64() >= Some(300_000.0), "{theirs}");
    let ours = series(&report, "phases", "spawn-to-marker");
    // The same moment by another clock, which starts before exec and ends when the text is read.
    let own = series(&report, "phases", "exec-to-marker");
    assert!(ours["min"].as_f64() >= own["min"].as_f64(), "{ours} {own}");
    let pids = fs::read_to_string(&pids).unwrap();
    assert_eq!(pids.lines().count(), 8);
    for pid in pids.lines() {
        gone(pid);
    }
}

/// Waits until a process has ended; a zombie has, too.
fn gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < deadline, "{pid} is still there: {stat}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_interrupted_bench_leaves_nothing_behind() {
    if kvm().is_none() {
        return;
    }
    let (folder, kernel) = booting(0);
    let pids = folder.path().join("pids");
    let script = format!(
        "sleep 1000 & echo $! >> {0}; echo $$ >> {0}; wait",
        pids.display()
    );
    let command = format!("sh -c '{script}'");
    let mut bench = mote(&["bench", "boot", "--kernel", &kernel, "--vs", &command]);
    bench.args(["--vs-until", "serial:guest is up"]);
    let mut bench = bench.stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let started = || fs::read_to_string(&pids).unwrap_or_default();
    while started().lines().count() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Not SIGINT, which is ignored where the tests are a job in the background.
    // SAFETY: a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(bench.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(bench.wait().unwrap().code(), Some(143));
    let pids = started();
    assert_eq!(pids.lines().count(), 2, "{pids}");
    pids.lines().for_each(gone);
}

#[test]
fn a_guest_that_does_not_come_that_far_is_told_with_its_last_words() {
    if kvm().is_none() {
        return;
    }
    let (_folder, kernel) = guest(Code::new().print("hello\nlogin: ").spin());
    let (code, _, err) = bench(&kernel, &["--time-limit", "2s"]);
    assert_eq!((code, err.lines().count()), (5, 1), "{err}");
    for part in ["init's signal", "within 2 s", "--until serial:TEXT"] {
        assert!(err.contains(part), "{part}: {err}");
    }
    let (code, out, err) = bench(&kernel, &["--until", "serial:login:"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("first-run-to-marker"), "{out}");
    let (_folder, kernel) = guest(Code::new().print("bye").reset());
    let (code, _, err) = bench(&kernel, &[]);
    assert!(
        code == 5 && err.contains("ended before that") && err.contains("bye"),
        "{err}"
    );
    let (_folder, kernel) = guest(Code::new().crash());
    let (code, _, err) = bench(&kernel, &[]);
    assert!(code == 5 && err.contains("crashed"), "{err}");
}

#[test]
fn wrong_arguments_of_a_bench_are_told_in_one_line() {
    let (folder, kernel) = guest(Code::new().reset());
    let text = folder.path().join("text");
    fs::write(&text, "no report").unwrap();
    let text = text.to_str().unwrap();
    for (more, expected) in [
        (
            ["--budget", "p95=50"].as_slice(),
            "--budget p95=50: needs a unit",
        ),
        (&["--budget", "fast"], "--budget fast: must be "),
        (&["--time-limit", "5"], "--time-limit 5: must be a time"),
        (&["--until", "later"], "--until later: must be init, or "),
        (&["--warmup", "-1"], "-1: no option takes a negative"),
        (&["--baseline", text], "not a report"),
        (&["--baseline", "/nonexistent"], "--json FILE` makes one"),
        (
            &["--baseline", text, "--max-regression", "max=5%"],
            "take p1 to p99",
        ),
        (&["--vs", "qemu 'x"], "quotes in pairs"),
        (&["--vs", "qemu", "--vs-until", "init"], "--vs-until init: "),
        (&["--vs", "qemu", "--until", "init"], "--until init: both"),
        (&["--vs", "qemu", "--console", "none"], "--console none"),
        (&["--vs", "qemu", "--console", "pty"], "--vs: both guests"),
        (&["--vs", "qemu", "--parallel", "2"], "--parallel"),
        (&["--until", "serial:x", "--console", "none"], "no console"),
    ] {
        let (code, _, err) = bench(&kernel, more);
        assert_eq!(code, 2, "{more:?}: {err}");
        assert!(
            err.starts_with("mote: ") && err.lines().count() == 1,
            "{more:?}: {err}"
        );
        assert!(err.contains(expected), "{expected}: {err}");
    }
}
