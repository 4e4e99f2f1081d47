//! Puts a pcap-filter expression into the object, before anything of it is loaded: the kernel side has two
//! functions that are room alone (`tracer-ebpf/src/expression.rs`), which are overwritten.

#[cfg(test)]
mod tests;
mod translate;

use std::borrow::Cow;

use anyhow::{Context as _, ensure};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use tracer_common::expression::VIEW_BYTES;
use translate::{INSN_BYTES, Insn, translate};

use crate::select::expression::{Expression, classic::Program};

/// Instructions that each of the functions has room for, as the kernel side says; behind them it returns.
const ROOM: usize = 2048;
/// Instructions before the translated ones.
const BEFORE: usize = 2;

/// What the names of the functions have in them.
const LINK: &str = "link_program";
const NETWORK: &str = "network_program";

/// An expression that the kernel side can run.
#[derive(Clone, Debug)]
pub struct Code {
    link: Vec<Insn>,
    network: Vec<Insn>,
    mode: u32,
    bytes: u32,
}

/// Why an expression cannot be run by the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// It is too long.
    #[error(
        "the expression takes {0} instructions in the kernel, and {most} is the most; select hosts and ports by \
         --ip and --port, or nets instead of hosts", most = ROOM - BEFORE
    )]
    Long(usize),
    /// It reads too far into the packet.
    #[error(
        "the expression reads byte {0} of a packet, and the kernel side sees the first {VIEW_BYTES} alone"
    )]
    Far(u64),
}

impl Code {
    /// Translates an expression.
    ///
    /// # Errors
    /// When it is too long, or reads beyond what the kernel side sees of a packet.
    pub fn of(expression: &Expression) -> Result<Self, TooMuch> {
        let nothing = Program::nothing();
        let programs = [expression.link(), expression.network().unwrap_or(&nothing)];
        for program in programs {
            let far = program.least_reach();
            if far > VIEW_BYTES as u64 {
                return Err(TooMuch::Far(far - 1));
            }
        }
        let [link, network] = programs.map(translate);
        let longest = link.len().max(network.len());
        if longest > ROOM - BEFORE {
            return Err(TooMuch::Long(longest));
        }
        let all = VIEW_BYTES as u32;
        let reach =
            programs.map(|program| program.reach().map_or(all, |reach| reach.clamp(1, all)));
        let bytes = reach.into_iter().max().unwrap_or(all);
        Ok(Self { link, network, mode: expression.mode(), bytes })
    }

    /// [`Settings::expression`](tracer_common::config::Settings::expression).
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// [`Settings::expression_bytes`](tracer_common::config::Settings::expression_bytes).
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The object with the expression in it.
    ///
    /// # Errors
    /// When the object is none that has room for it.
    pub fn put_into(&self, object: &[u8]) -> anyhow::Result<Cow<'static, [u8]>> {
        let places = [room(object, LINK)?, room(object, NETWORK)?];
        let mut object = object.to_vec();
        for (at, code) in places.into_iter().zip([&self.link, &self.network]) {
            let room = object.get_mut(at..at + ROOM * INSN_BYTES);
            let room = room.context("the kernel side ends within its room for an expression")?;
            for (to, insn) in room.chunks_exact_mut(INSN_BYTES).zip(fill(code)) {
                to.copy_from_slice(&insn.bytes());
            }
        }
        Ok(object.into())
    }
}

/// A function's whole room: the code, and behind it what is never run. To the verifier every instruction must
/// be led to: that is done by a branch of which it knows that it is never taken, so it removes the rest.
fn fill(code: &[Insn]) -> impl Iterator<Item = Insn> + '_ {
    // `Code::of` has refused what is longer.
    let behind = Insn::unless_zero(code.len() as i16);
    [Insn::verdict(0), behind]
        .into_iter()
        .chain(code.iter().copied())
        .chain(std::iter::repeat(Insn::verdict(0)))
        .take(ROOM)
}

/// Where in the object a function's instructions begin.
fn room(object: &[u8], name: &str) -> anyhow::Result<usize> {
    let file = object::File::parse(object).context("cannot read the kernel side")?;
    let mut named = file.symbols().filter(|symbol| symbol.name().is_ok_and(|n| n.contains(name)));
    let symbol = named.next().with_context(|| format!("the kernel side has no {name}"))?;
    ensure!(
        symbol.size() == ((ROOM + 1) * INSN_BYTES) as u64,
        "the kernel side's {name} has room for other than {ROOM} instructions"
    );
    let section = symbol.section_index().context("a function in no section")?;
    let section = file.section_by_index(section)?;
    let (begins, _) = section.file_range().context("a function without instructions")?;
    Ok(usize::try_from(begins + symbol.address() - section.address())?)
}
