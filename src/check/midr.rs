//! Which processors these are, by what /proc/cpuinfo has of MIDR_EL1: numbers, and names for those that
//! are known (Linux arch/arm64/include/asm/cputype.h).

use crate::check::Root;

/// Who made it, by number.
#[rustfmt::skip]
const IMPLEMENTERS: &[(u32, &str)] = &[
    (0x41, "Arm"), (0x42, "Broadcom"), (0x43, "Cavium"), (0x46, "Fujitsu"), (0x48, "HiSilicon"),
    (0x4e, "NVIDIA"), (0x50, "APM"), (0x51, "Qualcomm"), (0x61, "Apple"), (0x6d, "Microsoft"),
    (0xc0, "Ampere"),
];

/// What it is, by its maker's number and its own.
#[rustfmt::skip]
const PARTS: &[(u32, u32, &str)] = &[
    (0x41, 0xd03, "Cortex-A53"), (0x41, 0xd04, "Cortex-A35"), (0x41, 0xd05, "Cortex-A55"),
    (0x41, 0xd07, "Cortex-A57"), (0x41, 0xd08, "Cortex-A72"), (0x41, 0xd09, "Cortex-A73"),
    (0x41, 0xd0a, "Cortex-A75"), (0x41, 0xd0b, "Cortex-A76"), (0x41, 0xd0c, "Neoverse-N1"),
    (0x41, 0xd0d, "Cortex-A77"), (0x41, 0xd0e, "Cortex-A76AE"), (0x41, 0xd40, "Neoverse-V1"),
    (0x41, 0xd41, "Cortex-A78"), (0x41, 0xd42, "Cortex-A78AE"), (0x41, 0xd44, "Cortex-X1"),
    (0x41, 0xd46, "Cortex-A510"), (0x41, 0xd47, "Cortex-A710"), (0x41, 0xd48, "Cortex-X2"),
    (0x41, 0xd49, "Neoverse-N2"), (0x41, 0xd4b, "Cortex-A78C"), (0x41, 0xd4c, "Cortex-X1C"),
    (0x41, 0xd4d, "Cortex-A715"), (0x41, 0xd4e, "Cortex-X3"), (0x41, 0xd4f, "Neoverse-V2"),
    (0x41, 0xd80, "Cortex-A520"), (0x41, 0xd81, "Cortex-A720"), (0x41, 0xd82, "Cortex-X4"),
    (0x41, 0xd83, "Neoverse-V3AE"), (0x41, 0xd84, "Neoverse-V3"), (0x41, 0xd85, "Cortex-X925"),
    (0x41, 0xd87, "Cortex-A725"), (0x41, 0xd8c, "C1-Ultra"), (0x41, 0xd8e, "Neoverse-N3"),
    (0x41, 0xd90, "C1-Premium"),
    (0x42, 0x516, "Vulcan"), (0x43, 0x0a1, "ThunderX"), (0x43, 0x0af, "ThunderX2"),
    (0x46, 0x001, "A64FX"), (0x48, 0xd01, "TSV110"), (0x48, 0xd02, "HIP09"),
    (0x4e, 0x003, "Denver"), (0x4e, 0x004, "Carmel"), (0x4e, 0x010, "Olympus"),
    (0x50, 0x000, "X-Gene"), (0x51, 0xc00, "Falkor"),
    (0x61, 0x022, "M1 Icestorm"), (0x61, 0x023, "M1 Firestorm"), (0x61, 0x024, "M1 Pro Icestorm"),
    (0x61, 0x025, "M1 Pro Firestorm"), (0x61, 0x028, "M1 Max Icestorm"),
    (0x61, 0x029, "M1 Max Firestorm"), (0x61, 0x032, "M2 Blizzard"), (0x61, 0x033, "M2 Avalanche"),
    (0x61, 0x034, "M2 Pro Blizzard"), (0x61, 0x035, "M2 Pro Avalanche"),
    (0x61, 0x038, "M2 Max Blizzard"), (0x61, 0x039, "M2 Max Avalanche"),
    (0x6d, 0xd49, "Azure Cobalt 100"), (0xc0, 0xac3, "AmpereOne"), (0xc0, 0xac4, "AmpereOne A"),
];

