//! The catalogue of watched kernel functions, and the plan that this kernel allows: for each, what to
//! try in which order, or why it cannot be watched.
//!
//! A line of the catalogue names a *program*, by the first part of its name in the object. The object
//! has it in one or more forms: `NAME__fentry` and `NAME__fexit`, `NAME__kprobe` and
//! `NAME__kretprobe`. Several lines may share a program. [`watches`](super::watches) carries the plan
//! out; here is no kernel.

use std::collections::{BTreeSet, HashMap};

use tracer_common::point::{Layer, Point};

use super::mechanism::{LEFT_OUT, Mechanism, Mechanisms};

/// What a watched function shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A point.
    Point(Point),
    /// The hooks of netfilter that no netfilter link shows.
    Hooks,
    /// What is told with other points.
    Aside(&'static str, Layer),
}

/// A watched kernel function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// First part of its programs' names.
    pub program: &'static str,
    /// Its name; or its names in different kernels, the best first.
    pub symbols: &'static [&'static str],
    /// The module that has it where it is not in the kernel image.
    pub module: Option<&'static str>,
    /// What it shows.
    pub subject: Subject,
    /// What is lost without it, one clause.
    pub without: &'static str,
}

const fn line(
    program: &'static str,
    symbols: &'static [&'static str],
    module: &'static str,
    subject: Subject,
    without: &'static str,
) -> Function {
    let module = if module.is_empty() { None } else { Some(module) };
    Function { program, symbols, module, subject, without }
}

const fn point(
    program: &'static str,
    symbols: &'static [&'static str],
    module: &'static str,
    point: Point,
    without: &'static str,
) -> Function {
    line(program, symbols, module, Subject::Point(point), without)
}

const NFT_CHAIN: Subject = Subject::Aside("nft_chain", Layer::Netfilter);
/// The expressions of nftables that set a verdict.
pub const NFT_RULE: Subject = Subject::Aside("nft_rule", Layer::Netfilter);
const LEGACY: Subject = Subject::Aside("legacy_table", Layer::Netfilter);
const CONFIRM: Subject = Subject::Aside("confirm", Layer::Netfilter);

const NO_BRIDGE: &str = "a packet's way through a bridge is shown by its ports only";
const NO_RULE: &str = "a drop by nftables names the chain, not the rule";
const NO_TABLE: &str = "a drop by a legacy table names the hook, not the table";
const NO_IP: &str = "the steps of the IP stack are told by the hooks and devices around them";
const NO_SOCKET: &str = "a delivered packet is told when it is read, not when its socket takes it";
const NO_LINEAGE: &str = "what was made of a packet is another packet, without its parent";

