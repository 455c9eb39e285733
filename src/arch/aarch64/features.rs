//! CPU features by the names that Linux shows in /proc/cpuinfo, and where ID registers have them.

use super::id_registers::{
    A32_ISAR5, A32_ISAR6, A32_PFR2, FPFR0, Field, ISAR0, ISAR1, ISAR2, ISAR3, MMFR0, MMFR1, MMFR2,
    MMFR3, PFR0, PFR1, PFR2, SMFR0, ZFR0,
};

/// A feature that `--cpu-mask` can hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    name: &'static str,
}

/// `--cpu-mask` names something that isn't a CPU feature.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "--cpu-mask {name}: no such CPU feature{hint}; names are those of `Features` in /proc/cpuinfo"
)]
pub struct UnknownFeature {
    /// What was given.
    pub name: String,
    hint: String,
}

/// What an ID register says of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where it says so.
    pub field: Field,
    /// The highest value without the feature.
    pub below: i8,
    /// The lowest value with it.
    pub from: i8,
}

impl Place {
    /// Whether this register's value has the feature.
    pub fn shows(&self, register: u64) -> bool {
        self.field.of(register) >= self.from
    }
}

impl Feature {
    /// Finds a feature by Linux's name.
    ///
    /// # Errors
    ///
    /// There is none of that name; the error suggests the nearest.
    pub fn named(name: &str) -> Result<Self, UnknownFeature> {
        let found = FEATURES.binary_search_by(|&(known, ..)| known.cmp(name));
        found
            .map(|index| Feature {
                name: FEATURES[index].0,
            })
            .map_err(|_| UnknownFeature {
                name: name.to_owned(),
                hint: hint(name),
            })
    }

    /// Linux's name for it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// All that there are.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Feature> {
        FEATURES.iter().map(|row| Feature { name: row.0 })
    }

    /// Where ID registers tell of it: in any of these, whichever the CPU uses, and what 32-bit
    /// programs see.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let name = self.name;
        let rows = FEATURES.iter().chain(FURTHER);
        let own = rows.filter(move |&&(known, ..)| known == name);
        own.map(|&(_, field, below, from)| Place { field, below, from })
    }

    /// What can't be there without it, besides what is a higher value of the same field.
    pub(super) fn takes_along(&self) -> impl Iterator<Item = Feature> {
        let name = self.name;
        let sets = TOGETHER.iter().filter(move |(first, _)| *first == name);
        let names = sets.flat_map(|(_, others)| others.iter());
        names.map(|&name| Feature { name })
    }
}

/// The nearest name, or why there is none.
fn hint(name: &str) -> String {
    if matches!(name, "cpuid" | "evtstrm") {
        return " (a guest's kernel makes it by itself)".to_owned();
    }
    if let Some((_, known)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return format!(" (did you mean {known}?)");
    }
    let same = |known: &str| name.replace(['_', '-'], "").eq_ignore_ascii_case(known);
    let names = FEATURES.iter().map(|row| row.0);
    let mut near =
        names.filter(|known| !name.is_empty() && (known.starts_with(name) || same(known)));
    near.next()
        .map(|near| format!(" (did you mean {near}?)"))
        .unwrap_or_default()
}

/// What the architecture, or other systems, call some of them.
const ALIASES: &[(&str, &str)] = &[("lse", "atomics"), ("neon", "asimd"), ("pauth", "paca")];

