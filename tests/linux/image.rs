//! Container images: layouts made by hand, of busybox, run by their name.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Child;

use sha2::{Digest, Sha256};

use super::console::{Session, size};
use super::*;

/// A layout in a folder of its own.
struct Layout {
    folder: tempfile::TempDir,
    layers: Vec<(String, String, u64)>,
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Layout {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("layout/blobs/sha256")).unwrap();
        let layers = Vec::new();
        Layout { folder, layers }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    fn blob(&self, bytes: &[u8]) -> String {
        let digest = hex(bytes);
        fs::write(self.path().join("blobs/sha256").join(&digest), bytes).unwrap();
        format!("sha256:{digest}")
    }

    /// Adds a layer of what `fill` puts into a folder, packed by this program.
    fn layer(&mut self, packer: &str, fill: impl FnOnce(&Path)) {
        let folder = self
            .folder
            .path()
            .join(format!("layer{}", self.layers.len()));
        fs::create_dir(&folder).unwrap();
        fill(&folder);
        let tar = Command::new("tar")
            .args(["-C", path(&folder), "--xattrs", "-cf", "-", "."])
            .output()
            .unwrap();
        assert!(tar.status.success());
        let mut packed = Command::new("sh");
        packed.args(["-c", packer]).stdin(Stdio::piped());
        let mut packed = packed.stdout(Stdio::piped()).spawn().unwrap();
        let mut input = packed.stdin.take().unwrap();
        let bytes = tar.stdout.clone();
        let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
        let packed = packed.wait_with_output().unwrap();
        writer.join().unwrap();
        let digest = self.blob(&packed.stdout);
        let diff = format!("sha256:{}", hex(&tar.stdout));
        self.layers.push((digest, diff, packed.stdout.len() as u64));
    }

    /// Writes manifest and index; `settings` is the JSON of how it is run.
    fn finish(&self, settings: &str) {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            _ => "arm64",
        };
        let quoted = |all: Vec<&String>| {
            let all: Vec<_> = all.iter().map(|text| format!("{text:?}")).collect();
            all.join(",")
        };
        let diffs = quoted(self.layers.iter().map(|(_, diff, _)| diff).collect());
        let config = self.blob(
            format!(
                "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\"config\":{settings},\
                 \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{diffs}]}}}}"
            )
            .as_bytes(),
        );
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(digest, _, size)| {
                format!(
                    "{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\
                     \"digest\":\"{digest}\",\"size\":{size}}}"
                )
            })
            .collect();
        let manifest = self.blob(
            format!(
                "{{\"schemaVersion\":2,\"config\":{{\"digest\":\"{config}\"}},\"layers\":[{}]}}",
                layers.join(",")
            )
            .as_bytes(),
        );
        let index = format!(
            "{{\"schemaVersion\":2,\"manifests\":[{{\"digest\":\"{manifest}\",\"annotations\":\
             {{\"org.opencontainers.image.ref.name\":\"one\"}}}}]}}"
        );
        fs::write(self.path().join("index.json"), index).unwrap();
        fs::write(
            self.path().join("oci-layout"),
            "{\"imageLayoutVersion\":\"1.0.0\"}",
        )
        .unwrap();
    }
}

