//! `--api` of `mote run`, and what `mote serve` has of it, too.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use motevm::api::{Api, SetLogger};
use motevm::config::Jail;
use motevm::machine::Reach;

use super::CliError;
use super::run_help::API;

/// What a VM is called whom nobody has given a name.
const NO_NAME: &str = "anonymous-instance";

/// An API for a VM of arguments.
#[derive(Args, Debug)]
pub struct ApiArgs {
    /// Let other programs control the VM by HTTP on this Unix socket (docs/api.md)
    #[arg(long, value_name = "SOCKET", help_heading = API, value_hint = ValueHint::FilePath)]
    api: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

/// What goes with it.
#[derive(Args, Debug)]
pub struct Given {
    /// The VM's name in the API
    #[arg(long, value_name = "NAME", help_heading = API)]
    id: Option<String>,
    /// A folder, or a block device, that the API may put into a drive while the guest runs, besides what
    /// is in the folders of its drives (repeatable)
    #[arg(long, value_name = "DIR", help_heading = API, value_hint = ValueHint::AnyPath)]
    api_files: Vec<PathBuf>,
}

impl ApiArgs {
    /// The socket, if there is to be one.
    pub fn socket(&self) -> Option<&Path> {
        self.api.as_deref()
    }

    /// The same, for a jail to put another in its place.
    pub fn socket_mut(&mut self) -> Option<&mut PathBuf> {
        self.api.as_mut()
    }

    /// Makes the socket, if there is to be one.
    pub fn open(&self, jail: Option<&Jail>) -> Result<Option<Api>, CliError> {
        let Some(socket) = &self.api else {
            return match (&self.given.id, self.given.api_files.first()) {
                (None, None) => Ok(None),
                (Some(id), _) => Err(alone("--id", id)),
                (_, Some(path)) => Err(alone("--api-files", &path.display())),
            };
        };
        let jail = jail.map(|jail| jail.id.as_str());
        self.given.open("--api", socket, jail, None).map(Some)
    }

    /// What it needs of the host while the guest runs.
    pub fn reach(&self) -> Option<Reach> {
        let socket = self.api.as_deref()?;
        Some(self.given.reach(socket))
    }
}

fn alone(option: &str, value: &dyn std::fmt::Display) -> CliError {
    CliError::usage(format!("{option} {value}: goes with --api SOCKET only"))
}

impl Given {
    /// Makes the socket. `name` is what the VM is called otherwise.
    pub fn open(
        &self,
        option: &str,
        socket: &Path,
        name: Option<&str>,
        set_logger: Option<SetLogger>,
    ) -> Result<Api, CliError> {
        let id = self.id.as_deref().or(name).unwrap_or(NO_NAME);
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > 64 || !id.chars().all(fine) {
            return Err(CliError::usage(format!(
                "--id {id}: must be 1 to 64 letters, digits, `-`, `_` and `.`"
            )));
        }
        for path in &self.api_files {
            std::fs::metadata(path)
                .map_err(|e| CliError::usage(format!("--api-files {}: {e}", path.display())))?;
        }
        Api::open(socket, id, set_logger)
            .map_err(|e| CliError::usage(format!("{option} {}: {e}", socket.display())))
    }

    /// What it needs of the host while the guest runs.
    pub fn reach(&self, socket: &Path) -> Reach {
        let own = motevm::handed::number(socket).is_none();
        Reach {
            socket: own.then(|| socket.to_owned()),
            files: self.api_files.clone(),
        }
    }
}
