//! Classic BPF into eBPF: a function that is called with a [`View`] and says whether its packet matches.
//!
//! It calls nothing, so it keeps all that it needs in registers; memory is the view's. Every load is checked
//! against the bytes that were captured, as in classic BPF, and where its place depends on the packet it is bounded
//! by a mask as well, which the verifier of every kernel understands.

use std::mem::offset_of;

use tracer_common::expression::{VIEW_BYTES, View};

use crate::select::expression::classic::{
    Instruction, Operand, Operation, Program, Size, Slot, Test,
};

/// An eBPF instruction of one slot (`struct bpf_insn` of linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    dst: Register,
    src: Register,
    off: i16,
    imm: i32,
}

/// Bytes of an instruction.
pub const INSN_BYTES: usize = 8;

impl Insn {
    /// As it stands in an object of this machine's byte order.
    pub fn bytes(self) -> [u8; INSN_BYTES] {
        let (dst, src) = (self.dst as u8, self.src as u8);
        let registers =
            if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        let [a, b] = self.off.to_ne_bytes();
        let [c, d, e, f] = self.imm.to_ne_bytes();
        [self.code, registers, a, b, c, d, e, f]
    }

    /// Does nothing that matters: the verdict becomes `imm`.
    pub const fn verdict(imm: i32) -> Self {
        Self { code: MOV64 | K, dst: Register::R0, src: Register::R0, off: 0, imm }
    }

    /// Goes on `off` instructions behind the next one where the verdict is not 0.
    pub const fn unless_zero(off: i16) -> Self {
        Self { code: JMP | JNE | K, dst: Register::R0, src: Register::R0, off, imm: 0 }
    }

    pub(super) const EXIT: Self =
        Self { code: 0x95, dst: Register::R0, src: Register::R0, off: 0, imm: 0 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
}

/// The verdict; before that, for what is calculated on the way.
const RESULT: Register = Register::R0;
const VIEW: Register = Register::R1;
const A: Register = Register::R2;
const X: Register = Register::R3;
const PLACE: Register = Register::R4;
const CAPTURED: Register = Register::R5;

// Classes, sizes, modes and operations of linux/bpf.h and linux/bpf_common.h.
const LDX_CLASS: u8 = 0x01;
const ST_CLASS: u8 = 0x02;
const STX_CLASS: u8 = 0x03;
const LDX: u8 = 0x61;
const ST: u8 = 0x62;
const STX: u8 = 0x63;
const ALU: u8 = 0x04;
const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const K: u8 = 0x00;
const REG: u8 = 0x08;
const MOV: u8 = ALU | 0xb0;
const MOV64: u8 = ALU64 | 0xb0;
const TO_BE: u8 = ALU | 0xd0 | 0x08;
const JEQ: u8 = 0x10;
const JGT: u8 = 0x20;
const JGE: u8 = 0x30;
const JSET: u8 = 0x40;
const JNE: u8 = 0x50;
const JLT: u8 = 0xa0;
const JLE: u8 = 0xb0;

/// Translates a program; its first instruction is the first of the function.
pub fn translate(program: &Program) -> Vec<Insn> {
    let mut to = Translation::default();
    to.begin(program);
    let reached = reached(program.instructions());
    for (instruction, reached) in program.instructions().iter().zip(reached) {
        to.starts.push(to.all.len());
        // The verifier takes nothing that nothing leads to.
        if reached {
            to.translate(*instruction);
        }
    }
    to.finish()
}

/// Which instructions are led to. All ways lead forward.
fn reached(instructions: &[Instruction]) -> Vec<bool> {
    let mut reached = vec![false; instructions.len()];
    let mark = |reached: &mut Vec<bool>, at: usize| {
        if let Some(one) = reached.get_mut(at) {
            *one = true;
        }
    };
    mark(&mut reached, 0);
    for (at, instruction) in instructions.iter().enumerate() {
        if !reached[at] {
            continue;
        }
        match instruction {
            Instruction::Return(_) | Instruction::ReturnAccumulator => {}
            Instruction::Jump(to) => mark(&mut reached, *to),
            Instruction::Branch(.., then, otherwise) => {
                mark(&mut reached, *then);
                mark(&mut reached, *otherwise);
            }
            _ => mark(&mut reached, at + 1),
        }
    }
    reached
}

/// Where a jump leads.
#[derive(Clone, Copy)]
enum Target {
    /// An instruction of the program.
    Instruction(usize),
    /// The packet does not match.
    Mismatch,
}

#[derive(Default)]
struct Translation {
    all: Vec<Insn>,
    /// Where each instruction of the program starts.
    starts: Vec<usize>,
    /// Jumps whose offsets are still to be written.
    jumps: Vec<(usize, Target)>,
}

impl Translation {
    fn begin(&mut self, program: &Program) {
        self.load(CAPTURED, VIEW, offset_of!(View, captured));
        self.set(A, 0);
        self.set(X, 0);
        // The view is an earlier packet's: no word may be read before it was written.
        let mut slots = [false; tracer_common::expression::MEMORY_WORDS];
        for instruction in program.instructions() {
            if let Instruction::LoadMemory(slot) | Instruction::IndexMemory(slot) = instruction {
                slots[slot.number()] = true;
            }
        }
        for (number, _) in slots.iter().enumerate().filter(|(_, read)| **read) {
            self.push(ST, VIEW, VIEW, memory_at(number), 0);
        }
    }

