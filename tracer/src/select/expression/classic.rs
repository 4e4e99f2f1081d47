//! Classic BPF, what libpcap compiles an expression to: decoded into a program that cannot be wrong, and
//! run over bytes.

use std::fmt;

use tracer_common::expression::MEMORY_WORDS;

/// An instruction as libpcap has it (`struct bpf_insn` of pcap/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Class, size and mode, or operation.
    pub code: u16,
    /// How many instructions to skip where the test holds.
    pub jt: u8,
    /// How many where it does not.
    pub jf: u8,
    /// A number.
    pub k: u32,
}

/// How many bytes are loaded, in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One.
    Byte,
    /// Two.
    Half,
    /// Four.
    Word,
}

impl Size {
    /// In bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Size::Byte => 1,
            Size::Half => 2,
            Size::Word => 4,
        }
    }
}

/// What an operation takes beside the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A number.
    Constant(u32),
    /// The index register.
    Index,
}

/// What the accumulator is changed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`; by zero, the packet does not match.
    Divide,
    /// `%`; the same.
    Remainder,
    /// `&`
    And,
    /// `|`
    Or,
    /// `^`
    Xor,
    /// `<<`; by more than 31, 0.
    ShiftLeft,
    /// `>>`; the same.
    ShiftRight,
}

/// What is asked of the accumulator; numbers are without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// `==`
    Equal,
    /// `>`
    Greater,
    /// `>=`
    NotLess,
    /// Has a bit in common with.
    AnyBit,
}

/// A word of the program's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u8);

impl Slot {
    /// Less than [`MEMORY_WORDS`].
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

/// One instruction. Targets are later instructions of the same program, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// The accumulator becomes what the packet has there. Beyond its end, the packet does not match.
    Load(Size, u32),
    /// The same, so far behind where the index register says.
    LoadBehindIndex(Size, u32),
    /// The accumulator becomes the packet's length.
    LoadLength,
    /// The accumulator becomes a word of memory.
    LoadMemory(Slot),
    /// The accumulator becomes a number.
    LoadConstant(u32),
    /// The index register becomes four times the lower half of a byte: the length of an IPv4 header.
    IndexHeaderLength(u32),
    /// The index register becomes the packet's length.
    IndexLength,
    /// The index register becomes a word of memory.
    IndexMemory(Slot),
    /// The index register becomes a number.
    IndexConstant(u32),
    /// The index register becomes what the accumulator is.
    IndexAccumulator,
    /// The accumulator becomes what the index register is.
    AccumulatorIndex,
    /// The accumulator goes to memory.
    Store(Slot),
    /// The index register goes to memory.
    StoreIndex(Slot),
    /// The accumulator is changed.
    Calculate(Operation, Operand),
    /// The accumulator is negated.
    Negate,
    /// It goes on elsewhere.
    Jump(usize),
    /// It goes on at the first where the test holds, else at the second.
    Branch(Test, Operand, usize, usize),
    /// The end: whether the packet matches.
    Return(bool),
    /// The end: the packet matches unless the accumulator is 0.
    ReturnAccumulator,
}

/// Why a program is not one that can be run on packets as they pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It asks a capturing socket for something.
    AsksSocket,
    /// It has a loop.
    Loops,
    /// It is broken, at this instruction.
    Broken(usize),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::AsksSocket => f.write_str(
                "it asks for what only a capturing socket knows (inbound, outbound, ifindex and the like); \
                 --iface and --netns select where packets are seen",
            ),
            Unfit::Loops => f.write_str(
                "it walks a chain of headers (protochain), which takes a loop; name the header that is meant, \
                 as in ip6[6]",
            ),
            Unfit::Broken(at) => write!(f, "libpcap's program has no meaning at instruction {at}"),
        }
    }
}

