//! A word of advice after a boot that came to nothing.

use super::Exit;
use crate::arch::tables;

/// What the monitor knows of a VM that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome<'a> {
    pub exit: &'a Exit,
    pub init_reached: bool,
    pub drives: usize,
    pub drivers_ready: usize,
    pub acpi: bool,
}

impl Outcome<'_> {
    /// Advice, where the way in which the guest failed points at something the user can change.
    pub fn hint(&self) -> Option<String> {
        let failed = matches!(self.exit, Exit::Panic | Exit::Crash(_));
        if !failed || self.init_reached {
            return None;
        }
        if self.drives > 0 && self.drivers_ready == 0 {
            return Some(format!(
                "the guest never set up its drives. {}A distribution's kernel needs an --initrd \
                 that holds the virtio_mmio and virtio_blk modules (for dax: virtio_pmem and \
                 nd_pmem). --cmdline loglevel=7 shows its messages.",
                tables::how_told(self.acpi)
            ));
        }
        if matches!(self.exit, Exit::Panic) {
            return Some("--cmdline loglevel=7 shows all of the kernel's messages.".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_only_after_a_failed_boot() {
        let panic = Outcome {
            exit: &Exit::Panic,
            init_reached: false,
            drives: 1,
            drivers_ready: 0,
            acpi: false,
        };
        for acpi in [false, true] {
            let hint = Outcome { acpi, ..panic }.hint().unwrap();
            assert!(hint.contains(tables::how_told(acpi)), "{hint}");
            assert!(hint.contains("virtio_mmio"), "{hint}");
        }
        assert!(
            Outcome {
                drivers_ready: 1,
                ..panic
            }
            .hint()
            .unwrap()
            .contains("loglevel")
        );
        assert_eq!(
            Outcome {
                init_reached: true,
                ..panic
            }
            .hint(),
            None
        );
        assert_eq!(
            Outcome {
                exit: &Exit::PowerOff,
                ..panic
            }
            .hint(),
            None
        );
    }
}
