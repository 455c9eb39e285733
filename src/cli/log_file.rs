//! What mote says of itself, to standard error or to a file that a request of the API names later.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use log::LevelFilter;
use motevm::api::SetLogger;
use motevm::api::model::Logger;

use super::CliError;

/// Where it goes: a file, once there is one.
#[derive(Clone, Default)]
pub struct LogFile(Arc<Mutex<Option<File>>>);

impl LogFile {
    /// From now on.
    pub fn start(level: LevelFilter, path: Option<&Path>) -> Result<Self, CliError> {
        let log = LogFile::default();
        if let Some(path) = path {
            let opened = log.open(path);
            opened.map_err(|e| CliError::usage(format!("--log-path {}: {e}", path.display())))?;
        }
        env_logger::Builder::new()
            .filter_level(LevelFilter::Trace)
            .format_timestamp(None)
            .target(env_logger::Target::Pipe(Box::new(log.clone())))
            .init();
        log::set_max_level(level);
        Ok(log)
    }

    /// Does what a request says of it.
    pub fn setter(&self) -> SetLogger {
        let log = self.clone();
        Box::new(move |wanted| log.set(wanted))
    }

    fn set(&self, wanted: &Logger) -> Result<(), String> {
        if wanted.module.is_some() {
            return Err("module: mote's log has no such filter; leave it out".to_owned());
        }
        let level = wanted.level.as_deref().map(level).transpose()?;
        if let Some(path) = &wanted.log_path {
            let opened = self.open(path);
            opened.map_err(|e| format!("log_path {}: {e}", path.display()))?;
        }
        if let Some(level) = level {
            log::set_max_level(level);
        }
        Ok(())
    }

    /// A named pipe that nobody reads is no reason to wait.
    fn open(&self, path: &Path) -> io::Result<()> {
        let mut options = File::options();
        let options = options
            .append(true)
            .create(true)
            .custom_flags(libc::O_NONBLOCK);
        let file = options.open(path)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }
}

/// A level by its name, as mote or as Firecracker writes it.
pub fn level(text: &str) -> Result<LevelFilter, String> {
    let name = match text.to_ascii_lowercase().as_str() {
        "warning" => "warn".to_owned(),
        other => other.to_owned(),
    };
    let wrong = |_| format!("level {text}: must be off, error, warn, info, debug or trace");
    name.parse().map_err(wrong)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names_of_both_sorts() {
        for (text, expected) in [
            ("Warning", LevelFilter::Warn),
            ("warn", LevelFilter::Warn),
            ("OFF", LevelFilter::Off),
            ("Info", LevelFilter::Info),
        ] {
            assert_eq!(level(text), Ok(expected));
        }
        assert!(level("loud").is_err());
    }

    #[test]
    fn a_request_says_where_it_goes_and_what_it_cannot_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::default();
        let mut set = log.setter();
        let wanted = Logger {
            log_path: Some(path.clone()),
            ..Logger::default()
        };
        assert_eq!(set(&wanted), Ok(()));
        log.write_all(b"a line\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a line\n");
        let nowhere = Logger {
            log_path: Some("/nonexistent/log".into()),
            ..Logger::default()
        };
        assert!(
            set(&nowhere)
                .unwrap_err()
                .starts_with("log_path /nonexistent/log: ")
        );
        let module = Logger {
            module: Some("api".to_owned()),
            ..Logger::default()
        };
        assert!(set(&module).unwrap_err().starts_with("module: "));
    }
}
