//! The kernel files that AArch64 has: plain Images are what all other tests boot.

use crate::*;

/// An Image, as one gzip stream.
fn gzipped(image: &Path) -> Vec<u8> {
    let output = Command::new("gzip").args(["-1", "-c"]).arg(image).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn a_gzipped_image_boots_also_from_the_cache_and_in_spite_of_a_damaged_one() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("Image.gz");
    fs::write(&kernel, gzipped(&guests.kernel)).unwrap();
    boot::packed(&guests, &kernel, &[]);
}

#[test]
fn an_efi_zboot_file_boots_also_from_the_cache_and_in_spite_of_a_damaged_one() {
    let Some(guests) = guests() else { return };
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("vmlinuz.efi");
    // The header of Linux's drivers/firmware/efi/libstub/zboot-header.S, with no EFI program behind it.
    const HEADER: usize = 0x1000;
    let payload = gzipped(&guests.kernel);
    let mut file = vec![0; HEADER];
    let fields: [(usize, &[u8]); 6] = [
        (0, b"MZ"),
        (4, b"zimg"),
        (8, &(HEADER as u32).to_le_bytes()),
        (12, &(payload.len() as u32).to_le_bytes()),
        (24, b"gzip"),
        (56, &0x8182_23cd_u32.to_le_bytes()),
    ];
    for (at, bytes) in fields {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file.extend(payload);
    fs::write(&kernel, file).unwrap();
    boot::packed(&guests, &kernel, &[]);
}

#[test]
fn a_damaged_kernel_is_a_crash_with_its_registers() {
    let Some(guests) = guests() else { return };
    let mut kernel = fs::read(&guests.kernel).unwrap();
    // At the Image's first byte, where it is entered: `mov x1, #0; ldp x2, x3, [x1]`. Nothing is at address 0,
    // and of a pair of registers the processor doesn't tell KVM what the instruction does.
    kernel[..8].copy_from_slice(&[0x01, 0x00, 0x80, 0xd2, 0x22, 0x0c, 0x40, 0xa9]);
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("Image");
    fs::write(&damaged, kernel).unwrap();
    let ended = finish(mote(&["--kernel", path(&damaged)]));
    assert_eq!(ended.code, Some(5), "{ended:?}");
    for text in ["pc 0x0000000040200004", "code: 22 0c 40 a9"] {
        assert!(ended.err.contains(text), "{text}: {ended:?}");
    }
}

#[test]
fn what_only_x86_64_has_is_refused_in_words() {
    let Some(_) = guests() else { return };
    for (option, value, code, text) in [
        ("--acpi", "on", 2, "told of their machine by a device tree"),
        ("--protocol", "linux64", 2, "leave --protocol out"),
        ("--idle", "haltpoll", 3, "--halt-poll has the host poll"),
        ("--idle", "pass-through,force", 3, "--idle poll keeps a CPU"),
    ] {
        let ended = finish(mote(&[option, value]));
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.err.contains(text), "{ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
}
