//! Rules by system calls' numbers as a BPF program (linux/filter.h, linux/seccomp.h).
//!
//! Numbers are looked for by halves. The program of a crate would look at one after the other, and knows one action
//! besides the default.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET,
    BPF_W, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
};
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator as Operator};
use seccompiler::sock_filter;

/// The most instructions (BPF_MAXINSNS).
pub const MOST: usize = 4096;
/// How many arguments a system call has.
pub const ARGUMENTS: usize = 6;

// Where they are in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT: u32 = 16;

/// As if the kernel hadn't got it.
const ABSENT: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

const RETURN: u32 = BPF_RET | BPF_K;
const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;

/// What comes of a system call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Conditions of which all must hold, and what comes of it then.
    pub rules: Vec<(Vec<LinuxSeccompArg>, u32)>,
    /// What comes of it else, if not the default.
    pub always: Option<u32>,
}

/// A filter.
#[derive(Debug)]
pub struct Program {
    /// Which system calls it is for; others end the program.
    pub architecture: u32,
    /// From this number on there are none.
    pub other_numbers: Option<u32>,
    /// What comes of those that are not listed.
    pub default: u32,
    /// Beyond this number there are none.
    pub highest: Option<u32>,
    /// What is listed.
    pub calls: BTreeMap<u32, Call>,
}

/// What comes of all numbers from one to the next.
enum Leaf<'a> {
    Return(u32),
    Call(&'a Call),
}

impl Program {
    /// Its instructions, however many.
    pub fn instructions(&self) -> Vec<sock_filter> {
        let mut program = vec![
            one(LOAD, ARCHITECTURE),
            jump(BPF_JEQ, self.architecture, 1, 0),
            one(RETURN, SECCOMP_RET_KILL_PROCESS),
            one(LOAD, NUMBER),
        ];
        program.extend(self.search(&self.leaves()));
        program
    }

    /// All numbers from 0 on, by where something else begins.
    fn leaves(&self) -> Vec<(u32, Leaf<'_>)> {
        let mut leaves = vec![(0, Leaf::Return(self.default))];
        let mut put = |from: u32, leaf| match leaves.last_mut() {
            Some(last) if last.0 == from => *last = (from, leaf),
            _ => leaves.push((from, leaf)),
        };
        for (number, call) in &self.calls {
            let leaf = match call.rules.is_empty() {
                true => Leaf::Return(call.always.unwrap_or(self.default)),
                false => Leaf::Call(call),
            };
            put(*number, leaf);
            put(number + 1, Leaf::Return(self.default));
        }
        let newer = self.highest.map(|highest| highest + 1);
        for from in newer.into_iter().chain(self.other_numbers) {
            put(from, Leaf::Return(ABSENT));
        }
        leaves.dedup_by(|leaf, before| match (&leaf.1, &before.1) {
            (Leaf::Return(one), Leaf::Return(other)) => one == other,
            _ => false,
        });
        leaves
    }

    fn search(&self, leaves: &[(u32, Leaf)]) -> Vec<sock_filter> {
        match leaves {
            [] => Vec::new(),
            [(_, Leaf::Return(action))] => vec![one(RETURN, *action)],
            [(_, Leaf::Call(call))] => self.call(call),
            leaves => {
                let (low, high) = leaves.split_at(leaves.len() / 2);
                let (from, low, high) = (high[0].0, self.search(low), self.search(high));
                let mut program = match u8::try_from(low.len()) {
                    Ok(far) => vec![jump(BPF_JGE, from, far, 0)],
                    // Further than a condition can jump.
                    Err(_) => vec![
                        jump(BPF_JGE, from, 0, 1),
                        one(BPF_JMP | BPF_JA, low.len() as u32),
                    ],
                };
                program.extend(low);
                program.extend(high);
                program
            }
        }
    }