/// Name, field, highest value without, lowest value with; sorted by name. As in Linux
/// arch/arm64/kernel/cpufeature.c (`arm64_elf_hwcaps`) and arch/arm64/tools/sysreg; what is between
/// the two values is reserved.
#[rustfmt::skip]
const FEATURES: &[(&str, Field, i8, i8)] = &[
    ("aes", Field::new(ISAR0, 4), 0, 1),
    ("afp", Field::new(MMFR1, 44), 0, 1),
    ("asimd", Field::signed(PFR0, 20), -1, 0),
    ("asimddp", Field::new(ISAR0, 44), 0, 1),
    ("asimdfhm", Field::new(ISAR0, 48), 0, 1),
    ("asimdhp", Field::signed(PFR0, 20), 0, 1),
    ("asimdrdm", Field::new(ISAR0, 28), 0, 1),
    ("atomics", Field::new(ISAR0, 20), 0, 2),
    ("bf16", Field::new(ISAR1, 44), 0, 1),
    ("bti", Field::new(PFR1, 0), 0, 1),
    ("cmpbr", Field::new(ISAR2, 52), 1, 2),
    ("crc32", Field::new(ISAR0, 16), 0, 1),
    ("cssc", Field::new(ISAR2, 52), 0, 1),
    ("dcpodp", Field::new(ISAR1, 0), 1, 2),
    ("dcpop", Field::new(ISAR1, 0), 0, 1),
    ("dgh", Field::new(ISAR1, 48), 0, 1),
    ("dit", Field::new(PFR0, 48), 0, 1),
    ("ebf16", Field::new(ISAR1, 44), 1, 2),
    ("ecv", Field::new(MMFR0, 60), 0, 1),
    ("f8cvt", Field::bit(FPFR0, 31), 0, 1),
    ("f8dp2", Field::bit(FPFR0, 28), 0, 1),
    ("f8dp4", Field::bit(FPFR0, 29), 0, 1),
    ("f8e4m3", Field::bit(FPFR0, 1), 0, 1),
    ("f8e5m2", Field::bit(FPFR0, 0), 0, 1),
    ("f8fma", Field::bit(FPFR0, 30), 0, 1),
    ("f8mm4", Field::bit(FPFR0, 26), 0, 1),
    ("f8mm8", Field::bit(FPFR0, 27), 0, 1),
    ("faminmax", Field::new(ISAR3, 4), 0, 1),
    ("fcma", Field::new(ISAR1, 16), 0, 1),
    ("flagm", Field::new(ISAR0, 52), 0, 1),
    ("flagm2", Field::new(ISAR0, 52), 1, 2),
    ("fp", Field::signed(PFR0, 16), -1, 0),
    ("fphp", Field::signed(PFR0, 16), 0, 1),
    ("fpmr", Field::new(PFR2, 32), 0, 1),
    ("fprcvt", Field::new(ISAR3, 28), 0, 1),
    ("frint", Field::new(ISAR1, 32), 0, 1),
    ("gcs", Field::new(PFR1, 44), 0, 1),
    ("hbc", Field::new(ISAR2, 20), 0, 1),
    ("i8mm", Field::new(ISAR1, 52), 0, 1),
    ("ilrcpc", Field::new(ISAR1, 20), 1, 2),
    ("jscvt", Field::new(ISAR1, 12), 0, 1),
    ("lrcpc", Field::new(ISAR1, 20), 0, 1),
    ("lrcpc3", Field::new(ISAR1, 20), 2, 3),
    ("lse128", Field::new(ISAR0, 20), 2, 3),
    ("lsfe", Field::new(ISAR3, 16), 0, 1),
    ("lut", Field::new(ISAR2, 56), 0, 1),
    ("mops", Field::new(ISAR2, 16), 0, 1),
    ("mte", Field::new(PFR1, 8), 1, 2),
    ("mte3", Field::new(PFR1, 8), 2, 3),
    ("mtefar", Field::new(PFR2, 8), 0, 1),
    ("mtestoreonly", Field::new(PFR2, 4), 0, 1),
    ("paca", Field::new(ISAR1, 4), 0, 1),
    ("pacg", Field::new(ISAR1, 24), 0, 1),
    ("pmull", Field::new(ISAR0, 4), 1, 2),
    ("poe", Field::new(MMFR3, 16), 0, 1),
    ("rng", Field::new(ISAR0, 60), 0, 1),
    ("rpres", Field::new(ISAR2, 4), 0, 1),
    ("rprfm", Field::new(ISAR2, 48), 0, 1),
    ("sb", Field::new(ISAR1, 36), 0, 1),
    ("sha1", Field::new(ISAR0, 8), 0, 1),
    ("sha2", Field::new(ISAR0, 12), 0, 1),
    ("sha3", Field::new(ISAR0, 32), 0, 1),
    ("sha512", Field::new(ISAR0, 12), 1, 2),
    ("sm3", Field::new(ISAR0, 36), 0, 1),
    ("sm4", Field::new(ISAR0, 40), 0, 1),
    ("sme", Field::new(PFR1, 24), 0, 1),
    ("sme2", Field::new(SMFR0, 56), 0, 1),
    ("sme2p1", Field::new(SMFR0, 56), 1, 2),
    ("sme2p2", Field::new(SMFR0, 56), 2, 3),
    ("smeaes", Field::bit(SMFR0, 24), 0, 1),
    ("smeb16b16", Field::bit(SMFR0, 43), 0, 1),
    ("smeb16f32", Field::bit(SMFR0, 34), 0, 1),
    ("smebi32i32", Field::bit(SMFR0, 33), 0, 1),
    ("smef16f16", Field::bit(SMFR0, 42), 0, 1),
    ("smef16f32", Field::bit(SMFR0, 35), 0, 1),
    ("smef32f32", Field::bit(SMFR0, 32), 0, 1),
    ("smef64f64", Field::bit(SMFR0, 48), 0, 1),
    ("smef8f16", Field::bit(SMFR0, 41), 0, 1),
    ("smef8f32", Field::bit(SMFR0, 40), 0, 1),
    ("smefa64", Field::bit(SMFR0, 63), 0, 1),
    ("smei16i32", Field::new(SMFR0, 44), 0, 5),
    ("smei16i64", Field::new(SMFR0, 52), 0, 15),
    ("smei8i32", Field::new(SMFR0, 36), 0, 15),
    ("smelutv2", Field::bit(SMFR0, 60), 0, 1),
    ("smesbitperm", Field::bit(SMFR0, 25), 0, 1),
    ("smesf8dp2", Field::bit(SMFR0, 28), 0, 1),
    ("smesf8dp4", Field::bit(SMFR0, 29), 0, 1),
    ("smesf8fma", Field::bit(SMFR0, 30), 0, 1),
    ("smesf8mm4", Field::bit(SMFR0, 26), 0, 1),
    ("smesf8mm8", Field::bit(SMFR0, 27), 0, 1),
    ("smesfexpa", Field::bit(SMFR0, 23), 0, 1),
    ("smesmop4", Field::bit(SMFR0, 0), 0, 1),
    ("smestmop", Field::bit(SMFR0, 16), 0, 1),
    ("ssbs", Field::new(PFR1, 4), 1, 2),
    ("sve", Field::new(PFR0, 32), 0, 1),
    ("sve2", Field::new(ZFR0, 0), 0, 1),
    ("sve2p1", Field::new(ZFR0, 0), 1, 2),
    ("sve2p2", Field::new(ZFR0, 0), 2, 3),
    ("sveaes", Field::new(ZFR0, 4), 0, 1),
    ("sveaes2", Field::new(ZFR0, 4), 2, 3),
    ("sveb16b16", Field::new(ZFR0, 24), 0, 1),
    ("svebf16", Field::new(ZFR0, 20), 0, 1),
    ("svebfscale", Field::new(ZFR0, 24), 1, 2),
    ("svebitperm", Field::new(ZFR0, 16), 0, 1),
    ("sveebf16", Field::new(ZFR0, 20), 1, 2),
    ("sveeltperm", Field::new(ZFR0, 12), 0, 1),
    ("svef16mm", Field::new(ZFR0, 48), 0, 1),
    ("svef32mm", Field::new(ZFR0, 52), 0, 1),
    ("svef64mm", Field::new(ZFR0, 56), 0, 1),
    ("svei8mm", Field::new(ZFR0, 44), 0, 1),
    ("svepmull", Field::new(ZFR0, 4), 1, 2),
    ("svesha3", Field::new(ZFR0, 32), 0, 1),
    ("svesm4", Field::new(ZFR0, 40), 0, 1),
    ("uscat", Field::new(MMFR2, 32), 0, 1),
    ("wfxt", Field::new(ISAR2, 0), 0, 2),
];

