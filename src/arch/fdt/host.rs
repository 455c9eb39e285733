//! What the host says of its processors that the guest can use: the sizes of caches and who shares them, and
//! how fast CPUs of different kinds are. All from /sys/devices/system/cpu, in few system calls.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use crate::config::CpuList;

/// What a cache holds (sysfs: `type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CacheType {
    Instruction,
    Data,
    Unified,
}

/// One cache of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// 1 is next to the CPU.
    pub level: u32,
    /// What it holds.
    pub kind: CacheType,
    /// Bytes.
    pub size: u32,
    /// Bytes of a line, if known.
    pub line: Option<u32>,
    /// Sets, if known.
    pub sets: Option<u32>,
    /// How many CPUs of the host share it, at least 1.
    pub shared: u32,
}

/// The caches of a processor of the host, as far as they are known: level 1, and of each level from 2 up one
/// for all, with no level missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caches {
    /// One each for instructions and for data, or none.
    pub first: Vec<Cache>,
    /// Levels 2, 3, ...
    pub others: Vec<Cache>,
}

/// The most caches that a processor is asked for: two of level 1, and levels 2 to 4.
const MOST: u32 = 5;

/// Those of the host's first CPU, read once per process.
pub fn caches() -> &'static Caches {
    static CACHES: OnceLock<Caches> = OnceLock::new();
    CACHES.get_or_init(|| Caches::read(Path::new("/")))
}

impl Caches {
    /// Those of the first CPU of the host below `root`.
    fn read(root: &Path) -> Caches {
        let mut found: Vec<_> = (0..MOST).filter_map(|index| cache(root, index)).collect();
        found.sort_by_key(|cache| cache.level);
        let mut caches = Caches::default();
        for cache in found {
            let next = caches.others.len() as u32 + 2;
            match cache.kind {
                CacheType::Unified if cache.level == next => caches.others.push(cache),
                // A guest's kernel looks for both halves of level 1 at the CPU itself.
                CacheType::Instruction | CacheType::Data if cache.level == 1 => {
                    caches.first.push(cache);
                }
                _ => {}
            }
        }
        // A guest's kernel expects a pair there, or nothing.
        let kinds = caches.first.iter().map(|cache| cache.kind);
        if !matches!(kinds.collect::<Vec<_>>()[..], [a, b] if a != b) {
            caches.first.clear();
        }
        // Whoever shares a cache shares all behind it, whatever the host's tables say.
        let mut least = 1;
        for cache in &mut caches.others {
            least = least.max(cache.shared);
            cache.shared = least;
        }
        caches
    }
}

/// Documentation/ABI/testing/sysfs-devices-system-cpu: nothing but a size is of any use without a size, and
/// many hosts don't know that of any.
fn cache(root: &Path, index: u32) -> Option<Cache> {
    let folder = root.join(format!("sys/devices/system/cpu/cpu0/cache/index{index}"));
    let text = |name: &str| read(&folder.join(name));
    let number = |name: &str| text(name)?.parse().ok();
    let size = text("size")?;
    let size: u32 = size.strip_suffix('K')?.parse().ok()?;
    let kind = match text("type")?.as_str() {
        "Instruction" => CacheType::Instruction,
        "Data" => CacheType::Data,
        "Unified" => CacheType::Unified,
        _ => return None,
    };
    let level = number("level")?;
    let shared = match level {
        1 => None,
        _ => text("shared_cpu_list").and_then(|list| CpuList::of_kernel(&list)),
    };
    Some(Cache {
        level,
        kind,
        size: size.checked_mul(1024)?,
        line: number("coherency_line_size"),
        sets: number("number_of_sets"),
        shared: shared.map_or(1, |cpus| cpus.iter().count().max(1) as u32),
    })
}

/// How fast these CPUs of the host are, compared with each other (Linux
/// Documentation/arch/arm/cpu-capacity.rst); empty where they are the same, or the host doesn't say. Meant
/// for vCPUs that stay on one CPU each: one file is read for each.
pub fn capacities(cpus: &[u16]) -> Vec<u32> {
    capacities_of(Path::new("/"), cpus)
}

