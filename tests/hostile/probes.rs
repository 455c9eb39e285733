//! Reads and writes all over the guest's physical addresses and its ports.

use crate::devices::with_all_devices;
use crate::kvm;
use crate::monitor::MEMORY_KIB;
use crate::native::{self, CONTROLLERS, DRIVES, GAP, RAM};
use crate::script::{Script, WIDTHS, Width};

fn survives(script: &mut Script) {
    let folder = tempfile::tempdir().unwrap();
    with_all_devices(folder.path(), script.end(), false)
        .run()
        .survived();
}

#[test]
fn all_of_the_gap_between_devices() {
    if !kvm() {
        return;
    }
    let mut script = Script::new();
    let pages = |stride| (GAP.end - GAP.start) / stride;
    let stride = 0x1000 * (8 * native::ONE_OF as u64).next_power_of_two() / 8;
    script
        .read(Width::Four, GAP.start)
        .along(pages(stride), stride);
    // Not at the borders of pages, and not on those of the interrupt controllers.
    for (n, width) in (0..).zip(WIDTHS) {
        let at = GAP.start + 0x801 + n * 0x1000;
        script
            .write(width, at, 0x0101_0101_0101_0101 * n)
            .along(pages(16 * stride), 16 * stride);
        script
            .read(width, at)
            .along(pages(16 * stride), 16 * stride);
    }
    survives(&mut script);
}

#[test]
fn beyond_memory_and_up_to_the_end_of_all_addresses() {
    if !kvm() {
        return;
    }
    let mut script = Script::new();
    let end = RAM + (MEMORY_KIB << 10);
    let mut places = vec![end, end + 0x1000, GAP.end - 0x1000, DRIVES + (1 << 30)];
    places.extend((0..4).map(|drive| DRIVES + drive * (128 << 20) + (2 << 20)));
    places.extend(
        native::high()
            .iter()
            .flat_map(|gib| [*gib, gib + (1 << 30) - 0x1000]),
    );
    for place in places {
        for width in WIDTHS {
            script.read(width, place).along(16, 0x100);
            script.write(width, place, !0).along(16, 0x100);
            script
                .write(width, place + 1, !0)
                .read(width, place + 0x7f9);
            // Across the border to what comes before, where the guest's own tables have that.
            if place < 8 << 30 {
                script.write(width, place - 1, 0).read(width, place - 1);
            }
        }
    }
    survives(&mut script);
}

#[test]
fn interrupt_controllers_take_anything() {
    if !kvm() {
        return;
    }
    let mut script = Script::new();
    for controller in CONTROLLERS {
        for width in WIDTHS {
            script.read(width, controller).along(0x400, 4);
            script.read(width, controller + 1).along(0x400, 4);
        }
        // Not where an APIC is told to send interrupts, which is in `vcpus`.
        script.write(Width::Four, controller, 0).along(0xc0, 4);
        script.write(Width::Four, controller, !0).along(0xc0, 4);
        script
            .write(Width::Eight, controller + 0x400, !0)
            .along(0x80, 8);
        script.write(Width::One, controller + 1, !0).along(0x2f0, 1);
    }
    survives(&mut script);
}

#[cfg(target_arch = "x86_64")]
mod ports {
    use super::*;
    use crate::native::Act;
    use crate::script::Act::Native;

    const PORT_WIDTHS: [Width; 3] = [Width::One, Width::Two, Width::Four];

    #[test]
    fn every_port_in_every_width() {
        if !kvm() {
            return;
        }
        let mut script = Script::new();
        for width in PORT_WIDTHS {
            script.op(Native(Act::In(width)), 0, 0).along(0x1_0000, 1);
            // Nothing that resets the machine or switches it off.
            script
                .op(Native(Act::Out(width)), 0, 0x0202_0202)
                .along(0x1_0000, 1);
        }
        // What the serial port was told has changed how it prints.
        script.op(Native(Act::Out(Width::One)), 0x3fb, 3);
        let folder = tempfile::tempdir().unwrap();
        with_all_devices(folder.path(), script.end(), false)
            .run()
            .has_status(0);
    }

    #[test]
    fn strings_to_and_from_ports() {
        if !kvm() {
            return;
        }
        let mut script = Script::new();
        for width in PORT_WIDTHS {
            for act in [Act::Ins(width), Act::Outs(width)] {
                // To every device's ports and beside them, and here and there; one is more than a page.
                for port in [
                    0x20, 0x40, 0x5e, 0x60, 0x64, 0xa0, 0x3f6, 0x3f8, 0x3fe, 0x5ff, 0x600,
                ] {
                    script.op(Native(act), port, 9).along(3, 1);
                    script.op(Native(act), port, 5000);
                }
                script.op(Native(act), 0, 3).along(0x1_0000 / 61, 61);
                script.op(Native(act), 0xfffd, 3).along(3, 1);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        with_all_devices(folder.path(), script.end(), false)
            .run()
            .has_status(0);
    }

    #[test]
    fn exchanges_with_registers_and_empty_places() {
        if !kvm() {
            return;
        }
        let mut script = Script::new();
        for width in WIDTHS {
            for place in [
                native::VIRTIO,
                native::BOOT_TIMER,
                GAP.start,
                DRIVES,
                DRIVES + (128 << 20),
            ] {
                script
                    .op(Native(Act::Exchange(width)), place, !0)
                    .along(0x120, 1);
            }
        }
        survives(&mut script);
    }
}
