//! Sockets: a packet is taken by one, and a task reads what was delivered.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    programs::BtfTracePointContext,
};
use tracer_common::{
    event::detail::{Detail as _, Socket},
    point::Point,
};

use super::Packet;
use crate::{
    call::Call,
    emit::{Report, emit},
    skb::{Access, Net, Pointer, Probe, Skb, offset},
    track::known_itself,
};

/// `udp_queue_rcv_skb(sk, skb)`, `tcp_v4_do_rcv(sk, skb)`, `raw_rcv(sk, skb)` and their like of IPv6:
/// the socket takes it. Who reads it is not known yet.
#[inline(always)]
pub fn take(call: impl Call) {
    let skb = Skb::<Probe>::new(call.argument(1) as *const u8);
    let packet = Packet::in_queue(skb);
    let Some(sighting) = known_itself(&packet) else { return };
    // A tunnel's socket takes what is around the packet.
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    followed.delivered = (followed.tunneled == 0) as u8;
    let net = Probe::read::<Pointer>(call.argument(0) as *const u8, offset!(sk_net)).0;
    let packet = Packet { netns: Net::<Probe>::new(net).inode(), ..packet };
    emit(&packet, &sighting, &Report::plain(Point::Socket));
}

/// tp_btf `skb_copy_datagram_iovec(skb, len)`: UDP, raw and TCP reads, in the reading task.
#[inline(always)]
pub fn read<A: Access>(ctx: &BtfTracePointContext) {
    let skb = Skb::<A>::new(ctx.arg(0));
    let packet = Packet::in_queue(skb);
    let Some(sighting) = known_itself(&packet) else { return };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    followed.delivered = 1;
    // A large segment is read piece by piece: say it once.
    if followed.read != 0 {
        return;
    }
    followed.read = 1;
    let detail = Socket {
        comm: bpf_get_current_comm().unwrap_or_default(),
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
    };
    let packet = Packet { netns: skb.socket_netns(), ..packet };
    emit(
        &packet,
        &sighting,
        &Report { point: Point::Socket as u8, flags: 0, detail: detail.to_wire() },
    );
}
