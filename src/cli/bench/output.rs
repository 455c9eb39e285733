//! Files that a bench writes: what can't be written is better known before than after.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use crate::cli::CliError;

/// Refuses what can't be written, and leaves what is there as it is: it may be the baseline, and the
/// bench may fail.
pub fn check(files: &[(&str, &Option<PathBuf>)]) -> Result<(), CliError> {
    for (option, path) in files {
        let Some(path) = path else { continue };
        // A pipe (`>(...)`) may have one writer only, and is opened when there is something to say.
        if path
            .metadata()
            .is_ok_and(|there| !there.is_file() && !there.is_dir())
        {
            continue;
        }
        let opened = OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|e| refused(option, path, &e))?;
    }
    Ok(())
}

/// Writes one.
pub fn write(option: &str, path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|e| refused(option, path, &e))
}

fn refused(option: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::usage(format!("{option} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_what_cannot_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| Some(folder.path().join(name));
        std::fs::write(folder.path().join("old"), "old").unwrap();
        check(&[
            ("--json", &file("old")),
            ("--md", &None),
            ("--html", &file("new")),
        ])
        .unwrap();
        let old = std::fs::read_to_string(folder.path().join("old")).unwrap();
        assert_eq!(old, "old");
        write("--json", &folder.path().join("old"), "new").unwrap();
        for path in [file("none/json"), Some(folder.path().to_owned())] {
            let error = check(&[("--json", &path)]).unwrap_err().to_string();
            assert!(error.starts_with("--json /"), "{error}");
        }
        assert!(check(&[("--json", &Some("/dev/null".into()))]).is_ok());
    }
}