/// The first layer of all: busybox under some names, and users.
fn busybox(folder: &Path) {
    for part in ["bin", "etc", "home/me", "tmp", "old", "opaque"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    let program = folder.join("bin/busybox");
    fs::copy("/usr/bin/busybox", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let names = [
        "sh", "cat", "echo", "id", "ls", "md5sum", "dd", "sleep", "stty", "stat", "touch", "wc",
    ];
    for name in names {
        symlink("busybox", folder.join("bin").join(name)).unwrap();
    }
    fs::write(
        folder.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        folder.join("etc/group"),
        "root:x:0:\nme:x:1001:\nmore:x:7:me\n",
    )
    .unwrap();
    fs::write(folder.join("old/gone"), "gone").unwrap();
    fs::write(folder.join("old/stays"), "stays").unwrap();
    fs::write(folder.join("opaque/hidden"), "hidden").unwrap();
    fs::write(folder.join("mine"), "mine").unwrap();
    std::os::unix::fs::chown(folder.join("mine"), Some(4242), Some(70_000)).unwrap();
}

/// What all these tests run: two layers, one packed by gzip and one by zstd.
fn image() -> Option<Layout> {
    guests()?;
    let mut layout = Layout::new();
    layout.layer("gzip", busybox);
    layout.layer("zstd -q -c", |folder| {
        for part in ["old", "opaque"] {
            fs::create_dir(folder.join(part)).unwrap();
        }
        fs::write(folder.join("old/.wh.gone"), "").unwrap();
        fs::write(folder.join("opaque/.wh..wh..opq"), "").unwrap();
        fs::write(folder.join("opaque/new"), "new").unwrap();
        fs::hard_link(folder.join("opaque/new"), folder.join("opaque/twin")).unwrap();
    });
    layout.finish(
        "{\"Env\":[\"COLOUR=red\",\"SHAPE=round\"],\"WorkingDir\":\"/home/me\",\
         \"Entrypoint\":[\"sh\",\"-c\"],\"Cmd\":[\"echo hello\"]}",
    );
    Some(layout)
}

/// `mote run --image` with these arguments, and a cache of its own behind the guests'.
fn run(layout: &Layout, arguments: &[&str]) -> Command {
    let image = layout.path();
    let mut command = mote(&["--image", path(&image)]);
    let kernel = guests().unwrap().kernel;
    command.args(["--kernel", path(&kernel)]).args(arguments);
    command.env("MOTE_CACHE", layout.folder.path());
    command
}

#[test]
fn a_program_runs_and_its_status_is_motes() {
    let Some(layout) = image() else { return };
    let ended = finish(run(&layout, &[]));
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (Some(0), "hello\n", "")
    );
    // Found again, with nothing unpacked: the blobs of its layers may be gone.
    for (digest, ..) in &layout.layers {
        let name = digest.trim_start_matches("sha256:");
        fs::write(layout.path().join("blobs/sha256").join(name), "").unwrap();
    }
    let ended = finish(run(&layout, &["--", "echo err >&2; exit 7"]));
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (Some(7), "", "err\n")
    );
    let ended = finish(run(&layout, &["--", "kill -15 $$"]));
    assert_eq!(ended.code, Some(128 + 15), "{ended:#?}");
    let ended = finish(run(&layout, &["--entrypoint", "nothing-like-it"]));
    assert_eq!(ended.code, Some(127), "{ended:#?}");
    assert_eq!(ended.err, "mote: --image: nothing-like-it: not found\n");
    let ended = finish(run(&layout, &["--user", "nobody-at-all"]));
    assert_eq!(ended.code, Some(127), "{ended:#?}");
    assert!(ended.err.contains("user nobody-at-all"), "{ended:#?}");
}

#[test]
fn layers_environment_user_and_folder_are_the_images_or_the_options() {
    let Some(layout) = image() else { return };
    let command = "echo $COLOUR $SHAPE $(pwd) $(id -u):$(id -g):$(id -G) $HOME; \
        echo $(ls /old) $(ls /opaque) $(stat -c %u:%g /mine) $(stat -c %h /opaque/twin); \
        touch /new && ls /new; cat /etc/hosts >/dev/null && echo $(cat /etc/hostname)";
    let ended = finish(run(&layout, &["--", command])).success();
    assert_eq!(
        ended,
        "red round /home/me 0:0:0 /root\nstays new twin 4242:70000 2\n/new\nmote\n"
    );
    let options = [
        "--env",
        "COLOUR=blue",
        "--env",
        "MORE=yes",
        "--user",
        "me",
        "--workdir",
        "/tmp",
    ];
    let command = "echo $COLOUR $SHAPE $MORE $(pwd) $(id -u):$(id -g):$(id -G) $HOME";
    let all = [&options[..], &["--", command]].concat();
    let ended = finish(run(&layout, &all)).success();
    assert_eq!(ended, "blue round yes /tmp 1000:1001:1001 7 /home/me\n");
}

#[test]
fn streams_are_whole_and_half_closed() {
    let Some(layout) = image() else { return };
    let data = noise(20 << 20);
    let sum = {
        let file = layout.folder.path().join("data");
        fs::write(&file, &data).unwrap();
        let output = Command::new("md5sum").arg(&file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()[..32].to_owned()
    };
    // In and out again; the end of the input is what ends it.
    let mut command = run(&layout, &["--memory", "256M", "--", "cat; echo done >&2"]);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&data).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{:?}", output.stderr);
    assert_eq!(output.stdout.len(), 20 << 20);
    let back = layout.folder.path().join("back");
    fs::write(&back, &output.stdout).unwrap();
    let again = Command::new("md5sum").arg(&back).output().unwrap();
    assert!(again.stdout.starts_with(sum.as_bytes()));
    assert_eq!(output.stderr, b"done\n");
    // A reader that goes away ends the program as in a pipe.
    let mut command = run(&layout, &["--", "while echo y; do :; done"]);
    let mut child = command.spawn().unwrap();
    let mut line = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"y\n");
    let status = wait(child);
    assert_eq!(status, Some(128 + 13), "SIGPIPE");
}

fn wait(child: impl std::borrow::BorrowMut<Child>) -> Option<i32> {
    let mut child = child;
    let child: &mut Child = child.borrow_mut();
    until("the end of mote", || child.try_wait().unwrap().is_some());
    child.wait().unwrap().code()
}

