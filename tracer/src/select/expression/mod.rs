//! pcap-filter expressions: `host 10.0.3.17 and (tcp port 443 or icmp)`. libpcap compiles them, to a program
//! for packets that begin with an Ethernet header and to one for those that begin with an IP header.
//!
//! The kernel side runs them translated (`probe::expression`); [`Expression::matches`] runs them here, over
//! packets of a file.

pub mod classic;
pub(crate) mod libpcap;

use classic::{Program, Unfit};
use libpcap::{Begins, Libpcap};
use tracer_common::{
    event::Tuple,
    expression::{HEADER_BYTES, headers, mode},
};

use crate::output::escape::escape;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    link: Program,
    /// None where libpcap knows no such expression for packets without a link-layer header.
    network: Option<Program>,
    tags: bool,
}

/// A packet, as much of it as was captured.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Its bytes, from the link-layer header or from the IP header.
    pub bytes: &'a [u8],
    /// They begin with an Ethernet header.
    pub link_header: bool,
    /// How many bytes there were, from the same one on.
    pub length: u32,
}

/// Why there is no expression.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is wrong.
    #[error("{0}")]
    Wrong(String),
    /// It cannot be read here.
    #[error(
        "cannot read the expression: libpcap is not installed ({0}); install libpcap0.8 (Debian, Ubuntu) or \
         libpcap, or select by --ip, --port and the like"
    )]
    NoLibrary(libloading::Error),
}

impl Expression {
    /// The expression that these words are, joined by blanks; `None` for no words or blanks alone.
    ///
    /// # Errors
    /// When it is wrong, and when libpcap is not there.
    pub fn compile(words: &[String]) -> Result<Option<Self>, Refusal> {
        let text = words.join(" ");
        if text.trim().is_empty() {
            return Ok(None);
        }
        let library = Libpcap::open().map_err(Refusal::NoLibrary)?;
        Self::compile_with(&library, text).map(Some)
    }

    fn compile_with(library: &Libpcap, text: String) -> Result<Self, Refusal> {
        let wrong = |why: String| {
            let shown = escape(&text);
            Refusal::Wrong(format!("invalid expression \"{shown}\": {why}"))
        };
        let unfit = |why: Unfit| wrong(why.to_string());
        let of_c = libpcap::text(&text).ok_or_else(|| wrong("it has a zero byte".into()))?;
        let link = match library.compile(&of_c, Begins::Link) {
            Ok(raw) => Program::decode(&raw).map_err(unfit)?,
            Err(said) => {
                // Of anything else its own words say where it is.
                let lost = said.contains("syntax error");
                let until = lost.then(|| understood(library, &text)).flatten();
                let until = until
                    .map_or_else(String::new, |part| format!(" (\"{}\" is one)", escape(part)));
                return Err(wrong(format!("{}{until}", escape(&said))));
            }
        };
        let network = match library.compile(&of_c, Begins::Network) {
            Ok(raw) => Some(Program::decode(&raw).map_err(unfit)?),
            // What asks for the link-layer header has no answer without one.
            Err(said) => {
                log::info!("the expression matches no packet without a link-layer header: {said}");
                None
            }
        };
        let tags = speaks_of_vlans(&text);
        Ok(Self { text, link, network, tags })
    }

    /// What was given, as one line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The program for packets that begin with an Ethernet header.
    pub fn link(&self) -> &Program {
        &self.link
    }

    /// The program for packets that begin with an IP header. None: no such packet matches.
    pub fn network(&self) -> Option<&Program> {
        self.network.as_ref()
    }

    /// How the kernel side is to look at packets: one of [`mode`].
    pub fn mode(&self) -> u32 {
        if self.tags { mode::TAGS } else { mode::PLAIN }
    }

    /// Whether a packet matches. Bytes that it needs and that were not captured do not match, as in the kernel.
    pub fn matches(&self, packet: &Captured<'_>) -> bool {
        let program = if packet.link_header { Some(&self.link) } else { self.network.as_ref() };
        program.is_some_and(|program| program.matches(packet.bytes, packet.length))
    }

