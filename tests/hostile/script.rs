//! What a guest does, as a list: each operation is a record in the guest's image, and a few dozen instructions
//! there walk them ([`native`]). So an attack is written in Rust, and once for both architectures.

use crate::native;

/// How many bytes an access has, as a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    One,
    Two,
    Four,
    Eight,
}

pub const WIDTHS: [Width; 4] = [Width::One, Width::Two, Width::Four, Width::Eight];

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A store of the value.
    Write(Width),
    /// A load.
    Read(Width),
    /// Reads 2 bytes until they have the value, or it has been tried `count` times.
    Await,
    /// Nothing, `count` times.
    Spin,
    /// Prints the byte at the address.
    Show,
    /// Instructions of the script's own ([`Script::code`]), by their number.
    Code(usize),
    /// What only this architecture has.
    #[allow(dead_code, reason = "on AArch64 there is no such thing")]
    Native(native::Act),
}

/// An operation, `count` times: each time the address and the value grow by their steps.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub act: Act,
    pub address: u64,
    pub value: u64,
    pub count: u64,
    pub stride: u64,
    pub step: u64,
}

impl Op {
    /// Once.
    pub fn new(act: Act, address: u64, value: u64) -> Self {
        Op {
            act,
            address,
            value,
            count: 1,
            stride: 0,
            step: 0,
        }
    }

    /// The record: where the instructions for it are, then the rest.
    pub fn record(&self, instructions: u64) -> [u8; native::RECORD] {
        let fields = [
            instructions,
            self.address,
            self.value,
            self.count,
            self.stride,
            self.step,
        ];
        let mut record = [0; native::RECORD];
        for (place, field) in record.chunks_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        record
    }
}

/// The operations of one guest, in their order.
#[derive(Default)]
pub struct Script {
    pub ops: Vec<Op>,
    /// Instructions of its own; each piece is followed by the next operation, if it comes to its end.
    pub pieces: Vec<native::Piece>,
}

impl Script {
    pub fn new() -> Self {
        Script::default()
    }

    pub fn op(&mut self, act: Act, address: u64, value: u64) -> &mut Self {
        self.ops.push(Op::new(act, address, value));
        self
    }

    /// The last operation, so many times.
    pub fn times(&mut self, count: u64) -> &mut Self {
        self.times_by(count, 0, 0)
    }

    /// The same, with an address that grows each time.
    pub fn along(&mut self, count: u64, stride: u64) -> &mut Self {
        self.times_by(count, stride, 0)
    }

    /// The same, with a value that grows as well.
    pub fn times_by(&mut self, count: u64, stride: u64, step: u64) -> &mut Self {
        assert!(count > 0, "the guest counts down to 0");
        let op = self.ops.last_mut().unwrap();
        (op.count, op.stride, op.step) = (count, stride, step);
        self
    }

    pub fn write(&mut self, width: Width, address: u64, value: u64) -> &mut Self {
        self.op(Act::Write(width), address, value)
    }

    pub fn write16(&mut self, address: u64, value: u16) -> &mut Self {
        self.write(Width::Two, address, value.into())
    }

    pub fn write32(&mut self, address: u64, value: u32) -> &mut Self {
        self.write(Width::Four, address, value.into())
    }

    pub fn write64(&mut self, address: u64, value: u64) -> &mut Self {
        self.write(Width::Eight, address, value)
    }

    pub fn read(&mut self, width: Width, address: u64) -> &mut Self {
        self.op(Act::Read(width), address, 0)
    }

    /// Waits until there are these 2 bytes, which the monitor is to put there, but not for ever.
    pub fn wait(&mut self, address: u64, value: u16, turns: u64) -> &mut Self {
        self.op(Act::Await, address, value.into())
            .times(turns * native::TURNS)
    }

    /// The same where they may well never come.
    pub fn wait_a_little(&mut self, address: u64, value: u16) -> &mut Self {
        self.op(Act::Await, address, value.into()).times(40)
    }

    pub fn spin(&mut self, count: u64) -> &mut Self {
        self.op(Act::Spin, 0, 0).times(count)
    }

    pub fn show(&mut self, address: u64) -> &mut Self {
        self.op(Act::Show, address, 0)
    }

    pub fn print(&mut self, text: &str) -> &mut Self {
        for byte in text.bytes() {
            self.ops.push(native::print(byte));
        }
        self
    }

    /// Instructions of its own.
    pub fn code(&mut self, piece: native::Piece) -> &mut Self {
        self.pieces.push(piece);
        self.op(Act::Code(self.pieces.len() - 1), 0, 0)
    }

    /// What is done over and over, with the number of the time.
    pub fn repeat(&mut self, count: u64, mut what: impl FnMut(&mut Self, u64)) -> &mut Self {
        for n in 0..count {
            what(self, n);
        }
        self
    }

    /// Says that it is still there, and switches the machine off.
    pub fn end(&mut self) -> &mut Self {
        self.print("alive").code(native::power_off())
    }

    /// A kernel file in which this is all that there is.
    pub fn kernel(&self) -> Vec<u8> {
        native::kernel(self)
    }
}