    /// Mismatches share one end.
    fn finish(mut self) -> Vec<Insn> {
        let mismatch = self.all.len();
        if self.jumps.iter().any(|(_, target)| matches!(target, Target::Mismatch)) {
            self.all.extend([Insn::verdict(0), Insn::EXIT]);
        }
        for (at, target) in std::mem::take(&mut self.jumps) {
            let to = match target {
                Target::Instruction(number) => self.starts.get(number).copied().unwrap_or(mismatch),
                Target::Mismatch => mismatch,
            };
            // What is longer than an offset can say is refused for its length.
            self.all[at].off = i16::try_from(to as isize - at as isize - 1).unwrap_or(i16::MAX);
        }
        self.all
    }

    fn translate(&mut self, instruction: Instruction) {
        use Instruction as I;
        match instruction {
            I::Load(size, at) => self.load_packet(A, size, at),
            I::LoadBehindIndex(size, at) => self.load_behind_index(size, at),
            I::LoadLength => self.load(A, VIEW, offset_of!(View, length)),
            I::LoadMemory(slot) => self.load_memory(A, slot),
            I::LoadConstant(k) => self.set(A, k),
            I::IndexHeaderLength(at) => {
                self.load_packet(X, Size::Byte, at);
                self.push(ALU | 0x50 | K, X, X, 0, 0xf);
                self.push(ALU | 0x60 | K, X, X, 0, 2);
            }
            I::IndexLength => self.load(X, VIEW, offset_of!(View, length)),
            I::IndexMemory(slot) => self.load_memory(X, slot),
            I::IndexConstant(k) => self.set(X, k),
            I::IndexAccumulator => self.push(MOV | REG, X, A, 0, 0),
            I::AccumulatorIndex => self.push(MOV | REG, A, X, 0, 0),
            I::Store(slot) => self.push(STX, VIEW, A, memory_at(slot.number()), 0),
            I::StoreIndex(slot) => self.push(STX, VIEW, X, memory_at(slot.number()), 0),
            I::Calculate(operation, by) => self.calculate(operation, by),
            I::Negate => self.push(ALU | 0x80, A, A, 0, 0),
            I::Jump(to) => self.jump(JMP, A, Target::Instruction(to)),
            I::Branch(test, by, then, otherwise) => self.branch(test, by, then, otherwise),
            I::Return(verdict) => self.all.extend([Insn::verdict(verdict.into()), Insn::EXIT]),
            I::ReturnAccumulator => {
                self.all.push(Insn::verdict(0));
                self.push(JMP32 | JEQ | K, A, A, 1, 0);
                self.all.extend([Insn::verdict(1), Insn::EXIT]);
            }
        }
    }

    /// The kernel wants 0 in what an instruction does not use.
    fn push(&mut self, code: u8, dst: Register, src: Register, off: i16, imm: i32) {
        let uses_source = match code & 0x07 {
            LDX_CLASS | STX_CLASS => true,
            ST_CLASS => false,
            _ => code & REG != 0 && code != TO_BE,
        };
        let dst = if code == JMP { Register::R0 } else { dst };
        let src = if uses_source { src } else { Register::R0 };
        self.all.push(Insn { code, dst, src, off, imm });
    }

    fn set(&mut self, register: Register, k: u32) {
        self.push(MOV | K, register, register, 0, k.cast_signed());
    }

    fn load(&mut self, to: Register, from: Register, offset: usize) {
        self.push(LDX, to, from, offset as i16, 0);
    }

    fn load_memory(&mut self, to: Register, slot: Slot) {
        self.push(LDX, to, VIEW, memory_at(slot.number()), 0);
    }

    /// Without an operand beside the register, or with the one in `imm`.
    fn jump(&mut self, code: u8, register: Register, target: Target) {
        self.jumps.push((self.all.len(), target));
        self.push(code, register, register, 0, 0);
    }

