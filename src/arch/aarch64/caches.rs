//! Which caches a vCPU says that it has: those of the device tree. Where the two differ, Linux believes
//! neither (drivers/base/cacheinfo.c, cache_setup_of_node).

use crate::arch::fdt::host::Caches;
use crate::kvm::native::system_register;
use crate::kvm::{KvmError, Vcpu};

/// The levels of caches (DDI 0487 §D19.2.27).
const CLIDR_EL1: u64 = system_register(3, 1, 0, 0, 1);
/// What is at a level, in three bits each from the lowest one up.
const SEPARATE: u64 = 3;
const UNIFIED: u64 = 4;
/// The level behind which all agree on what memory holds.
const COHERENCE_SHIFT: u32 = 24;
/// All of these.
const LEVELS: u64 = ((1 << 21) - 1) | (7 << COHERENCE_SHIFT);

/// Has a vCPU say that it has the host's caches, as far as they are known. By itself KVM tells of as few as
/// it can. Before Linux 6.3 it tells of the host's own, and doesn't let them be changed.
pub(super) fn show(vcpu: &Vcpu, caches: &Caches) -> Result<(), KvmError> {
    if *caches == Caches::default() {
        return Ok(());
    }
    let shown = vcpu.one_reg(CLIDR_EL1)?;
    let levels = shown & !LEVELS | levels(caches);
    if levels != shown
        && let Err(error) = vcpu.set_one_reg(CLIDR_EL1, levels)
    {
        log::debug!("the guest sees other caches than its device tree has: {error}");
    }
    Ok(())
}

/// The part of CLIDR_EL1 that tells of these caches. Which of them an instruction's fetch goes by, the
/// processor says, and KVM.
fn levels(caches: &Caches) -> u64 {
    let behind = (1..).zip(&caches.others);
    let types = behind.fold(SEPARATE, |types, (place, _)| types | UNIFIED << (3 * place));
    let last = caches.others.len() as u64 + 1;
    types | last << COHERENCE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::fdt::host::{Cache, CacheType};

    #[test]
    fn there_is_one_cache_at_each_level_behind_the_first() {
        let cache = |level| Cache {
            level,
            kind: CacheType::Unified,
            size: 1 << 20,
            line: None,
            sets: None,
            shared: 1,
        };
        let mut caches = Caches::default();
        assert_eq!(levels(&caches), 0x100_0003);
        caches.others = vec![cache(2), cache(3)];
        assert_eq!(levels(&caches), 0x300_0123);
        caches.others.push(cache(4));
        assert_eq!(levels(&caches), 0x400_0923);
    }
}
