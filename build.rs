//! How the binary is linked, and the guest's agent, which is in it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let of_target = |name: &str| std::env::var(name).unwrap_or_default();
    let glibc = of_target("CARGO_CFG_TARGET_ENV") == "gnu";
    // For AArch64, Rust links static programs at a fixed address: there is nothing to relocate.
    let relocated = of_target("CARGO_CFG_TARGET_ARCH") == "x86_64";
    if glibc && relocated && of_target("CARGO_CFG_TARGET_OS") == "linux" {
        // A static program relocates itself at each start. Packed (DT_RELR), its 4,000 relocations are
        // 1 KiB to read instead of 95. glibc has read them so since 2.36, ld has written them since
        // 2.38; an older ld leaves them as they are, with a warning.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let out = PathBuf::from(of_target("OUT_DIR"));
    let agent = agent(&out);
    std::fs::write(out.join("mote-agent"), agent).expect("writing into the build's own folder");
}

/// The agent's program, static and as small as it gets: a build of its own with its own profile, in a folder that all
/// of mote's builds for a target share. None where its source isn't there (a package of the library alone has none), or
/// where MOTE_AGENT=off says so; `mote run --image` tells of it then.
fn agent(out: &Path) -> Vec<u8> {
    // Its source, what it is made of, and its profile.
    for of_it in ["agent", "Cargo.lock", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={of_it}");
    }
    println!("cargo:rerun-if-env-changed=MOTE_AGENT");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let manifest = Path::new(&variable("CARGO_MANIFEST_DIR")).join("agent/Cargo.toml");
    let unwanted = variable("MOTE_AGENT") == "off" || variable("CARGO_FEATURE_FUZZING") == "1";
    let target = variable("TARGET");
    if unwanted || !manifest.exists() || !target.ends_with("-linux-gnu") {
        return Vec::new();
    }
    // OUT_DIR is TARGETS/TRIPLE/PROFILE/build/motevm-HASH/out.
    let folder = out.ancestors().nth(4).unwrap_or(out).join("agent");
    let mut build = Command::new(variable("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--profile",
        "agent",
        "--bin",
        "mote-agent",
    ]);
    build.arg("--manifest-path").arg(manifest);
    build
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&folder);
    // What the build around this one is told is not for this one: its flags (coverage, say), and clippy in rustc's place.
    for of_others in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        build.env_remove(of_others);
    }
    // At a fixed address: nothing to relocate at its start.
    let flags = "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static";
    build.env("CARGO_ENCODED_RUSTFLAGS", flags);
    let built = build.status().is_ok_and(|status| status.success());
    assert!(
        built,
        "the guest's agent (agent/) doesn't build; MOTE_AGENT=off leaves it out"
    );
    let path = folder.join(target).join("agent/mote-agent");
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
