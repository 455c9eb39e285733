//! Devices that are no virtio ones: the serial port, and the keyboard controller and the power button or the clock. Each
//! register, in each width, with each value, in any order.

use crate::devices::with_all_devices;
use crate::kvm;
use crate::native::{self, BOARD, BOARD_WIDTHS, SERIAL_REGISTERS, peek, poke};
use crate::random::Random;
use crate::script::{Script, Width};

/// The serial port prints again: no divisor latch, no loop-back, no interrupts, 8 bits.
fn calm(script: &mut Script) -> &mut Script {
    for (register, value) in [(3, 3), (4, 0), (1, 0), (2, 0)] {
        script.op(poke(Width::One), SERIAL_REGISTERS + register, value);
    }
    script
}

/// What comes before its last word is what the registers made of it.
fn survives(script: &mut Script) {
    calm(script).end();
    let folder = tempfile::tempdir().unwrap();
    let ended = with_all_devices(folder.path(), script, false).run();
    ended.survived();
}

#[test]
fn every_register_of_the_board_takes_every_value() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let mut script = Script::new();
    for (first, count) in BOARD {
        let attacks = (0..count).flat_map(|register| BOARD_WIDTHS.map(|width| (register, width)));
        for (register, width) in random.some(attacks.collect()) {
            let at = first + register;
            script.op(peek(width), at, 0).times(3);
            for value in 0..=255 {
                // All the same, in one byte or in all of them.
                for value in [value, value * 0x0101_0101_0101_0101] {
                    if !native::ends(at, width, value) {
                        script.op(poke(width), at, value);
                    }
                }
            }
            for value in [1 << 31, 1 << 63, 0x8000, !0u64 << 8, random.next()] {
                if !native::ends(at, width, value) {
                    script.op(poke(width), at, value).op(peek(width), at, 0);
                }
            }
        }
        calm(&mut script);
    }
    survives(&mut script);
}

#[test]
fn registers_of_the_board_in_any_order() {
    if !kvm() {
        return;
    }
    let mut random = Random::new();
    let mut script = Script::new();
    for _ in 0..20_000 / native::ONE_OF {
        let (first, count) = random.of(&BOARD);
        let at = first + random.below(count);
        let width = random.of(&BOARD_WIDTHS);
        let value = match random.below(4) {
            0 => random.next(),
            1 => random.of(&[0, 1, 3, 7, 0x0f, 0x10, 0x80, 0x83, 0xff, !0]),
            _ => random.below(256),
        };
        match random.below(3) {
            0 => script.op(peek(width), at, 0),
            _ if native::ends(at, width, value) => &mut script,
            _ => script.op(poke(width), at, value),
        };
    }
    survives(&mut script);
}

#[test]
fn beside_the_registers_there_is_nothing() {
    if !kvm() {
        return;
    }
    let mut script = Script::new();
    for (first, _) in BOARD {
        for width in BOARD_WIDTHS {
            // Across the border in front, and all of the page or the ports behind.
            script.op(peek(width), first - 1, 0);
            script
                .op(peek(width), first, 0)
                .along(native::BOARD_SPAN, 1);
        }
    }
    survives(&mut script);
}
