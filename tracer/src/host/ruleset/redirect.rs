//! Which addresses and ports a rule publishes for others (DNAT): by its text, which `nft` and
//! `iptables-save` print in few forms, whichever of both made the rule. What is not understood
//! publishes nothing.

use std::net::IpAddr;

use super::{Ruleset, structure::protocol_number};

/// Packets to these are sent to others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redirection {
    /// IP protocol; `None`: any.
    pub proto: Option<u8>,
    /// The published address; `None`: any of the namespace's own.
    pub address: Option<IpAddr>,
    /// Ranges of ports; none: every port.
    pub ports: Vec<(u16, u16)>,
    /// Who gets the packets.
    pub to: Vec<Target>,
}

/// Who gets packets that were redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The first of the addresses that take turns.
    pub first: IpAddr,
    /// The last of them; the same where there is one.
    pub last: IpAddr,
    /// The port, where it is another than before, and one.
    pub port: Option<u16>,
}

impl Ruleset {
    /// What its rules publish.
    pub fn redirections(&self) -> impl Iterator<Item = Redirection> + '_ {
        let chains = self.tables.values().chain(&self.legacy).flat_map(|table| &table.chains);
        chains.flat_map(|chain| &chain.rules).filter_map(|rule| of(rule.text.as_deref()?))
    }
}

/// What a rule of this text publishes.
fn of(text: &str) -> Option<Redirection> {
    // Most rules are none.
    if !text.contains("dnat") && !text.contains("DNAT") {
        return None;
    }
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let mut found = Redirection { proto: None, address: None, ports: Vec::new(), to: Vec::new() };
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let rest = &words[at + 1..];
        match *word {
            // A range, an excluded address: it cannot be told in what follows.
            "daddr" | "-d" if at > 0 && words[at - 1] == "!" => return None,
            "daddr" | "-d" => found.address = Some(single(rest.first()?)?),
            "l4proto" | "protocol" | "-p" => found.proto = number(rest.first()?),
            "dport" | "--dport" | "--dports" => {
                if let Some(proto) = at.checked_sub(1).and_then(|before| number(words[before])) {
                    found.proto = Some(proto);
                }
                found.ports = values(rest).filter_map(ports).collect();
                // As many as nft prints and are understood here.
                if found.ports.is_empty() {
                    return None;
                }
            }
            "dnat" => {
                let target = rest.iter().position(|word| *word == "to")?;
                found.to = targets(&rest[target + 1..], &mut found.ports);
                break;
            }
            "--to-destination" => {
                found.to = destination(rest.first()?).into_iter().collect();
                break;
            }
            _ => {}
        }
        at += 1;
    }
    (!found.to.is_empty()).then_some(found)
}

/// What follows `dnat to`: a destination, or a map of ports to destinations.
fn targets(words: &[&str], ports_of: &mut Vec<(u16, u16)>) -> Vec<Target> {
    let Some(map) = words.iter().position(|word| *word == "map") else {
        return words.first().and_then(|word| destination(word)).into_iter().collect();
    };
    let pairs: Vec<&str> = values(&words[map + 1..]).collect();
    let mut to = Vec::new();
    for pair in pairs.split(|word| *word == ":").collect::<Vec<_>>().windows(2) {
        let (Some(key), Some(value)) = (pair[0].last(), pair[1].first()) else { continue };
        let (Some(key), Some(value)) = (ports(key), destination(value)) else { continue };
        ports_of.push(key);
        to.push(value);
    }
    to
}

/// One value, or those in braces.
fn values<'a>(words: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let braced = words.first() == Some(&"{");
    let words = if braced { &words[1..] } else { &words[..words.len().min(1)] };
    words
        .iter()
        .take_while(|word| **word != "}")
        .flat_map(|word| word.split(','))
        .filter(|word| !word.is_empty())
}

/// `80`, `80-85`, `80:85`.
fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn number(proto: &str) -> Option<u8> {
    u8::try_from(protocol_number(proto)?).ok()
}

