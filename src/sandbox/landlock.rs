//! Which files can still be opened or made by name (Documentation/userspace-api/landlock.rst): those
//! that the VM makes while it runs or removes at its end, and no others. What is open stays usable. TCP
//! and abstract sockets are out of reach, too. Where the host's kernel has no Landlock, or one that knows less,
//! the filters have to do.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The host refused.
    #[error(transparent)]
    Rules(#[from] landlock::RulesetError),
    /// A folder that is needed later isn't there.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: landlock::PathFdError,
    },
    /// The rules could not be handed to another thread.
    #[error("copying a descriptor: {0}")]
    Copy(std::io::Error),
}

/// What of the host a VM has to do with once the guest runs, besides its threads: files above all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Folders of sockets that are removed at the end, or made again.
    pub sockets: Vec<PathBuf>,
    /// Folders of files that are replaced now and then.
    pub files: Vec<PathBuf>,
    /// Device files that are opened again.
    pub devices: Vec<PathBuf>,
    /// Folders and files in which an API's thread opens what is to be in a drive.
    pub media: Vec<PathBuf>,
    /// The guest maps files, of which one may shrink.
    pub maps_files: bool,
    /// Threads have CPUs of their own.
    pub is_placed: bool,
    /// /proc is read, to tell what memory is used for.
    pub proc: bool,
}

impl Places {
    /// The folder of `file`.
    pub fn folder_of(file: &Path) -> PathBuf {
        match file.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.files.is_empty() && self.media.is_empty()
    }
}

/// Rules that any thread can take on.
#[derive(Debug)]
pub struct Rules(RulesetCreated);

impl Rules {
    /// Rules for these places; `None` where the host has no Landlock.
    ///
    /// # Errors
    ///
    /// See [`LandlockError`].
    pub fn new(places: &Places) -> Result<Option<Self>, LandlockError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V4))?
            .scope(Scope::AbstractUnixSocket)?
            .create()?;
        let sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
        let files =
            AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::RemoveFile;
        let add = |rules: RulesetCreated, folder: &Path, access: BitFlags<AccessFs>| {
            let folder = PathFd::new(folder).map_err(|source| LandlockError::Folder {
                path: folder.to_owned(),
                source,
            })?;
            Ok::<_, LandlockError>(rules.add_rule(PathBeneath::new(folder, access))?)
        };
        for folder in &places.sockets {
            rules = add(rules, folder, sockets)?;
        }
        for folder in &places.files {
            rules = add(rules, folder, files)?;
        }
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        for file in places.devices.iter().chain(&places.media) {
            rules = add(rules, file, device)?;
        }
        // In a jail there is none.
        if places.proc && Path::new("/proc/self").exists() {
            rules = add(
                rules,
                Path::new("/proc"),
                AccessFs::ReadFile | AccessFs::ReadDir,
            )?;
        }
        Ok(Some(Rules(rules)))
    }

    /// The calling thread, and what it starts, keeps to them from now on.
    ///
    /// # Errors
    ///
    /// See [`LandlockError`].
    pub fn enforce(&self) -> Result<(), LandlockError> {
        let rules = self.0.try_clone().map_err(LandlockError::Copy)?;
        let status = rules.restrict_self()?;
        if status.ruleset != RulesetStatus::FullyEnforced {
            log::debug!("this host's Landlock can't do all: {:?}", status.ruleset);
        }
        Ok(())
    }
}
