//! BPF as the kernel runs it, for filters of system calls.

use syscalls::Sysno;

/// The number of this architecture in a filter.
pub fn native() -> u32 {
    match std::env::consts::ARCH {
        "aarch64" => 0xc000_00b7,
        _ => 0xc000_003e,
    }
}

/// What a filter says, as Documentation/networking/filter.rst has it: what of BPF there may be, and no more.
pub fn run(program: &[u8], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(architecture.to_le_bytes());
    data.extend([0; 8]);
    arguments
        .iter()
        .for_each(|argument| data.extend(argument.to_le_bytes()));
    let mut accumulator = 0u32;
    let mut at = 0;
    loop {
        let [c0, c1, yes, no, a, b, c, d] = program[at * 8..][..8].try_into().unwrap();
        let k = u32::from_ne_bytes([a, b, c, d]);
        at += 1;
        let jump = |holds| if holds { yes as usize } else { no as usize };
        match u16::from_ne_bytes([c0, c1]) {
            0x20 => accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

/// What it says of one of this architecture's.
pub fn call(program: &[u8], call: Sysno, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(program, native(), call.id() as u32, all)
}