    fn call(&self, call: &Call) -> Vec<sock_filter> {
        let mut program = Vec::new();
        for (conditions, action) in &call.rules {
            let mut steps: Vec<Step> = conditions.iter().flat_map(condition).collect();
            steps.push((RETURN, *action, To::Next(0), To::Next(0)));
            let len = steps.len();
            let rule = steps
                .into_iter()
                .enumerate()
                .map(|(index, (code, k, yes, no))| {
                    let far = |to| match to {
                        To::Next(skip) => skip,
                        // At most six conditions of six instructions each.
                        To::Otherwise => (len - index - 1) as u8,
                    };
                    jump_of(code, k, far(yes), far(no))
                });
            program.extend(rule);
        }
        program.push(one(RETURN, call.always.unwrap_or(self.default)));
        program
    }
}

/// Where an instruction of a rule leads.
#[derive(Clone, Copy)]
enum To {
    /// After as many as these.
    Next(u8),
    /// Behind the rule, since it doesn't hold.
    Otherwise,
}

type Step = (u32, u32, To, To);

/// A comparison of 64 bits, of which BPF has 32 at once: the upper half first. Both architectures are little-endian.
fn condition(of: &LinuxSeccompArg) -> Vec<Step> {
    use To::{Next, Otherwise};
    let low_at = ARGUMENT + 8 * of.index() as u32;
    let load = |at: u32| (LOAD, at, Next(0), Next(0));
    let test = |code: u32, k: u32, yes, no| (BPF_JMP | code | BPF_K, k, yes, no);
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let value = of.value();
    let (high, low) = halves(value);
    let upper = |tests: &[Step]| [&[load(low_at + 4)], tests, &[load(low_at)]].concat();
    let with = |mut steps: Vec<Step>, last: Step| {
        steps.push(last);
        steps
    };
    let holds = Next(0);
    match of.op() {
        Operator::ScmpCmpEq => with(
            upper(&[test(BPF_JEQ, high, Next(0), Otherwise)]),
            test(BPF_JEQ, low, holds, Otherwise),
        ),
        Operator::ScmpCmpNe => with(
            upper(&[test(BPF_JEQ, high, Next(0), Next(2))]),
            test(BPF_JEQ, low, Otherwise, holds),
        ),
        Operator::ScmpCmpGt | Operator::ScmpCmpGe => {
            let code = match of.op() {
                Operator::ScmpCmpGt => BPF_JGT,
                _ => BPF_JGE,
            };
            let tests = [
                test(BPF_JGT, high, Next(3), Next(0)),
                test(BPF_JEQ, high, Next(0), Otherwise),
            ];
            with(upper(&tests), test(code, low, holds, Otherwise))
        }
        Operator::ScmpCmpLt | Operator::ScmpCmpLe => {
            let code = match of.op() {
                Operator::ScmpCmpLt => BPF_JGE,
                _ => BPF_JGT,
            };
            let tests = [
                test(BPF_JGT, high, Otherwise, Next(0)),
                test(BPF_JEQ, high, Next(0), Next(2)),
            ];
            with(upper(&tests), test(code, low, Otherwise, holds))
        }
        Operator::ScmpCmpMaskedEq => {
            // The mask is the first value.
            let (high_mask, low_mask) = (high, low);
            let (high, low) = halves(of.value_two().unwrap_or(0));
            let mask = |mask| (BPF_ALU | BPF_AND | BPF_K, mask, Next(0), Next(0));
            vec![
                load(low_at + 4),
                mask(high_mask),
                test(BPF_JEQ, high, Next(0), Otherwise),
                load(low_at),
                mask(low_mask),
                test(BPF_JEQ, low, holds, Otherwise),
            ]
        }
    }
}

fn one(code: u32, k: u32) -> sock_filter {
    jump_of(code, k, 0, 0)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    jump_of(BPF_JMP | code | BPF_K, k, jt, jf)
}

fn jump_of(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = code as u16; // all codes are
    sock_filter { code, jt, jf, k }
}

/// As they are in memory, which is how the agent takes them.
pub fn bytes(instructions: &[sock_filter]) -> Vec<u8> {
    let bytes = instructions.iter().flat_map(|instruction| {
        let [a, b] = instruction.code.to_ne_bytes();
        let [c, d, e, f] = instruction.k.to_ne_bytes();
        [a, b, instruction.jt, instruction.jf, c, d, e, f]
    });
    bytes.collect()
}
