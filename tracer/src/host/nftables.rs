//! What nf_tables tells of itself over netlink (linux/netfilter/nf_tables.h): tables, chains, and
//! which chain each rule stands in.

use std::io;

use super::{
    chains::{Family, Policy},
    netlink::{Connection, Message, attributes, be32_of, be64_of, string_of},
};

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its handle, unique in the namespace.
    pub handle: u64,
    /// Its chains sit in no hook.
    pub dormant: bool,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family of its table.
    pub family: Family,
    /// Name of its table.
    pub table: String,
    /// Its own name.
    pub name: String,
    /// Its handle, unique in the table.
    pub handle: u64,
    /// `filter`, `nat` or `route`; empty for one that is no base chain.
    pub kind: String,
    /// What happens to packets that no rule decided about.
    pub policy: Policy,
    /// Where it sits; `None` for one that is no base chain.
    pub at: Option<At>,
}

/// Where a base chain sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Number of the hook in the family.
    pub number: u32,
    /// Its declared priority.
    pub priority: i32,
    /// The devices whose hook it is, in the families that have such.
    pub devices: Vec<String>,
}

/// A rule, by where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Family of its table.
    pub family: Family,
    /// Name of its table.
    pub table: String,
    /// Name of its chain.
    pub chain: String,
    /// Its handle, unique in the table.
    pub handle: u64,
}

/// Asks for everything of the namespace in which it was opened.
pub struct Dump(Connection);

impl Dump {
    /// In the calling thread's namespace.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open() -> io::Result<Self> {
        Connection::netfilter().map(Self)
    }

    /// The tables.
    ///
    /// # Errors
    /// When the kernel does not answer, or has no nf_tables ([`or_none`]).
    pub fn tables(&mut self) -> io::Result<Vec<Table>> {
        self.all(libc::NFT_MSG_GETTABLE, libc::NFT_MSG_NEWTABLE, parse_table)
    }

    /// The chains.
    ///
    /// # Errors
    /// As of [`Dump::tables`].
    pub fn chains(&mut self) -> io::Result<Vec<Chain>> {
        self.all(libc::NFT_MSG_GETCHAIN, libc::NFT_MSG_NEWCHAIN, parse_chain)
    }

    /// The rules, in their chains' order.
    ///
    /// # Errors
    /// As of [`Dump::tables`].
    pub fn rules(&mut self) -> io::Result<Vec<Rule>> {
        self.all(libc::NFT_MSG_GETRULE, libc::NFT_MSG_NEWRULE, parse_rule)
    }

    fn all<T>(
        &mut self,
        get: libc::c_int,
        new: libc::c_int,
        parse: impl Fn(Family, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        // struct nfgenmsg { u8 nfgen_family, version; __be16 res_id; }: every family, NFNETLINK_V0.
        let every_family = [0; 4];
        let new = kind(new);
        let parse = |message: &Message<'_>| {
            let family = Family::from_number(*message.body.first()?)?;
            (message.kind == new).then(|| parse(family, message.body.get(4..)?)).flatten()
        };
        self.0.dump(kind(get), &every_family, parse)
    }
}

/// What was asked for; nothing where the kernel has no nfnetlink (to `socket`), or no nf_tables behind
/// it.
///
/// # Errors
/// Every other.
pub fn or_none<T: Default>(answer: io::Result<T>) -> io::Result<T> {
    const ABSENT: [i32; 4] =
        [libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL, libc::EAFNOSUPPORT];
    match answer {
        Err(e) if e.raw_os_error().is_some_and(|code| ABSENT.contains(&code)) => Ok(T::default()),
        answer => answer,
    }
}

/// A message of nf_tables, as nfnetlink numbers it.
fn kind(number: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | number) as u16
}

/// `enum nft_table_attributes`.
mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const HANDLE: u16 = 4;
    /// `NFT_TABLE_F_DORMANT`.
    pub const DORMANT: u32 = 1;
}

/// `enum nft_chain_attributes`.
mod chain {
    pub const TABLE: u16 = 1;
    pub const HANDLE: u16 = 2;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
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

fn parse_table(family: Family, body: &[u8]) -> Option<Table> {
    let (mut name, mut handle, mut dormant) = (None, 0, false);
    for (attribute, value) in attributes(body) {
        match attribute {
            table::NAME => name = Some(string_of(value)),
            table::HANDLE => handle = be64_of(value)?,
            table::FLAGS => dormant = be32_of(value)? & table::DORMANT != 0,
            _ => {}
        }
    }
    Some(Table { family, name: name?, handle, dormant })
}

/// A chain; `None` for a message that is not whole.
fn parse_chain(family: Family, body: &[u8]) -> Option<Chain> {
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
    Some(Chain { family, table: table?, name: name?, handle, kind, policy, at })
}

fn parse_hook(nested: &[u8]) -> Option<At> {
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
    Some(At { number: number?, priority: priority?, devices })
}

fn parse_rule(family: Family, body: &[u8]) -> Option<Rule> {
    let (mut table, mut chain, mut handle) = (None, None, None);
    for (attribute, value) in attributes(body) {
        match attribute {
            rule::TABLE => table = Some(string_of(value)),
            rule::CHAIN => chain = Some(string_of(value)),
            rule::HANDLE => handle = be64_of(value),
            _ => {}
        }
    }
    Some(Rule { family, table: table?, chain: chain?, handle: handle? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::netlink::attribute, *};

    fn whole() -> Vec<u8> {
        let at = [
            attribute(hook::NUMBER, &2u32.to_be_bytes()),
            attribute(hook::PRIORITY, &(-5i32).to_be_bytes()),
        ];
        let attributes = [
            attribute(chain::TABLE, b"t\0"),
            attribute(chain::NAME, b"c\0"),
            attribute(chain::HANDLE, &7u64.to_be_bytes()),
            attribute(chain::HOOK | 0x8000, &at.concat()),
            attribute(chain::POLICY, &0u32.to_be_bytes()),
        ];
        attributes.concat()
    }

    #[test]
    fn a_message_cut_short_is_no_chain_and_no_panic() {
        let chain = parse_chain(Family::Ip, &whole()).unwrap();
        let at = chain.at.unwrap();
        assert_eq!((at.number, at.priority, chain.handle), (2, -5, 7));
        assert_eq!(chain.policy, Policy::Drop);
        let whole = whole();
        (0..14).for_each(|length| assert_eq!(parse_chain(Family::Ip, &whole[..length]), None));
    }

    proptest! {
        #[test]
        fn hostile_messages_do_not_panic(at in 0..72usize, byte: u8) {
            let mut bytes = whole();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = parse_chain(Family::Ip, &bytes);
        }
    }
}
