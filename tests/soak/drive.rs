//! A guest's driver for its first drive: it writes sectors of the VM's own pattern, one request after the
//! other, and reads them back.

use crate::common::{Code, RAM, VIRTIO};

/// How large a drive is.
pub const SECTORS: u64 = 2048;
pub const SECTOR: usize = 512;

// The queue and the request (virtio 1.3 §2.7, §5.2.6).
const DESCRIPTORS: u64 = RAM + (8 << 20);
const AVAILABLE: u64 = DESCRIPTORS + 0x1000;
const USED: u64 = DESCRIPTORS + 0x2000;
const HEADER: u64 = DESCRIPTORS + 0x3000;
const STATUS: u64 = HEADER + 16;
const DATA: u64 = DESCRIPTORS + 0x4000;
const NEXT: u32 = 1;
const WRITE: u32 = 2;
const READ_SECTOR: u32 = 0;
const WRITE_SECTOR: u32 = 1;

/// What a VM writes: `count` sectors, spread over the drive, with a word of its own in them.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    pub word: u32,
    pub count: u16,
}

impl Pattern {
    /// Where the request of this number writes: no two the same, as 7 and the number of sectors have no factor
    /// in common.
    fn sector(self, number: u16) -> u64 {
        (u64::from(number) * 7 + u64::from(self.word % 100)) % SECTORS
    }

    /// The last word of a sector; the first is the request's number.
    fn last(self, number: u16) -> u32 {
        self.word ^ u32::from(number) << 8
    }

    /// The guest's code: each write, then a read of each eighth of them, of which it prints the status (as a
    /// digit) and the low byte of the number.
    pub fn code(self, code: Code) -> Code {
        let code = set_up(code);
        let code =
            (0..SECTOR as u64 / 4).fold(code, |code, at| code.write_long(DATA + at * 4, self.word));
        let code = (0..self.count).fold(code, |code, number| {
            let code = code
                .write_long(DATA, number.into())
                .write_long(DATA + SECTOR as u64 - 4, self.last(number));
            request(code, WRITE_SECTOR, self.sector(number), number + 1)
        });
        let code = buffer(code, NEXT | WRITE);
        self.read_back()
            .zip(self.count + 1..)
            .fold(code, |code, (number, used)| {
                let code = code.write_long(DATA, 0).write_byte(STATUS, 9);
                request(code, READ_SECTOR, self.sector(number), used)
                    .read_byte(STATUS)
                    .print_read_plus(b'0')
                    .read_byte(DATA)
                    .print_read()
            })
    }

    fn read_back(self) -> impl Iterator<Item = u16> {
        (0..self.count).step_by(8)
    }

    /// What that prints.
    pub fn printed(self) -> Vec<u8> {
        let both = |number| [b'0', number as u8];
        self.read_back().flat_map(both).collect()
    }

    /// The drive afterwards.
    pub fn drive(self) -> Vec<u8> {
        let mut drive = vec![0; SECTORS as usize * SECTOR];
        for number in 0..self.count {
            let mut words = [self.word; SECTOR / 4];
            words[0] = number.into();
            words[SECTOR / 4 - 1] = self.last(number);
            let at = self.sector(number) as usize * SECTOR;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            drive[at..at + SECTOR].copy_from_slice(&bytes);
        }
        drive
    }
}

/// From reset to DRIVER_OK (virtio 1.3 §3.1.1, §4.2.2), and a chain of three descriptors.
fn set_up(code: Code) -> Code {
    let code = code.with_caches();
    let code = [
        (0x70, 1),
        (0x70, 3),
        (0x24, 1), // the upper features: VIRTIO_F_VERSION_1
        (0x20, 1),
        (0x70, 11),
        (0x30, 0),
        (0x38, 8),
        (0x80, DESCRIPTORS as u32),
        (0x84, 0),
        (0x90, AVAILABLE as u32),
        (0x94, 0),
        (0xa0, USED as u32),
        (0xa4, 0),
        (0x44, 1),
        (0x70, 15),
    ]
    .into_iter()
    .fold(code, |code, (register, value)| {
        code.write_long(VIRTIO + register, value)
    });
    // No interrupts: the driver looks at the used ring.
    let code = descriptor(code.write_word(AVAILABLE, 1), 0, HEADER, 16, NEXT);
    let code = descriptor(buffer(code, NEXT), 2, STATUS, 1, WRITE);
    code.write_long(HEADER + 4, 0).write_long(HEADER + 12, 0)
}

/// The descriptor of the sector's bytes.
fn buffer(code: Code, flags: u32) -> Code {
    descriptor(code, 1, DATA, SECTOR as u32, flags)
}

fn descriptor(code: Code, index: u32, address: u64, length: u32, flags: u32) -> Code {
    let at = DESCRIPTORS + u64::from(index) * 16;
    code.write_long(at, address as u32)
        .write_long(at + 4, 0)
        .write_long(at + 8, length)
        .write_long(at + 12, flags | (index + 1) << 16)
}

/// One request, and the wait for its end.
fn request(code: Code, kind: u32, sector: u64, used: u16) -> Code {
    code.write_long(HEADER, kind)
        .write_long(HEADER + 8, sector as u32)
        .write_word(AVAILABLE + 2, used)
        .notify(VIRTIO + 0x50, 0)
        .wait_for_word(USED + 2, used)
}
