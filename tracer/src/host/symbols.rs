//! Names of kernel addresses, from `/proc/kallsyms`: where a packet was dropped.
//!
//! The file is read at the first question (120,000 lines, a few megabytes here) and only its code
//! symbols are kept.

use std::{fmt, fs, io, sync::OnceLock};

/// A function longer than this does not exist: the address is in memory that no symbol covers.
const LONGEST: u64 = 1 << 16;

/// Why no address can be named.
#[derive(Debug, thiserror::Error)]
pub enum SymbolsError {
    /// The file cannot be read.
    #[error("cannot read /proc/kallsyms: {0}; drops are shown without the kernel function")]
    Unreadable(#[from] io::Error),
    /// The kernel shows zeros instead of addresses.
    #[error(
        "/proc/kallsyms hides its addresses, so drops are shown without the kernel function; \
         run as root, and with kernel.kptr_restrict at most 1 (sysctl -w kernel.kptr_restrict=1)"
    )]
    Hidden,
}

/// The running kernel's symbols, read when first asked for.
#[derive(Debug, Default)]
pub struct Symbols {
    table: OnceLock<Result<Table, SymbolsError>>,
}

impl Symbols {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The function at this address. `None` where none is known there, or, see
    /// [`error`](Self::error), none at all.
    pub fn resolve(&self, address: u64) -> Option<Function<'_>> {
        self.table().as_ref().ok()?.resolve(address)
    }

    /// Why no address can be named, if so.
    pub fn error(&self) -> Option<&SymbolsError> {
        self.table().as_ref().err()
    }

    fn table(&self) -> &Result<Table, SymbolsError> {
        self.table.get_or_init(|| Table::parse(&fs::read_to_string("/proc/kallsyms")?))
    }
}

/// A place in a function of the kernel. Shown as `nf_hook_slow+0xbe`, with the module in brackets
/// where it is not in the kernel image: `br_forward+0x1 [bridge]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// Bytes from its start.
    pub offset: u64,
    /// The module that it is in.
    pub module: Option<&'a str>,
}

impl Function<'_> {
    /// Its name in the kernel's source: without what the compiler appends (`.constprop.0`,
    /// `.isra.0`, `.part.0`, `.cold`).
    pub fn in_source(&self) -> &str {
        self.name.split_once('.').map_or(self.name, |(name, _)| name)
    }
}

impl fmt::Display for Function<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)?;
        match self.module {
            Some(module) => write!(f, " [{module}]"),
            None => Ok(()),
        }
    }
}

/// Code symbols by address.
#[derive(Debug, Default)]
struct Table {
    symbols: Vec<Symbol>,
    /// All names, one after the other.
    names: String,
    modules: Vec<String>,
}

#[derive(Debug)]
struct Symbol {
    address: u64,
    /// Where the name begins in [`Table::names`].
    name: u32,
    /// Length of the name.
    length: u16,
    /// Number of the module in [`Table::modules`], from 1; 0 for none.
    module: u16,
}

impl Table {
    /// Lines of `ADDRESS TYPE NAME` and, for modules, a tab and `[MODULE]`.
    fn parse(text: &str) -> Result<Self, SymbolsError> {
        let mut table = Self::default();
        let mut hidden = true;
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            hidden &= address == 0;
            if matches!(kind, "t" | "T" | "w" | "W") {
                table.push(address, name, fields.next());
            }
        }
        if hidden {
            return Err(SymbolsError::Hidden);
        }
        table.symbols.shrink_to_fit();
        table.names.shrink_to_fit();
        // Stable, so that of several names for an address the first stays first, which is the one
        // that the kernel itself prints.
        table.symbols.sort_by_key(|symbol| symbol.address);
        Ok(table)
    }

    fn push(&mut self, address: u64, name: &str, module: Option<&str>) {
        let module = module.map_or(Some(0), |module| self.module(module));
        let (Ok(start), Ok(length), Some(module)) =
            (u32::try_from(self.names.len()), u16::try_from(name.len()), module)
        else {
            return;
        };
        self.names.push_str(name);
        self.symbols.push(Symbol { address, name: start, length, module });
    }

    /// Number of a module; they come in runs, so the last one is nearly always it.
    fn module(&mut self, name: &str) -> Option<u16> {
        let known = self.modules.iter().rposition(|known| known == name);
        let index = known.unwrap_or_else(|| {
            self.modules.push(name.to_owned());
            self.modules.len() - 1
        });
        u16::try_from(index + 1).ok()
    }

    fn resolve(&self, address: u64) -> Option<Function<'_>> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let start = self.symbols.get(after.checked_sub(1)?)?.address;
        let first = self.symbols.partition_point(|symbol| symbol.address < start);
        let symbol = self.symbols.get(first)?;
        let offset = address - start;
        if offset > LONGEST {
            return None;
        }
        let begin = symbol.name as usize;
        let name = self.names.get(begin..begin + usize::from(symbol.length))?;
        let module = usize::from(symbol.module)
            .checked_sub(1)
            .and_then(|index| self.modules.get(index))
            .map(|module| module.trim_matches(['[', ']']));
        Some(Function { name, offset, module })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ffffffff81000000 T first_alias\n\
        ffffffff81000000 T second_alias\n\
        ffffffff81000500 D some_data\n\
        ffffffff81001000 t nf_hook_slow\n\
        not a line\n\
        ffffffffc0001000 t br_forward\t[bridge]\n";

    #[test]
    fn an_address_is_named_by_the_function_before_it() {
        let table = Table::parse(TEXT).unwrap();
        let name = |address| table.resolve(address).map(|function| function.to_string());
        assert_eq!(name(0xffff_ffff_8100_10be).as_deref(), Some("nf_hook_slow+0xbe"));
        assert_eq!(name(0xffff_ffff_8100_0600).as_deref(), Some("first_alias+0x600"));
        assert_eq!(name(0xffff_ffff_c000_1001).as_deref(), Some("br_forward+0x1 [bridge]"));
        assert_eq!(name(0xffff_ffff_9000_0000), None);
        assert_eq!(name(1), None);
    }

    #[test]
    fn hidden_addresses_are_told_with_the_remedy() {
        let hidden = Table::parse("0000000000000000 T _text\n0000000000000000 t nf_hook_slow\n");
        assert!(hidden.unwrap_err().to_string().contains("kptr_restrict"));
    }

    #[test]
    fn the_running_kernel_names_its_functions() {
        let text = fs::read_to_string("/proc/kallsyms").unwrap();
        let line = text.lines().find(|l| l.ends_with(" nf_hook_slow")).unwrap();
        let address = u64::from_str_radix(&line[..16], 16).unwrap();
        let symbols = Symbols::new();
        assert!(symbols.error().is_none(), "this test needs root: {:?}", symbols.error());
        let function = symbols.resolve(address + 0x10).map(|function| function.to_string());
        assert_eq!(function.as_deref(), Some("nf_hook_slow+0x10"));
    }
}
