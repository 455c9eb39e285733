//! What a user says of a VM: files, and options.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::*;

// The binary's, which has no library of its own.
#[path = "../cli/keyval.rs"]
mod keyval;

/// A file in TOML or in JSON.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let config: Option<VmConfig> = match text.starts_with('{') {
        true => serde_json::from_str(text).ok(),
        false => toml::from_str(text).ok(),
    };
    let Some(config) = config else { return };
    if config.validate().is_ok() {
        // What one VM was made of makes another.
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&text).unwrap(), config);
    }
}

/// An option: the first byte tells which.
pub fn option(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match kind % 16 {
        0 => read::<Disk>(text, Some("path")),
        1 => read::<Net>(text, None),
        2 => read::<Memory>(text, Some("size")),
        3 => read::<Balloon>(text, Some("size")),
        4 => read::<Idle>(text, Some("mode")),
        5 => read::<Metrics>(text, Some("file")),
        6 => read::<Fs>(text, None),
        7 => read::<Vsock>(text, Some("socket")),
        8 => read::<NumaNode>(text, None),
        9 => read::<Placement>(text, None),
        10 => again::<CpuList>(text),
        11 => again::<Pin>(text),
        12 => again::<Sched>(text),
        13 => again::<Size>(text),
        14 => again::<Mac>(text),
        _ => drop((CpuList::of_kernel(text), CpuList::of_mask(text))),
    }
}

fn read<T: DeserializeOwned>(text: &str, bare_key: Option<&str>) {
    if let Err(error) = keyval::parse::<T>(text, bare_key) {
        assert!(!error.is_empty());
    }
}

/// What a value prints as is the same value.
fn again<T: Debug + DeserializeOwned + Serialize + PartialEq>(text: &str) {
    let json = serde_json::to_string(text).unwrap();
    if let Ok(value) = serde_json::from_str::<T>(&json) {
        let json = serde_json::to_string(&value).unwrap();
        assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value);
    }
}
