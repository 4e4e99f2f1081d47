//! pathtrace's kernel side: entry points only. What each does stands in [`points`]; the five verbs
//! that all points use are [`skb`] (read), [`packet`] (parse), the filter of `tracer-common`
//! (match), [`track`] (follow) and [`emit`] (send).
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

mod call;
mod emit;
mod expression;
mod globals;
mod packet;
mod points;
mod skb;
mod track;

use core::ffi::c_void;

use aya_ebpf::{
    macros::{btf_tracepoint, classifier},
    programs::{BtfTracePointContext, TcContext},
};
use call::{Probed, Returned, Traced};
use points::{
    bridge, conntrack, device, end, ip, lifecycle, neighbour, netfilter, nftables, qdisc, route,
    socket, tc, xtables,
};
use skb::{Direct, Probe};

/// Programs at tracepoints, each in two forms with the same arguments: with types that the verifier
/// knows, and without, for where a kernel takes no others. `tracer/src/probe` loads both itself.
macro_rules! tracepoints {
    ($($name:ident: $function:literal => $report:path;)*) => { pastey::paste! { $(
        #[btf_tracepoint(function = $function)]
        fn $name(ctx: BtfTracePointContext) -> i32 {
            $report::<Direct>(&ctx);
            0
        }

        #[expect(non_snake_case, reason = "the user side finds it by both parts")]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!("classifier/", stringify!($name), "__raw"))]
        fn [<$name __raw>](ctx: *mut c_void) -> i32 {
            $report::<Probe>(&BtfTracePointContext::new(ctx));
            0
        }
    )* } };
}

tracepoints! {
    dev_queue: "net_dev_queue" => device::queue;
    dev_xmit: "net_dev_start_xmit" => device::xmit;
    dev_receive: "netif_receive_skb" => device::receive;
    drop: "kfree_skb" => end::drop;
    consume: "consume_skb" => end::consume;
    qdisc_enqueue: "qdisc_enqueue" => qdisc::enqueue;
    qdisc_dequeue: "qdisc_dequeue" => qdisc::dequeue;
    socket: "skb_copy_datagram_iovec" => socket::read;
    route: "fib_table_lookup" => route::fib4;
    route6: "fib6_table_lookup" => route::fib6;
    neigh: "neigh_event_send_done" => neighbour::event_send;
}

#[classifier]
fn tc_ingress(ctx: TcContext) -> i32 {
    tc::ingress(&ctx)
}

#[classifier]
fn tc_egress(ctx: TcContext) -> i32 {
    tc::egress(&ctx)
}

/// Netfilter programs. aya knows no such section: they stand in sections that it parses, each in its
/// own, and `tracer/src/probe` loads them itself.
macro_rules! netfilter_programs {
    ($($name:ident => |$ctx:ident| $report:expr;)*) => { $(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!("classifier/", stringify!($name)))]
        fn $name($ctx: *mut c_void) -> i32 {
            $report
        }
    )* };
}

netfilter_programs! {
    nf_enter => |ctx| netfilter::enter(ctx);
    nf_exit => |ctx| netfilter::exit(ctx);
    nf_pass_1 => |ctx| netfilter::pass(ctx, 1);
    nf_pass_2 => |ctx| netfilter::pass(ctx, 2);
    nf_pass_3 => |ctx| netfilter::pass(ctx, 3);
    nf_pass_4 => |ctx| netfilter::pass(ctx, 4);
    nf_pass_5 => |ctx| netfilter::pass(ctx, 5);
    nf_pass_6 => |ctx| netfilter::pass(ctx, 6);
    nf_pass_7 => |ctx| netfilter::pass(ctx, 7);
    nf_pass_8 => |ctx| netfilter::pass(ctx, 8);
    nf_pass_9 => |ctx| netfilter::pass(ctx, 9);
    nf_pass_10 => |ctx| netfilter::pass(ctx, 10);
    nf_pass_11 => |ctx| netfilter::pass(ctx, 11);
    nf_pass_12 => |ctx| netfilter::pass(ctx, 12);
}

