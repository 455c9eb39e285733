//! What containerd asks for by the OCI specification, as the program sees it.

use crate::ctr::finish;
use crate::image;
use crate::world::{FOLDER, World};

pub fn it_has_its_environment_folder_and_user(world: &World) {
    let script = "echo $COLOUR; echo $SHAPE; pwd; id -u; id -g; id -G; grep NoNewPrivs /proc/self/status; touch /etc/x 2>&1";
    let options = ["--env", "COLOUR=light blue"];
    let out = world.script(
        &[&options[..], &["--cwd", "/home"]].concat(),
        "environment",
        script,
    );
    let shape = image::VARIABLE.split('=').nth(1).unwrap();
    assert_eq!(
        out,
        format!("light blue\n{shape}\n/home\n0\n0\n0\nNoNewPrivs:\t1\n")
    );
    // By the image, whose user may not write there.
    let out = world.script_of_a_user(&options, "environment", &format!("{script} || true"));
    let denied = "touch: /etc/x: Permission denied";
    let wanted = "/home/me\n1000\n1001\n1001 7\nNoNewPrivs:\t1";
    assert_eq!(out, format!("light blue\n{shape}\n{wanted}\n{denied}\n"));
}

pub fn it_has_a_hostname_of_its_own(world: &World) {
    let before = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    // containerd 1.6 names none, so it is to be none that somebody else has given it; and it may be changed inside.
    let out = world.script(&["--privileged"], "hostname", "hostname inside && hostname");
    assert_eq!(out, "inside\n");
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        before
    );
}

pub fn a_read_only_root_stays_as_it_is(world: &World) {
    let script = "touch /new 2>&1 || echo refused; touch /dev/shm/new && echo there";
    let out = world.script(&["--read-only"], "read-only", script);
    assert_eq!(out, "touch: /new: Read-only file system\nrefused\nthere\n");
}

pub fn writes_end_with_the_container(world: &World) {
    let write = "echo changed >/etc/os-release; rm /etc/group; mkdir /new; cat /etc/os-release; ls /etc/group /new";
    let ended = world.run(&[], "writes", &["sh", "-c", write]);
    assert_eq!(ended.text(), "changed\n/new:\n", "{ended:?}");
    let out = world.script(
        &[],
        "writes",
        "cat /etc/os-release; ls /etc/group; ls -d /new || echo gone",
    );
    assert_eq!(out, "ID=mote-test\n/etc/group\ngone\n");
}

pub fn capabilities_are_containerds_default(world: &World) {
    let sets = "grep Cap /proc/self/status";
    // Those 14 that oci.WithDefaultSpec gives.
    let default = "00000000a80425fb";
    let out = world.script(&[], "capabilities", sets);
    let value = |out: &str, name: &str| {
        let line = out
            .lines()
            .find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.expect(out).trim().to_owned()
    };
    for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(value(&out, name), default, "{out}");
    }
    let out = world.script(
        &["--cap-drop", "CAP_KILL", "--cap-add", "CAP_SYS_TIME"],
        "capabilities",
        sets,
    );
    assert_eq!(value(&out, "CapEff:"), "00000000aa0425db", "{out}");
    // A user who isn't root has none, and may have them only by a file.
    let out = world.script_of_a_user(&[], "capabilities", sets);
    assert_eq!(value(&out, "CapEff:"), "0000000000000000", "{out}");
}

pub fn seccomp_forbids_what_it_names(world: &World) {
    let script = "grep ^Seccomp: /proc/self/status; unshare -U true 2>&1 || echo refused";
    let out = world.script(&["--seccomp"], "seccomp", script);
    assert!(
        out.starts_with("Seccomp:\t2\n") && out.ends_with("Operation not permitted\nrefused\n"),
        "{out}"
    );
    let out = world.script(&[], "seccomp", script);
    assert!(out.starts_with("Seccomp:\t0\n"), "{out}");
}

pub fn memory_is_limited(world: &World) {
    let options = ["--memory-limit", "33554432"];
    // The shell stays; the one that takes too much is killed. awk's string is its own memory.
    let script = "awk 'BEGIN { s = sprintf(\"%1000s\", \"\"); while (length(s) < 100000000) s = s s }'; echo $?; echo here";
    let ended = world.run(&options, "memory", &["sh", "-c", script]);
    assert!(ended.text().ends_with("137\nhere\n"), "{ended:?}");
    let ended = world.run(
        &[],
        "memory",
        &["sh", "-c", "head -c 1000 /dev/zero | wc -c"],
    );
    assert_eq!(ended.success(), "1000\n");
}

/// As nerdctl has its networks made, and by a specification of the user's own, with a folder for its root.
pub fn hooks_run_on_the_host(world: &World) {
    let folder = std::path::Path::new(FOLDER);
    let (config, state, gone) = (
        folder.join("hooks.json"),
        folder.join("hooked"),
        folder.join("gone"),
    );
    let hook =
        |script: String| serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let mut spec: serde_json::Value = serde_json::from_str(&world.says(&["oci", "spec"])).unwrap();
    spec["root"]["path"] = format!("{FOLDER}/image/root").into();
    spec["process"]["args"] = serde_json::json!(["echo", "hello"]);
    spec["process"]["terminal"] = false.into();
    // With the namespace that the task is in, as CNI's plugins get it.
    let made = format!(
        "cat >{0}; readlink /proc/$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' {0})/ns/net /proc/self/ns/net >>{0}",
        state.display()
    );
    spec["hooks"] = serde_json::json!({
        "createRuntime": hook(made), "poststop": hook(format!("cat >{}", gone.display())),
    });
    std::fs::write(&config, spec.to_string()).unwrap();
    // Its cgroup is /default, which is divided once runc has had a container below it.
    let command = world.command_by("io.containerd.runc.v2", &["--rm"], "by-runc", &["true"]);
    finish(command, &[]).success();
    let path = config.to_str().unwrap();
    let mut command = world.ctr(&["run", "--rm", "--runtime", &World::runtime()]);
    command.args(["--config", path, "hooked"]);
    assert_eq!(finish(command, &[]).success(), "hello\n");
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"id\":\"hooked\""), "{text}");
    let namespaces: Vec<_> = text.matches("net:[").collect();
    assert_eq!(namespaces.len(), 2, "{text}");
    let lines: Vec<_> = text.rsplit("net:[").take(2).map(str::trim).collect();
    assert_ne!(lines[0], lines[1], "{text}");
    let text = std::fs::read_to_string(&gone).unwrap();
    assert!(text.contains("\"stopped\""), "{text}");
    for path in [config, state, gone] {
        std::fs::remove_file(path).unwrap();
    }
}