    /// From a fixed place, which is within the view: others are refused before.
    fn load_packet(&mut self, to: Register, size: Size, at: u32) {
        self.jumps.push((self.all.len(), Target::Mismatch));
        let end = at.saturating_add(size.bytes()).min(i32::MAX as u32);
        self.push(JMP | JLT | K, CAPTURED, CAPTURED, 0, end.cast_signed());
        self.load_bytes(to, VIEW, size, at.min(VIEW_BYTES as u32));
    }

    fn load_behind_index(&mut self, size: Size, at: u32) {
        self.push(MOV | REG, PLACE, X, 0, 0);
        // Of 64 bits: the sum does not wrap.
        self.push(ALU64 | K, PLACE, PLACE, 0, at.min(i32::MAX as u32).cast_signed());
        self.push(MOV64 | REG, RESULT, PLACE, 0, 0);
        self.push(ALU64 | K, RESULT, RESULT, 0, size.bytes().cast_signed());
        self.jumps.push((self.all.len(), Target::Mismatch));
        self.push(JMP | JGT | REG, RESULT, CAPTURED, 0, 0);
        // No more is captured than the mask lets pass.
        self.push(ALU64 | 0x50 | K, PLACE, PLACE, 0, VIEW_BYTES as i32 - 1);
        self.push(ALU64 | REG, PLACE, VIEW, 0, 0);
        self.load_bytes(A, PLACE, size, 0);
    }

    fn load_bytes(&mut self, to: Register, from: Register, size: Size, at: u32) {
        let width = match size {
            Size::Word => 0x00,
            Size::Half => 0x08,
            Size::Byte => 0x10,
        };
        self.push(LDX | width, to, from, (offset_of!(View, bytes) + at as usize) as i16, 0);
        if size != Size::Byte {
            self.push(TO_BE, to, to, 0, (size.bytes() * 8).cast_signed());
        }
    }

    fn calculate(&mut self, operation: Operation, by: Operand) {
        let code = match operation {
            Operation::Add => 0x00,
            Operation::Subtract => 0x10,
            Operation::Multiply => 0x20,
            Operation::Divide => 0x30,
            Operation::Or => 0x40,
            Operation::And => 0x50,
            Operation::ShiftLeft => 0x60,
            Operation::ShiftRight => 0x70,
            Operation::Remainder => 0x90,
            Operation::Xor => 0xa0,
        };
        let divides = matches!(operation, Operation::Divide | Operation::Remainder);
        let shifts = matches!(operation, Operation::ShiftLeft | Operation::ShiftRight);
        match by {
            // Both are refused by the verifier.
            Operand::Constant(0) if divides => {
                self.all.push(Insn::verdict(0));
                self.jump(JMP | JEQ | K, RESULT, Target::Mismatch);
            }
            Operand::Constant(32..) if shifts => self.set(A, 0),
            Operand::Constant(k) => self.push(ALU | code | K, A, A, 0, k.cast_signed()),
            Operand::Index if divides => {
                self.jump(JMP32 | JEQ | K, X, Target::Mismatch);
                self.push(ALU | code | REG, A, X, 0, 0);
            }
            Operand::Index if shifts => {
                self.push(JMP32 | JGT | K, X, X, 2, 31);
                self.push(ALU | code | REG, A, X, 0, 0);
                self.push(JMP, A, A, 1, 0);
                self.set(A, 0);
            }
            Operand::Index => self.push(ALU | code | REG, A, X, 0, 0),
        }
    }

    fn branch(&mut self, test: Test, by: Operand, then: usize, otherwise: usize) {
        let next = self.starts.len();
        let (code, opposite) = match test {
            Test::Equal => (JEQ, Some(JNE)),
            Test::Greater => (JGT, Some(JLE)),
            Test::NotLess => (JGE, Some(JLT)),
            Test::AnyBit => (JSET, None),
        };
        match opposite {
            Some(opposite) if then == next => self.test(opposite, by, otherwise),
            _ => {
                self.test(code, by, then);
                if otherwise != next {
                    self.jump(JMP, A, Target::Instruction(otherwise));
                }
            }
        }
    }

    fn test(&mut self, code: u8, by: Operand, target: usize) {
        self.jumps.push((self.all.len(), Target::Instruction(target)));
        match by {
            Operand::Constant(k) => self.push(JMP32 | code | K, A, A, 0, k.cast_signed()),
            Operand::Index => self.push(JMP32 | code | REG, A, X, 0, 0),
        }
    }
}

fn memory_at(number: usize) -> i16 {
    (offset_of!(View, memory) + number * size_of::<u32>()) as i16
}
