//! How the binary is linked.

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
}