fn capacities_of(root: &Path, cpus: &[u16]) -> Vec<u32> {
    let folder = root.join("sys/devices/system/cpu");
    let capacity = |cpu: &u16| {
        read(&folder.join(format!("cpu{cpu}/cpu_capacity")))?
            .parse()
            .ok()
    };
    let all = cpus.iter().map(capacity).collect::<Option<Vec<u32>>>();
    match all {
        Some(all) if all.iter().any(|capacity| *capacity != all[0]) => all,
        _ => Vec::new(),
    }
}

/// A line of sysfs, in three system calls.
fn read(path: &Path) -> Option<String> {
    let mut line = [0; 256];
    let count = File::open(path).ok()?.read(&mut line).ok()?;
    let line = std::str::from_utf8(&line[..count]).ok()?;
    Some(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join("sys/devices/system/cpu").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn index(dir: &tempfile::TempDir, index: u32, files: &[(&str, &str)]) {
        let folder = format!("sys/devices/system/cpu/cpu0/cache/index{index}");
        let folder = dir.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn caches_are_read_with_who_shares_them() {
        let dir = host(&[]);
        let first = |kind| {
            [
                ("size", "64K\n"),
                ("type", kind),
                ("level", "1\n"),
                ("number_of_sets", "256\n"),
            ]
        };
        index(&dir, 0, &first("Data\n"));
        index(&dir, 1, &first("Instruction\n"));
        let files = [("size", "1024K\n"), ("type", "Unified\n"), ("level", "2\n")];
        index(&dir, 2, &files);
        index(
            &dir,
            2,
            &[
                ("coherency_line_size", "64\n"),
                ("shared_cpu_list", "0-1\n"),
            ],
        );
        let files = [
            ("size", "32768K\n"),
            ("type", "Unified\n"),
            ("level", "3\n"),
        ];
        index(&dir, 3, &files);
        index(&dir, 3, &[("shared_cpu_list", "0-7,16\n")]);
        let caches = Caches::read(dir.path());
        let data = Cache {
            level: 1,
            kind: CacheType::Data,
            size: 64 << 10,
            line: None,
            sets: Some(256),
            shared: 1,
        };
        let instruction = Cache {
            kind: CacheType::Instruction,
            ..data
        };
        assert_eq!(caches.first, [data, instruction]);
        let others = &caches.others;
        assert_eq!(
            (others[0].size, others[0].line, others[0].shared),
            (1 << 20, Some(64), 2)
        );
        assert_eq!(
            (others[1].size, others[1].level, others[1].shared),
            (32 << 20, 3, 9)
        );
    }

    #[test]
    fn what_the_host_does_not_know_is_left_out() {
        assert_eq!(Caches::read(host(&[]).path()), Caches::default());
        let dir = host(&[]);
        // No sizes, as from a processor whose firmware tells none; then nonsense; then a gap.
        index(&dir, 0, &[("type", "Data\n"), ("level", "1\n")]);
        let files = [
            ("size", "99999999999K\n"),
            ("type", "Unified\n"),
            ("level", "2\n"),
        ];
        index(&dir, 2, &files);
        let files = [("size", "4096K\n"), ("type", "Unified\n"), ("level", "3\n")];
        index(&dir, 3, &files);
        assert_eq!(Caches::read(dir.path()), Caches::default());
        // Half a pair.
        index(&dir, 0, &[("size", "64K\n")]);
        let files = [
            ("size", "4194304K\n"),
            ("type", "Unified\n"),
            ("level", "2\n"),
        ];
        index(&dir, 2, &files);
        assert_eq!(Caches::read(dir.path()), Caches::default());
    }

    #[test]
    fn capacities_are_told_where_they_differ() {
        let dir = host(&[
            ("cpu0/cpu_capacity", "446\n"),
            ("cpu1/cpu_capacity", "446\n"),
            ("cpu4/cpu_capacity", "1024\n"),
        ]);
        assert_eq!(capacities_of(dir.path(), &[4, 0, 1]), [1024, 446, 446]);
        for same in [[0, 1].as_slice(), &[4], &[], &[0, 4, 5]] {
            assert!(capacities_of(dir.path(), same).is_empty());
        }
    }
}