    /// Whether a packet would match of which no more than this is known, as the kernel side decides whether an
    /// answer is to be followed beyond NAT.
    pub fn would_match(&self, tuple: &Tuple) -> bool {
        let mut bytes = [0; HEADER_BYTES];
        let length = headers(tuple, &mut bytes);
        let length = length.min(HEADER_BYTES);
        self.matches(&Captured {
            bytes: &bytes[..length],
            link_header: false,
            length: length as u32,
        })
    }
}

/// Whether `vlan` is a word of the expression.
fn speaks_of_vlans(text: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
        .any(|word| word == "vlan")
}

/// The longest beginning of a wrong expression that is one: libpcap does not say where it lost the way.
fn understood<'a>(library: &Libpcap, text: &'a str) -> Option<&'a str> {
    let ends = text.match_indices(' ').map(|(at, _)| at);
    let mut beginnings = ends.map(|end| text[..end].trim()).filter(|part| !part.is_empty()).rev();
    beginnings.find(|part| {
        libpcap::text(part).is_some_and(|of_c| library.compile(&of_c, Begins::Link).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use tracer_common::event::family;

    use super::*;

    fn expression(text: &str) -> Expression {
        Expression::compile(&[text.to_owned()]).unwrap().unwrap()
    }

    fn refusal(text: &str) -> String {
        Expression::compile(&[text.to_owned()]).unwrap_err().to_string()
    }

    #[test]
    fn words_are_joined_and_blanks_are_no_expression() {
        let words = ["tcp", "port", "443"].map(str::to_owned);
        assert_eq!(Expression::compile(&words).unwrap().unwrap().text(), "tcp port 443");
        assert!(Expression::compile(&[]).unwrap().is_none());
        assert!(Expression::compile(&["".into(), " ".into()]).unwrap().is_none());
    }

    #[test]
    fn a_wrong_expression_is_refused_in_libpcaps_words_and_with_what_makes_sense() {
        let said = refusal("tcp port 80 and and host 10.0.0.1");
        assert!(said.contains("syntax error") && said.contains("\"tcp port 80\" is one"), "{said}");
        assert!(refusal("host nosuch.invalid").contains("unknown host 'nosuch.invalid'"));
        assert!(refusal("tcp and arp").contains("rejects all packets"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_repeated() {
        let said = refusal("host \u{1b}[31m");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }

    #[test]
    fn what_only_a_socket_knows_or_takes_a_loop_is_refused() {
        assert!(refusal("inbound").contains("--iface"));
        assert!(refusal("ip6 protochain 6").contains("loop"));
    }

    #[test]
    fn what_asks_for_the_link_layer_matches_nothing_without_it() {
        for text in ["arp", "ether host 02:00:00:00:00:01", "vlan 7"] {
            assert!(expression(text).network().is_none(), "{text}");
        }
        assert!(expression("arp or icmp").network().is_some());
    }

    #[test]
    fn vlan_is_a_word_of_its_own() {
        assert!(speaks_of_vlans("not(vlan 7)"));
        assert!(!speaks_of_vlans("host vlan-gw.example and port 80"));
    }

    #[test]
    fn an_answer_that_is_to_come_matches_by_addresses_and_ports() {
        let address = |last: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
        let answer = Tuple {
            src: address(8),
            dst: address(1),
            sport: 443,
            dport: 40_000,
            family: family::IPV4,
            proto: 6,
            ..Tuple::default()
        };
        for text in ["host 10.0.0.1", "src host 10.0.0.8 and tcp src port 443", "tcp[13] & 16 != 0"]
        {
            assert!(expression(text).would_match(&answer), "{text}");
        }
        for text in ["host 10.0.0.2", "dst port 443", "udp", "ip6", "greater 1000"] {
            assert!(!expression(text).would_match(&answer), "{text}");
        }
        let v6 =
            Tuple { src: [0xfd; 16], dst: [0xfe; 16], family: family::IPV6, proto: 17, ..answer };
        assert!(
            expression("ip6 host fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd and udp src port 443")
                .would_match(&v6)
        );
    }
}
