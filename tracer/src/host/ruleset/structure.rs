//! What rules compare and where they lead, from what `nft -j list ruleset` prints (libnftables-json(5)).
//!
//! What is not understood is kept as such: a comparison may hold, a statement may drop.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{End, Field, Ruleset, Test, Values};

/// What is printed.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

/// A thing of the rule set; of others than these nothing is wanted.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    rule: Option<Rule>,
    map: Option<Map>,
}

#[derive(Deserialize)]
struct Rule {
    family: String,
    table: String,
    chain: String,
    handle: u64,
    /// Made small at once: ten thousand rules as JSON are tens of megabytes.
    #[serde(default)]
    expr: Statements,
}

#[derive(Deserialize)]
struct Map {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    map: Value,
    #[serde(default)]
    elem: Vec<Value>,
}

#[derive(Default)]
struct Statements {
    tests: Vec<Test>,
    end: End,
}

impl<'de> Deserialize<'de> for Statements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(&Vec::deserialize(deserializer)?))
    }
}

/// What is known of the rules of one table: by chain and handle.
type Known = HashMap<(String, u64), Statements>;

/// Gives the rules what they compare and lead to.
///
/// # Errors
/// When it is no JSON of nft.
pub(super) fn fill(rules: &mut Ruleset, json: &str) -> io::Result<()> {
    let listing: Listing = serde_json::from_str(json)
        .map_err(|e| io::Error::other(format!("nft -j prints something else: {e}")))?;
    let mut tables: HashMap<(String, String), Known> = HashMap::new();
    for Item { rule, map } in listing.nftables {
        if let Some(Rule { family, table, chain, handle, expr }) = rule {
            tables.entry((family, table)).or_default().insert((chain, handle), expr);
        }
        if let Some(Map { family, table, name, map, elem }) = map
            && map == "verdict"
            && let Some(table) = rules.table_mut(&family, &table)
        {
            let ends = elem.iter().filter_map(|pair| Some(verdict(pair.get(1)?)));
            table.maps.insert(name, ends.collect());
        }
    }
    for table in rules.tables.values_mut() {
        let key = (table.family.name().to_owned(), table.name.clone());
        let mut known = tables.remove(&key).unwrap_or_default();
        for chain in &mut table.chains {
            for rule in &mut chain.rules {
                if let Some(said) = known.remove(&(chain.name.clone(), rule.handle)) {
                    rule.tests = said.tests;
                    rule.end = said.end;
                }
            }
        }
        table.read = true;
    }
    Ok(())
}

impl Statements {
    fn of(statements: &[Value]) -> Self {
        let mut all = Self { tests: Vec::new(), end: End::Continue };
        for statement in statements {
            let Some((name, value)) = statement.as_object().and_then(|map| map.iter().next())
            else {
                // A word without a value, such as "notrack".
                if statement != "notrack" {
                    all.end = End::Unknown;
                }
                continue;
            };
            match name.as_str() {
                "match" => all.tests.push(comparison(value)),
                "counter" | "log" | "mangle" | "notrack" | "comment" | "ct helper" | "last" => {}
                "meter" | "limit" | "quota" | "ct count" | "set" | "map" | "add" | "update" => {
                    all.tests.push(Test::Unclear);
                }
                "vmap" => {
                    // Without what is looked up there is nothing to find.
                    let key = value.get("key").and_then(field_of);
                    all.tests.extend(key.into_iter().flat_map(|(needs, _)| needs));
                    all.end = choice(value);
                }
                "xt" => match extension(value) {
                    Extension::Nothing => {}
                    Extension::Match => all.tests.push(Test::Unclear),
                    Extension::Target(end) => all.end = end,
                },
                _ => all.end = verdict(statement),
            }
        }
        all
    }
}

/// A verdict, or a statement that is one.
fn verdict(statement: &Value) -> End {
    let Some((name, value)) = statement.as_object().and_then(|map| map.iter().next()) else {
        return End::Unknown;
    };
    let target = || value.get("target").and_then(Value::as_str).map(str::to_owned);
    match name.as_str() {
        "accept" => End::Accept,
        "drop" => End::Drop,
        "reject" => End::Reject,
        "return" => End::Return,
        "continue" => End::Continue,
        "jump" => target().map_or(End::Unknown, End::Jump),
        "goto" => target().map_or(End::Unknown, End::Goto),
        "queue" => {
            let flags = value.get("flags").map(Value::to_string).unwrap_or_default();
            End::Queue { bypass: flags.contains("bypass") }
        }
        // Where they cannot do it they drop, which is rare.
        "snat" | "dnat" | "masquerade" | "redirect" => End::Accept,
        _ => End::Unknown,
    }
}