/// A program whose every way ends in a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// Decodes a program.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn decode(raw: &[Raw]) -> Result<Self, Unfit> {
        let decoded = raw.iter().enumerate().map(|(at, raw)| decode(at, *raw));
        Self::checked(decoded.collect::<Result<_, _>>()?)
    }

    /// A program that matches nothing.
    pub fn nothing() -> Self {
        Self(vec![Instruction::Return(false)])
    }

    fn checked(all: Vec<Instruction>) -> Result<Self, Unfit> {
        for (at, instruction) in all.iter().enumerate() {
            let ends =
                matches!(instruction, Instruction::Return(_) | Instruction::ReturnAccumulator);
            let (one, other) = match instruction {
                Instruction::Jump(to) => (*to, *to),
                Instruction::Branch(.., then, otherwise) => (*then, *otherwise),
                _ => (at + 1, at + 1),
            };
            if !ends && (one >= all.len() || other >= all.len()) {
                return Err(Unfit::Broken(at));
            }
        }
        if all.is_empty() { Err(Unfit::Broken(0)) } else { Ok(Self(all)) }
    }

    /// Its instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// How many bytes of a packet it reads at most; `None` where that depends on the packet without a bound.
    pub fn reach(&self) -> Option<u32> {
        use Instruction as I;
        // Options of IPv4 take 40 bytes at most.
        let mut index = 0;
        for instruction in &self.0 {
            index = match instruction {
                I::IndexHeaderLength(_) => index.max(60),
                I::IndexConstant(k) => index.max(*k),
                I::IndexLength | I::IndexMemory(_) | I::IndexAccumulator => u32::MAX,
                _ => index,
            };
        }
        self.0.iter().try_fold(0, |reach: u32, instruction| {
            let read = match instruction {
                I::Load(size, at) => at.checked_add(size.bytes())?,
                I::LoadBehindIndex(size, at) => at.checked_add(size.bytes())?.checked_add(index)?,
                I::IndexHeaderLength(at) => at.checked_add(1)?,
                _ => 0,
            };
            Some(reach.max(read))
        })
    }

    /// How many bytes of a packet it certainly has to have to read all that it names.
    pub fn least_reach(&self) -> u64 {
        use Instruction as I;
        let reads = self.0.iter().map(|instruction| match instruction {
            I::Load(size, at) | I::LoadBehindIndex(size, at) => {
                u64::from(*at) + u64::from(size.bytes())
            }
            I::IndexHeaderLength(at) => u64::from(*at) + 1,
            _ => 0,
        });
        reads.max().unwrap_or(0)
    }

    /// Whether a packet of `length` bytes that begins with `bytes` matches.
    pub fn matches(&self, bytes: &[u8], length: u32) -> bool {
        Machine { bytes, length, a: 0, x: 0, memory: [0; MEMORY_WORDS] }.run(&self.0)
    }
}

fn decode(at: usize, raw: Raw) -> Result<Instruction, Unfit> {
    use Instruction as I;
    let Raw { code, jt, jf, k } = raw;
    let broken = Unfit::Broken(at);
    let slot = || match u8::try_from(k) {
        Ok(number) if usize::from(number) < MEMORY_WORDS => Ok(Slot(number)),
        _ => Err(broken),
    };
    let operand = if code & 0x08 == 0 { Operand::Constant(k) } else { Operand::Index };
    let skip = |by: u32| at + 1 + by as usize;
    // Offsets from the end of the address space are the kernel's own (`SKF_AD_OFF` and others of
    // linux/filter.h).
    let place = || if k > i32::MAX as u32 { Err(Unfit::AsksSocket) } else { Ok(k) };
    Ok(match code {
        0x00 => I::LoadConstant(k),
        0x20 => I::Load(Size::Word, place()?),
        0x28 => I::Load(Size::Half, place()?),
        0x30 => I::Load(Size::Byte, place()?),
        0x40 => I::LoadBehindIndex(Size::Word, place()?),
        0x48 => I::LoadBehindIndex(Size::Half, place()?),
        0x50 => I::LoadBehindIndex(Size::Byte, place()?),
        0x60 => I::LoadMemory(slot()?),
        0x80 => I::LoadLength,
        0x01 => I::IndexConstant(k),
        0x61 => I::IndexMemory(slot()?),
        0x81 => I::IndexLength,
        0xb1 => I::IndexHeaderLength(place()?),
        0x02 => I::Store(slot()?),
        0x03 => I::StoreIndex(slot()?),
        0x84 => I::Negate,
        0x05 if k > i32::MAX as u32 => return Err(Unfit::Loops),
        0x05 => I::Jump(skip(k)),
        0x06 => I::Return(k != 0),
        0x16 => I::ReturnAccumulator,
        0x07 => I::IndexAccumulator,
        0x87 => I::AccumulatorIndex,
        code if code & 0x07 == 0x04 => {
            let operation = match code & 0xf0 {
                0x00 => Operation::Add,
                0x10 => Operation::Subtract,
                0x20 => Operation::Multiply,
                0x30 => Operation::Divide,
                0x40 => Operation::Or,
                0x50 => Operation::And,
                0x60 => Operation::ShiftLeft,
                0x70 => Operation::ShiftRight,
                0x90 => Operation::Remainder,
                0xa0 => Operation::Xor,
                _ => return Err(broken),
            };
            I::Calculate(operation, operand)
        }
        code if code & 0x07 == 0x05 => {
            let test = match code & 0xf0 {
                0x10 => Test::Equal,
                0x20 => Test::Greater,
                0x30 => Test::NotLess,
                0x40 => Test::AnyBit,
                _ => return Err(broken),
            };
            I::Branch(test, operand, skip(jt.into()), skip(jf.into()))
        }
        _ => return Err(broken),
    })
}

/// A program at work on a packet.
struct Machine<'a> {
    bytes: &'a [u8],
    length: u32,
    a: u32,
    x: u32,
    memory: [u32; MEMORY_WORDS],
}

