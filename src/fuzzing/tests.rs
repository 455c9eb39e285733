//! Replays what fuzzing has found: the corpora in fuzz/corpus, and each input that once was a crash, in
//! tests/fixtures/fuzz. A line there is named TARGET-WORDS.

use std::path::Path;

use super::TARGETS;

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn corpora_do_no_harm() {
    for (name, target) in TARGETS {
        let files = files(&root().join("fuzz/corpus").join(name));
        assert!(!files.is_empty(), "no corpus for {name}");
        for file in files {
            target(&std::fs::read(file).unwrap());
        }
    }
}

#[test]
fn what_once_was_a_crash_is_none() {
    for file in files(&root().join("tests/fixtures/fuzz")) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let target = TARGETS
            .iter()
            .find(|(target, _)| name.split('-').next() == Some(target));
        let (_, target) = target.unwrap_or_else(|| panic!("{name}: no such target"));
        target(&std::fs::read(file).unwrap());
    }
}

#[test]
fn each_target_has_its_file_and_each_file_its_target() {
    let names = |folder: &str| -> Vec<String> {
        let stem =
            |path: &std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        files(&root().join(folder)).iter().map(stem).collect()
    };
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz/fuzz_targets"), targets);
    assert_eq!(names("fuzz/corpus"), targets);
}
