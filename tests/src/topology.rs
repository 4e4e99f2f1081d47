//! The standard topology: containers on a bridge, a host that forwards and masquerades, a world
//! beyond it.

use anyhow::Result;

use crate::{Lab, Netns};

/// Address of the first container.
pub const C1: &str = "10.0.100.252";
/// Its IPv6 address.
pub const C1_V6: &str = "fd00:100::252";
/// Address of the second container.
pub const C2: &str = "10.0.100.253";
/// Its IPv6 address.
pub const C2_V6: &str = "fd00:100::253";
/// Address of the host on its bridge.
pub const HOST: &str = "10.0.100.1";
/// Its IPv6 address there.
pub const HOST_V6: &str = "fd00:100::1";
/// Link-layer address of its bridge.
pub const HOST_MAC: &str = "00:16:3e:00:00:01";
/// Address of the host on its uplink, which it masquerades containers with.
pub const UPLINK: &str = "198.51.100.1";
/// Link-layer address of the uplink.
pub const UPLINK_MAC: &str = "00:16:3e:00:00:02";
/// Address of the world's end of the uplink.
pub const WORLD_LINK: &str = "198.51.100.2";
/// An address of the world that is reached by a route only.
pub const WORLD: &str = "203.0.113.8";
/// Its IPv6 address.
pub const WORLD_V6: &str = "2001:db8:9::8";

const HOST_RULES: &str = "
table inet lab {
    chain pstrt.lxdbr0 {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.0.100.0/24 ip daddr != 10.0.100.0/24 masquerade;
        ip6 saddr fd00:100::/64 ip6 daddr != fd00:100::/64 masquerade;
    }
    chain fwd.lxdbr0 {
        type filter hook forward priority filter; policy accept;
    }
    chain in.lxdbr0 {
        type filter hook input priority filter; policy accept;
    }
}
";

/// Raises the standard topology: namespaces `host`, `world`, `c1` and `c2`.
///
/// The host has bridge `lxdbr0` with a port `veth-NAME` for each container's `eth0`, and uplink
/// `eth-up` to the world's `eth0`.
pub fn standard(lab: &mut Lab) -> Result<()> {
    lab.add("host")?;
    lab.add("world")?;
    let (host, world) = (lab.netns("host")?, lab.netns("world")?);
    host.ip(&format!(
        "link add lxdbr0 address {HOST_MAC} type bridge mcast_snooping 0
         addr add {HOST}/24 dev lxdbr0
         addr add {HOST_V6}/64 dev lxdbr0 nodad
         link set lxdbr0 up
         link add eth-up address {UPLINK_MAC} type veth peer name eth0 netns {world}
         addr add {UPLINK}/24 dev eth-up
         addr add 2001:db8:1::1/64 dev eth-up nodad
         link set eth-up up",
        world = world.name()
    ))?;
    world.ip(&format!(
        "addr add {WORLD_LINK}/24 dev eth0
         addr add 2001:db8:1::2/64 dev eth0 nodad
         addr add {WORLD}/32 dev lo
         addr add {WORLD_V6}/128 dev lo
         link set eth0 up"
    ))?;
    host.ip(&format!(
        "route add default via {WORLD_LINK}
         route add ::/0 via 2001:db8:1::2"
    ))?;
    host.sysctl("net.ipv4.ip_forward", "1")?;
    host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    if has_bridge_netfilter(host)? {
        bridged_through_ip_hooks(host, false)?;
    }
    host.nft(HOST_RULES)?;
    container(lab, "c1", C1, C1_V6)?;
    container(lab, "c2", C2, C2_V6)?;
    lab.netns("world")?.settle()
}

/// The settings of br_netfilter.
const BRIDGE_NETFILTER: [&str; 2] =
    ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];

/// Whether bridged packets can pass the hooks of IP too: whether br_netfilter is there. It is not
/// loaded for a scenario, since that changes what every bridge of the machine does.
pub fn has_bridge_netfilter(host: &Netns) -> Result<bool> {
    host.has_sysctl(BRIDGE_NETFILTER[0])
}

/// Whether bridged packets pass the hooks of IP too, as they do where br_netfilter is loaded and
/// left at its defaults.
pub fn bridged_through_ip_hooks(host: &Netns, on: bool) -> Result<()> {
    let value = if on { "1" } else { "0" };
    BRIDGE_NETFILTER.iter().try_for_each(|key| host.sysctl(key, value))
}

/// Starts a container on the host's bridge.
pub fn container(lab: &mut Lab, short: &str, v4: &str, v6: &str) -> Result<()> {
    lab.add(short)?;
    let (host, container) = (lab.netns("host")?, lab.netns(short)?);
    host.ip(&format!(
        "link add veth-{short} type veth peer name eth0 netns {name}
         link set veth-{short} master lxdbr0 up",
        name = container.name()
    ))?;
    configure(container, v4, v6)?;
    container.settle()?;
    host.settle()
}

fn configure(container: &Netns, v4: &str, v6: &str) -> Result<()> {
    container.ip(&format!(
        "addr add {v4}/24 dev eth0
         addr add {v6}/64 dev eth0 nodad
         link set eth0 up
         route add default via {HOST}
         route add ::/0 via {HOST_V6}"
    ))
}

/// Whether links of this kind can be made. A module that has them is loaded by the kernel itself.
pub fn makes_links(host: &Netns, kind: &str) -> bool {
    let how = match kind {
        "vlan" => "vlan id 4094",
        "vrf" => "vrf table 4094",
        "vxlan" => "vxlan id 4094 dstport 4790",
        plain => plain,
    };
    let lower = matches!(kind, "vlan" | "macvlan" | "ipvlan").then_some("link eth-up");
    let lower = lower.unwrap_or_default();
    host.ip(&format!("link add {lower} name trial type {how}\nlink del trial")).is_ok()
}
