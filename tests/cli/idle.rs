//! `mote bench idle`, and what is refused of how a VM idles.

use super::*;

#[test]
fn a_guest_that_keeps_cpus_must_have_them_to_itself() {
    for (arguments, expected) in [
        (
            ["--idle", "pass-through"].as_slice(),
            ["--idle pass-through", "--pin"],
        ),
        (&["--idle", "poll,force"], ["--idle", "pass-through only"]),
        (&["--halt-poll", "50"], ["--halt-poll 50", "50us"]),
        (&["--halt-poll", "3s"], ["--halt-poll 3s", "1s is the most"]),
        (&["--idle", "sleep"], ["--idle sleep", "`haltpoll`"]),
    ] {
        let arguments = [&["run", "--kernel", "k"], arguments].concat();
        let (code, _, err) = outcome(&arguments);
        assert_eq!((code, err.lines().count()), (2, 1), "{arguments:?}: {err}");
        for part in expected {
            assert!(err.contains(part), "{part:?} is not in {err}");
        }
    }
}

#[test]
fn a_benchmark_of_nothing_or_to_nowhere_is_refused() {
    for (arguments, expected) in [
        (["--windows", "50"].as_slice(), "such as 50us"),
        (&["--think", "5"], "such as 0us,50us,1ms"),
        (&["--requests", "0"], "must be a number from 1 to "),
        (&["--pin", "1"], "such as 2,3"),
        (&["--json", "/nonexistent/a"], "--json /nonexistent/a"),
        (&["--svg", "-", "--html", "-"], "--html -: standard output"),
        (&["--requests", "few"], "must be a whole number"),
        (&["--pin", "0,8191"], "--pin 0,8191: CPU 8191"),
    ] {
        let (code, out, err) = outcome(&[&["bench", "idle"], arguments].concat());
        assert_eq!((code, err.lines().count()), (2, 1), "{arguments:?}: {err}");
        assert!(out.is_empty() && err.contains(expected), "{err}");
    }
}

#[test]
fn the_benchmark_tells_people_and_programs_and_draws() {
    if kvm().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, svg, html) = (file("json"), file("svg"), file("html"));
    let mut arguments = vec!["bench", "idle", "--requests", "20", "--rounds", "2"];
    arguments.extend(["--windows", "host,off,1s", "--think", "0us,100us"]);
    arguments.extend(["--json", &json, "--svg", &svg, "--html", &html]);
    let (code, out, err) = outcome(&arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(
        out.lines().filter(|line| line.contains(" off ")).count(),
        2,
        "{out}"
    );
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 6);
    for cell in cells {
        assert_eq!(cell["requests"], 20, "{cell}");
        let latency = |key: &str| cell["latency_us"][key].as_f64().unwrap();
        assert!(
            latency("p50") > 0.0 && latency("p50") <= latency("p99.9"),
            "{cell}"
        );
        assert!(cell["cpu_us"].as_f64().unwrap() > 0.0, "{cell}");
        if cell["window"] == "off" {
            assert_eq!(cell["halts"]["polls"], 0, "{cell}");
        }
    }
    assert!(fs::read_to_string(&svg).unwrap().ends_with("</svg>\n"));
    assert!(fs::read_to_string(&html).unwrap().contains("<svg "));
}