/// Every watched function.
pub const CATALOGUE: &[Function] = &[
    point("bridge_rx", &["br_handle_frame"], "bridge", Point::BridgeRx, NO_BRIDGE),
    point("bridge_forward", &["__br_forward"], "bridge", Point::BridgeForward, NO_BRIDGE),
    point("bridge_flood", &["br_flood"], "bridge", Point::BridgeFlood, NO_BRIDGE),
    point("bridge_local", &["br_pass_frame_up"], "bridge", Point::BridgeLocal, NO_BRIDGE),
    point("bridge_xmit", &["br_dev_xmit"], "bridge", Point::BridgeXmit, NO_BRIDGE),
    line(
        "hook",
        &["nf_hook_slow"],
        "",
        Subject::Hooks,
        "a hook that no netfilter link shows is not seen, and a drop in it is told without it",
    ),
    line(
        "nft_chain",
        &["nft_do_chain"],
        "nf_tables",
        NFT_CHAIN,
        "a drop by nftables names the chains of the hook between two observers",
    ),
    line("nft_immediate", &["nft_immediate_eval"], "nf_tables", NFT_RULE, NO_RULE),
    line("nft_lookup", &["nft_lookup_eval"], "nf_tables", NFT_RULE, NO_RULE),
    line("nft_reject", &["nft_reject_inet_eval"], "nft_reject_inet", NFT_RULE, NO_RULE),
    line("nft_reject", &["nft_reject_ipv4_eval"], "nft_reject_ipv4", NFT_RULE, NO_RULE),
    line("nft_reject", &["nft_reject_ipv6_eval"], "nft_reject_ipv6", NFT_RULE, NO_RULE),
    line("nft_reject", &["nft_reject_bridge_eval"], "nft_reject_bridge", NFT_RULE, NO_RULE),
    line("nft_reject", &["nft_reject_netdev_eval"], "nft_reject_netdev", NFT_RULE, NO_RULE),
    line("nft_queue", &["nft_queue_eval"], "nft_queue", NFT_RULE, NO_RULE),
    line("nft_queue", &["nft_queue_sreg_eval"], "nft_queue", NFT_RULE, NO_RULE),
    line("nft_target", &["nft_target_eval_xt"], "nft_compat", NFT_RULE, NO_RULE),
    line("nft_target", &["nft_target_eval_bridge"], "nft_compat", NFT_RULE, NO_RULE),
    line("xt_table", &["ipt_do_table"], "ip_tables", LEGACY, NO_TABLE),
    line("xt6_table", &["ip6t_do_table"], "ip6_tables", LEGACY, NO_TABLE),
    line("eb_table", &["ebt_do_table"], "ebtables", LEGACY, NO_TABLE),
    point(
        "conntrack",
        &["nf_conntrack_in"],
        "nf_conntrack",
        Point::Conntrack,
        "the state of an invalid packet's connection may not be told",
    ),
    line(
        "confirm",
        // Whatever calls it has another prototype in every other kernel.
        &["__nf_conntrack_confirm"],
        "nf_conntrack",
        CONFIRM,
        "a drop of a new connection at its confirmation is told as the hook's",
    ),
    point(
        "nat",
        &["nf_nat_manip_pkt"],
        "nf_nat",
        Point::Nat,
        "a rewrite is told at the end of the hook, or at the next point that sees it",
    ),
    point("ip_receive", &["ip_rcv"], "", Point::IpReceive, NO_IP),
    point("ip_receive", &["ipv6_rcv"], "ipv6", Point::IpReceive, NO_IP),
    point("ip_forward", &["ip_forward"], "", Point::IpForward, NO_IP),
    point("ip_forward", &["ip6_forward"], "ipv6", Point::IpForward, NO_IP),
    point("ip_local_deliver", &["ip_local_deliver"], "", Point::IpLocalDeliver, NO_IP),
    point("ip_local_deliver", &["ip6_input"], "ipv6", Point::IpLocalDeliver, NO_IP),
    point("ip_output", &["ip_output"], "", Point::IpOutput, NO_IP),
    point("ip_output", &["ip6_output"], "ipv6", Point::IpOutput, NO_IP),
    point(
        "neigh_output",
        &["neigh_resolve_output"],
        "",
        Point::Neigh,
        "a packet that waits for a link-layer address is told when the request is sent",
    ),
    point("socket_udp", &["udp_queue_rcv_skb"], "", Point::Socket, NO_SOCKET),
    point("socket_udp", &["udpv6_queue_rcv_skb"], "ipv6", Point::Socket, NO_SOCKET),
    point("socket_tcp", &["tcp_v4_do_rcv"], "", Point::Socket, NO_SOCKET),
    point("socket_tcp", &["tcp_v6_do_rcv"], "ipv6", Point::Socket, NO_SOCKET),
    point("socket_raw", &["raw_rcv"], "", Point::Socket, NO_SOCKET),
    point("socket_raw", &["rawv6_rcv"], "ipv6", Point::Socket, NO_SOCKET),
    point("clone", &["skb_clone"], "", Point::Clone, NO_LINEAGE),
    point("copy", &["skb_copy"], "", Point::Copy, NO_LINEAGE),
    point("copy", &["skb_copy_expand"], "", Point::Copy, NO_LINEAGE),
    point("copy", &["__pskb_copy_fclone"], "", Point::Copy, NO_LINEAGE),
    point("segment", &["__skb_gso_segment"], "", Point::Segment, NO_LINEAGE),
    point("fragment", &["ip_frag_next"], "", Point::Fragment, NO_LINEAGE),
    point("fragment", &["ip6_frag_next"], "ipv6", Point::Fragment, NO_LINEAGE),
];

/// The modules that the catalogue's functions can be in.
pub fn modules() -> BTreeSet<&'static str> {
    CATALOGUE.iter().filter_map(|function| function.module).collect()
}

/// The forms in which the object has a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// `__fentry`.
    pub fentry: bool,
    /// `__fexit`.
    pub fexit: bool,
    /// `__kprobe`.
    pub kprobe: bool,
    /// `__kretprobe`.
    pub kretprobe: bool,
}

impl Forms {
    /// Of a program in an object, which `has` programs of these names.
    pub fn of(program: &str, has: impl Fn(&str) -> bool) -> Self {
        let has = |form| has(&format!("{program}{form}"));
        Self {
            fentry: has("__fentry"),
            fexit: has("__fexit"),
            kprobe: has("__kprobe"),
            kretprobe: has("__kretprobe"),
        }
    }

