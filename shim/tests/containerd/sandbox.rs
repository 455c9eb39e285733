//! A pod, and its containers, as kubelet has them made.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::cri::Cri;
use crate::image;
use crate::world::FOLDER;

/// A pod that runs.
pub struct Pod<'a> {
    cri: &'a Cri,
    pub id: String,
    config: Value,
}

impl<'a> Pod<'a> {
    /// What a pod is to be, with more of it in `more`.
    pub fn config(name: &str, more: Value) -> Value {
        let logs = Path::new(FOLDER).join("logs").join(name);
        fs::create_dir_all(&logs).unwrap();
        let mut config = json!({
            "metadata": {"name": name, "uid": format!("{name}-1"), "namespace": "default"},
            "hostname": name,
            "log_directory": logs,
            "dns_config": {"servers": ["10.96.0.10"], "searches": ["cluster.local"]},
            "linux": {"security_context": apart()},
        });
        merge(&mut config, more);
        config
    }

    /// Runs a pod.
    #[track_caller]
    pub fn run(cri: &'a Cri, handler: &str, name: &str, more: Value) -> Self {
        let config = Self::config(name, more);
        let said = cri.said(
            "RunPodSandbox",
            json!({"config": config, "runtime_handler": handler}),
        );
        Pod {
            cri,
            id: said["pod_sandbox_id"].as_str().unwrap().to_owned(),
            config,
        }
    }

    fn status(&self) -> Value {
        let asked = json!({"pod_sandbox_id": self.id});
        self.cri.said("PodSandboxStatus", asked)["status"].take()
    }

    pub fn state(&self) -> String {
        self.status()["state"].as_str().unwrap().to_owned()
    }

    /// Its address on the network.
    pub fn address(&self) -> String {
        let status = self.status();
        status["network"]["ip"].as_str().unwrap().to_owned()
    }

    /// Tries to have a container that runs a shell's script.
    pub fn start(
        &self,
        name: &str,
        attempt: u32,
        script: &str,
        more: Value,
    ) -> Result<String, String> {
        let mut config = json!({
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": image::NAME},
            "command": ["sh", "-c", script],
            "log_path": format!("{name}-{attempt}.log"),
            "linux": {"security_context": apart()},
        });
        merge(&mut config, more);
        let asked =
            json!({"pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config});
        let made = self.cri.call("CreateContainer", asked)?;
        let id = made["container_id"].as_str().unwrap();
        self.cri
            .call("StartContainer", json!({"container_id": id}))?;
        Ok(id.to_owned())
    }

    /// A container that runs a shell's script.
    #[track_caller]
    pub fn container(&self, name: &str, attempt: u32, script: &str, more: Value) -> String {
        let id = self.start(name, attempt, script, more);
        id.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The status and output of a shell's script in a container.
    #[track_caller]
    pub fn exec(&self, id: &str, script: &str) -> (i64, String) {
        let asked = json!({"container_id": id, "cmd": ["sh", "-c", script], "timeout": 250});
        let said = self.cri.said("ExecSync", asked);
        let output = said["stdout"].as_str().unwrap().to_owned();
        (
            said["exit_code"].as_i64().unwrap(),
            output + said["stderr"].as_str().unwrap(),
        )
    }

    /// Waits for a container's end: its status.
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        let mut status = Value::Null;
        crate::task::until("the container's end", || {
            let asked = json!({"container_id": id});
            status = self.cri.said("ContainerStatus", asked)["status"].take();
            status["state"] == "CONTAINER_EXITED"
        });
        status
    }

    /// What a container has written, once it has `lines` lines.
    #[track_caller]
    pub fn log(&self, file: &str, lines: usize) -> String {
        let path = Path::new(self.config["log_directory"].as_str().unwrap()).join(file);
        let mut text = String::new();
        crate::task::until(&format!("{lines} lines in {file}"), || {
            text = fs::read_to_string(&path).unwrap();
            text.lines().count() >= lines
        });
        text
    }

    /// Ends it, as kubelet does.
    pub fn remove(self) {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            self.cri.said(method, json!({"pod_sandbox_id": self.id}));
        }
    }
}

/// What kubelet says where a pod says nothing: each container has processes of its own.
fn apart() -> Value {
    json!({"namespace_options": {"pid": "CONTAINER"}})
}

/// Puts `more` into `into`, object by object.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
