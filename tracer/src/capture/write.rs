//! Records into the bytes of a file: pcapng with all of it, or classic pcap with packets alone. Each call
//! gives whole blocks.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    Section,
    format::{self, Block, option},
    packets::{Packet, packets},
};
use crate::output::{
    Hops,
    escape::escape,
    place,
    record::{Hop, Journey, Line, Summary},
};

/// A file ends before its trace does: it goes on in the next one of a rotation.
#[derive(Serialize)]
#[serde(tag = "type", rename = "continues")]
pub(super) struct Continues {}

/// An interface of a file: the same device is another one where its name or its link type is.
#[derive(PartialEq, Eq, Hash)]
struct Interface {
    source: Option<String>,
    netns: u32,
    ifindex: u32,
    link: u16,
    place: String,
}

/// Writes a section of pcapng.
pub(super) struct Pcapng {
    hops: Hops,
    snaplen: u32,
    interfaces: HashMap<Interface, u32>,
}

impl Pcapng {
    /// Begins a section.
    pub fn begin(section: &Section, hops: Hops, snaplen: u32, out: &mut Vec<u8>) -> Self {
        let mut block = Block::begin(out, format::SECTION)
            .u32(format::ORDER)
            .u16(1)
            .u16(0)
            .u64(u64::MAX)
            .text(option::COMMENT, &escape(&section.comment()))
            .text(option::HARDWARE, &escape(&section.machine))
            .text(option::OS, &format!("Linux {}", escape(&section.start.kernel)))
            .text(option::APPLICATION, &format!("pathtrace {}", escape(&section.start.version)));
        for piece in format::pieces(&format::seal(&json(section))) {
            block = block.option(option::OWN, piece);
        }
        block.end_options();
        Self { hops, snaplen, interfaces: HashMap::new() }
    }

    /// A journey: its packets, then its record.
    pub fn journey(&mut self, journey: &Journey, out: &mut Vec<u8>) {
        let start = nanoseconds(&journey.time);
        for packet in packets(journey, self.hops) {
            let interface = self.interface(journey, packet.hop, packet.link(), out);
            self.packet(journey, &packet, interface, start, out);
        }
        if self.interfaces.is_empty()
            && let Some(hop) = journey.hops.first()
        {
            // Of a file whose first block is none that it knows, editcap (Wireshark 4.0) makes nothing.
            self.interface(journey, hop, format::link::ETHERNET, out);
        }
        record(&json(&Line::Journey(journey)), out);
    }

    /// The end of the trace.
    pub fn summary(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        record(&json(&Line::Summary(summary)), out);
    }

    /// The end of this file, not of the trace.
    pub fn continues(&mut self, out: &mut Vec<u8>) {
        record(&json(&Continues {}), out);
    }

    fn interface(&mut self, journey: &Journey, hop: &Hop, link: u16, out: &mut Vec<u8>) -> u32 {
        let ifindex = hop.dev.as_ref().map_or(0, |dev| dev.ifindex);
        let key = Interface {
            source: journey.source.as_ref().map(|source| source.host.clone()),
            netns: hop.netns.inode,
            ifindex,
            link,
            place: place(hop),
        };
        if let Some(known) = self.interfaces.get(&key) {
            return *known;
        }
        let host = key.source.as_deref().map(|host| format!("{}/", escape(host)));
        let (name, host) = (whole_name(hop), host.unwrap_or_default());
        let mut about = match hop.dev.as_ref().and_then(|dev| dev.name.as_deref()) {
            Some(name) => format!("{} (index {ifindex})", escape(name)),
            None => format!("index {ifindex}"),
        };
        about.push_str(&format!(", network namespace {}", hop.netns.inode));
        for (what, name) in [
            (" named ", hop.netns.name.as_deref()),
            (" of ", hop.netns.container.as_deref()),
            (", leads to ", hop.dev.as_ref().and_then(|dev| dev.container.as_deref())),
            (", port of bridge ", hop.dev.as_ref().and_then(|dev| dev.bridge.as_deref())),
        ] {
            if let Some(name) = name {
                about.push_str(what);
                about.push_str(&escape(name));
            }
        }
        Block::begin(out, format::INTERFACE)
            .u16(link)
            .u16(0)
            .u32(self.snaplen)
            .text(option::IF_NAME, &format!("{host}{name}"))
            .text(option::IF_DESCRIPTION, &about)
            // 10^-9 s
            .option(option::IF_TSRESOL, &[9])
            .end_options();
        let new = self.interfaces.len() as u32;
        self.interfaces.insert(key, new);
        new
    }