    fn suit(self, mechanism: Mechanism) -> bool {
        match mechanism {
            Mechanism::Fentry => self.fentry || self.fexit,
            // Of a return, fprobe does not tell the stack pointer that joins it to its entry.
            Mechanism::KprobeMulti => self.kprobe && !self.kretprobe,
            Mechanism::Kprobe => self.kprobe || self.kretprobe,
            _ => false,
        }
    }
}

/// What is known of the kernel before anything is tried.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The programs of the catalogue, by [`Function::program`].
    pub forms: HashMap<&'static str, Forms>,
    /// The functions that the kernel's BTF lists: only these can have a trampoline. Whether a module
    /// has it.
    pub typed: HashMap<&'static str, Option<String>>,
    /// The loaded modules.
    pub modules: BTreeSet<String>,
    /// The mechanisms for functions that do not work here at all, and why.
    pub refused: HashMap<Mechanism, String>,
    /// Whether a program at a function's return can ask for what it returns
    /// (`bpf_get_func_ret`, Linux 5.17).
    pub tells_returns: bool,
}

/// One way to watch a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The function's name in this kernel.
    pub symbol: &'static str,
    /// By what.
    pub mechanism: Mechanism,
}

/// A function, and how it is to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The line of the catalogue.
    pub function: &'static Function,
    /// What to try, the best first; or why there is nothing to try.
    pub attempts: Result<Vec<Attempt>, Missing>,
    /// Why mechanisms that would suit it are not tried.
    pub refused: Vec<String>,
}

/// Why a function cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// It may come.
    #[error("module {0} is not loaded")]
    Module(&'static str),
    /// Nothing works, for the reasons that are told with it, or none but this.
    #[error("{0}")]
    Never(String),
}

/// How each function of `catalogue` is to be watched on a kernel of which `facts` are known. A
/// program that the object lacks in every form is left out.
pub fn plan(catalogue: &'static [Function], facts: &Facts, allowed: Mechanisms) -> Vec<Planned> {
    let there = |function: &&Function| {
        facts.forms.get(function.program).is_some_and(|forms| *forms != Forms::default())
    };
    catalogue.iter().filter(there).map(|function| planned(function, facts, allowed)).collect()
}

fn planned(function: &'static Function, facts: &Facts, allowed: Mechanisms) -> Planned {
    let forms = facts.forms.get(function.program).copied().unwrap_or_default();
    let (mut usable, mut refused) = (Vec::new(), Vec::new());
    for mechanism in Mechanism::OF_FUNCTIONS {
        if !forms.suit(mechanism) || !allowed.allow(mechanism) {
            continue;
        }
        match facts.refused.get(&mechanism) {
            Some(why) => refused.push(why.clone()),
            None if mechanism == Mechanism::Fentry && forms.fexit && !facts.tells_returns => {
                refused.push("fentry tells no results here (Linux 5.17)".into());
            }
            None => usable.push(mechanism),
        }
    }
    let attempts = if !usable.is_empty() {
        attempts(function, facts, &usable)
    } else if refused.is_empty() {
        Err(Missing::Never(LEFT_OUT.into()))
    } else {
        Err(Missing::Never(std::mem::take(&mut refused).join(", ")))
    };
    Planned { function, attempts, refused }
}