enum Extension {
    Nothing,
    Match,
    Target(End),
}

/// A match or target of iptables, as iptables-nft uses them.
fn extension(value: &Value) -> Extension {
    let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("name")) {
        ("match", "comment") => Extension::Nothing,
        ("match", _) => Extension::Match,
        ("target", name) => match target(name) {
            End::Continue => Extension::Nothing,
            end => Extension::Target(end),
        },
        _ => Extension::Target(End::Unknown),
    }
}

/// What a target of iptables does, by its name; not a chain's.
pub(super) fn target(name: &str) -> End {
    match name {
        "ACCEPT" => End::Accept,
        "DROP" => End::Drop,
        "RETURN" => End::Return,
        "REJECT" => End::Reject,
        "QUEUE" | "NFQUEUE" => End::Queue { bypass: false },
        "SNAT" | "DNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" => End::Accept,
        "LOG" | "NFLOG" | "TRACE" | "AUDIT" | "MARK" | "CONNMARK" | "CT" | "NOTRACK" | "TCPMSS"
        | "CHECKSUM" | "CLASSIFY" | "TOS" | "DSCP" | "TTL" | "HL" | "ECN" | "SECMARK"
        | "CONNSECMARK" | "RATEEST" | "TCPOPTSTRIP" => End::Continue,
        _ => End::Unknown,
    }
}

/// A verdict map.
fn choice(value: &Value) -> End {
    let data = value.get("data");
    if let Some(name) = data.and_then(Value::as_str) {
        return End::Map(name.trim_start_matches('@').to_owned());
    }
    let Some(pairs) = data.and_then(|data| data.get("set")).and_then(Value::as_array) else {
        return End::Unknown;
    };
    let key = value.get("key").unwrap_or(&Value::Null);
    let one = |pair: &Value| {
        let (Some(is), Some(then)) = (pair.get(0), pair.get(1)) else {
            return (Test::Unclear, End::Unknown);
        };
        (compare(key, "==", is), verdict(then))
    };
    End::OneOf(pairs.iter().map(one).collect())
}

fn comparison(value: &Value) -> Test {
    let part = |key| value.get(key).unwrap_or(&Value::Null);
    compare(part("left"), part("op").as_str().unwrap_or_default(), part("right"))
}

fn compare(left: &Value, op: &str, right: &Value) -> Test {
    let Some((needs, field)) = field_of(left) else {
        return version_of(left, op, right).unwrap_or(Test::Unclear);
    };
    let mut all = needs;
    all.push(values_of(field, op, right).map_or(Test::Unclear, |values| Test::Field {
        field,
        values,
        negated: op == "!=",
    }));
    if all.len() == 1 { all.remove(0) } else { Test::All(all) }
}

/// What is compared, and what a packet must be to have it: nft leaves out of what it prints the
/// comparisons that another implies.
fn field_of(left: &Value) -> Option<(Vec<Test>, Field)> {
    if let Some(payload) = left.get("payload") {
        let text = |key| payload.get(key).and_then(Value::as_str);
        let (protocol, field) = (text("protocol")?, text("field")?);
        return match (protocol, field) {
            ("ip", "saddr") => Some((vec![Test::Version(4)], Field::Src)),
            ("ip", "daddr") => Some((vec![Test::Version(4)], Field::Dst)),
            ("ip", "protocol") => Some((vec![Test::Version(4)], Field::Proto)),
            ("ip6", "saddr") => Some((vec![Test::Version(6)], Field::Src)),
            ("ip6", "daddr") => Some((vec![Test::Version(6)], Field::Dst)),
            (_, "sport") => Some((transport(protocol)?, Field::Sport)),
            (_, "dport") => Some((transport(protocol)?, Field::Dport)),
            _ => None,
        };
    }
    match left.get("meta")?.get("key")?.as_str()? {
        "l4proto" => Some((Vec::new(), Field::Proto)),
        "iifname" | "iif" => Some((Vec::new(), Field::Iif)),
        "oifname" | "oif" => Some((Vec::new(), Field::Oif)),
        _ => None,
    }
}

