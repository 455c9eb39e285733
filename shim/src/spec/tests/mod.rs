//! Specifications as containerd makes them, and wrong ones.

mod annotations;
mod bpf;
mod container;
mod mounts;
mod process;
mod refusals;
mod resources;
mod seccomp;

use std::cell::RefCell;
use std::error::Error;
use std::path::Path;

use mote_agent_protocol::{Container, Hello};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{Place, SpecError};
use crate::source::{Rights, Source};

thread_local!(static IGNORED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

/// A warning of this thread's.
pub fn note(field: &str) {
    IGNORED.with_borrow_mut(|fields| fields.push(field.to_owned()));
}

/// The fields of this thread's warnings so far.
fn ignored() -> Vec<String> {
    IGNORED.take()
}

/// As `ctr run` makes it.
fn ctr() -> Value {
    serde_json::from_str(include_str!("ctr.json")).unwrap()
}

/// As containerd's CRI makes a container's; `folder` has what it binds.
fn cri(folder: &Path) -> Value {
    for file in ["etc-hosts", "hostname", "resolv.conf"] {
        std::fs::write(folder.join(file), "\n").unwrap();
    }
    std::fs::create_dir_all(folder.join("secrets")).unwrap();
    let text = include_str!("cri.json").replace('@', folder.to_str().unwrap());
    serde_json::from_str(&text).unwrap()
}

/// A kernel that has all.
fn full() -> Hello {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    Hello {
        namespaces: words("cgroup ipc mnt net pid uts"),
        controllers: words("cpuset cpu io memory pids"),
        seccomp: true,
        ..Hello::default()
    }
}

fn spec(value: &Value) -> Spec {
    serde_json::from_value(value.clone()).unwrap()
}

fn share(source: &Source, _: Rights) -> Result<String, Box<dyn Error + Send + Sync>> {
    Ok(format!("/shared{}", source.path().display()))
}

fn container(value: &Value, sandbox: Option<&str>, kernel: &Hello) -> Result<Container, SpecError> {
    let place = Place {
        root: "/run/c1",
        sandbox,
        kernel,
    };
    super::container(&spec(value), &place, &mut share)
}

/// The specification of `ctr run` with a value at a JSON pointer, whose folders are made.
fn with(pointer: &str, value: Value) -> Value {
    let mut all = ctr();
    put(&mut all, pointer, value);
    all
}

fn put(all: &mut Value, pointer: &str, value: Value) {
    let mut at = all;
    for key in pointer.split('/').skip(1) {
        if at.is_null() {
            *at = json!({});
        }
        at = match at {
            Value::Array(list) => &mut list[key.parse::<usize>().unwrap()],
            other => &mut other[key],
        };
    }
    *at = value;
}

/// The message with which it is refused as a guest's first container.
fn refusal(value: &Value) -> String {
    let text = container(value, None, &full()).unwrap_err().to_string();
    assert!(
        !text.contains('\n') && !text.contains("  "),
        "one line: {text}"
    );
    text
}
