//! `mote run --image`: a container image's program in a VM of its own, with mote's standard streams and the
//! program's exit status.
//!
//! - [`initrd`]: what the guest begins with, the agent alone
//! - [`guest`]: what the agent is asked for
//! - [`session`]: the conversation with it while the VM runs
//! - [`stdio`]: the streams

mod guest;
mod initrd;
mod session;
mod stdio;

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use motevm::VmConfig;
use motevm::boot::user_cache_folder;
use motevm::config::{Console, Disk, Endpoint, Size, Vsock};
use motevm::image::{self, ImageError, Settings, Source};

use super::run_help::IMAGE;
use super::{CliError, Status, default_guest};
pub use session::Session;

/// The image, and what is run of it.
#[derive(Args, Debug)]
pub struct ImageArgs {
    /// Run a container image's program: an OCI layout (folder or archive), or an archive of `docker save`
    #[arg(long, value_name = "PATH[:TAG]", help_heading = IMAGE, conflicts_with_all = ["rootfs", "initrd", "until"])]
    image: Option<String>,
    /// Start the guest with mote's agent as its init, for a program on the host that speaks with it (docs/agent.md)
    #[arg(long, help_heading = IMAGE, conflicts_with_all = ["image", "rootfs", "initrd", "until"])]
    agent: bool,
    /// An environment variable of the program (repeatable): NAME=VALUE, or NAME with mote's own value
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = IMAGE, requires = "image")]
    env: Vec<String>,
    /// The program's folder, in place of the image's
    #[arg(long, value_name = "PATH", help_heading = IMAGE, requires = "image")]
    workdir: Option<String>,
    /// Whose the program is: USER or USER:GROUP, by name or number, in place of the image's
    #[arg(long, value_name = "USER[:GROUP]", help_heading = IMAGE, requires = "image")]
    user: Option<String>,
    /// The program to run in place of the image's entry point
    #[arg(long, value_name = "PROGRAM", help_heading = IMAGE, requires = "image")]
    entrypoint: Option<String>,
    /// How much is kept of images' root file systems: those used longest ago are removed when another one is made
    #[arg(long, value_name = "SIZE", help_heading = IMAGE, requires = "image", default_value = "4G")]
    image_cache: Size,
    /// The command, in place of the image's
    #[arg(last = true, value_name = "COMMAND", help_heading = IMAGE, requires = "image")]
    command: Vec<String>,
}

/// What is to be run, once there is a VM for it.
#[derive(Debug)]
pub struct Workload {
    arguments: Vec<String>,
    environment: Vec<String>,
    folder: String,
    user: String,
}

impl ImageArgs {
    /// The program, and the configuration with what it needs: its root file system as the first drive, the agent,
    /// and vsock.
    pub fn prepare(&self, config: &mut VmConfig) -> Result<Option<Workload>, CliError> {
        if self.agent {
            return prepare_agent(config).map(|()| None);
        }
        let Some(name) = &self.image else {
            return Ok(None);
        };
        let source = Source::open(name).map_err(|e| refused(&e))?;
        let workload = self.workload(name, &source.settings)?;
        if config.rootfs.is_some() || config.boot.initrd.is_some() {
            return Err(CliError::usage(
                "--image: the configuration has a root file system of its own; leave rootfs and initrd out",
            ));
        }
        config.console = match std::mem::take(&mut config.console) {
            Console::Stdio | Console::Hvc(Endpoint::Stdio) => Console::None,
            elsewhere => elsewhere,
        };
        let folder = cache_folder().ok_or_else(|| refused(&ImageError::NoCache))?;
        let bar = bar(name);
        let root = image::cache::root(source, &folder, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let root = root.map_err(|e| refused(&e))?;
        if !root.was_cached {
            image::cache::clean(&folder, self.image_cache.bytes(), &root.path);
        }
        log::info!(
            "--image {name}: {} ({})",
            root.path.display(),
            if root.was_cached {
                "there already"
            } else {
                "made"
            }
        );
        let drive = Disk {
            read_only: true,
            ..Disk::at(root.path)
        };
        config.disks.insert(0, drive);
        config.boot.initrd = Some(initrd::make("--image")?);
        let vsock = config.vsock.get_or_insert_with(|| Vsock {
            cid: 3,
            ..Vsock::default()
        });
        vsock.own = true;
        Ok(Some(workload))
    }

    fn workload(&self, name: &str, settings: &Settings) -> Result<Workload, CliError> {
        let mut arguments = match &self.entrypoint {
            Some(program) => vec![program.clone()],
            None => settings.entrypoint.clone().unwrap_or_default(),
        };
        let own = || settings.cmd.clone().filter(|_| self.entrypoint.is_none());
        arguments.extend(match self.command.is_empty() {
            true => own().unwrap_or_default(),
            false => self.command.clone(),
        });
        if arguments.is_empty() {
            return Err(CliError::usage(format!(
                "--image {name}: says nothing of what to run; give a command: -- COMMAND"
            )));
        }
        let mut environment = settings.env.clone().unwrap_or_default();
        for given in &self.env {
            let (name, value) = match given.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => match std::env::var(given) {
                    Ok(value) => (given.as_str(), value),
                    Err(_) => continue,
                },
            };
            let is_it = |entry: &String| entry.split('=').next() == Some(name);
            environment.retain(|entry| !is_it(entry));
            environment.push(format!("{name}={value}"));
        }
        let or = |given: &Option<String>, own: &str| given.clone().unwrap_or(own.to_owned());
        Ok(Workload {
            arguments,
            environment,
            folder: or(&self.workdir, &settings.working_dir),
            user: or(&self.user, &settings.user),
        })
    }
}

/// The agent alone: who makes the VM's vsock socket speaks with it.
fn prepare_agent(config: &mut VmConfig) -> Result<(), CliError> {
    if config.rootfs.is_some() || config.boot.initrd.is_some() {
        return Err(CliError::usage(
            "--agent: the configuration has a root file system of its own; leave rootfs and initrd out",
        ));
    }
    if config.vsock.is_none() {
        return Err(CliError::usage(
            "--agent: it calls its host by vsock; add --vsock cid=3,socket=PATH, and listen at PATH_1024",
        ));
    }
    config.boot.initrd = Some(initrd::make("--agent")?);
    if config.boot.kernel.is_none() {
        config.boot.kernel = default_guest::containers_kernel();
    }
    Ok(())
}

/// Where root file systems are kept.
fn cache_folder() -> Option<PathBuf> {
    let own = std::env::var_os("MOTE_CACHE").map(PathBuf::from);
    let cache = own
        .filter(|path| path.is_absolute())
        .or_else(user_cache_folder)?;
    Some(cache.join("images"))
}

fn refused(error: &ImageError) -> CliError {
    CliError::new(Status::Usage, format_args!("--image {error}"))
}

/// On standard error, if that is a terminal, once there is something to tell.
fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "[{bar:30}] {bytes}/{total_bytes}, {eta} left: unpacking {msg}";
    let bar = match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("#>-")),
        Err(_) => bar,
    };
    bar.set_message(name.to_owned());
    bar
}
