//! The rules of legacy tables, from what `iptables-legacy-save -c` prints:
//!
//! ```text
//! *filter
//! :FORWARD ACCEPT [0:0]
//! :USER - [0:0]
//! [12:1008] -A FORWARD -p udp -m udp --dport 53 -j DROP
//! COMMIT
//! ```
//!
//! Only tables that are in use are asked for: a program that asks for another has the kernel set it
//! up. Which tables of ebtables are in use the kernel does not tell, so these are asked for by name,
//! once a packet is known to have been dropped in one.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc};

use super::{
    Base, Chain, End, Field, Rule, Table, Test, Values, structure, tool::Tool, tool::Tools,
};
use crate::{
    event::Hook,
    host::chains::{Family, Policy, legacy_priority, legacy_tables},
};

/// The legacy tables of the calling thread's namespace.
pub(super) fn tables(tools: &Tools, label: &str) -> io::Result<Vec<Table>> {
    let mut all = Vec::new();
    for (family, file, tool) in [
        (Family::Ip, "ip_tables_names", &tools.iptables_save),
        (Family::Ip6, "ip6_tables_names", &tools.ip6tables_save),
    ] {
        let names = legacy_tables(file)?;
        if names.is_empty() {
            continue;
        }
        let saved = tool.as_ref().map(|tool| save(tool, family));
        let saved = match saved {
            Some(Ok(tables)) => tables,
            Some(Err(e)) => {
                log::info!("the legacy rules of {label} are not known: {e}");
                Vec::new()
            }
            None => Vec::new(),
        };
        all.extend(saved);
    }
    Ok(all)
}

fn save(tool: &Tool, family: Family) -> io::Result<Vec<Table>> {
    let text = tool.run(&["-c"])?;
    // Where alternatives make the plain name that of nftables' program.
    if text.lines().next().is_some_and(|line| line.contains("nft") || line.contains("nf_tables")) {
        return Err(io::Error::other(format!("{} is of nftables", tool.path().display())));
    }
    Ok(parse(&text, family))
}

/// One table of ebtables, by `ebtables-legacy -t TABLE -L`.
pub fn bridge_table(tool: &Tool, table: &str) -> io::Result<Table> {
    let text = tool.run(&["-t", table, "-L", "--Lc"])?;
    Ok(parse_ebtables(&text, table))
}

/// The tables that are printed.
pub(super) fn parse(text: &str, family: Family) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut number = 0;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            number = 0;
            tables.push(empty(family, name));
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            table.chains.extend(chain_of(&table.name, chain));
        } else if let Some((packets, rule)) = counted(line)
            && let Some(rest) = rule.strip_prefix("-A ")
        {
            number += 1;
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let known = |target: &str| table.chains.iter().any(|chain| chain.name == target);
            let (tests, end) = parse_rule(rest, family, known);
            let text = Some(Arc::from(rule));
            let rule = Rule { handle: number, text, tests, end, packets: Some(packets) };
            if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == name) {
                chain.rules.push(rule);
            }
        }
    }
    tables
}

fn empty(family: Family, name: &str) -> Table {
    Table {
        family,
        name: name.to_owned(),
        handle: 0,
        chains: Vec::new(),
        maps: BTreeMap::new(),
        read: true,
    }
}

/// `FORWARD ACCEPT [12:1008]`
fn chain_of(table: &str, line: &str) -> Option<Chain> {
    let mut words = line.split(' ');
    let (name, policy) = (words.next()?, words.next()?);
    let packets = words.next().and_then(|counters| counted(counters)).map(|(packets, _)| packets);
    let policy = match policy {
        "ACCEPT" => Some(Policy::Accept),
        "DROP" => Some(Policy::Drop),
        _ => None,
    };
    let base = policy.and_then(|policy| base_of(table, name, policy, packets));
    Some(Chain { name: name.to_owned(), handle: 0, base, rules: Vec::new() })
}

fn base_of(table: &str, name: &str, policy: Policy, packets: Option<u64>) -> Option<Base> {
    let hook = Hook::ALL.into_iter().find(|hook| hook.name().eq_ignore_ascii_case(name))?;
    let priority = legacy_priority(table, hook).unwrap_or_default();
    let kind = if table == "nat" { "nat" } else { "filter" }.to_owned();
    Some(Base { kind, hook: Some(hook), priority, policy, packets, devices: Vec::new() })
}

/// `[12:1008] rest`: packets, and the rest.
fn counted(line: &str) -> Option<(u64, &str)> {
    let (counters, rest) = line.strip_prefix('[')?.split_once(']')?;
    Some((counters.split_once(':')?.0.parse().ok()?, rest.trim_start()))
}

