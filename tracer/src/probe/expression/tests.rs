//! What libpcap says of a packet, what the interpreter says, and what this kernel says of the translated
//! program: they must say the same.

use std::{
    cell::Cell,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya_obj::generated::bpf_insn;
use libloading::Library;
use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use tracer_common::expression::View;

use super::*;
use crate::{
    probe::{OBJECT, sys::testing},
    select::expression::{
        classic::Raw,
        libpcap::{Begins, Libpcap, text},
    },
};

/// As pcap-filter(7) has them.
const EXPRESSIONS: &[&str] = &[
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst host 10.0.0.2",
    "host 10.0.0.1 and not port 53",
    "ip host 10.0.0.1",
    "ip6 host fd00::1",
    "host fd00::1",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:01",
    "ether dst 02:00:00:00:00:02",
    "ether broadcast",
    "ether multicast",
    "ip multicast",
    "ip6 multicast",
    "net 10.0.0.0/24",
    "src net 10",
    "dst net 10.0.0.0 mask 255.255.0.0",
    "ip6 net fd00::/64",
    "port 53",
    "src port 53",
    "dst port 443",
    "tcp port 443",
    "udp port 53",
    "portrange 50-60",
    "tcp dst portrange 440-450",
    "sctp port 443",
    "less 60",
    "greater 60",
    "len >= 54 and len != 60",
    "ip proto 6",
    "ip proto \\udp",
    "ip6 proto 58",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "arp",
    "rarp",
    "arp host 10.0.0.1",
    "ip",
    "ip6",
    "not ip",
    "not arp",
    "ether proto 0x0806",
    "vlan",
    "vlan 100",
    "vlan 100 and host 10.0.0.1",
    "vlan and vlan 200",
    "not vlan",
    "mpls",
    "pppoes",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] & tcp-ack == 0",
    "icmp[icmptype] == icmp-echo",
    "icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply",
    "ip[0] & 0xf != 5",
    "ip[6:2] & 0x1fff = 0",
    "ether[0] & 1 = 0 and ip[16] >= 224",
    "ip6[6] = 6 and ip6[53] & 2 != 0",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "tcp port 443 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "udp[4:2] / 2 > 4",
    "ip[2:2] % 7 = 3",
    "udp[4:2] / (ip[8] - 64) = 0",
    "ip[2:2] * 3 ^ 5 > 100",
    "1 << ip[8] > 4",
    "(ip[4:2] >> udp[3]) & 1 = 1",
    "ip[ip[0]:2] = 0",
    "-ip[8] & 0xff = 192",
    "udp[8:4] = 0 or udp[200] = 1",
    "geneve",
    "geneve 5 and host 10.0.0.1",
    "host 10.0.0.1 or host 10.0.0.2 or net 192.168.0.0/16 or (tcp and (port 80 or port 443))",
];

/// A program of this kernel's that runs one translated expression.
struct Loaded {
    program: OwnedFd,
    view: OwnedFd,
}

fn instruction(bytes: [u8; INSN_BYTES]) -> bpf_insn {
    // SAFETY: a C struct of integers, as long as that.
    unsafe { std::mem::transmute(bytes) }
}

impl Loaded {
    fn new(code: impl Iterator<Item = Insn>) -> Self {
        let view = testing::map(size_of::<View>()).unwrap();
        // r1 = the view: `BPF_PSEUDO_MAP_VALUE`, in two slots.
        let mut first = [0x18, 0x21, 0, 0, 0, 0, 0, 0];
        first[4..].copy_from_slice(&view.as_raw_fd().to_ne_bytes());
        let mut all = vec![instruction(first), instruction([0; INSN_BYTES])];
        all.extend(code.map(|insn| instruction(insn.bytes())));
        let program = testing::load(&all).unwrap_or_else(|why| panic!("{why}"));
        Self { program, view }
    }

    fn matches(&self, bytes: &[u8], length: u32) -> bool {
        // What was there before must not matter.
        let mut view = [0xa5; size_of::<View>()];
        let captured = bytes.len().min(VIEW_BYTES);
        let mut put = |at: usize, what: &[u8]| view[at..at + what.len()].copy_from_slice(what);
        put(offset_of!(View, captured), &(captured as u32).to_ne_bytes());
        put(offset_of!(View, length), &length.to_ne_bytes());
        put(offset_of!(View, bytes), &bytes[..captured]);
        testing::write(self.view.as_fd(), &view).unwrap();
        testing::run(self.program.as_fd()).unwrap() != 0
    }
}