/// An address without a prefix that leaves something open.
fn single(text: &str) -> Option<IpAddr> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { "32" } else { "128" };
    (prefix.is_empty() || prefix == whole).then_some(address)
}

/// `ADDRESS[-ADDRESS][:PORT[-PORT]]`, an IPv6 address with ports in brackets.
fn destination(text: &str) -> Option<Target> {
    let (addresses, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address, port.strip_prefix(':'))
        }
        // One colon is a port's, more are of IPv6.
        None if text.matches(':').count() == 1 => {
            text.split_once(':').map(|(address, port)| (address, Some(port)))?
        }
        None => (text, None),
    };
    let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
    let port = port.and_then(|port| port.parse().ok());
    Some(Target { first: first.parse().ok()?, last: last.parse().ok()?, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Option<u8> = Some(6);
    const UDP: Option<u8> = Some(17);

    fn to(address: &str, port: Option<u16>) -> Vec<Target> {
        let address = address.parse().unwrap();
        vec![Target { first: address, last: address, port }]
    }

    fn published(
        proto: Option<u8>,
        address: Option<&str>,
        ports: &[(u16, u16)],
        (destination, port): (&str, Option<u16>),
    ) -> Option<Redirection> {
        let address = address.map(|address| address.parse().unwrap());
        Some(Redirection { proto, address, ports: ports.to_vec(), to: to(destination, port) })
    }

    #[test]
    fn a_published_port_is_found_whoever_made_the_rule() {
        let c1 = |port: u16| ("10.0.100.252", (port != 0).then_some(port));
        for (text, expected) in [
            (
                "tcp dport 8080 counter dnat to 10.0.100.252:80",
                published(TCP, None, &[(8080, 8080)], c1(80)),
            ),
            (
                "ip daddr 198.51.100.7 udp dport { 53, 67-68 } dnat ip to 10.0.100.252",
                published(UDP, Some("198.51.100.7"), &[(53, 53), (67, 68)], c1(0)),
            ),
            (
                "iifname != \"docker0\" tcp dport 8080 dnat to 10.0.100.252:80",
                published(TCP, None, &[(8080, 8080)], c1(80)),
            ),
            (
                "ip daddr 198.51.100.9 dnat to 10.0.100.252",
                published(None, Some("198.51.100.9"), &[], c1(0)),
            ),
            (
                "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.0.100.252:81",
                published(TCP, None, &[(8081, 8081)], c1(81)),
            ),
            (
                "-A PREROUTING -d 198.51.100.7/32 -p udp -m multiport --dports 53,67:69 -j DNAT --to-destination 10.0.100.252",
                published(UDP, Some("198.51.100.7"), &[(53, 53), (67, 69)], c1(0)),
            ),
            (
                "ip6 daddr 2001:db8::7 tcp dport 443 dnat ip6 to [fd00:100::252]:443",
                published(TCP, Some("2001:db8::7"), &[(443, 443)], ("fd00:100::252", Some(443))),
            ),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_map_publishes_each_of_its_ports() {
        let found = of("dnat to tcp dport map { 1000 : 10.0.0.2, 1001 : 10.0.0.3 }").unwrap();
        assert_eq!(found.ports, [(1000, 1000), (1001, 1001)]);
        assert_eq!(found.to, [to("10.0.0.2", None), to("10.0.0.3", None)].concat());
    }

    #[test]
    fn what_is_not_understood_publishes_nothing() {
        for text in [
            "tcp dport 80 accept",
            "ip daddr 10.0.0.0/8 tcp dport 80 dnat to 10.0.0.2",
            "-A X ! -d 10.0.0.1 -p tcp -j DNAT --to-destination 10.0.0.2",
            "tcp dport @web dnat to 10.0.0.2",
            "dnat to @backends",
            "dnat",
            "--to-destination",
            "DNAT --to-destination [::1",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
