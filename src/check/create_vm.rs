//! How long KVM takes to make a VM: the largest part of a start that only the host decides.

use std::time::{Duration, Instant};

use super::{Check, Level, Root, cgroup, native, nx_huge_pages};
use crate::kvm::{Host, KvmError, SLOW_CREATE_VM};

/// How many VMs are made. The first pays for what the next find done.
const VMS: usize = 5;

/// Makes some VMs, one after the other, and drops them.
pub(super) fn measure(root: &Root, host: &Host) -> Vec<Check> {
    let mut times = Times::default();
    let result = (0..VMS).try_for_each(|_| times.measure_one(host));
    let mut checks = vec![create(root, &result, &times.vm)];
    if let Some(range) = range(&times.irqchip) {
        checks.push(Check::info("kvm.create_irqchip", native::IRQCHIP, range));
    }
    checks
}

#[derive(Default)]
struct Times {
    vm: Vec<Duration>,
    irqchip: Vec<Duration>,
}

impl Times {
    fn measure_one(&mut self, host: &Host) -> Result<(), KvmError> {
        let start = Instant::now();
        let vm = host.create_vm()?;
        self.vm.push(start.elapsed());
        let start = Instant::now();
        if native::create_irqchip(&vm)? {
            self.irqchip.push(start.elapsed());
        }
        Ok(())
    }
}

fn create(root: &Root, result: &Result<(), KvmError>, times: &[Duration]) -> Check {
    let (id, subject) = ("kvm.create_vm", "KVM_CREATE_VM");
    let (range, slowest) = match (result, range(times), times.iter().max()) {
        (Ok(()), Some(range), Some(slowest)) => (range, *slowest),
        (Ok(()), ..) => return Check::info(id, subject, "was not measured"),
        (Err(error), ..) => return Check::missing(id, subject, error.to_string(), remedy(error)),
    };
    if slowest <= SLOW_CREATE_VM {
        return Check::ok(id, subject, range);
    }
    let found = format!(
        "{range}: above {} ms it is the host",
        SLOW_CREATE_VM.as_millis()
    );
    Check::slow(id, subject, found, quicken(root))
}

/// What makes KVM_CREATE_VM slow on this host, as far as it is known.
fn quicken(root: &Root) -> String {
    let cgroup = cgroup::favordynmods(root);
    let cgroup = cgroup.remedy.filter(|_| cgroup.level == Level::Slow);
    let thread = nx_huge_pages::no_thread(root).map(str::to_owned);
    let remedies: Vec<_> = cgroup.into_iter().chain(thread).collect();
    if remedies.is_empty() {
        return "the host's settings are right: it may be busy; try again later".to_owned();
    }
    remedies.join("; or, ")
}

fn remedy(error: &KvmError) -> &'static str {
    match error.source.errno() {
        libc::EBUSY => {
            "stop the other hypervisor that has the CPU's virtualization (VirtualBox, VMware)"
        }
        libc::ENOMEM => "free memory on the host, or raise the memory limit of this cgroup",
        libc::EMFILE | libc::ENFILE => "raise the limit of open files: ulimit -n 4096",
        _ => "see what the kernel says: sudo dmesg | grep -i kvm",
    }
}

/// `1.2 to 3.4 ms (5 VMs)`.
fn range(times: &[Duration]) -> Option<String> {
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    let (least, most) = (times.iter().min()?, times.iter().max()?);
    Some(format!(
        "{:.2} to {:.2} ms ({} VMs)",
        ms(least),
        ms(most),
        times.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(times: &[u64]) -> Vec<Duration> {
        times.iter().map(|us| Duration::from_micros(*us)).collect()
    }

    #[test]
    fn one_slow_vm_is_enough() {
        let (_dir, root) = Root::fake(&[]);
        let check = create(&root, &Ok(()), &us(&[1500, 1200, 4990, 1300, 1250]));
        assert_eq!(check.level, Level::Ok);
        assert_eq!(check.found, "1.20 to 4.99 ms (5 VMs)");
        // The first waits for the kernel's grace period, the next come within it.
        let check = create(&root, &Ok(()), &us(&[23_000, 120, 110, 115, 118]));
        assert_eq!(check.level, Level::Slow);
        assert!(check.remedy.unwrap().contains("busy"));
    }

    #[test]
    fn the_remedy_is_what_this_host_lacks() {
        let (_dir, root) = Root::fake(&[
            (
                "proc/self/mountinfo",
                "30 24 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/module/kvm/parameters/nx_huge_pages", "N\n"),
            (
                "sys/devices/system/cpu/vulnerabilities/itlb_multihit",
                "Not affected\n",
            ),
        ]);
        let remedy = create(&root, &Ok(()), &us(&[9000])).remedy.unwrap();
        assert!(
            remedy.starts_with("sudo mount -o remount,favordynmods /cg; or, with no VM"),
            "{remedy}"
        );
        assert!(remedy.contains("echo never"), "{remedy}");
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let fail = |errno| {
            let source = vmm_sys_util::errno::Error::new(errno);
            let operation = "KVM_CREATE_VM".to_owned();
            create(
                &Root::at("/nonexistent"),
                &Err(KvmError { operation, source }),
                &[],
            )
        };
        assert_eq!(fail(libc::EBUSY).level, Level::Missing);
        assert!(fail(libc::EBUSY).remedy.unwrap().contains("VirtualBox"));
        assert!(fail(libc::EINVAL).remedy.unwrap().contains("dmesg"));
    }
}
