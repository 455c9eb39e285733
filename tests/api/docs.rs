//! docs/api.md: its commands are run, and its tables have what the API has.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Code, can_run, kvm};

const PAGE: &str = include_str!("../../docs/api.md");
const OPENAPI: &str = include_str!("../../resources/api/openapi.yaml");

#[test]
fn its_commands_do_what_they_say() {
    let curl = Command::new("curl").arg("--version").output();
    if kvm().is_none() || !can_run("curl", curl.err().map(|e| format!("curl: {e}"))) {
        return;
    }
    let blocks = PAGE.split("```sh api\n").skip(1);
    let script: Vec<_> = blocks
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert_eq!(script.len(), 3);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    file("kernel", &Code::new().print("up").spin().kernel());
    file("rootfs.ext4", &[0; 8192]);
    file("other.ext4", &[0; 16384]);
    let programs = Path::new(env!("CARGO_BIN_EXE_mote")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    // The exit status of the VM that was stopped, at the end.
    let script = format!(
        "set -euo pipefail\n{}\nwait %1 || echo \"status $?\"",
        script.concat()
    );
    let output = shell
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    for words in [
        r#"{"app_name":"mote","id":"web","state":"Running","#,
        r#""drives":[{"id":"rootfs","device":"vda"}]"#,
        "mote_vm_cpus 1",
        "state     running",
        "status 143",
    ] {
        assert!(out.contains(words), "no {words} in {out}{err}");
    }
    assert!(!out.contains("fault_message"), "{out}");
}

#[test]
fn its_tables_have_each_path_that_there_is() {
    let paths = OPENAPI
        .lines()
        .filter_map(|line| line.strip_prefix("  /")?.strip_suffix(':'));
    let paths: Vec<_> = paths.collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        let path = format!("/{}", path.replace("{id}", "ID"));
        let shown = [format!("{path}`"), format!("{path},")];
        assert!(
            shown.iter().any(|shown| PAGE.contains(shown)),
            "docs/api.md has no {path}"
        );
    }
}
