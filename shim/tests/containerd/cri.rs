//! Kubernetes' way to containers: containerd with its plugin for the Container Runtime Interface, and a client of it
//! (cri.py), by whom pods and containers are made.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::counts::Counts;
use crate::ctr::{PATIENCE, finish, on_a_leash};
use crate::daemon::Daemon;
use crate::runner::not_run;
use crate::world::{FOLDER, World};
use crate::{image, place};

/// The runtime's handler, as a pod's RuntimeClass names it.
pub const HANDLER: &str = "mote";
/// The same with a configuration of its own.
pub const OTHER_HANDLER: &str = "mote-other";
/// The VM's memory by that configuration, in MiB.
pub const OTHER_MEMORY: u32 = 176;
/// What a pod's sandbox is made of.
const PAUSE: &str = "docker.io/mote/pause:latest";

/// What CNI makes of a pod.
const NETWORK: &str = r#"{
  "cniVersion": "0.4.0", "name": "mote",
  "plugins": [{
    "type": "bridge", "bridge": "mote0", "isGateway": true,
    "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks",
             "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}"#;

/// containerd, and the client.
pub struct Cri {
    daemon: RefCell<Daemon>,
    release: String,
    child: Child,
    talk: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
    before: Option<Counts>,
}

fn client() -> PathBuf {
    let peers = place::cache().join("peers").join(std::env::consts::ARCH);
    peers.join("containerd/cri")
}

/// Why this can't be.
fn obstacle(release: &str) -> Option<String> {
    let got = "resources/containerd.sh gets it";
    if !client().join("recipe").exists() {
        return Some(format!("there is no client of the interface: {got}"));
    }
    let program = place::release(release).join("usr/bin/containerd");
    (!program.exists()).then(|| format!("there is no such containerd: {got}"))
}

/// Runs this with containerd's plugin, and looks at what is left.
pub fn with(release: &str, name: &str, test: impl FnOnce(&Cri)) {
    if let Some(obstacle) = obstacle(release) {
        return not_run("cri", name, &obstacle);
    }
    let cri = Cri::start(release);
    test(&cri);
    cri.nothing_is_left();
    cri.end();
}

impl Cri {
    /// That of a release of Debian's.
    pub fn start(release: &str) -> Self {
        fs::write("/etc/cni/net.d/10-mote.conflist", NETWORK).unwrap();
        let folder = Path::new(FOLDER).join("c").join(format!("cri-{release}"));
        fs::create_dir_all(&folder).unwrap();
        let settings = World::shim_settings();
        let settings = settings.replace("memory = 128", &format!("memory = {OTHER_MEMORY}"));
        fs::write(folder.join("other.toml"), settings).unwrap();
        let daemon = Daemon::with(release, &folder, &settings_of(release, &folder));
        let mut command = Command::new(client().join("bin/python"));
        command
            .args([
                "-B",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/containerd/cri.py"),
            ])
            .arg(daemon.socket())
            .env("PYTHONPATH", client().join("messages"));
        on_a_leash(&mut command, PATIENCE * 4);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let talk = (
            child.stdin.take().unwrap(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        let mut cri = Cri {
            daemon: RefCell::new(daemon),
            release: release.to_owned(),
            child,
            talk: RefCell::new(talk),
            before: None,
        };
        let archive = Path::new(FOLDER).join("image/image.tar");
        for (archive, name) in [(archive, image::NAME), (pause_archive(), PAUSE)] {
            let mut command = cri.daemon.borrow().ctr();
            command
                .args(["--namespace", "k8s.io", "image", "import"])
                .arg(archive);
            finish(command, &[]).success();
            // It hears of images by an event.
            crate::task::until("the image", || cri.has_image(name));
        }
        cri.before = Some(Counts::take(&cri.daemon.borrow()));
        cri
    }

    /// Kills containerd, and starts it anew.
    pub fn restart(&self) {
        let mut daemon = self.daemon.borrow_mut();
        daemon.kill();
        let folder = daemon.folder().to_owned();
        *daemon = Daemon::with(&self.release, &folder, &settings_of(&self.release, &folder));
        drop(daemon);
        // It listens before it knows what it had.
        crate::task::until("containerd's plugin", || self.has_image(PAUSE));
    }

    fn has_image(&self, name: &str) -> bool {
        let said = self.call("ImageStatus", json!({"image": {"image": name}}));
        said.is_ok_and(|said| !said["image"].is_null())
    }

    pub fn call(&self, method: &str, request: Value) -> Result<Value, String> {
        let (input, output) = &mut *self.talk.borrow_mut();
        writeln!(input, "{}", json!({"method": method, "request": request})).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let mut answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{method}: {line:?}: {e}"));
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["response"].take()),
        }
    }

    /// What is answered to a call that works.
    #[track_caller]
    pub fn said(&self, method: &str, request: Value) -> Value {
        let answer = self.call(method, request);
        answer.unwrap_or_else(|error| panic!("{method}: {error}\n{}", self.daemon.borrow().log()))
    }

    /// What is left once all pods are removed, besides the bridge, which CNI keeps.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let mut command = Command::new("ip");
        command.args(["link", "delete", crate::network::BRIDGE]);
        finish(command, &[]).success();
        let before = self.before.as_ref().unwrap();
        let differences = before.differences(&Counts::settled(before, &self.daemon.borrow()));
        assert!(
            differences.is_empty(),
            "left over, or gone:\n{}",
            differences.join("\n")
        );
        for place in [
            "io.containerd.runtime.v2.task/k8s.io",
            "io.containerd.grpc.v1.cri/sandboxes",
        ] {
            for folder in ["state", "root"] {
                let folder = self.daemon.borrow().folder().join(folder).join(place);
                let left = fs::read_dir(&folder).into_iter().flatten().flatten();
                let left: Vec<_> = left.map(|entry| entry.path()).collect();
                assert!(left.is_empty(), "{left:?}");
            }
        }
    }

    /// Ends both.
    pub fn end(mut self) {
        self.daemon.borrow_mut().kill();
        let _ = self.child.kill();
        self.child.wait().unwrap();
        fs::remove_file("/etc/cni/net.d/10-mote.conflist").unwrap();
    }
}

/// The tests' image, but with a program that only waits.
fn pause_archive() -> PathBuf {
    let folder = Path::new(FOLDER).join("image");
    let archive = folder.join("pause.tar");
    if archive.exists() {
        return archive;
    }
    let layout = folder.join("layout");
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let place = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    // Writes another blob in the place of the one that this describes.
    let write = |described: &mut Value, blob: &Value| {
        let bytes = blob.to_string().into_bytes();
        let digest = format!("sha256:{}", image::sha256(&bytes));
        fs::write(place(&digest), &bytes).unwrap();
        described["size"] = bytes.len().into();
        described["digest"] = digest.into();
    };
    let index_path = layout.join("index.json");
    let kept = fs::read(&index_path).unwrap();
    let mut index = read(index_path.clone());
    let mut manifest = read(place(index["manifests"][0]["digest"].as_str().unwrap()));
    let mut config = read(place(manifest["config"]["digest"].as_str().unwrap()));
    config["config"]["Cmd"] = json!(["sleep", "1000000"]);
    write(&mut manifest["config"], &config);
    let mut described = index["manifests"][0].take();
    write(&mut described, &manifest);
    described["annotations"] = json!({"io.containerd.image.name": PAUSE});
    index["manifests"] = json!([described]);
    fs::write(&index_path, index.to_string()).unwrap();
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&archive)
        .arg(".");
    finish(command, &[]).success();
    fs::write(index_path, kept).unwrap();
    archive
}