    fn packet(
        &self,
        journey: &Journey,
        packet: &Packet<'_>,
        interface: u32,
        start: u64,
        out: &mut Vec<u8>,
    ) {
        let time = start.saturating_add(packet.hop.t_ns);
        let data = &packet.captured.data;
        let mut own = [0; 12];
        own[..8].copy_from_slice(&journey.id.to_le_bytes());
        own[8..].copy_from_slice(&(packet.index as u32).to_le_bytes());
        let mut block = Block::begin(out, format::PACKET)
            .u32(interface)
            .u32((time >> 32) as u32)
            .u32(time as u32)
            .u32(data.len() as u32)
            .u32(packet.length())
            .bytes(data)
            .text(option::COMMENT, &packet.comment(journey));
        if let Some(direction) = direction(&packet.hop.point) {
            block = block.option(option::FLAGS, &direction.to_le_bytes());
        }
        if let Ok(id) = u64::from_str_radix(&journey.packet.id, 16) {
            block = block.option(option::PACKET_ID, &id.to_le_bytes());
        }
        block.option(option::OWN, &own).end_options();
    }
}

fn record(text: &[u8], out: &mut Vec<u8>) {
    Block::begin(out, format::RECORD).bytes(&format::seal(text)).end();
}

fn json(record: &impl Serialize) -> Vec<u8> {
    // Of these records, whose keys are texts, always.
    serde_json::to_vec(record).unwrap_or_default()
}

/// `c1:eth0`, without what text says of where that leads.
fn whole_name(hop: &Hop) -> String {
    let place = place(hop);
    match hop.dev.as_ref().and_then(|dev| dev.leads_to.as_deref()) {
        Some(leads_to) => {
            place.strip_suffix(&format!(" ({})", escape(leads_to))).unwrap_or(&place).to_owned()
        }
        None => place,
    }
}

/// Of `epb_flags`: 1 inbound, 2 outbound, as the device sees it.
fn direction(point: &str) -> Option<u32> {
    match point {
        "tc_ingress" | "dev_receive" => Some(1),
        "tc_egress" | "dev_queue" | "dev_xmit" | "qdisc_enqueue" | "qdisc_dequeue" => Some(2),
        _ => None,
    }
}

/// Since 1970, of a record's time.
pub(super) fn nanoseconds(time: &str) -> u64 {
    let time: Option<jiff::Timestamp> = time.parse().ok();
    time.and_then(|time| u64::try_from(time.as_nanosecond()).ok()).unwrap_or_default()
}

/// Writes classic pcap: each packet once, where it was first seen.
pub(super) struct Classic {
    snaplen: u32,
    link: Option<u16>,
}

/// Classic pcap has one link type a file, and this packet has another one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the packets have several link types, and a classic pcap file has one; give it another name \
     than .pcap, and it is pcapng"
)]
pub(super) struct Mixed;

impl Classic {
    pub fn new(snaplen: u32) -> Self {
        Self { snaplen, link: None }
    }

    /// A journey's first packet; in front of the first one of all, the file's header.
    pub fn journey(&mut self, journey: &Journey, out: &mut Vec<u8>) -> Result<(), Mixed> {
        let Some(packet) = packets(journey, Hops::Main).into_iter().next() else { return Ok(()) };
        let link = packet.link();
        match self.link {
            None => self.header(link, out),
            Some(known) if known != link => return Err(Mixed),
            Some(_) => {}
        }
        let time = nanoseconds(&journey.time).saturating_add(packet.hop.t_ns);
        let data = &packet.captured.data;
        for word in [
            (time / 1_000_000_000) as u32,
            (time % 1_000_000_000) as u32,
            data.len() as u32,
            packet.length(),
        ] {
            out.extend(word.to_le_bytes());
        }
        out.extend(data.iter());
        Ok(())
    }

    /// The file's header, where no packet came before its end: a reader wants one.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.link.is_none() {
            self.header(format::link::ETHERNET, out);
        }
    }

    fn header(&mut self, link: u16, out: &mut Vec<u8>) {
        self.link = Some(link);
        // Nanoseconds, version 2.4.
        out.extend(format::CLASSIC[2].to_le_bytes());
        for half in [2_u16, 4] {
            out.extend(half.to_le_bytes());
        }
        for word in [0, 0, self.snaplen, u32::from(link)] {
            out.extend(word.to_le_bytes());
        }
    }
}
