//! The image that all containers have: an OCI layout of busybox, made by hand.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What containerd calls it.
pub const NAME: &str = "docker.io/mote/busybox:latest";
/// The same, whose user isn't root.
pub const OF_A_USER: &str = "docker.io/mote/busybox:user";
/// The variable that the image sets.
pub const VARIABLE: &str = "SHAPE=round";

/// The digest of these bytes, as hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The program that is in it.
pub fn busybox() -> PathBuf {
    let places = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
    places.into_iter().find(|place| place.exists()).unwrap()
}

/// Busybox under all of its names, and a user.
fn fill(root: &Path) {
    for folder in [
        "bin", "etc", "home/me", "tmp", "root", "proc", "sys", "dev", "data",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let program = root.join("bin/busybox");
    fs::copy(busybox(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let names = Command::new(&program)
        .arg("--list")
        .output()
        .unwrap()
        .stdout;
    for name in String::from_utf8(names)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let users = "root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n";
    fs::write(root.join("etc/passwd"), users).unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nme:x:1001:\nmore:x:7:me\n",
    )
    .unwrap();
    fs::write(root.join("etc/os-release"), "ID=mote-test\n").unwrap();
}

/// An archive of the layout, as `ctr image import` takes it.
pub fn archive(folder: &Path) -> PathBuf {
    let (root, layout) = (folder.join("root"), folder.join("layout"));
    fill(&root);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    // What is written there, by its digest and its size.
    let blob = |bytes: &[u8], kind: &str| -> Value {
        let digest = sha256(bytes);
        fs::write(blobs.join(&digest), bytes).unwrap();
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    assert!(tar.status.success());
    let layer = blob(&tar.stdout, "layer.v1.tar");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        _ => "arm64",
    };
    let manifest = |name: &str, user: &str, folder: &str| {
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin", VARIABLE], "Cmd": ["sh", "-c", "echo hello"], "User": user, "WorkingDir": folder},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = blob(config.to_string().as_bytes(), "config.v1+json");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
        let mut manifest = blob(manifest.to_string().as_bytes(), "manifest.v1+json");
        manifest["annotations"] = json!({"io.containerd.image.name": name});
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        manifest
    };
    let manifests = [
        manifest(NAME, "", "/"),
        manifest(OF_A_USER, "me", "/home/me"),
    ];
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(
        layout.join("oci-layout"),
        "{\"imageLayoutVersion\":\"1.0.0\"}",
    )
    .unwrap();
    let archive = folder.join("image.tar");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    archive
}