/// What must hold for a header of this protocol to be there.
fn transport(protocol: &str) -> Option<Vec<Test>> {
    if protocol == "th" {
        return Some(Vec::new());
    }
    let number = protocol_number(protocol)?;
    let values = Values::Numbers(vec![(number, number)]);
    Some(vec![Test::Field { field: Field::Proto, values, negated: false }])
}

/// A comparison of the network protocol.
fn version_of(left: &Value, op: &str, right: &Value) -> Option<Test> {
    let key = match left.get("meta") {
        Some(meta) => meta.get("key")?.as_str()?,
        None => {
            let payload = left.get("payload")?;
            // Fields of a header that is not there cannot be compared: then the rule does not match.
            let of = |version| Some(Test::All(vec![Test::Version(version), Test::Unclear]));
            match payload.get("protocol")?.as_str()? {
                "ip" => return of(4),
                "ip6" => return of(6),
                "ether" if payload.get("field")? == "type" => "protocol",
                protocol => {
                    let mut all = transport(protocol)?;
                    all.push(Test::Unclear);
                    return Some(Test::All(all));
                }
            }
        }
    };
    if !matches!(key, "nfproto" | "protocol") || !matches!(op, "==" | "in") {
        return None;
    }
    match right.as_str()? {
        "ip" | "ipv4" => Some(Test::Version(4)),
        "ip6" | "ipv6" => Some(Test::Version(6)),
        "arp" => Some(Test::Version(0)),
        _ => None,
    }
}

pub(super) fn protocol_number(name: &str) -> Option<u64> {
    Some(match name {
        "icmp" => 1,
        "igmp" => 2,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "icmpv6" | "ipv6-icmp" | "icmp6" => 58,
        "sctp" => 132,
        "udplite" => 136,
        _ => name.parse().ok()?,
    })
}

fn values_of(field: Field, op: &str, right: &Value) -> Option<Values> {
    // "in" asks for bits of a value, which these fields are not.
    let range = |low: u64, high: u64| Some(Values::Numbers(vec![(low, high)]));
    match op {
        "==" | "!=" => {}
        ">" => return range(number(field, right)?.checked_add(1)?, u64::MAX),
        ">=" => return range(number(field, right)?, u64::MAX),
        "<" => return range(0, number(field, right)?.checked_sub(1)?),
        "<=" => return range(0, number(field, right)?),
        _ => return None,
    }
    let list = match right.get("set") {
        Some(set) => set.as_array()?.as_slice(),
        None => std::slice::from_ref(right),
    };
    match field {
        Field::Src | Field::Dst => {
            let all: Option<_> = list.iter().map(addresses).collect();
            Some(Values::Addresses(all?))
        }
        Field::Iif | Field::Oif => {
            let all: Option<_> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
            Some(Values::Names(all?))
        }
        Field::Proto | Field::Sport | Field::Dport => {
            let one = |value: &Value| match value.get("range") {
                Some(ends) => Some((number(field, ends.get(0)?)?, number(field, ends.get(1)?)?)),
                None => number(field, value).map(|n| (n, n)),
            };
            let all: Option<_> = list.iter().map(one).collect();
            Some(Values::Numbers(all?))
        }
    }
}

fn number(field: Field, value: &Value) -> Option<u64> {
    match (field, value) {
        (Field::Proto, Value::String(name)) => protocol_number(name),
        (Field::Src | Field::Dst | Field::Iif | Field::Oif, _) => None,
        (_, value) => value.as_u64(),
    }
}

fn addresses(value: &Value) -> Option<(IpAddr, IpAddr)> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    if let Some(ends) = value.get("range") {
        return Some((address(ends.get(0)?)?, address(ends.get(1)?)?));
    }
    if let Some(prefix) = value.get("prefix") {
        let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        return net(address(prefix.get("addr")?)?, length);
    }
    let one = address(value)?;
    Some((one, one))
}

/// First and last address of a network.
pub(super) fn net(address: IpAddr, length: u8) -> Option<(IpAddr, IpAddr)> {
    match ipnet::IpNet::new(address, length).ok()? {
        ipnet::IpNet::V4(net) => {
            Some((Ipv4Addr::into(net.network()), Ipv4Addr::into(net.broadcast())))
        }
        ipnet::IpNet::V6(net) => {
            Some((Ipv6Addr::into(net.network()), Ipv6Addr::into(net.broadcast())))
        }
    }
}
