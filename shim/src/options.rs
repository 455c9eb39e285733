//! Where the configuration of a VM is: in the file that a request names, else the environment's, else the default one.

use std::path::Path;

use containerd_shim::api::CreateTaskRequest;
use containerd_shim::protos::protobuf::CodedInputStream;
use containerd_shim::{Error, Result};

use crate::config::{Config, VARIABLE};

/// The type of options by which containerd hands over a path for any runtime: containerd's
/// runtimeoptions.v1.Options, of which the second field is the path.
const OPTIONS: &str = "runtimeoptions.v1.Options";
const CONFIG_PATH: u32 = 2;
/// A field's number and its wire type, length-delimited (Protocol Buffers, encoding).
const LENGTH_DELIMITED: u32 = 2;

/// The configuration for a request.
pub fn config(request: &CreateTaskRequest) -> Result<Config> {
    let named = request
        .options
        .as_ref()
        .filter(|any| any.type_url.ends_with(OPTIONS))
        .and_then(|any| config_path(&any.value))
        .filter(|path| !path.is_empty());
    let read = match named {
        Some(path) => Config::read(Some(Path::new(&path))),
        None => of_environment(),
    };
    read.map_err(|e| Error::InvalidArgument(e.to_string()))
}

/// Without a request.
pub fn of_environment() -> std::result::Result<Config, crate::config::ConfigError> {
    let named = std::env::var_os(VARIABLE);
    Config::read(named.as_ref().map(Path::new))
}

fn config_path(bytes: &[u8]) -> Option<String> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Ok(Some(tag)) = input.read_raw_tag_or_eof() {
        if tag & 7 != LENGTH_DELIMITED {
            return None;
        }
        let value = input.read_bytes().ok()?;
        if tag >> 3 == CONFIG_PATH {
            return String::from_utf8(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_found_among_fields() {
        let mut bytes = vec![0x0a, 3, b'a', b'b', b'c', 0x12, 4];
        bytes.extend(b"/a/c");
        assert_eq!(config_path(&bytes).as_deref(), Some("/a/c"));
        assert_eq!(config_path(&bytes[..5]), None);
        assert_eq!(config_path(&bytes[..8]), None);
        assert_eq!(config_path(&[0x10, 1]), None);
    }
}
