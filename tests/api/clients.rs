//! Clients of Firecracker's that nobody here wrote, made by resources/api-clients.sh, against `mote serve`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::{Code, can_run, kvm};
use crate::openapi::{clients, python};

/// A folder with a guest, a drive, and what clients take for Firecracker: the script of docs/api.md.
fn folder(name: &str) -> (tempfile::TempDir, [PathBuf; 3]) {
    // firecracker-python makes a host's name of the socket's path, and so small letters of capital ones.
    let name = format!("mote-{name}-{}", std::process::id());
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix(&name).rand_bytes(0).tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("lib")).unwrap();
    symlink(env!("CARGO_BIN_EXE_mote"), path("lib/firecracker")).unwrap();
    let script = format!(
        "#!/bin/sh\nexec {} serve \"$@\"\n",
        path("lib/firecracker").display()
    );
    fs::write(path("firecracker"), script).unwrap();
    fs::set_permissions(path("firecracker"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path("kernel"), Code::new().print("up").spin().kernel()).unwrap();
    fs::write(path("drive"), [0; 8192]).unwrap();
    let paths = [path("firecracker"), path("kernel"), path("drive")];
    (folder, paths)
}

fn run(mut client: Command) -> String {
    let output = client.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[test]
fn firecracker_python_creates_pauses_resumes_and_stops_a_vm() {
    let (Some(python), Some(_)) = (python(), kvm()) else {
        return;
    };
    let (folder, [command, kernel, drive]) = folder("python");
    let mut client = Command::new(python);
    client.arg(format!(
        "{}/tests/clients/firecracker_python.py",
        env!("CARGO_MANIFEST_DIR")
    ));
    client
        .arg(command)
        .arg(folder.path())
        .arg(kernel)
        .arg(drive);
    let said = run(client);
    assert!(said.ends_with("done\n"), "{said}");
}

#[test]
fn the_crate_firecracker_creates_pauses_resumes_and_stops_a_vm() {
    let program = clients().map(|folder| folder.join("bin/api-client"));
    let Some(program) = program else { return };
    let missing = (!program.exists())
        .then(|| format!("{} is missing: resources/api-clients.sh", program.display()));
    if !can_run("clients", missing) || kvm().is_none() {
        return;
    }
    let (folder, [command, kernel, drive]) = folder("rust");
    let mut client = Command::new(program);
    client
        .arg(command)
        .arg(folder.path().join("socket"))
        .arg(kernel)
        .arg(drive);
    let said = run(client);
    assert!(
        said.contains("snapshots") && said.ends_with("done\n"),
        "{said}"
    );
}