impl Machine<'_> {
    fn run(mut self, instructions: &[Instruction]) -> bool {
        let mut at = 0;
        // Every step leads to a later one.
        while let Some(instruction) = instructions.get(at) {
            at += 1;
            match self.step(*instruction, &mut at) {
                Step::On => {}
                Step::End(verdict) => return verdict,
            }
        }
        false
    }

    fn step(&mut self, instruction: Instruction, at: &mut usize) -> Step {
        use Instruction as I;
        match instruction {
            I::Load(size, from) => match self.load(size, from.into()) {
                Some(value) => self.a = value,
                None => return Step::End(false),
            },
            I::LoadBehindIndex(size, from) => {
                match self.load(size, u64::from(from) + u64::from(self.x)) {
                    Some(value) => self.a = value,
                    None => return Step::End(false),
                }
            }
            I::IndexHeaderLength(from) => match self.load(Size::Byte, from.into()) {
                Some(byte) => self.x = (byte & 0xf) * 4,
                None => return Step::End(false),
            },
            I::LoadLength => self.a = self.length,
            I::LoadMemory(slot) => self.a = self.memory[slot.number()],
            I::LoadConstant(k) => self.a = k,
            I::IndexLength => self.x = self.length,
            I::IndexMemory(slot) => self.x = self.memory[slot.number()],
            I::IndexConstant(k) => self.x = k,
            I::IndexAccumulator => self.x = self.a,
            I::AccumulatorIndex => self.a = self.x,
            I::Store(slot) => self.memory[slot.number()] = self.a,
            I::StoreIndex(slot) => self.memory[slot.number()] = self.x,
            I::Calculate(operation, by) => match calculate(operation, self.a, self.value(by)) {
                Some(result) => self.a = result,
                None => return Step::End(false),
            },
            I::Negate => self.a = self.a.wrapping_neg(),
            I::Jump(to) => *at = to,
            I::Branch(test, by, then, otherwise) => {
                let (a, by) = (self.a, self.value(by));
                let holds = match test {
                    Test::Equal => a == by,
                    Test::Greater => a > by,
                    Test::NotLess => a >= by,
                    Test::AnyBit => a & by != 0,
                };
                *at = if holds { then } else { otherwise };
            }
            I::Return(verdict) => return Step::End(verdict),
            I::ReturnAccumulator => return Step::End(self.a != 0),
        }
        Step::On
    }

    fn value(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Constant(k) => k,
            Operand::Index => self.x,
        }
    }

    fn load(&self, size: Size, from: u64) -> Option<u32> {
        let from = usize::try_from(from).ok()?;
        let bytes = self.bytes.get(from..)?.get(..size.bytes() as usize)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
}

enum Step {
    On,
    End(bool),
}

fn calculate(operation: Operation, a: u32, by: u32) -> Option<u32> {
    Some(match operation {
        Operation::Add => a.wrapping_add(by),
        Operation::Subtract => a.wrapping_sub(by),
        Operation::Multiply => a.wrapping_mul(by),
        Operation::Divide => a.checked_div(by)?,
        Operation::Remainder => a.checked_rem(by)?,
        Operation::And => a & by,
        Operation::Or => a | by,
        Operation::Xor => a ^ by,
        Operation::ShiftLeft => a.checked_shl(by).unwrap_or(0),
        Operation::ShiftRight => a.checked_shr(by).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(code: u16, jt: u8, jf: u8, k: u32) -> Raw {
        Raw { code, jt, jf, k }
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let accept = raw(0x06, 0, 0, 1);
        for (program, why) in [
            (vec![], Unfit::Broken(0)),
            (vec![raw(0x28, 0, 0, 12)], Unfit::Broken(0)),
            (vec![raw(0x15, 0, 1, 5), accept], Unfit::Broken(0)),
            (vec![raw(0x02, 0, 0, 16), accept], Unfit::Broken(0)),
            (vec![raw(0xffff, 0, 0, 0), accept], Unfit::Broken(0)),
            (vec![raw(0x28, 0, 0, 0xffff_f004), accept], Unfit::AsksSocket),
            (vec![accept, raw(0x05, 0, 0, -2_i32 as u32)], Unfit::Loops),
        ] {
            assert_eq!(Program::decode(&program), Err(why), "{program:?}");
        }
    }

    #[test]
    fn reading_beyond_the_end_or_dividing_by_zero_does_not_match() {
        let accept = raw(0x06, 0, 0, 1);
        let half_at_3 = Program::decode(&[raw(0x28, 0, 0, 3), accept]).unwrap();
        assert!(half_at_3.matches(&[0; 5], 5));
        assert!(!half_at_3.matches(&[0; 4], 5), "what was not captured is not known");
        let divide = Program::decode(&[raw(0x3c, 0, 0, 0), accept]).unwrap();
        assert!(!divide.matches(&[], 0));
    }

    #[test]
    fn the_reach_of_a_program_is_what_it_can_read() {
        let accept = raw(0x06, 0, 0, 1);
        let reach = |program: &[Raw]| Program::decode(program).unwrap().reach();
        assert_eq!(reach(&[accept]), Some(0));
        assert_eq!(reach(&[raw(0x28, 0, 0, 12), accept]), Some(14));
        let port = [raw(0xb1, 0, 0, 14), raw(0x48, 0, 0, 16), accept];
        assert_eq!(reach(&port), Some(60 + 18));
        assert_eq!(reach(&[raw(0x07, 0, 0, 0), raw(0x50, 0, 0, 0), accept]), None);
    }
}
