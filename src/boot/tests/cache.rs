//! The cache of unpacked kernels: hits, damage, hostile folders, many users at once.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::super::cache::Cache;
use super::super::{EntryPreference, KernelFormat, KernelOptions, LoadedKernel};
use super::{COMPRESSED, Fixture, VMLINUX, bzimage, guest_bytes, load_kernel, memory};

/// A kernel and a folder for the cache.
struct Setup {
    kernel: Fixture,
    options: KernelOptions,
    folder: PathBuf,
}

impl Setup {
    fn new() -> Self {
        let kernel = Fixture::new(&bzimage(COMPRESSED[0].1));
        let folder = kernel.folder.path().join("cache/kernels");
        let options = KernelOptions {
            cache: Some(folder.clone()),
            ..KernelOptions::default()
        };
        Setup {
            kernel,
            options,
            folder,
        }
    }

    /// Loads, checks what is in guest memory, and tells whether it came from the cache.
    fn load(&self) -> bool {
        let memory = memory(32);
        let kernel = load_kernel(&self.kernel.path, &memory, &self.options).unwrap();
        assert_eq!(
            guest_bytes(&memory, 0x100_0000, 0x2000),
            VMLINUX[0x1000..0x3000]
        );
        let mut data = VMLINUX[0x3000..].to_vec();
        data.resize(0x8400, 0);
        assert_eq!(guest_bytes(&memory, 0x120_0000, 0x8400), data);
        assert_eq!(kernel.end.0, 0x120_8400);
        assert_eq!(kernel.bytes_loaded, 0x2400);
        cached(&kernel)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The one entry.
    fn entry(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

fn cached(kernel: &LoadedKernel) -> bool {
    match kernel.format {
        KernelFormat::BzImage { cached, .. } => cached,
        KernelFormat::PackedImage { cached, .. } => cached,
        KernelFormat::Elf | KernelFormat::Image => panic!("not packed"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_second_start_is_from_the_cache() {
    let setup = Setup::new();
    assert!(!setup.load());
    assert!(setup.load());
    assert_eq!(mode(&setup.folder), 0o700);
    assert_eq!(mode(&setup.entry()), 0o600);
    // An ELF file like any other: it starts as it is.
    let memory = memory(32);
    let kernel = load_kernel(&setup.entry(), &memory, &KernelOptions::default()).unwrap();
    assert_eq!(kernel.bytes_loaded, 0x2400);
    // Both entries are kept.
    let options = KernelOptions {
        prefer: EntryPreference::Linux64,
        ..setup.options.clone()
    };
    let kernel = load_kernel(&setup.kernel.path, &memory, &options).unwrap();
    assert_eq!(
        kernel.entry,
        super::super::Entry::Linux64(vm_memory::GuestAddress(0x100_0000))
    );
    assert!(cached(&kernel));
}

#[test]
fn another_content_has_another_entry() {
    let setup = Setup::new();
    assert!(!setup.load());
    // The same path and the same kernel, compressed in another way.
    fs::write(&setup.kernel.path, bzimage(COMPRESSED[1].1)).unwrap();
    assert!(!setup.load());
    assert_eq!(setup.files().len(), 2);
    // The name of one entry with the contents of the other.
    let [a, b] = [0, 1].map(|n| setup.files()[n].clone());
    fs::copy(&a, &b).unwrap();
    assert!(![0, 1].into_iter().all(|n| {
        fs::write(&setup.kernel.path, bzimage(COMPRESSED[n].1)).unwrap();
        setup.load()
    }));
}

#[test]
fn any_damage_is_found_and_mended() {
    let setup = Setup::new();
    setup.load();
    let entry = setup.entry();
    let good = fs::read(&entry).unwrap();
    // ELF header, program header, stamp (length, key, CRCs), first and last segment.
    for at in [
        0,
        5,
        24,
        64 + 24,
        4032,
        4040,
        4048,
        4080,
        4092,
        4096,
        0x1800,
        0x3000,
        0x33FF,
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&entry, bad).unwrap();
        assert!(!setup.load(), "a wrong byte at {at:#x} was not found");
        assert!(setup.load(), "not mended after {at:#x}");
    }
    for length in [0, 1, 63, 4095, 4096, good.len() - 1] {
        fs::write(&entry, &good[..length]).unwrap();
        assert!(!setup.load(), "cut to {length} bytes");
        assert!(setup.load());
    }
    fs::write(&entry, [&good[..], b"x"].concat()).unwrap();
    assert!(!setup.load());
    assert_eq!(fs::read(setup.entry()).unwrap(), good);
}

#[test]
fn links_and_other_kinds_of_entries_are_replaced() {
    let setup = Setup::new();
    setup.load();
    let entry = setup.entry();
    // A link to a file that is good in itself.
    let elsewhere = setup.kernel.folder.path().join("elsewhere");
    fs::rename(&entry, &elsewhere).unwrap();
    symlink(&elsewhere, &entry).unwrap();
    assert!(!setup.load());
    assert!(fs::symlink_metadata(&entry).unwrap().is_file());
    assert!(elsewhere.exists());
    assert!(setup.load());
    // A FIFO: must neither be waited for nor used.
    fs::remove_file(&entry).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&entry)
            .status()
            .unwrap()
            .success()
    );
    assert!(!setup.load());
    assert!(setup.load());
    // A directory can't be replaced: the kernel starts without the cache.
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    assert!(!setup.load());
    assert!(!setup.load());
    assert_eq!(setup.files().len(), 1, "a temporary file was left");
}

#[test]
fn what_others_can_write_to_is_not_used() {
    let setup = Setup::new();
    setup.load();
    fs::set_permissions(setup.entry(), Permissions::from_mode(0o620)).unwrap();
    assert!(!setup.load());
    assert!(setup.load());
    for mode in [0o770, 0o707] {
        fs::set_permissions(&setup.folder, Permissions::from_mode(mode)).unwrap();
        assert!(!setup.load(), "{mode:o}");
    }
    fs::set_permissions(&setup.folder, Permissions::from_mode(0o755)).unwrap();
    assert!(setup.load());
    // A link to a good folder.
    let moved = setup.kernel.folder.path().join("moved");
    fs::rename(&setup.folder, &moved).unwrap();
    symlink(&moved, &setup.folder).unwrap();
    assert!(!setup.load());
    // A file where the folder should be.
    fs::remove_file(&setup.folder).unwrap();
    fs::write(&setup.folder, "").unwrap();
    assert!(!setup.load());
}

#[test]
fn a_folder_of_another_user_is_not_used() {
    // The files of /proc/1 are another user's, unless this is root; then it gives one away.
    // SAFETY: geteuid takes nothing, changes nothing and can't fail.
    if unsafe { libc::geteuid() } == 0 {
        let setup = Setup::new();
        setup.load();
        std::os::unix::fs::chown(setup.entry(), Some(65534), None).unwrap();
        assert!(!setup.load());
        assert!(setup.load());
        std::os::unix::fs::chown(&setup.folder, Some(65534), None).unwrap();
        assert!(!setup.load());
    } else {
        assert!(Cache::open(Path::new("/")).is_err());
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_done_without() {
    // Permissions don't stop root; /proc and a file in the way stop everybody.
    let mut setup = Setup::new();
    setup.options.cache = Some("/proc/mote/kernels".into());
    assert!(!setup.load());
    let beside = setup.kernel.path.join("kernels");
    setup.options.cache = Some(beside);
    assert!(!setup.load());
    setup.options.cache = Some(setup.folder.clone());
    fs::create_dir_all(&setup.folder).unwrap();
    fs::set_permissions(&setup.folder, Permissions::from_mode(0o500)).unwrap();
    setup.load();
    setup.load();
    fs::set_permissions(&setup.folder, Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn the_oldest_entries_go_and_foreign_files_stay() {
    let setup = Setup::new();
    let cache = Cache::open(&setup.folder).unwrap();
    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(3600 * hours);
    let set_time = |path: &Path, time| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    for key in 0..12 {
        cache.store(&[key; 32], |_| Ok(())).unwrap();
        let name = format!("{key:02x}").repeat(32) + ".vmlinux";
        set_time(&setup.folder.join(name), hours_ago(48 - u64::from(key)));
    }
    for name in ["notes.txt", ".1-0.tmp", ".2-0.tmp"] {
        fs::write(setup.folder.join(name), "").unwrap();
    }
    set_time(&setup.folder.join(".1-0.tmp"), hours_ago(2));
    set_time(&setup.folder.join("notes.txt"), hours_ago(2000));
    // The oldest that is left, used again: it survives those that are younger.
    assert!(cache.find(&[5; 32]).is_some());
    cache.store(&[99; 32], |_| Ok(())).unwrap();
    let keys: Vec<u8> = (0..=255)
        .filter(|key| cache.find(&[*key; 32]).is_some())
        .collect();
    assert_eq!(keys, [5, 6, 7, 8, 9, 10, 11, 99]);
    let has = |name| setup.folder.join(name).exists();
    assert!(has("notes.txt") && has(".2-0.tmp") && !has(".1-0.tmp"));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let setup = Setup::new();
    let cache = Cache::open(&setup.folder).unwrap();
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert!(cache.store(&[1; 32], |_| Err(full())).is_err());
    assert!(setup.files().is_empty());
}

#[test]
fn many_at_once_all_get_the_kernel() {
    let setup = Setup::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    setup.load();
                    // Somebody else clears the cache meanwhile.
                    for file in setup.files() {
                        if file.extension().is_some_and(|suffix| suffix == "vmlinux") {
                            let _ = fs::remove_file(file);
                        }
                    }
                    setup.load();
                }
            });
        }
    });
    setup.load();
    assert!(setup.load());
}

/// Not a test of its own: the other half of `many_processes_at_once`, which starts it.
#[test]
fn one_of_many_processes() {
    if let Some(folder) = std::env::var_os("MOTE_TEST_CACHE_FOLDER") {
        let mut setup = Setup::new();
        setup.options.cache = Some(folder.into());
        for _ in 0..50 {
            setup.load();
        }
    }
}

#[test]
fn many_processes_at_once() {
    let setup = Setup::new();
    let children: Vec<_> = (0..6)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "boot::tests::cache::one_of_many_processes"])
                .env("MOTE_TEST_CACHE_FOLDER", &setup.folder)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(setup.load(), "nobody left an entry");
    setup.entry();
}
