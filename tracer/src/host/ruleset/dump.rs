//! Tables, chains, and which chain each rule stands in, from dumps of nf_tables
//! (linux/netfilter/nf_tables.h): what there is without any program.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use super::{Base, Chain, End, Rule, Table};
use crate::host::{
    chains::{Family, Policy, chain, is_absent, nftables_message},
    netlink::{Connection, Message, attributes, be32_of, be64_of, string_of},
};

/// `enum nft_table_attributes`.
mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const HANDLE: u16 = 4;
    /// `NFT_TABLE_F_DORMANT`: its chains sit in no hook.
    pub const DORMANT: u32 = 1;
}

/// `enum nft_hook_attributes`, and `enum nft_devices_attributes` within.
mod hook {
    pub const NUMBER: u16 = 1;
    pub const PRIORITY: u16 = 2;
    pub const DEVICE: u16 = 3;
    pub const DEVICES: u16 = 4;
    pub const NAME: u16 = 1;
}

/// `enum nft_rule_attributes`.
mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const HANDLE: u16 = 3;
}

/// Where something belongs: family, table, and chain.
type Path = (Family, String, String);

/// The tables of the calling thread's namespace, by handle; none on a kernel without nf_tables.
pub(super) fn tables() -> io::Result<BTreeMap<u64, Table>> {
    match read() {
        Err(e) if is_absent(&e) => Ok(BTreeMap::new()),
        read => read,
    }
}

fn read() -> io::Result<BTreeMap<u64, Table>> {
    let mut connection = Connection::netfilter()?;
    let found = dump(&mut connection, libc::NFT_MSG_GETTABLE, libc::NFT_MSG_NEWTABLE, parse_table)?;
    if found.is_empty() {
        return Ok(BTreeMap::new());
    }
    let chains =
        dump(&mut connection, libc::NFT_MSG_GETCHAIN, libc::NFT_MSG_NEWCHAIN, parse_chain)?;
    let rules = dump(&mut connection, libc::NFT_MSG_GETRULE, libc::NFT_MSG_NEWRULE, parse_rule)?;
    let mut of_chains: HashMap<Path, Vec<Rule>> = HashMap::new();
    for (path, handle) in rules {
        let rule = Rule { handle, text: None, tests: Vec::new(), end: End::Unknown, packets: None };
        of_chains.entry(path).or_default().push(rule);
    }
    let mut tables: BTreeMap<u64, Table> =
        found.iter().map(|(table, _)| (table.handle, table.clone())).collect();
    for (family, of_table, mut chain) in chains {
        let of = tables.values_mut().find(|t| t.family == family && t.name == of_table);
        let Some(table) = of else { continue };
        let path = (family, of_table, chain.name.clone());
        chain.rules = of_chains.remove(&path).unwrap_or_default();
        let dormant = found.iter().any(|(t, dormant)| t.handle == table.handle && *dormant);
        if dormant {
            chain.base = None;
        }
        table.chains.push(chain);
    }
    Ok(tables)
}

fn dump<T>(
    connection: &mut Connection,
    get: libc::c_int,
    new: libc::c_int,
    parse: impl Fn(Family, &[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    // struct nfgenmsg { u8 nfgen_family, version; __be16 res_id; }: every family, NFNETLINK_V0.
    let every_family = [0; 4];
    let new = nftables_message(new);
    let parse = |message: &Message<'_>| {
        let family = Family::from_number(*message.body.first()?)?;
        (message.kind == new).then(|| parse(family, message.body.get(4..)?)).flatten()
    };
    connection.dump(nftables_message(get), &every_family, parse)
}

/// A table without its chains, and whether it is dormant.
fn parse_table(family: Family, body: &[u8]) -> Option<(Table, bool)> {
    let (mut name, mut handle, mut dormant) = (None, 0, false);
    for (attribute, value) in attributes(body) {
        match attribute {
            table::NAME => name = Some(string_of(value)),
            table::HANDLE => handle = be64_of(value)?,
            table::FLAGS => dormant = be32_of(value)? & table::DORMANT != 0,
            _ => {}
        }
    }
    let (chains, maps) = (Vec::new(), BTreeMap::new());
    Some((Table { family, name: name?, handle, chains, maps, read: false }, dormant))
}

/// A chain without its rules, and the name of its table.
fn parse_chain(family: Family, body: &[u8]) -> Option<(Family, String, Chain)> {
    let (mut table, mut name, mut handle, mut at) = (None, None, 0, None);
    let (mut kind, mut policy) = (String::new(), Policy::Accept);
    for (attribute, value) in attributes(body) {
        match attribute {
            chain::TABLE => table = Some(string_of(value)),
            chain::NAME => name = Some(string_of(value)),
            chain::TYPE => kind = string_of(value),
            chain::HANDLE => handle = be64_of(value)?,
            chain::HOOK => at = Some(parse_hook(value)?),
            chain::POLICY if be32_of(value)? == libc::NF_DROP as u32 => policy = Policy::Drop,
            _ => {}
        }
    }
    let base = at.map(|(number, priority, devices)| {
        let hook = u8::try_from(number).ok().and_then(|number| family.hook_of(number));
        Base { kind, hook, priority, policy, packets: None, devices }
    });
    Some((family, table?, Chain { name: name?, handle, base, rules: Vec::new() }))
}

fn parse_hook(nested: &[u8]) -> Option<(u32, i32, Vec<String>)> {
    let (mut number, mut priority, mut devices) = (None, None, Vec::new());
    for (attribute, value) in attributes(nested) {
        match attribute {
            hook::NUMBER => number = be32_of(value),
            hook::PRIORITY => priority = be32_of(value).map(|bits| bits as i32),
            hook::DEVICE => devices.push(string_of(value)),
            hook::DEVICES => {
                let names = attributes(value).filter(|(kind, _)| *kind == hook::NAME);
                devices.extend(names.map(|(_, name)| string_of(name)));
            }
            _ => {}
        }
    }
    // A single device is told both ways.
    devices.dedup();
    Some((number?, priority?, devices))
}

fn parse_rule(family: Family, body: &[u8]) -> Option<(Path, u64)> {
    let (mut table, mut chain, mut handle) = (None, None, None);
    for (attribute, value) in attributes(body) {
        match attribute {
            rule::TABLE => table = Some(string_of(value)),
            rule::CHAIN => chain = Some(string_of(value)),
            rule::HANDLE => handle = be64_of(value),
            _ => {}
        }
    }
    Some(((family, table?, chain?), handle?))
}
