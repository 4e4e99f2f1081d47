//! The ways in which a point can be watched, and which of them a trace may use.

use clap::ValueEnum;

/// How a point is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Mechanism {
    /// A tracepoint with BTF-typed arguments.
    TpBtf,
    /// A tracepoint, its arguments without types (Linux 4.17).
    RawTracepoint,
    /// A tc program by a tcx link (Linux 6.6).
    Tcx,
    /// A tc filter of a clsact qdisc.
    Clsact,
    /// A BPF netfilter link (Linux 6.4).
    NetfilterLink,
    /// A BPF trampoline at a kernel function's entry, return, or both (Linux 5.5; in modules 5.11).
    Fentry,
    /// Entries of kernel functions by fprobe (`BPF_TRACE_KPROBE_MULTI`, Linux 5.18).
    KprobeMulti,
    /// A kprobe at a kernel function, with a kretprobe where its answer matters.
    Kprobe,
}

impl Mechanism {
    /// The ways to watch a kernel function, the best one first.
    pub const OF_FUNCTIONS: [Self; 3] = [Self::Fentry, Self::KprobeMulti, Self::Kprobe];

    /// As JSON, `--mechanism` and `pathtrace probes` name it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::TpBtf => "tp_btf",
            Mechanism::RawTracepoint => "raw_tracepoint",
            Mechanism::Tcx => "tcx",
            Mechanism::Clsact => "clsact",
            Mechanism::NetfilterLink => "netfilter_link",
            Mechanism::Fentry => "fentry",
            Mechanism::KprobeMulti => "kprobe_multi",
            Mechanism::Kprobe => "kprobe",
        }
    }
}

/// Which mechanisms may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms(u8);

/// Why a point is not watched whose mechanisms were all left out.
pub const LEFT_OUT: &str = "left out by --mechanism";

impl Mechanisms {
    /// Whatever works.
    pub const ANY: Self = Self(u8::MAX);

    /// These only; whatever works where none is named.
    pub fn only(these: &[Mechanism]) -> Self {
        if these.is_empty() {
            return Self::ANY;
        }
        Self(these.iter().fold(0, |set, mechanism| set | 1 << *mechanism as u8))
    }

    /// Whether this one may be used.
    pub fn allow(self, mechanism: Mechanism) -> bool {
        self.0 & 1 << mechanism as u8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_the_names_that_are_shown() {
        for mechanism in Mechanism::value_variants() {
            let value = mechanism.to_possible_value().unwrap();
            assert_eq!(value.get_name(), mechanism.name());
        }
    }

    #[test]
    fn none_named_means_any() {
        let some = Mechanisms::only(&[Mechanism::TpBtf, Mechanism::Kprobe]);
        assert!(some.allow(Mechanism::Kprobe) && !some.allow(Mechanism::Fentry));
        assert!(Mechanisms::only(&[]).allow(Mechanism::Tcx));
    }
}
