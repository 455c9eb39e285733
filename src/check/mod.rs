//! Whether this host can run VMs and how well: one [`Check`] per fact, each with its remedy.
//!
//! What is read from /proc, /sys and /dev goes through a [`Root`], so that each verdict is
//! tested with the real contents of real hosts' files. One file per theme, and one with what there is on
//! one architecture only (`native`); [`run`] has the order.

mod cgroup;
mod cpu;
mod create_vm;
mod devices;
mod huge_pages;
mod identity;
mod io_uring;
mod isolation;
mod kvm;
mod limits;
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod native;
mod nx_huge_pages;
mod programs;
pub mod realtime;
mod root;

use serde::Serialize;

pub use identity::Identity;
pub use root::Root;

/// How good a fact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// VMs run, but slower than they could.
    Slow,
    /// VMs run, but a real-time guest is delayed now and then.
    Jitter,
    /// Without it no VM with Linux in it runs.
    Missing,
    /// Good to know; nothing that mote needs for a plain VM.
    Info,
}

/// One fact about this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A name for scripts, which stays the same from version to version.
    pub id: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was looked at.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do; always there but for [`Level::Ok`] and [`Level::Info`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn new(level: Level, id: &'static str, subject: &'static str, found: String) -> Self {
        Check {
            id,
            level,
            subject,
            found,
            remedy: None,
        }
    }

    fn ok(id: &'static str, subject: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, id, subject, found.into())
    }

    fn info(id: &'static str, subject: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Info, id, subject, found.into())
    }

    fn slow(
        id: &'static str,
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Level::Slow, id, subject, found.into()).with_remedy(remedy)
    }

    fn jitter(
        id: &'static str,
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Level::Jitter, id, subject, found.into()).with_remedy(remedy)
    }

    fn missing(
        id: &'static str,
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Level::Missing, id, subject, found.into()).with_remedy(remedy)
    }

    fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// What all checks together say of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// VMs run, with hardware virtualization.
    Ready,
    /// KVM is there, but with no hardware behind it: Linux can't run in its VMs.
    Emulated,
    /// No VM can run.
    Unable,
}

/// All checks of one host, in the order in which they are best read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What they say together.
    pub verdict: Verdict,
    /// One per fact.
    pub checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let missing = |check: &&Check| check.level == Level::Missing;
        let verdict = match checks
            .iter()
            .filter(missing)
            .map(|check| check.id)
            .max_by_key(|id| *id != cpu::HARDWARE)
        {
            None => Verdict::Ready,
            Some(cpu::HARDWARE) => Verdict::Emulated,
            Some(_) => Verdict::Unable,
        };
        Report { verdict, checks }
    }

    /// Adds what is said of real time.
    #[must_use]
    pub fn with(mut self, more: Vec<Check>) -> Self {
        self.checks.extend(more);
        self
    }

    /// How many checks are at this level.
    pub fn count(&self, level: Level) -> usize {
        self.checks
            .iter()
            .filter(|check| check.level == level)
            .count()
    }
}

/// Looks at the host that `root` shows: at `/`, the one that this process runs on. Where KVM
/// opens, this makes a few VMs, to measure how long that takes, and drops them.
pub fn run(root: &Root) -> Report {
    let host = kvm::open(root);
    let mut checks = vec![kvm::device(root, &host)];
    checks.extend(native::hardware(root));
    checks.extend(kvm::required(&host));
    checks.extend(native::processor(root));
    checks.extend(cpu::governor(root));
    checks.push(huge_pages::transparent(root));
    checks.extend(nx_huge_pages::check(root));
    checks.push(cgroup::favordynmods(root));
    if let Ok(host) = &host {
        checks.extend(create_vm::measure(root, host));
    }
    checks.extend(limits::memory(root));
    checks.extend(limits::open_files(root));
    checks.extend(kvm::halt_polling(root));
    if let Ok(host) = &host {
        checks.extend(kvm::optional(host));
        checks.extend(kvm::amounts(host));
    }
    checks.extend(huge_pages::reserved(root));
    checks.extend(isolation::check(root));
    checks.extend(devices::check(root));
    checks.push(io_uring::check(root));
    let path = std::env::var_os("PATH").unwrap_or_default();
    checks.extend(programs::check(root, &path));
    Report::new(checks)
}

/// Whether the host's processor virtualizes in hardware, without which no Linux runs in a VM.
pub fn has_hardware(root: &Root) -> bool {
    native::hardware(root).is_none_or(|check| check.level != Level::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(checks: &[Check]) -> Verdict {
        Report::new(checks.to_vec()).verdict
    }

    #[test]
    fn the_worst_fact_decides() {
        let slow = Check::slow("a", "a", "", "");
        let emulated = Check::missing(cpu::HARDWARE, "hardware", "", "");
        let missing = Check::missing("kvm.device", "/dev/kvm", "", "");
        assert_eq!(verdict(std::slice::from_ref(&slow)), Verdict::Ready);
        assert_eq!(
            verdict(&[slow.clone(), emulated.clone()]),
            Verdict::Emulated
        );
        for both in [
            [missing.clone(), emulated.clone()],
            [emulated, missing.clone()],
        ] {
            assert_eq!(verdict(&both), Verdict::Unable);
        }
        assert_eq!(verdict(&[missing, slow]), Verdict::Unable);
    }

    #[test]
    fn an_empty_host_is_unable_and_each_problem_has_a_remedy() {
        let (_dir, root) = Root::fake(&[]);
        let report = run(&root);
        assert_eq!(report.verdict, Verdict::Unable);
        assert_remedies(&report);
    }

    #[test]
    fn this_host_gives_a_report_whatever_it_is() {
        let report = run(&Root::default());
        assert_remedies(&report);
        let mut ids: Vec<_> = report.checks.iter().map(|check| check.id).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "two checks have the same id: {ids:?}");
    }

    fn assert_remedies(report: &Report) {
        for check in &report.checks {
            let needed = !matches!(check.level, Level::Ok | Level::Info);
            assert!(!needed || check.remedy.is_some(), "{check:?}");
            assert!(
                !check.found.is_empty() && !check.found.contains('\n'),
                "{check:?}"
            );
        }
    }
}