/// What a rule compares and leads to. Options that are not known here may hold.
fn parse_rule(text: &str, family: Family, known: impl Fn(&str) -> bool) -> (Vec<Test>, End) {
    let (mut tests, mut end, mut negated) = (Vec::new(), End::Continue, false);
    let mut words = words(text).into_iter().peekable();
    while let Some(word) = words.next() {
        let field = match word.as_str() {
            "!" => {
                negated = true;
                continue;
            }
            "-j" | "-g" => {
                let name = words.next().unwrap_or_default();
                end = match (word.as_str(), known(&name)) {
                    ("-g", _) => End::Goto(name),
                    (_, true) => End::Jump(name),
                    (_, false) => structure::target(&name),
                };
                // Options of the target are no comparisons.
                break;
            }
            // The name of what the next options are of.
            "-m" => {
                let name = words.next().unwrap_or_default();
                if !matches!(name.as_str(), "tcp" | "udp" | "sctp" | "comment" | "icmp" | "icmp6") {
                    tests.push(Test::Unclear);
                }
                continue;
            }
            "--comment" => {
                words.next();
                continue;
            }
            "-p" => Some(Field::Proto),
            "-s" => Some(Field::Src),
            "-d" => Some(Field::Dst),
            "--sport" => Some(Field::Sport),
            "--dport" => Some(Field::Dport),
            "-i" => Some(Field::Iif),
            "-o" => Some(Field::Oif),
            _ => None,
        };
        let value = words.next_if(|next| !next.starts_with('-') && next != "!");
        let values = field.zip(value).and_then(|(field, value)| values(field, &value, family));
        tests.push(match (field, values) {
            (Some(field), Some(values)) => Test::Field { field, values, negated },
            _ => Test::Unclear,
        });
        negated = false;
    }
    (tests, end)
}

fn values(field: Field, text: &str, family: Family) -> Option<Values> {
    match field {
        Field::Proto => {
            let number = structure::protocol_number(text)?;
            Some(Values::Numbers(vec![(number, number)]))
        }
        Field::Sport | Field::Dport => {
            let (low, high) = text.split_once(':').unwrap_or((text, text));
            Some(Values::Numbers(vec![(low.parse().ok()?, high.parse().ok()?)]))
        }
        Field::Src | Field::Dst => {
            let whole = if family == Family::Ip6 { 128 } else { 32 };
            let (address, length) = match text.split_once('/') {
                Some((address, length)) => (address, length.parse().ok()?),
                None => (text, whole),
            };
            let address: IpAddr = address.parse().ok()?;
            Some(Values::Addresses(vec![structure::net(address, length)?]))
        }
        // What iptables writes with + nft writes with *.
        Field::Iif | Field::Oif => Some(Values::Names(vec![match text.strip_suffix('+') {
            Some(begin) => format!("{begin}*"),
            None => text.to_owned(),
        }])),
    }
}

/// Words as a shell splits them: a comment is one, in quotation marks.
fn words(text: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            '\\' if quoted => word.extend(chars.next()),
            ' ' if !quoted => {
                if begun {
                    all.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        all.push(word);
    }
    all
}

/// ```text
/// Bridge table: filter
///
/// Bridge chain: FORWARD, entries: 1, policy: ACCEPT
/// -p IPv4 --ip-proto udp -j DROP , pcnt = 3 -- bcnt = 84
/// ```
pub(super) fn parse_ebtables(text: &str, name: &str) -> Table {
    let mut table = empty(Family::Bridge, name);
    let mut number = 0;
    for line in text.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix("Bridge chain: ") {
            let mut parts = head.split(", ");
            let chain = parts.next().unwrap_or_default().to_owned();
            let policy = match parts.find_map(|part| part.strip_prefix("policy: ")) {
                Some("DROP") => Policy::Drop,
                _ => Policy::Accept,
            };
            let base = base_of(name, &chain, policy, None);
            table.chains.push(Chain { name: chain, handle: 0, base, rules: Vec::new() });
        } else if line.starts_with('-')
            && let Some(chain) = table.chains.last_mut()
        {
            number += 1;
            let (rule, counters) = line.split_once(" , pcnt = ").unwrap_or((line, ""));
            let packets = counters.split_once(' ').and_then(|(packets, _)| packets.parse().ok());
            let target = rule.rsplit_once("-j ").map_or("", |(_, target)| target);
            let target = target.split(' ').next().unwrap_or_default();
            let end = match target {
                "CONTINUE" | "" => End::Continue,
                target => match structure::target(target) {
                    // Targets of its own, or a chain.
                    End::Unknown => End::Unknown,
                    end => end,
                },
            };
            let text = Some(Arc::from(format!("-A {} {}", chain.name, rule.trim_end())));
            let tests = vec![Test::Unclear];
            chain.rules.push(Rule { handle: number, text, tests, end, packets });
        }
    }
    table
}
