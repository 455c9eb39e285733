//! The user-mode network, by passt.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Two network namespaces with a cable between them: one for mote and passt, and one outside, which
/// only passt leads to.
struct Networks {
    inside: String,
    outside: String,
}

impl Networks {
    /// `None` (said aloud) where they can't be had.
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let names = [format!("mote-in-{id}"), format!("mote-out-{id}")];
        let added = Command::new("ip")
            .args(["netns", "add", &names[0]])
            .output();
        let obstacle = match added {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(format!("ip: {error}")),
        };
        if !can_run("peers", obstacle) {
            return None;
        }
        let [inside, outside] = names;
        for line in [
            format!("netns add {outside}"),
            format!("-n {inside} link add v0 type veth peer name v1 netns {outside}"),
            format!("-n {inside} addr add 192.168.77.2/24 dev v0"),
            format!("-n {inside} link set v0 up"),
            format!("-n {inside} link set lo up"),
            format!("-n {outside} addr add 192.168.77.1/24 dev v1"),
            format!("-n {outside} link set v1 up"),
            format!("-n {inside} route add default via 192.168.77.1"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "ip {line}: {err}");
        }
        Some(Networks { inside, outside })
    }

    fn command(namespace: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in [&self.inside, &self.outside] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task"))
        .into_iter()
        .flatten();
    let texts =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let numbers = |text: String| -> Vec<u32> {
        text.split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    texts.flat_map(numbers).collect()
}

#[test]
fn a_user_mode_network_needs_only_passt() {
    user_mode_network(true);
}

#[test]
fn a_passt_that_dies_is_replaced_by_who_may_start_programs() {
    user_mode_network(false);
}

fn user_mode_network(confined: bool) {
    let (Some(_), Some(passt), Some(socat)) = (guests(), peer("passt"), peer("socat")) else {
        return;
    };
    let Some(networks) = Networks::new() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (blob, back) = (folder.path().join("blob"), folder.path().join("back"));
    let output = folder.path().join("out");
    let data = noise(32 << 20);
    fs::write(&blob, &data).unwrap();
    let serve = |from: &str, to: &str| {
        let mut command = Networks::command(&networks.outside, &socat);
        command.args(["-u", from, to]);
        Running::start(command)
    };
    let listen = |port: u16| format!("TCP-LISTEN:{port},reuseaddr");
    let give = serve(&format!("OPEN:{}", path(&blob)), &listen(5000));
    let take = serve(&listen(5001), &format!("CREATE:{}", path(&back)));
    let more = serve(&format!("{},fork", listen(5002)), "OPEN:/dev/null");
    for (server, port) in [(&give, 5000), (&take, 5001), (&more, 5002)] {
        wait_until("socat", || listens_at(server.0.id(), port));
    }
    let script = script_disk(
        folder.path(),
        "mount -t tmpfs none /mnt
         cat > /mnt/dhcp <<'END'
#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
echo bound $ip $router
END
         chmod +x /mnt/dhcp
         ip link set eth0 up
         udhcpc -i eth0 -n -q -f -t 60 -s /mnt/dhcp 2>/dev/null
         nc 192.168.77.1 5000 > /mnt/blob; sha256sum < /mnt/blob
         nc 192.168.77.1 5001 < /mnt/blob; echo transferred
         read line
         until echo x | nc 192.168.77.1 5002; do sleep 1; done
         echo again",
    );
    let mut command = Networks::command(&networks.inside, Path::new(env!("CARGO_BIN_EXE_mote")));
    on_a_leash(command.args(["run", "--cmdline"]));
    command.arg("quiet mote.run=\"mount -o ro /dev/vdb /home; sh /home/run\"");
    command.args(["--disk", &format!("{},ro", path(&script))]);
    command.args(["--net", &format!("user,passt={}", path(&passt))]);
    if !confined {
        command.arg("--no-sandbox");
    }
    command.stdout(File::create(&output).unwrap());
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let text = || fs::read_to_string(&output).unwrap();
    let mut wait_for = |what: &str| {
        wait_until(what, || {
            let over = child.try_wait().unwrap().is_some();
            assert!(!over || text().contains(what), "{}", text());
            text().contains(what)
        });
    };
    wait_for("transferred");
    assert!(
        text().contains("bound 192.168.77.2 192.168.77.1"),
        "{}",
        text()
    );
    let passts = children(child.id());
    assert_eq!(passts.len(), 1);
    let mut last = passts[0];
    if !confined {
        let killed = Command::new("kill")
            .args(["-9", &passts[0].to_string()])
            .status();
        assert!(killed.unwrap().success());
        wait_until("another passt", || {
            let all = children(child.id());
            let other = all.into_iter().find(|pid| *pid != passts[0]);
            other.inspect(|pid| last = *pid).is_some()
        });
    }
    // The guest goes on now: by the network that is there again.
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"go on\n").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{}", text());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(text().contains("again"), "{}", text());
    assert!(fs::read(&back).unwrap() == data, "what came back differs");
    let last = format!("/proc/{last}");
    wait_until("the end of passt", || !Path::new(&last).exists());
}

#[test]
fn without_passt_there_is_no_user_mode_network() {
    if guests().is_none() {
        return;
    }
    let mut command = mote(&["--net", "user"]);
    command.env("PATH", "/nowhere").env_remove("MOTE_PASST");
    let ended = finish(command);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("apt install passt"), "{ended:?}");
    // What isn't a passt, or is too old.
    let ended = finish(mote(&["--net", "user,passt=/bin/false"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("/bin/false can't be used"), "{ended:?}");
}
