//! pathtrace's kernel side: entry points only. What each does stands in [`points`]; the five verbs
//! that all points use are [`skb`] (read), [`packet`] (parse), the filter of `tracer-common`
//! (match), [`track`] (follow) and [`emit`] (send).
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

mod emit;
mod globals;
mod packet;
mod points;
mod skb;
mod track;

use core::ffi::c_void;

use aya_ebpf::{
    macros::{btf_tracepoint, classifier},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, TcContext},
};
use points::{device, end, ip, neighbour, netfilter, qdisc, route, socket, tc};
use skb::{Direct, Probe, Skb};

macro_rules! tracepoints {
    ($($name:ident: $function:literal => $report:path;)*) => { $(
        #[btf_tracepoint(function = $function)]
        fn $name(ctx: BtfTracePointContext) -> i32 {
            $report(&ctx);
            0
        }
    )* };
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

/// Netfilter programs. aya knows no such section: they stand in one that it parses, and
/// `tracer/src/probe` loads them itself.
macro_rules! netfilter_programs {
    ($($name:ident => |$ctx:ident| $report:expr;)*) => { $(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "classifier")]
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

/// Programs of kernel functions, by the forms in which they are attached. As netfilter programs:
/// `tracer/src/probe` loads them itself, once for each function.
macro_rules! function_programs {
    ($($name:ident => |$ctx:ident| $report:expr;)*) => { $(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "classifier")]
        fn $name($ctx: *mut c_void) -> i32 {
            $report;
            0
        }
    )* };
}

function_programs! {
    ip_receive__fentry => |ctx| ip::receive(Skb::<Direct>::new(FEntryContext::new(ctx).arg(0)));
    ip_receive__kprobe => |ctx| {
        if let Some(skb) = ProbeContext::new(ctx).arg(0) {
            ip::receive(Skb::<Probe>::new(skb));
        }
    };
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: nothing here panics; a panic that the compiler could not rule out would not load.
    unsafe { core::hint::unreachable_unchecked() }
}