type Filter = unsafe extern "C" fn(*const Raw, *const u8, u32, u32) -> u32;

/// A packet, from its Ethernet header or its IP header on, that some of the expressions match.
fn packet(begins: Begins) -> impl Strategy<Value = (Vec<u8>, u32)> {
    let address = || select(vec![[10, 0, 0, 1], [10, 0, 0, 2], [192, 168, 3, 4], [224, 0, 0, 5]]);
    let port = || select(vec![53_u16, 55, 80, 443, 445, 6081, 40_000]);
    let head = (
        select(vec![0x0800_u16, 0x86dd, 0x0806, 0x8035, 0x8847, 0x8864]),
        select(vec![vec![], vec![100_u16], vec![200], vec![100, 200]]),
        select(vec![1_u8, 6, 17, 58, 132, 41]),
        5..16_u8,
        select(vec![0_u16, 0x4000, 0x2000, 0x0007]),
    );
    let ends = (address(), address(), port(), port(), any::<u8>());
    let rest = (prop::collection::vec(any::<u8>(), 0..300), any::<bool>(), 0..400_usize, 60..70_u8);
    (head, ends, rest).prop_map(move |(head, ends, (rest, get, cut, ttl))| {
        let (kind, tags, proto, words, fragment) = head;
        let (src, dst, sport, dport, flags) = ends;
        let mut bytes = Vec::new();
        if begins == Begins::Link {
            bytes.extend([
                2,
                0,
                0,
                0,
                0,
                src[3],
                if dst[0] == 224 { 0xff } else { 2 },
                0,
                0,
                0,
                0,
                1,
            ]);
            tags.iter().for_each(|tag| {
                bytes.extend(0x8100_u16.to_be_bytes());
                bytes.extend(tag.to_be_bytes());
            });
            bytes.extend(kind.to_be_bytes());
        }
        if kind == 0x86dd {
            bytes.extend([0x60, 0, 0, 0, 0, rest.len() as u8, proto, ttl]);
            for end in [src, dst] {
                bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end[3]]);
            }
        } else {
            bytes.extend([0x40 | words, 0, 0, 20_u8.wrapping_add(rest.len() as u8), 0, flags]);
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([ttl, proto, 0, 0]);
            bytes.extend(src);
            bytes.extend(dst);
            bytes.extend(std::iter::repeat_n(1, usize::from(words - 5) * 4));
        }
        bytes.extend(sport.to_be_bytes());
        bytes.extend(dport.to_be_bytes());
        bytes.extend([0, 12, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        if get {
            bytes.extend(b"GET ");
        }
        bytes.extend(rest);
        let length = bytes.len() as u32;
        bytes.truncate(cut.max(1));
        bytes.truncate(VIEW_BYTES);
        (bytes, length)
    })
}

#[test]
fn libpcap_the_interpreter_and_this_kernel_agree() {
    let library = Libpcap::open().unwrap();
    // SAFETY: libpcap does nothing when it is loaded, and this function has this type (pcap/bpf.h).
    let again = unsafe { Library::new("libpcap.so.0.8").or_else(|_| Library::new("libpcap.so.1")) };
    let again = again.unwrap();
    // SAFETY: as above.
    let filter: Filter = unsafe { *again.get::<Filter>(b"bpf_filter\0").unwrap() };
    let (compared, matched) = (Cell::new(0), Cell::new(0));
    for expression in EXPRESSIONS {
        for begins in [Begins::Link, Begins::Network] {
            let Ok(raw) = library.compile(&text(expression).unwrap(), begins) else { continue };
            let program = Program::decode(&raw).unwrap_or_else(|why| panic!("{expression}: {why}"));
            let loaded = Loaded::new(translate(&program).into_iter());
            let config =
                ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() };
            TestRunner::new(config)
                .run(&packet(begins), |(bytes, length)| {
                    // SAFETY: a whole program, and so many bytes.
                    let theirs = unsafe {
                        filter(raw.as_ptr(), bytes.as_ptr(), length, bytes.len() as u32) != 0
                    };
                    prop_assert_eq!(program.matches(&bytes, length), theirs, "the interpreter");
                    prop_assert_eq!(loaded.matches(&bytes, length), theirs, "the kernel");
                    compared.set(compared.get() + 1);
                    matched.set(matched.get() + u32::from(theirs));
                    Ok(())
                })
                .unwrap_or_else(|why| panic!("{expression} from {begins:?}: {why}"));
        }
    }
    let (compared, matched) = (compared.get(), matched.get());
    assert!(
        compared > 5_000 && matched > 500,
        "{matched} of {compared} matched: nothing was compared"
    );
}

