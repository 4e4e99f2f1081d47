//! Tables, chains, and which chain each rule stands in, put together from what [`nftables`] tells: what
//! there is without any program.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use super::{Base, Chain, End, Rule, Table};
use crate::host::{chains::Family, nftables};

/// Where a rule stands: family, table, and chain.
type Path = (Family, String, String);

/// The tables of the calling thread's namespace, by handle; none on a kernel without nf_tables.
pub(super) fn tables() -> io::Result<BTreeMap<u64, Table>> {
    nftables::or_none(read())
}

fn read() -> io::Result<BTreeMap<u64, Table>> {
    let mut dump = nftables::Dump::open()?;
    let found = dump.tables()?;
    if found.is_empty() {
        return Ok(BTreeMap::new());
    }
    let chains = dump.chains()?;
    let mut of_chains: HashMap<Path, Vec<Rule>> = HashMap::new();
    for nftables::Rule { family, table, chain, handle } in dump.rules()? {
        let rule = Rule { handle, text: None, tests: Vec::new(), end: End::Unknown, packets: None };
        of_chains.entry((family, table, chain)).or_default().push(rule);
    }
    let mut tables = BTreeMap::new();
    for nftables::Table { family, name, handle, dormant } in found {
        let of_table = chains.iter().filter(|chain| chain.family == family && chain.table == name);
        let chains = of_table.map(|chain| {
            let path = (family, name.clone(), chain.name.clone());
            let rules = of_chains.remove(&path).unwrap_or_default();
            let base = if dormant { None } else { base(chain) };
            Chain { name: chain.name.clone(), handle: chain.handle, base, rules }
        });
        let chains = chains.collect();
        let maps = BTreeMap::new();
        tables.insert(handle, Table { family, name, handle, chains, maps, read: false });
    }
    Ok(tables)
}

fn base(chain: &nftables::Chain) -> Option<Base> {
    let at = chain.at.as_ref()?;
    let hook = u8::try_from(at.number).ok().and_then(|number| chain.family.hook_of(number));
    Some(Base {
        kind: chain.kind.clone(),
        hook,
        priority: at.priority,
        policy: chain.policy,
        packets: None,
        devices: at.devices.clone(),
    })
}
