//! The files that a bench writes its figures to: looked at before anything is measured, written after.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli::{CliError, Status, print};

/// Stands for standard output, in place of the table.
const STDOUT: &str = "-";

/// An option and its file.
pub type Output<'a> = (&'static str, &'a Option<PathBuf>);

/// Refuses files that can't be written: that is better known before a bench than after. What is in
/// them stays until there are new figures.
pub fn check(outputs: &[Output]) -> Result<(), CliError> {
    let mut to_stdout = None;
    for (option, path) in given(outputs) {
        if path != Path::new(STDOUT) {
            // A pipe (`>(...)`) may have one writer only, and is opened when there is something to say.
            let is_special = |there: std::fs::Metadata| !there.is_file() && !there.is_dir();
            if path.metadata().is_ok_and(is_special) {
                continue;
            }
            let is_new = !path.exists();
            let opened = OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|e| refused(option, path, &e))?;
            // No empty file is taken for figures if the bench fails.
            if is_new {
                let _ = std::fs::remove_file(path);
            }
        } else if let Some(other) = to_stdout.replace(option) {
            return Err(CliError::usage(format!(
                "{option} -: standard output is {other}'s; name a file"
            )));
        }
    }
    Ok(())
}

/// Whether one of them goes to standard output, where the table then doesn't.
pub fn take_stdout(outputs: &[Output]) -> bool {
    given(outputs).any(|(_, path)| path == Path::new(STDOUT))
}

/// Writes one, if it is asked for.
pub fn write(
    (option, path): Output,
    text: impl FnOnce() -> Result<String, CliError>,
) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    let text = text()?;
    if path == Path::new(STDOUT) {
        return print("figures", |out| out.write_all(text.as_bytes()));
    }
    let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| refused(option, path, &e))
}

/// Figures as JSON.
pub fn json(figures: &impl serde::Serialize) -> Result<String, CliError> {
    let text = serde_json::to_string_pretty(figures);
    text.map(|text| text + "\n")
        .map_err(|e| CliError::new(Status::Internal, e))
}

fn given<'a>(outputs: &'a [Output<'a>]) -> impl Iterator<Item = (&'static str, &'a Path)> {
    let given = |(option, path): &Output<'a>| Some((*option, path.as_deref()?));
    outputs.iter().filter_map(given)
}

fn refused(option: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::usage(format!("{option} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_at_and_kept_until_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("base.json");
        let path = Some(file.clone());
        let output: Output = ("--json", &path);
        std::fs::write(&file, "old").unwrap();
        check(&[output]).unwrap();
        let read = || std::fs::read_to_string(&file).unwrap();
        assert_eq!(read(), "old");
        write(output, || json(&[1])).unwrap();
        assert_eq!(read(), "[\n  1\n]\n");
        let nowhere = Some(folder.path().join("none/file"));
        let error = check(&[("--md", &nowhere)]).unwrap_err().to_string();
        let new = folder.path().join("new");
        check(&[("--md", &Some(new.clone()))]).unwrap();
        assert!(!new.exists());
        assert!(
            error.starts_with("--md ") && error.contains("none/file"),
            "{error}"
        );
    }

    #[test]
    fn one_of_them_can_be_standard_output() {
        let (stdout, none) = (Some(PathBuf::from("-")), None);
        assert!(check(&[("--json", &stdout), ("--md", &none)]).is_ok());
        assert!(take_stdout(&[("--json", &stdout)]) && !take_stdout(&[("--json", &none)]));
        let error = check(&[("--json", &stdout), ("--md", &stdout)]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("--md -: standard output is --json's"),
            "{error}"
        );
    }
}