/// containerd's configuration, of either version.
fn settings_of(release: &str, folder: &Path) -> String {
    let (version, images, runtime) = match release {
        "forky" => (
            3,
            "io.containerd.cri.v1.images",
            "io.containerd.cri.v1.runtime",
        ),
        _ => (2, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"),
    };
    let sandbox = match version {
        3 => format!(
            "[plugins.\"{images}\".pinned_images]\nsandbox = \"{PAUSE}\"\n[plugins.\"{runtime}\"]\n"
        ),
        _ => format!("[plugins.\"{runtime}\"]\nsandbox_image = \"{PAUSE}\"\n"),
    };
    let kind = World::runtime();
    let other = folder.join("other.toml");
    let folder = folder.display();
    let mut text = format!(
        "version = {version}\n\
         root = \"{folder}/root\"\n\
         state = \"{folder}/state\"\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.internal.v1.tracing\", \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.nri.v1.nri\"]\n\
         [grpc]\n\
         address = \"{folder}/socket\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\n\
         path = \"{folder}/opt\"\n\
         {sandbox}\
         disable_apparmor = true\n\
         [plugins.\"{runtime}\".cni]\n\
         bin_dir = \"/opt/cni/bin\"\n\
         conf_dir = \"/etc/cni/net.d\"\n\
         [plugins.\"{runtime}\".containerd]\n\
         default_runtime_name = \"{HANDLER}\"\n"
    );
    for handler in [HANDLER, OTHER_HANDLER] {
        text += &format!(
            "[plugins.\"{runtime}\".containerd.runtimes.{handler}]\n\
             runtime_type = \"{kind}\"\n\
             pod_annotations = [\"io.mote.*\"]\n"
        );
    }
    if World::is_mote() {
        text += &format!(
            "[plugins.\"{runtime}\".containerd.runtimes.{OTHER_HANDLER}.options]\nConfigPath = {other:?}\n"
        );
    }
    text
}
