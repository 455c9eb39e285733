//! Huge pages for guest memory: fewer page faults at the start, fewer TLB misses later.

use super::{Check, Root};
use crate::config::Size;

/// Transparent huge pages, which mote asks for with madvise.
pub(super) fn transparent(root: &Root) -> Check {
    let (id, subject) = ("memory.thp", "transparent huge pages");
    let Some(text) = root.read("sys/kernel/mm/transparent_hugepage/enabled") else {
        return Check::slow(
            id,
            subject,
            "this kernel has none: loading a kernel costs some 50 times more page faults",
            "use a kernel built with CONFIG_TRANSPARENT_HUGEPAGE=y",
        );
    };
    match chosen(&text) {
        Some(mode @ ("always" | "madvise")) => Check::ok(id, subject, mode),
        mode => Check::slow(
            id,
            subject,
            format!(
                "{}: loading a kernel costs some 50 times more page faults",
                mode.unwrap_or(&text)
            ),
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word)
}

/// Pages set aside for hugetlbfs.
pub(super) fn reserved(root: &Root) -> Option<Check> {
    let folder = "sys/kernel/mm/hugepages";
    let mut pools = Vec::new();
    for name in root.list(folder) {
        let Some(kib) = name
            .strip_prefix("hugepages-")
            .and_then(|n| n.strip_suffix("kB")?.parse::<u64>().ok())
        else {
            continue;
        };
        let count = |file| root.number(&format!("{folder}/{name}/{file}")).unwrap_or(0);
        pools.push((kib, count("nr_hugepages"), count("free_hugepages")));
    }
    if pools.is_empty() {
        return None;
    }
    pools.sort_unstable();
    let used = pools.iter().filter(|(_, all, _)| *all > 0);
    let words: Vec<_> = used
        .map(|(kib, all, free)| format!("{free} of {all} pages of {} free", Size::new(kib << 10)))
        .collect();
    let found = if words.is_empty() {
        "none are set aside".to_owned()
    } else {
        words.join(", ")
    };
    Some(Check::info("memory.hugetlb", "hugetlb pages", found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn thp(text: &str) -> Check {
        let (_dir, root) = Root::fake(&[("sys/kernel/mm/transparent_hugepage/enabled", text)]);
        transparent(&root)
    }

    #[test]
    fn madvise_and_always_are_good() {
        assert_eq!(thp("always [madvise] never\n").found, "madvise");
        assert_eq!(thp("[always] madvise never\n").level, Level::Ok);
    }

    #[test]
    fn never_is_slow() {
        let check = thp("always madvise [never]\n");
        assert_eq!(check.level, Level::Slow);
        assert!(check.remedy.unwrap().starts_with("echo madvise | sudo tee"));
        assert_eq!(thp("nonsense [").level, Level::Slow);
        assert_eq!(transparent(&Root::at("/nonexistent")).level, Level::Slow);
    }

    #[test]
    fn reserved_pages_are_counted_by_size() {
        let folder = "sys/kernel/mm/hugepages";
        let file = |size: &str, name: &str| format!("{folder}/hugepages-{size}/{name}");
        let paths = [
            file("1048576kB", "nr_hugepages"),
            file("2048kB", "nr_hugepages"),
            file("2048kB", "free_hugepages"),
        ];
        let found = |texts: [&str; 3]| {
            let files: Vec<_> = paths.iter().map(String::as_str).zip(texts).collect();
            let (_dir, root) = Root::fake(&files);
            reserved(&root).unwrap().found
        };
        assert_eq!(found(["0\n", "0\n", "0\n"]), "none are set aside");
        assert_eq!(found(["0\n", "64\n", "60\n"]), "60 of 64 pages of 2M free");
        assert_eq!(
            found(["2\n", "64\n", "60\n"]),
            "60 of 64 pages of 2M free, 0 of 2 pages of 1G free"
        );
        assert_eq!(reserved(&Root::at("/nonexistent")), None);
    }
}