/// Programs that watch kernel functions, each by fentry/fexit and by kprobe/kretprobe: `enter` is
/// called with the call, `keep` says what `leave` needs of it. `tracer/src/probe` loads them itself.
macro_rules! functions {
    ($($name:ident $(: $enter:expr)? $(, $keep:expr => $leave:expr)?;)*) => { pastey::paste! { $(
        $(functions! { @enter $name $enter })?
        $(functions! { @leave $name $keep, $leave })?
        functions! { @probe $name [$($enter)?] [$($keep)?] }
    )* } };
    (@enter $name:ident $enter:expr) => { pastey::paste! {
        #[expect(non_snake_case, reason = "the user side finds it by both parts")]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!("classifier/", stringify!($name), "__fentry"))]
        fn [<$name __fentry>](ctx: *mut c_void) -> i32 {
            $enter(Traced(ctx));
            0
        }
    } };
    (@leave $name:ident $keep:expr, $leave:expr) => { pastey::paste! {
        #[expect(non_snake_case, reason = "the user side finds it by both parts")]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!("classifier/", stringify!($name), "__fexit"))]
        fn [<$name __fexit>](ctx: *mut c_void) -> i32 {
            let call = Traced(ctx);
            if let Some(kept) = $keep(call) {
                $leave(&kept, call.result());
            }
            0
        }

        #[expect(non_snake_case, reason = "the user side finds it by both parts")]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!("classifier/", stringify!($name), "__kretprobe"))]
        fn [<$name __kretprobe>](ctx: *mut c_void) -> i32 {
            let returned = Returned(ctx);
            if let Some(kept) = returned.kept() {
                $leave(&kept, returned.result());
            }
            0
        }
    } };
    (@probe $name:ident [$($enter:expr)?] [$($keep:expr)?]) => { pastey::paste! {
        #[expect(non_snake_case, reason = "the user side finds it by both parts")]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!("classifier/", stringify!($name), "__kprobe"))]
        fn [<$name __kprobe>](ctx: *mut c_void) -> i32 {
            let call = Probed(ctx);
            $($enter(call);)?
            $(if let Some(kept) = $keep(call) {
                call.keep(&kept);
            })?
            0
        }
    } };
}

functions! {
    bridge_rx: bridge::receive;
    bridge_forward: bridge::forward;
    bridge_flood: bridge::flood;
    bridge_local: bridge::pass_up;
    bridge_xmit: bridge::xmit;
    hook: netfilter::enter_slow, netfilter::keep_slow => netfilter::leave_slow;
    nft_chain: nftables::enter, nftables::keep_chain => netfilter::decided;
    nft_immediate: nftables::immediate;
    nft_lookup, nftables::keep_expression => nftables::leave_expression;
    nft_target, nftables::keep_expression => nftables::leave_expression;
    nft_reject: nftables::terminal;
    nft_queue: nftables::terminal;
    xt_table: xtables::enter_ip, xtables::keep_table => netfilter::decided;
    xt6_table: xtables::enter_ip6, xtables::keep_table => netfilter::decided;
    eb_table: xtables::enter_bridge, xtables::keep_table => netfilter::decided;
    conntrack: conntrack::enter, conntrack::keep_packet => conntrack::leave;
    confirm: conntrack::confirm, conntrack::keep_packet => netfilter::decided;
    nat, conntrack::keep_packet => conntrack::rewritten;
    ip_receive: ip::receive;
    ip_forward: ip::forward;
    ip_local_deliver: ip::deliver;
    ip_output: ip::output;
    neigh_output: neighbour::resolve;
    socket_udp: socket::take;
    socket_tcp: socket::take;
    socket_raw: socket::take;
    clone, lifecycle::keep_parent => lifecycle::cloned;
    copy, lifecycle::keep_parent => lifecycle::copied;
    segment, lifecycle::keep_parent => lifecycle::segmented;
    fragment, lifecycle::keep_parent => lifecycle::fragmented;
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: nothing here panics; a panic that the compiler could not rule out would not load.
    unsafe { core::hint::unreachable_unchecked() }
}