/// Further places of some of them: pointer authentication has one for each of its algorithms, and
/// 32-bit programs see other registers (those of `compat_elf_hwcaps`, and the same features there).
#[rustfmt::skip]
const FURTHER: &[(&str, Field, i8, i8)] = &[
    ("paca", Field::new(ISAR1, 8), 0, 1),
    ("paca", Field::new(ISAR2, 12), 0, 1),
    ("pacg", Field::new(ISAR1, 28), 0, 1),
    ("pacg", Field::new(ISAR2, 8), 0, 1),
    ("aes", Field::new(A32_ISAR5, 4), 0, 1),
    ("pmull", Field::new(A32_ISAR5, 4), 1, 2),
    ("sha1", Field::new(A32_ISAR5, 8), 0, 1),
    ("sha2", Field::new(A32_ISAR5, 12), 0, 1),
    ("crc32", Field::new(A32_ISAR5, 16), 0, 1),
    ("asimdrdm", Field::new(A32_ISAR5, 24), 0, 1),
    ("fcma", Field::new(A32_ISAR5, 28), 0, 1),
    ("jscvt", Field::new(A32_ISAR6, 0), 0, 1),
    ("asimddp", Field::new(A32_ISAR6, 4), 0, 1),
    ("asimdfhm", Field::new(A32_ISAR6, 8), 0, 1),
    ("sb", Field::new(A32_ISAR6, 12), 0, 1),
    ("bf16", Field::new(A32_ISAR6, 20), 0, 1),
    ("i8mm", Field::new(A32_ISAR6, 24), 0, 1),
    ("ssbs", Field::new(A32_PFR2, 4), 0, 1),
];

/// What goes with what: a CPU with the second ones and without the first can't be (DDI 0487, the
/// ID registers' descriptions), and a guest needn't expect it.
const TOGETHER: &[(&str, &[&str])] = &[
    ("asimd", &["fp"]),
    ("asimdhp", &["fphp"]),
    ("bf16", &["svebf16"]),
    ("ebf16", &["sveebf16"]),
    ("fp", &["asimd"]),
    ("fphp", &["asimdhp"]),
    ("i8mm", &["svei8mm"]),
    ("paca", &["pacg"]),
    ("pacg", &["paca"]),
    ("sha1", &["sha2", "sha3"]),
    ("sha2", &["sha1", "sha3"]),
    ("sha3", &["sha512"]),
    ("sha512", &["sha3"]),
    ("sm3", &["sm4"]),
    ("sm4", &["sm3"]),
    (
        "sve2",
        &["sveaes", "sveb16b16", "svebitperm", "svesha3", "svesm4"],
    ),
    ("svebf16", &["bf16"]),
    ("sveebf16", &["ebf16"]),
    ("svei8mm", &["i8mm"]),
];

#[cfg(test)]
mod tests;