#[test]
fn a_terminal_is_the_programs_with_its_size() {
    let Some(layout) = image() else { return };
    // The size and what is typed come by ways of their own, in any order.
    let program = "stty size; read line; echo got $line; \
        until [ \"$(stty size)\" = '24 80' ]; do sleep 0.1; done; echo resized; test -t 2 && exit 11";
    let command = run(&layout, &["--", program]);
    let mut session = Session::of(command, size(101, 37));
    session.expect("37 101");
    session.resize(80, 24);
    session.type_in("hello\r");
    session.expect("got hello");
    session.expect("resized");
    assert_eq!(wait(&mut session.mote), Some(11));
    let command = run(&layout, &["--", "echo ready; sleep 1000"]);
    let mut session = Session::of(command, size(80, 24));
    session.expect("ready");
    session.type_in("\x01x");
    assert_eq!(wait(&mut session.mote), Some(130), "Ctrl-A x");
    let command = run(&layout, &["--", "echo ready; sleep 1000"]);
    let mut session = Session::of(command, size(80, 24));
    session.expect("ready");
    session.type_in("\x03");
    assert_eq!(
        wait(&mut session.mote),
        Some(130),
        "Ctrl-C, by the guest's terminal"
    );
}

/// Whether keys come in lines, and some of them are signals.
fn is_cooked(session: &Session) -> bool {
    // SAFETY: a struct of numbers, for which zeros are good.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: a descriptor that is open, and room for the answer.
    let result = unsafe { libc::tcgetattr(session.terminal.as_raw_fd(), &raw mut mode) };
    assert_eq!(result, 0);
    mode.c_lflag & (libc::ICANON | libc::ISIG) != 0
}

#[test]
fn before_the_program_and_after_it_keys_are_motes() {
    let Some(layout) = image() else { return };
    // A guest in which nothing ever runs.
    let console = layout.folder.path().join("console");
    let file = format!("file={}", path(&console));
    let hangs = [
        "--console",
        &file,
        "--cmdline",
        "loglevel=7 rdinit=/none rootdelay=10000",
    ];
    let mut session = Session::of(run(&layout, &hangs), size(80, 24));
    until("the guest waiting", || {
        fs::read_to_string(&console).is_ok_and(|text| text.contains("Waiting 10000 sec"))
    });
    assert!(is_cooked(&session));
    session.type_in("\x03");
    assert_eq!(wait(&mut session.mote), Some(130), "before");
    // A program that ends before anybody has read all that it said.
    let program = "echo ready; dd if=/dev/zero bs=1000 count=100 2>/dev/null; exit 3";
    let mut session = Session::of(run(&layout, &["--", program]), size(80, 24));
    session.expect("ready");
    until("the program's end", || is_cooked(&session));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(session.mote.try_wait().unwrap().is_none());
    session.type_in("\x03");
    assert_eq!(wait(&mut session.mote), Some(130), "after");
}

#[test]
fn a_signal_goes_to_the_program() {
    let Some(layout) = image() else { return };
    let program = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = run(&layout, &["--", program]).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = [0; 6];
    out.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ready\n");
    // SAFETY: takes numbers; a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got it\n");
    assert_eq!(wait(child), Some(5));
}

#[test]
fn an_image_is_made_once_and_by_one() {
    let Some(layout) = image() else { return };
    let children: Vec<_> = (0..3).map(|_| run(&layout, &[]).spawn().unwrap()).collect();
    for child in children {
        assert_eq!(wait(child), Some(0));
    }
    let images = layout.folder.path().join("images");
    let names: Vec<_> = fs::read_dir(&images).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let before = names[0].metadata().unwrap();
    finish(run(&layout, &[])).success();
    let after = names[0].metadata().unwrap();
    assert_eq!(before.ino(), after.ino(), "another one");
}

#[test]
fn an_archive_of_a_layout_runs_too_and_in_a_jail() {
    let Some(layout) = image() else { return };
    let archive = layout.folder.path().join("image.tar");
    let tar = Command::new("tar")
        .args(["-C", path(&layout.path()), "-cf", path(&archive), "."])
        .status();
    assert!(tar.unwrap().success());
    let named = format!("{}:one", path(&archive));
    let kernel = guests().unwrap().kernel;
    let with = |more: &[&str]| {
        let mut command = mote(&["--image", &named, "--kernel", path(&kernel)]);
        command.env("MOTE_CACHE", layout.folder.path()).args(more);
        command
    };
    assert_eq!(finish(with(&[])).success(), "hello\n");
    let jail = ["--jail", "id=image,uid=4321", "--", "exit 9"];
    let ended = finish(with(&jail));
    assert_eq!(ended.code, Some(9), "{ended:#?}");
    let ended = finish(mote(&["--image", &format!("{}:two", path(&archive))]));
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("it has one"), "{ended:#?}");
}
