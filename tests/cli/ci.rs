//! The workflows of docs/ci.md: their shell steps, run as a CI service would run them, in an empty
//! folder. The services themselves are not there, nor are sudo and the network.

use super::*;

const PAGE: &str = include_str!("../../docs/ci.md");

/// The lines of a block that a YAML line begins (`run: |`, `- |`), the first after a line that has
/// `start` in it.
fn block(start: &str) -> String {
    let mut lines = PAGE.lines().skip_while(|line| !line.contains(start));
    let indent = |line: &str| line.len() - line.trim_start().len();
    let head = lines.by_ref().find(|line| line.trim_end().ends_with('|'));
    let depth = indent(head.expect(start));
    let inside = lines.take_while(|line| line.trim().is_empty() || indent(line) > depth);
    let inside: Vec<_> = inside.collect();
    let margin = inside.iter().filter(|line| !line.trim().is_empty());
    let margin = margin.map(|line| indent(line)).min().expect(start);
    let lines = inside
        .iter()
        .map(|line| line.get(margin..).unwrap_or("").to_owned() + "\n");
    lines.collect()
}

/// What a job has: a folder, a guest, and the programs that the steps call.
struct Job(tempfile::TempDir);

impl Job {
    fn new() -> Self {
        let job = Job(tempfile::tempdir().unwrap());
        let bin = job.0.path().join("bin");
        fs::create_dir(&bin).unwrap();
        // `mote check` says here what it says on this host, which may be that no Linux runs on it.
        let mote = env!("CARGO_BIN_EXE_mote");
        let mote = format!("#!/bin/sh\n[ \"$1\" = check ] && exit 0\nexec {mote} \"$@\"\n");
        // The guest is there before.
        for (name, text) in [("mote", mote.as_str()), ("make", "#!/bin/sh\nls \"$@\"\n")] {
            fs::write(bin.join(name), text).unwrap();
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(bin.join(name), executable).unwrap();
        }
        fs::write(job.0.path().join("root.ext4"), vec![0; 1 << 20]).unwrap();
        job.guest(5);
        job
    }

    /// A guest with so many exits before init's signal.
    fn guest(&self, exits: u32) {
        let code = (0..exits).fold(Code::new(), |code, _| code.exit_in_vain());
        let code = code.write_byte(BOOT_TIMER, 123).spin();
        fs::write(self.0.path().join("vmlinux"), code.kernel()).unwrap();
    }

    /// A step; its exit status and what it said.
    fn step(&self, script: &str) -> (Option<i32>, String) {
        let folder = self.0.path();
        let path = std::env::var("PATH").unwrap();
        let mut shell = Command::new("bash");
        shell
            .args(["-e", "-c", script])
            .current_dir(folder)
            .stdin(Stdio::null());
        shell.env("PATH", format!("{}/bin:{path}", folder.display()));
        shell.env("KERNEL", "vmlinux").env("ROOTFS", "root.ext4,ro");
        shell
            .env("CI_COMMIT_BRANCH", "main")
            .env("CI_DEFAULT_BRANCH", "main");
        for name in ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"] {
            shell.env(name, folder.join(name));
        }
        let output = shell.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), err)
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }
}

/// The page's gate on the median's time is right for a machine that does nothing else, and its number
/// of runs is for that gate.
fn counts_only(step: &str) -> String {
    let (gate, runs) = ("p50=10%,exits=0", "--runs 50");
    assert!(step.contains(gate) && step.contains(runs), "{step}");
    step.replace(gate, "exits=0").replace(runs, "--runs 10")
}

#[test]
fn github_s_steps_do_what_they_say() {
    if kvm().is_none() {
        return;
    }
    let job = Job::new();
    let measure = counts_only(&block("- name: Measure"));
    let step = |script: &str| {
        let (code, err) = job.step(script);
        assert_eq!(code, Some(0), "{script}: {err}");
    };
    step(&block("- name: Build the guest"));
    step(&block("- name: Look at the host"));
    let kind = job.file("GITHUB_OUTPUT");
    assert!(
        kind.starts_with("kind=") && kind.trim().len() == 21,
        "{kind}"
    );
    step(&measure);
    assert!(job.file("GITHUB_STEP_SUMMARY").contains("| exec-to-init |"));
    assert!(job.file("boot-time.html").contains("<svg"));
    step(&block("- name: Make it the baseline"));
    // Of the same guest once more, with a baseline now.
    step(&measure);
    assert_eq!(
        job.file("GITHUB_STEP_SUMMARY")
            .matches("| exec-to-init |")
            .count(),
        2
    );
    assert!(
        job.file("boot-time.html")
            .contains("the baseline, 10 boots")
    );
    job.guest(6);
    let (code, err) = job.step(&measure);
    assert_eq!(code, Some(8), "{err}");
    assert!(err.contains("exits p50: 6 -> 7"), "{err}");
    assert!(job.file("GITHUB_STEP_SUMMARY").contains("**failed**"));
}

#[test]
fn gitlab_s_script_does_what_it_says() {
    if kvm().is_none() {
        return;
    }
    let job = Job::new();
    let script = counts_only(&block("    - mote check"));
    assert_eq!(job.step(&script).0, Some(0));
    let first = job.file("base.json");
    assert!(
        first.contains("exec-to-init"),
        "the default branch makes the baseline"
    );
    assert_eq!(job.step(&script).0, Some(0));
    let base = job.file("base.json");
    assert!(base.contains("--max-regression exits=0") && base != first);
    job.guest(6);
    assert_eq!(job.step(&script).0, Some(8));
    assert_eq!(job.file("base.json"), base, "what failed is no baseline");
}