fn attempts(
    function: &'static Function,
    facts: &Facts,
    usable: &[Mechanism],
) -> Result<Vec<Attempt>, Missing> {
    let typed = |symbol: &str| facts.typed.contains_key(symbol);
    let in_image = |symbol: &str| facts.typed.get(symbol).is_some_and(Option::is_none);
    if let Some(module) = function.module
        && !facts.modules.contains(module)
        && !function.symbols.iter().copied().any(in_image)
    {
        return Err(Missing::Module(module));
    }
    // A name that BTF lists is there; another may be, and the kernel says so when it is tried.
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        function.symbols.iter().copied().partition(|symbol| typed(symbol));
    let attempts: Vec<_> = known
        .iter()
        .chain(&unknown)
        .flat_map(|symbol| usable.iter().map(|mechanism| Attempt { symbol, mechanism: *mechanism }))
        .filter(|a| a.mechanism != Mechanism::Fentry || typed(a.symbol))
        .collect();
    if attempts.is_empty() {
        let names = function.symbols.join(" or ");
        return Err(Missing::Never(format!("this kernel's BTF has no function {names}")));
    }
    Ok(attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[Function] = &[
        point("ip_receive", &["ip_rcv"], "", Point::IpReceive, NO_IP),
        point("clone", &["skb_clone"], "", Point::Clone, NO_LINEAGE),
        line("nft_chain", &["nft_do_chain"], "nf_tables", NFT_CHAIN, NO_RULE),
        line("confirm", &["new_name", "old_name"], "", CONFIRM, NO_RULE),
        line("not_built", &["nf_hook_slow"], "", Subject::Hooks, NO_RULE),
    ];

    const ENTRY: Forms = Forms { fentry: true, fexit: false, kprobe: true, kretprobe: false };
    const RETURN: Forms = Forms { fentry: false, fexit: true, kprobe: true, kretprobe: true };

    fn facts() -> Facts {
        Facts {
            forms: HashMap::from([
                ("ip_receive", ENTRY),
                ("clone", RETURN),
                ("nft_chain", ENTRY),
                ("confirm", ENTRY),
                ("not_built", Forms::default()),
            ]),
            typed: HashMap::from([
                ("ip_rcv", None),
                ("skb_clone", None),
                ("nft_do_chain", Some("nf_tables".into())),
                ("old_name", None),
            ]),
            modules: BTreeSet::from(["nf_tables".into()]),
            refused: HashMap::new(),
            tells_returns: true,
        }
    }

    fn tried(facts: &Facts, allowed: &[Mechanism]) -> Vec<String> {
        plan(LINES, facts, Mechanisms::only(allowed))
            .into_iter()
            .map(|planned| match planned.attempts {
                Ok(attempts) => attempts
                    .iter()
                    .map(|a| format!("{} {}", a.mechanism.name(), a.symbol))
                    .collect::<Vec<_>>()
                    .join(", "),
                Err(why) => format!("- {why}"),
            })
            .collect()
    }

    #[test]
    fn the_best_mechanism_comes_first_and_names_that_are_there_before_others() {
        assert_eq!(
            tried(&facts(), &[]),
            [
                "fentry ip_rcv, kprobe_multi ip_rcv, kprobe ip_rcv",
                "fentry skb_clone, kprobe skb_clone",
                "fentry nft_do_chain, kprobe_multi nft_do_chain, kprobe nft_do_chain",
                "fentry old_name, kprobe_multi old_name, kprobe old_name, \
                 kprobe_multi new_name, kprobe new_name",
            ]
        );
    }

    #[test]
    fn what_does_not_work_here_is_not_tried() {
        let mut old = facts();
        old.tells_returns = false;
        old.typed.remove("nft_do_chain");
        old.refused.insert(Mechanism::KprobeMulti, "kprobe_multi: no".into());
        assert_eq!(
            tried(&old, &[])[..3],
            ["fentry ip_rcv, kprobe ip_rcv", "kprobe skb_clone", "kprobe nft_do_chain"]
        );
        let none = Facts {
            refused: Mechanism::OF_FUNCTIONS.map(|m| (m, format!("{}: no", m.name()))).into(),
            ..facts()
        };
        assert_eq!(
            tried(&none, &[])[..2],
            ["- fentry: no, kprobe_multi: no, kprobe: no", "- fentry: no, kprobe: no"]
        );
    }

    #[test]
    fn a_module_that_is_not_loaded_is_the_reason_unless_it_is_built_in() {
        let mut without = facts();
        without.modules.clear();
        assert_eq!(tried(&without, &[])[2], "- module nf_tables is not loaded");
        without.typed.insert("nft_do_chain", None);
        assert!(tried(&without, &[])[2].starts_with("fentry nft_do_chain"));
    }

    #[test]
    fn what_is_left_out_is_not_tried() {
        let only = tried(&facts(), &[Mechanism::KprobeMulti]);
        assert_eq!(only[..2], ["kprobe_multi ip_rcv", "- left out by --mechanism"]);
        let mut untyped = facts();
        untyped.typed.clear();
        let only = tried(&untyped, &[Mechanism::Fentry]);
        assert_eq!(only[0], "- this kernel's BTF has no function ip_rcv");
    }

    #[test]
    fn the_object_has_every_program_of_the_catalogue() {
        let object = aya_obj::Object::parse(crate::probe::OBJECT).unwrap();
        for function in CATALOGUE {
            let forms = Forms::of(function.program, |name| object.programs.contains_key(name));
            // Whatever is watched by one mechanism can be watched by the others.
            assert!(forms.fentry || forms.fexit, "{} has no fentry form", function.program);
            assert!(forms.kprobe, "{} has no kprobe form", function.program);
            assert_eq!(forms.fexit, forms.kretprobe, "{}", function.program);
        }
    }

    #[test]
    fn programs_have_their_forms_in_their_names() {
        let names = ["clone__fexit", "clone__kprobe", "clone__kretprobe", "other__fentry"];
        assert_eq!(Forms::of("clone", |name| names.contains(&name)), RETURN);
    }
}
