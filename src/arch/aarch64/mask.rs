//! What a guest's CPUs shall not show, by KVM's writable ID registers.
//!
//! Scalable vectors and pointer authentication are there only for vCPUs that ask for them, so hiding
//! is not asking. All others are bits of ID registers, which are the VM's and not a vCPU's: they are
//! changed on the first vCPU, before any has run (Linux Documentation/virt/kvm/api.rst,
//! KVM_ARM_GET_REG_WRITABLE_MASKS).

use super::features::{Feature, Place};
use super::id_registers::IdRegister;
use crate::kvm::{Host, KvmError, Vcpu, Vm};

/// The features that a guest shall not find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    hidden: Vec<Hidden>,
}

/// A feature to hide, and the one by whose name the user asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hidden {
    feature: Feature,
    asked: Feature,
}

/// Why a feature can't be hidden on this host.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    /// The host's KVM has no writable ID registers at all.
    #[error(
        "--cpu-mask {feature}: this host's KVM lets nobody hide it (that needs Linux 6.7 or later, \
         whose ID registers can be changed); update the host's kernel, or leave {feature} out"
    )]
    Unsupported {
        /// What was asked for.
        feature: &'static str,
    },
    /// This part of the register can't be changed.
    #[error(
        "--cpu-mask {feature}: this host's KVM lets nobody hide it: {register} is fixed there{along}; \
         leave {feature} out, or try a newer kernel on the host"
    )]
    Fixed {
        /// What was asked for.
        feature: &'static str,
        /// The ID register that tells of it.
        register: &'static str,
        /// The feature that would have to go, too, if it is another one.
        along: String,
    },
    /// KVM says that it can be changed, and refuses.
    #[error("--cpu-mask {feature}: changing {register}: {source}; leave {feature} out")]
    Refused {
        /// What was asked for.
        feature: &'static str,
        /// The ID register that tells of it.
        register: &'static str,
        /// What KVM said.
        source: KvmError,
    },
    /// KVM has taken the value, and shows another.
    #[error(
        "--cpu-mask {feature}: {register} is {found:#x} after {wanted:#x} was written: this host's \
         KVM doesn't hide it; leave {feature} out"
    )]
    StillThere {
        /// What was asked for.
        feature: &'static str,
        /// The ID register that tells of it.
        register: &'static str,
        /// The value that was written.
        wanted: u64,
        /// The value that was read.
        found: u64,
    },
    /// An ioctl failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

impl Mask {
    /// Hides `features`, and with each what can't be there without it.
    pub fn new(features: &[Feature]) -> Self {
        let asked = features.iter().map(|&feature| Hidden {
            feature,
            asked: feature,
        });
        let mut mask = Mask::default();
        let mut more: Vec<_> = asked.collect();
        while let Some(next) = more.pop() {
            if mask.hides(next.feature.name()) {
                continue;
            }
            mask.hidden.push(next);
            let along = next.feature.takes_along();
            more.extend(along.map(|feature| Hidden { feature, ..next }));
        }
        mask
    }

    /// Whether vCPUs may ask for scalable vectors (KVM_ARM_VCPU_SVE), where the host has them.
    pub fn wants_sve(&self) -> bool {
        !self.hides("sve")
    }

    /// Whether vCPUs may ask for pointer authentication (KVM_ARM_VCPU_PTRAUTH_ADDRESS and
    /// KVM_ARM_VCPU_PTRAUTH_GENERIC, which KVM gives together only), where the host has it.
    pub fn wants_pauth(&self) -> bool {
        !self.hides("paca") && !self.hides("pacg")
    }

    /// Hides them, on the VM's first vCPU: after KVM_ARM_VCPU_INIT, and before any vCPU runs. What
    /// the host doesn't have needs no hiding.
    ///
    /// # Errors
    ///
    /// See [`MaskError`]. A VM with an error here may have some of them hidden.
    pub fn apply(&self, host: &Host, vm: &Vm, vcpu: &Vcpu) -> Result<(), MaskError> {
        let mut writable = None;
        for register in self.registers() {
            // A kernel that doesn't know the register has none of what it tells.
            let Some(now) = vcpu.id_register(register.number())? else {
                continue;
            };
            let (wanted, because) = self.without(register, now);
            let Some(first) = because.first() else {
                continue;
            };
            let feature = first.0.asked.name();
            let masks = match &writable {
                Some(masks) => masks,
                None if !host.has_writable_id_registers() => {
                    return Err(MaskError::Unsupported { feature });
                }
                None => writable.insert(vm.writable_id_registers()?),
            };
            check_writable(masks, register, &because)?;
            vcpu.set_one_reg(register.number(), wanted)
                .map_err(|source| MaskError::Refused {
                    feature,
                    register: register.name(),
                    source,
                })?;
            let found = vcpu.one_reg(register.number())?;
            if found != wanted {
                return Err(MaskError::StillThere {
                    feature,
                    register: register.name(),
                    wanted,
                    found,
                });
            }
        }
        Ok(())
    }

    fn hides(&self, name: &str) -> bool {
        self.hidden
            .iter()
            .any(|hidden| hidden.feature.name() == name)
    }

    /// The registers that tell of something to hide, each once.
    fn registers(&self) -> Vec<IdRegister> {
        let features = self.hidden.iter().map(|hidden| hidden.feature);
        let places = features.flat_map(|feature| feature.places().collect::<Vec<_>>());
        let mut registers = Vec::new();
        for place in places {
            let register = place.field.register();
            if !registers.contains(&register) {
                registers.push(register);
            }
        }
        registers
    }

    /// The register's value with nothing of this in it, and what had to be changed for that.
    fn without(&self, register: IdRegister, now: u64) -> (u64, Vec<(Hidden, Place)>) {
        let mut because = Vec::new();
        let mut wanted = now;
        for &hidden in &self.hidden {
            let here = |place: &Place| place.field.register() == register;
            for place in hidden.feature.places().filter(here) {
                if place.shows(wanted) {
                    wanted = place.field.put(wanted, place.below);
                    because.push((hidden, place));
                }
            }
        }
        (wanted, because)
    }
}

/// Whether KVM lets all of these be changed.
fn check_writable(
    masks: &[u64],
    register: IdRegister,
    because: &[(Hidden, Place)],
) -> Result<(), MaskError> {
    let writable = masks.get(register.index()).copied().unwrap_or(0);
    let fixed = because
        .iter()
        .find(|(_, place)| place.field.mask() & !writable != 0);
    let Some((hidden, _)) = fixed else {
        return Ok(());
    };
    let along = match hidden.feature == hidden.asked {
        true => String::new(),
        false => format!(" for {}, which goes with it", hidden.feature.name()),
    };
    Err(MaskError::Fixed {
        feature: hidden.asked.name(),
        register: register.name(),
        along,
    })
}

#[cfg(test)]
mod tests;
