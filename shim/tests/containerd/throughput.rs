//! How long a container takes to read and write its root file system, by both ways that a guest can have it, beside runc, in
//! turn in the same run. It is printed; no test fails for being slow.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::ctr::finish;
use crate::image::busybox;
use crate::many::is_long;
use crate::world::{FOLDER, World};

const BIG: usize = 64 << 20;
const FILES: usize = 500;
/// Each prints how many hundredths of a second it took by the guest's clock.
const WORK: &[(&str, &str)] = &[
    ("64 MiB read", "dd if=/big of=/dev/null bs=1M"),
    ("the same again", "dd if=/big of=/dev/null bs=1M"),
    ("500 files listed with their sizes", "ls -lR /many"),
    ("500 files of 4 KiB read", "cat /many/*/*"),
    (
        "64 MiB written and synced",
        "dd if=/dev/zero of=/out bs=1M count=64 conv=fsync",
    ),
    (
        "200 files made",
        "mkdir /new; for i in $(seq 200); do echo $i >/new/$i; done; sync",
    ),
];

/// A root file system of that size, as a folder.
fn root(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    for name in ["bin", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let shell = root.join("bin/sh");
    fs::copy(busybox(), &shell).unwrap();
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["awk", "cat", "cut", "dd", "ls", "mkdir", "seq", "sync"] {
        symlink("sh", root.join("bin").join(name)).unwrap();
    }
    // No two pages alike.
    let bytes: Vec<u8> = (0..BIG as u64 / 8)
        .flat_map(|number| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes())
        .collect();
    fs::write(root.join("big"), &bytes).unwrap();
    for number in 0..FILES {
        let folder = root.join(format!("many/{}", number / 100));
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join(number.to_string()),
            &bytes[number * 4096..][..4096],
        )
        .unwrap();
    }
    root
}

/// The times of one container that does it all, in seconds.
fn times(
    world: &World,
    runtime: &str,
    settings: Option<&Path>,
    config: &Path,
    id: &str,
) -> Vec<f64> {
    let mut command = world.ctr(&["run", "--rm", "--runtime", runtime]);
    if let Some(settings) = settings {
        command.arg("--runtime-config-path").arg(settings);
    }
    command.arg("--config").arg(config).arg(id);
    let out = finish(command, &[]).success();
    let times = out.lines().map(|line| line.trim().parse().expect(&out));
    times.collect()
}

pub fn beside_runc(world: &World) {
    let folder = Path::new(FOLDER).join("throughput");
    let root = root(&folder);
    let script: String = WORK
        .iter()
        .map(|(_, work)| {
            format!(
                "b=$(cut -d' ' -f1 /proc/uptime); {{ {work}; }} >/dev/null 2>&1 || echo failed: $?; \
                 e=$(cut -d' ' -f1 /proc/uptime); echo $b $e | awk '{{ print $2 - $1 }}'; "
            )
        })
        .collect();
    let mut spec: serde_json::Value = serde_json::from_str(&world.says(&["oci", "spec"])).unwrap();
    spec["root"] = serde_json::json!({"path": root, "readonly": false});
    spec["process"]["args"] = serde_json::json!(["/bin/sh", "-c", script]);
    spec["process"]["terminal"] = false.into();
    // In place of /default, where runc can't have a process any more once it has had a container below it.
    spec["linux"]["cgroupsPath"] = "/default/throughput".into();
    let config = folder.join("config.json");
    fs::write(&config, spec.to_string()).unwrap();
    let settings = ["block", "virtiofs"].map(|rootfs| {
        let path = folder.join(format!("{rootfs}.toml"));
        fs::write(&path, World::shim_settings_with(rootfs)).unwrap();
        path
    });
    let ways = [
        ("runc", "io.containerd.runc.v2", None),
        ("block", &*World::runtime(), Some(&*settings[0])),
        ("virtiofs", &*World::runtime(), Some(&*settings[1])),
    ];
    let mut all = vec![vec![Vec::new(); ways.len()]; WORK.len()];
    let rounds = match is_long() {
        true => 5,
        false => 1,
    };
    for round in 0..rounds {
        for (way, (name, runtime, settings)) in ways.iter().enumerate() {
            let id = format!("{name}-{round}");
            let times = times(world, runtime, *settings, &config, &id);
            assert_eq!(times.len(), WORK.len(), "{times:?}");
            for (row, time) in all.iter_mut().zip(times) {
                row[way].push(time);
            }
            // What was written there, where it isn't gone with the container.
            let _ = fs::remove_file(root.join("out"));
            let _ = fs::remove_dir_all(root.join("new"));
        }
    }
    println!("| seconds, the middle of {rounds} | runc | block | virtiofs |\n|---|---:|---:|---:|");
    for ((name, _), row) in WORK.iter().zip(&mut all) {
        let half = row.iter_mut().map(|times| {
            times.sort_by(f64::total_cmp);
            format!("{:.2}", times[rounds / 2])
        });
        println!("| {name} | {} |", half.collect::<Vec<_>>().join(" | "));
    }
    fs::remove_dir_all(folder).unwrap();
}