#[test]
fn what_libpcap_never_writes_is_translated_as_it_is_run() {
    let raw = |code, jt, jf, k| Raw { code, jt, jf, k };
    let accept_a = raw(0x16, 0, 0, 0);
    let length = raw(0x80, 0, 0, 0);
    let index = raw(0x07, 0, 0, 0);
    for program in [
        vec![length, raw(0x34, 0, 0, 0), accept_a],
        vec![length, raw(0x94, 0, 0, 0), accept_a],
        vec![length, raw(0x64, 0, 0, 32), accept_a],
        vec![length, index, raw(0x6c, 0, 0, 0), accept_a],
        vec![length, index, raw(0x7c, 0, 0, 0), accept_a],
        vec![length, index, raw(0x9c, 0, 0, 0), accept_a],
        vec![raw(0x60, 0, 0, 3), accept_a],
        vec![length, raw(0x02, 0, 0, 3), raw(0x61, 0, 0, 3), raw(0x87, 0, 0, 0), accept_a],
        vec![raw(0x05, 0, 0, 1), accept_a, length, accept_a],
        vec![raw(0x81, 0, 0, 0), raw(0x50, 0, 0, i32::MAX as u32), accept_a],
    ] {
        let decoded = Program::decode(&program).unwrap();
        let loaded = Loaded::new(translate(&decoded).into_iter());
        for length in [0, 1, 3, 31, 32, 33, u32::MAX] {
            let ours = decoded.matches(&[1; 8], length);
            assert_eq!(loaded.matches(&[1; 8], length), ours, "{program:?} with length {length}");
        }
    }
}

fn compiled(text: &str) -> Expression {
    Expression::compile(&[text.to_owned()]).unwrap().unwrap()
}

fn hosts(many: usize) -> String {
    (0..many).map(|n| format!("host 10.1.{}.{}", n / 250, n % 250)).collect::<Vec<_>>().join(" or ")
}

/// The longest of this kind that is accepted.
fn most_hosts() -> usize {
    let (mut taken, mut refused) = (1, 1_000);
    while refused - taken > 1 {
        let middle = usize::midpoint(taken, refused);
        let fits = Code::of(&compiled(&hosts(middle))).is_ok();
        *(if fits { &mut taken } else { &mut refused }) = middle;
    }
    taken
}

#[test]
fn the_longest_expression_is_taken_by_this_kernel_with_the_room_behind_it() {
    let most = most_hosts();
    assert!(most > 100, "{most}");
    for many in [1, most] {
        let code = Code::of(&compiled(&hosts(many))).unwrap();
        let loaded = Loaded::new(fill(&code.network).chain([Insn::EXIT]));
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[12..14].copy_from_slice(&[10, 1]);
        assert!(loaded.matches(&packet, 40), "10.1.0.0 is the first of {many}");
        packet[12] = 11;
        assert!(!loaded.matches(&packet, 40));
    }
    assert!(matches!(Code::of(&compiled(&hosts(most + 1))), Err(TooMuch::Long(_))));
}

#[test]
fn what_the_kernel_side_does_not_see_is_refused() {
    assert!(Code::of(&compiled("ether[255] = 1")).is_ok());
    assert_eq!(Code::of(&compiled("ether[256] = 1")).unwrap_err(), TooMuch::Far(256));
}

#[test]
fn the_object_has_room_where_it_is_written_to_and_nothing_else_changes() {
    let code = Code::of(&compiled("tcp port 443")).unwrap();
    let with = code.put_into(OBJECT).unwrap();
    let places = [room(OBJECT, LINK).unwrap(), room(OBJECT, NETWORK).unwrap()];
    let room = |at: &usize| *at..at + ROOM * INSN_BYTES;
    let is_room = |at: usize| places.iter().any(|place| room(place).contains(&at));
    let changed = with.iter().zip(OBJECT).enumerate().filter(|(_, (a, b))| a != b);
    assert!(changed.clone().count() > 100);
    assert!(changed.map(|(at, _)| at).all(is_room));
}