/// What the host's processors are; each kind once, where there are several (big.LITTLE).
pub(in crate::check) fn model(root: &Root) -> Option<String> {
    let text = root.read("proc/cpuinfo")?;
    let mut kinds: Vec<String> = Vec::new();
    for cpu in text.split("\n\n") {
        if let Some(kind) = kind(cpu).filter(|kind| !kinds.contains(kind)) {
            kinds.push(kind);
        }
    }
    (!kinds.is_empty()).then(|| kinds.join(", "))
}

/// One processor's block of lines.
fn kind(cpu: &str) -> Option<String> {
    let field = |wanted: &str| {
        let mut lines = cpu.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| key.trim() == wanted)?;
        Some(value.trim())
    };
    let number = |wanted| u32::from_str_radix(field(wanted)?.strip_prefix("0x")?, 16).ok();
    let (implementer, part) = (number("CPU implementer")?, number("CPU part")?);
    let maker = IMPLEMENTERS.iter().find(|(of, _)| *of == implementer);
    let maker = match maker {
        Some((_, name)) => (*name).to_owned(),
        None => format!("implementer {implementer:#x}"),
    };
    let name = PARTS
        .iter()
        .find(|(maker, own, _)| (*maker, *own) == (implementer, part));
    let name = match name {
        Some((.., name)) => (*name).to_owned(),
        None => format!("part {part:#x}"),
    };
    let revision = match (number("CPU variant"), field("CPU revision")) {
        (Some(variant), Some(revision)) => format!(" r{variant}p{revision}"),
        _ => String::new(),
    };
    Some(format!("{maker} {name}{revision}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cpuinfo: &str) -> Option<String> {
        let (_dir, root) = Root::fake(&[("proc/cpuinfo", cpuinfo)]);
        model(&root)
    }

    fn cpu(implementer: &str, part: &str) -> String {
        format!(
            "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: {implementer}\n\
             CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        )
    }

    #[test]
    fn processors_have_names_where_they_are_known() {
        assert_eq!(of(&cpu("0x41", "0xd0c")).unwrap(), "Arm Neoverse-N1 r3p1");
        assert_eq!(of(&cpu("0xc0", "0xac3")).unwrap(), "Ampere AmpereOne r3p1");
        assert_eq!(
            of(&cpu("0x6d", "0xd49")).unwrap(),
            "Microsoft Azure Cobalt 100 r3p1"
        );
        assert_eq!(of(&cpu("0x41", "0xfff")).unwrap(), "Arm part 0xfff r3p1");
        assert_eq!(
            of(&cpu("0x00", "0x051")).unwrap(),
            "implementer 0x0 part 0x51 r3p1"
        );
    }

    #[test]
    fn each_kind_is_told_once() {
        let (little, big) = (cpu("0x41", "0xd05"), cpu("0x41", "0xd0b"));
        let all = format!("{little}{little}{big}{big}");
        assert_eq!(
            of(&all).unwrap(),
            "Arm Cortex-A55 r3p1, Arm Cortex-A76 r3p1"
        );
    }

    #[test]
    fn what_makes_no_sense_has_no_name() {
        assert_eq!(of(""), None);
        assert_eq!(of(&cpu("65", "0xd0c")), None);
        assert_eq!(of("CPU implementer\t: 0x41\nCPU part\t: 0x\n"), None);
        assert_eq!(
            of("CPU implementer: 0x41\nCPU part: 0xd0c\n").unwrap(),
            "Arm Neoverse-N1"
        );
        assert_eq!(model(&Root::at("/nonexistent")), None);
    }
}
