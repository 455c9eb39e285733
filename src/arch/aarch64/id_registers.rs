//! The ID registers, in which a guest finds what its CPU can do: their numbers and their fields.

use crate::kvm::native::system_register;

/// An ID register. Each is op0 3, op1 0, CRn 0 (DDI 0487, System register encoding space).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRegister {
    name: &'static str,
    crm: u8,
    op2: u8,
}

macro_rules! registers {
    ($($constant:ident $name:literal $crm:literal $op2:literal;)*) => {
        $(
            #[doc = $name]
            pub const $constant: IdRegister = IdRegister { name: $name, crm: $crm, op2: $op2 };
        )*
    };
}

// The names and encodings of DDI 0487 (D24.2, AArch64 System register descriptions).
registers! {
    A32_PFR2 "ID_PFR2_EL1" 3 4;
    A32_ISAR5 "ID_ISAR5_EL1" 2 5;
    A32_ISAR6 "ID_ISAR6_EL1" 2 7;
    PFR0 "ID_AA64PFR0_EL1" 4 0;
    PFR1 "ID_AA64PFR1_EL1" 4 1;
    PFR2 "ID_AA64PFR2_EL1" 4 2;
    ZFR0 "ID_AA64ZFR0_EL1" 4 4;
    SMFR0 "ID_AA64SMFR0_EL1" 4 5;
    FPFR0 "ID_AA64FPFR0_EL1" 4 7;
    ISAR0 "ID_AA64ISAR0_EL1" 6 0;
    ISAR1 "ID_AA64ISAR1_EL1" 6 1;
    ISAR2 "ID_AA64ISAR2_EL1" 6 2;
    ISAR3 "ID_AA64ISAR3_EL1" 6 3;
    MMFR0 "ID_AA64MMFR0_EL1" 7 0;
    MMFR1 "ID_AA64MMFR1_EL1" 7 1;
    MMFR2 "ID_AA64MMFR2_EL1" 7 2;
    MMFR3 "ID_AA64MMFR3_EL1" 7 3;
}

impl IdRegister {
    /// Its name in the architecture's manual.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Its number for KVM_GET_ONE_REG and KVM_SET_ONE_REG.
    pub const fn number(self) -> u64 {
        system_register(3, 0, 0, self.crm as u64, self.op2 as u64)
    }

    /// Its place in what KVM_ARM_GET_REG_WRITABLE_MASKS gives (KVM_ARM_FEATURE_ID_RANGE_IDX,
    /// where op1 is 0).
    pub const fn index(self) -> usize {
        (self.crm as usize) << 3 | self.op2 as usize
    }
}

/// Some bits of an ID register, which grow with what the CPU can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    register: IdRegister,
    shift: u8,
    width: u8,
    signed: bool,
}

impl Field {
    /// Four bits from `shift` on, as nearly all are.
    pub const fn new(register: IdRegister, shift: u8) -> Self {
        Field {
            register,
            shift,
            width: 4,
            signed: false,
        }
    }

    /// The same, with a sign: -1 says "not there", and 0 is there already.
    pub const fn signed(register: IdRegister, shift: u8) -> Self {
        Field {
            signed: true,
            ..Field::new(register, shift)
        }
    }

    /// One bit.
    pub const fn bit(register: IdRegister, shift: u8) -> Self {
        Field {
            width: 1,
            ..Field::new(register, shift)
        }
    }

    /// Where it is.
    pub const fn register(self) -> IdRegister {
        self.register
    }

    /// Its bits.
    pub const fn mask(self) -> u64 {
        ((1 << self.width) - 1) << self.shift
    }

    /// What it says in a register's value.
    pub const fn of(self, register: u64) -> i8 {
        let value = ((register & self.mask()) >> self.shift) as i8;
        match self.signed && value >= 1 << (self.width - 1) {
            true => value - (1 << self.width),
            false => value,
        }
    }

    /// The register's value with `value` in this field.
    pub const fn put(self, register: u64, value: i8) -> u64 {
        register & !self.mask() | (value as u64) << self.shift & self.mask()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_linux() {
        // KVM's documentation and QEMU's traces agree on these.
        assert_eq!(ISAR0.number(), 0x6030_0000_0013_c030);
        assert_eq!(PFR0.number(), 0x6030_0000_0013_c020);
        assert_eq!(A32_ISAR6.number(), 0x6030_0000_0013_c017);
        assert_eq!(
            (A32_ISAR5.index(), PFR0.index(), MMFR3.index()),
            (21, 32, 59)
        );
    }

    #[test]
    fn a_field_is_read_and_put_without_its_neighbours() {
        let aes = Field::new(ISAR0, 4);
        assert_eq!(aes.mask(), 0xf0);
        assert_eq!(aes.of(0x1234_5678_9abc_de2f), 2);
        assert_eq!(aes.put(0x1234_5678_9abc_de2f, 1), 0x1234_5678_9abc_de1f);
        assert_eq!(aes.put(u64::MAX, 0), !0xf0);
        assert_eq!(Field::new(PFR0, 60).put(0, 15), 15 << 60);
        assert_eq!(Field::new(PFR0, 60).of(u64::MAX), 15);
        let fa64 = Field::bit(SMFR0, 63);
        assert_eq!((fa64.mask(), fa64.of(1 << 63)), (1 << 63, 1));
        assert_eq!(fa64.put(u64::MAX, 0), u64::MAX >> 1);
    }

    #[test]
    fn a_signed_fields_highest_value_is_minus_one() {
        let fp = Field::signed(PFR0, 16);
        assert_eq!((fp.of(0), fp.of(1 << 16), fp.of(0xf << 16)), (0, 1, -1));
        assert_eq!(fp.of(0x8 << 16), -8);
        assert_eq!(fp.put(0x1100_0011, -1), 0x110f_0011);
        assert_eq!(fp.put(0xf_0000, 0), 0);
    }
}
