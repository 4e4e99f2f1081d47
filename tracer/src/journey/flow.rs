//! Flows: both directions of a conversation under one id.

use std::net::IpAddr;

use crate::event::Family;

/// Number of a flow in this trace, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// Which side of a flow sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The side that began.
    Original,
    /// The other side.
    Reply,
}

/// A flow, as its originating side sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Its number.
    pub id: FlowId,
    /// Link family.
    pub family: Family,
    /// IP protocol number.
    pub proto: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or the identifier of an ICMP echo.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}
