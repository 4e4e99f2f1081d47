//! Which addresses and ports a rule publishes for others (DNAT): by its text, which `nft` and
//! `iptables-save` print in few forms, whichever of both made the rule. What is not understood
//! publishes nothing.

use std::net::IpAddr;

use super::{Ruleset, structure::protocol_number};

/// Packets to these are sent to others. Which senders a rule is for is not told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redirection {
    /// IP protocols; none: any.
    pub protos: Vec<u8>,
    /// The published address; `None`: any of the namespace's own.
    pub address: Option<IpAddr>,
    /// Ranges of ports; none: every port.
    pub ports: Vec<(u16, u16)>,
    /// Who gets the packets.
    pub to: Target,
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
        let texts = chains.flat_map(|chain| &chain.rules).filter_map(|rule| rule.text.as_deref());
        texts.flat_map(|text| of(text).unwrap_or_default())
    }
}

/// What a rule of this text publishes; `None`: it is not understood.
fn of(text: &str) -> Option<Vec<Redirection>> {
    // Most rules are none.
    if !text.contains("dnat") && !text.contains("DNAT") {
        return None;
    }
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let (mut protos, mut address, mut ports_of) = (Vec::new(), None, Vec::new());
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let rest = &words[at + 1..];
        let before = at.checked_sub(1).map(|before| words[before]);
        let is_one = matches!(
            *word,
            "daddr" | "-d" | "l4proto" | "protocol" | "-p" | "dport" | "--dport" | "--dports"
        );
        // All but these: what that publishes would have to be listed.
        if is_one && (before == Some("!") || rest.first() == Some(&"!=")) {
            return None;
        }
        match *word {
            "daddr" | "-d" => address = Some(single(rest.first()?)?),
            "l4proto" | "protocol" | "-p" => protos = numbers(rest)?,
            "dport" | "--dport" | "--dports" => {
                protos.extend(before.and_then(number).filter(|proto| !protos.contains(proto)));
                ports_of = values(rest).map(ports).collect::<Option<Vec<_>>>()?;
            }
            "dnat" => {
                let target = rest.iter().position(|word| *word == "to")?;
                let target = &rest[target + 1..];
                return match target.iter().position(|word| *word == "map") {
                    Some(map) => mapped(&target[..map], &target[map + 1..], address),
                    None => {
                        let to = destination(target.first()?)?;
                        Some(vec![Redirection { protos, address, ports: ports_of, to }])
                    }
                };
            }
            "--to-destination" => {
                let to = destination(rest.first()?)?;
                return Some(vec![Redirection { protos, address, ports: ports_of, to }]);
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// `dnat to KEY map { PORT : DESTINATION, … }`, the key being ports of a protocol.
fn mapped(key: &[&str], pairs: &[&str], address: Option<IpAddr>) -> Option<Vec<Redirection>> {
    let [proto, "dport"] = key else { return None };
    let proto = number(proto)?;
    let pairs: Vec<&str> = values(pairs).filter(|word| *word != ":").collect();
    let of = |pair: &[&str]| {
        let &[port, to] = pair else { return None };
        let (ports, to) = (vec![ports(port)?], destination(to)?);
        Some(Redirection { protos: vec![proto], address, ports, to })
    };
    pairs.chunks(2).map(of).collect()
}

/// Protocols by name or number.
fn numbers(words: &[&str]) -> Option<Vec<u8>> {
    values(words).map(number).collect()
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

    const TCP: &[u8] = &[6];
    const UDP: &[u8] = &[17];

    fn published(
        protos: &[u8],
        address: Option<&str>,
        ports: &[(u16, u16)],
        (destination, port): (&str, Option<u16>),
    ) -> Option<Vec<Redirection>> {
        let destination = destination.parse().unwrap();
        Some(vec![Redirection {
            protos: protos.to_vec(),
            address: address.map(|address| address.parse().unwrap()),
            ports: ports.to_vec(),
            to: Target { first: destination, last: destination, port },
        }])
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
                published(&[], Some("198.51.100.9"), &[], c1(0)),
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
    fn several_protocols_publish_a_port_each() {
        let text = "ip daddr 198.51.100.7 meta l4proto { tcp, udp } th dport 53 dnat to 10.0.0.2";
        let expected = published(&[6, 17], Some("198.51.100.7"), &[(53, 53)], ("10.0.0.2", None));
        assert_eq!(of(text), expected);
    }

    #[test]
    fn a_map_publishes_each_of_its_ports_for_its_own() {
        let found = of("dnat to tcp dport map { 1000 : 10.0.0.2, 1001 : 10.0.0.3 }").unwrap();
        let of = |port, to| published(TCP, None, &[(port, port)], (to, None)).unwrap();
        assert_eq!(found, [of(1000, "10.0.0.2"), of(1001, "10.0.0.3")].concat());
    }

    #[test]
    fn what_is_not_understood_publishes_nothing() {
        for text in [
            "tcp dport 80 accept",
            "ip daddr 10.0.0.0/8 tcp dport 80 dnat to 10.0.0.2",
            "ip daddr != 10.0.0.9 tcp dport 80 dnat to 10.0.0.2",
            "tcp dport != 22 dnat to 10.0.0.2",
            "meta l4proto != tcp dnat to 10.0.0.2",
            "-A X ! -d 10.0.0.1 -p tcp -j DNAT --to-destination 10.0.0.2",
            "-A X -d 10.0.0.1/32 -p tcp ! --dport 22 -j DNAT --to-destination 10.0.0.2",
            "tcp dport @web dnat to 10.0.0.2",
            "dnat to @backends",
            "ip daddr 10.0.0.1 dnat to ip saddr map { 10.0.0.9 : 10.0.0.2 }",
            "dnat to tcp dport map @web",
            "dnat to tcp dport map { 1000 }",
            "dnat",
            "--to-destination",
            "DNAT --to-destination [::1",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
