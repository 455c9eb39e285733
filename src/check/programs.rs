//! Programs that serve some kinds of devices; a plain VM needs none of them.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Check, Root};

struct Program {
    id: &'static str,
    name: &'static str,
    /// Where distributions have it beside the folders of PATH.
    elsewhere: &'static [&'static str],
    purpose: &'static str,
    remedy: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        id: "program.passt",
        name: "passt",
        elsewhere: &[],
        purpose: "--net user; it must be 2024_11 or newer",
        remedy: "if needed: apt install passt, or name one by MOTE_PASST",
    },
    Program {
        id: "program.virtiofsd",
        name: "virtiofsd",
        elsewhere: &["/usr/libexec", "/usr/lib/qemu"],
        purpose: "folders by --fs",
        remedy: "if needed: apt install virtiofsd, or cargo install virtiofsd",
    },
];

/// One line per program; `path` is the variable PATH.
pub(super) fn check(root: &Root, path: &OsStr) -> impl Iterator<Item = Check> {
    PROGRAMS
        .iter()
        .map(move |program| program.check(root, path))
}

impl Program {
    fn check(&self, root: &Root, path: &OsStr) -> Check {
        let folders = std::env::split_paths(path);
        let mut files = folders
            .chain(self.elsewhere.iter().map(PathBuf::from))
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(self.name));
        let purpose = self.purpose;
        match files.find(|file| runs(root, file)) {
            Some(file) => Check::info(
                self.id,
                self.name,
                format!("{} ({purpose})", file.display()),
            ),
            None => Check::info(self.id, self.name, format!("not in PATH ({purpose})"))
                .with_remedy(self.remedy),
        }
    }
}

fn runs(root: &Root, file: &std::path::Path) -> bool {
    let file = root.path(file.to_string_lossy().trim_start_matches('/'));
    let meta = file.metadata();
    meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_where_it_can_be_run() {
        let (dir, root) = Root::fake(&[("a/passt", ""), ("b/passt", ""), ("a/virtiofsd", "")]);
        let found = || -> Vec<Check> { check(&root, OsStr::new("/a:/b:c")).collect() };
        for check in found() {
            assert!(
                check
                    .remedy
                    .is_some_and(|text| text.contains("apt install"))
            );
        }
        let program = dir.path().join("b/passt");
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
        let passt = &found()[0];
        assert!(passt.found.starts_with("/b/passt ("), "{passt:?}");
        assert!(passt.remedy.is_none());
    }
}
