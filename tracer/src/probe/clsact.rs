//! tc filters of a clsact qdisc: what kernels before 6.6 have in place of tcx. Such a filter stays
//! until somebody removes it, so its name says whose it is: what its process could not take along
//! is found by that, and removed by the next.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use crate::host::{
    netlink::{Connection, Message, attribute, attributes, string_of, u32_of},
    netns::Netns,
    owner::Owner,
};

/// What every name begins with.
const OURS: &str = "pathtrace";

/// `struct tcmsg`, in bytes.
const HEADER: usize = 20;

/// `clsact` as a parent, and its handle (linux/pkt_sched.h).
const CLSACT: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;

/// Attributes of linux/rtnetlink.h and linux/pkt_cls.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is what is done.
const ACT_DIRECT: u32 = 1;
/// `ETH_P_ALL`, in network order.
const ALL: u32 = 0x0300;

/// A side of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What it receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn parent(self) -> u32 {
        match self {
            Side::Ingress => 0xffff_fff2,
            Side::Egress => 0xffff_fff3,
        }
    }
}

/// Attaches the programs to an interface of the calling thread's namespace.
///
/// # Errors
/// When the interface is gone, or the kernel refuses.
pub fn attach(ifindex: u32, programs: [(Side, BorrowedFd<'_>); 2]) -> io::Result<()> {
    let mut connection = Connection::route()?;
    let made = add_qdisc(&mut connection, ifindex)?;
    let name = Name { owner: Owner::own()?, made };
    let attached = programs
        .into_iter()
        .try_for_each(|(side, program)| add_filter(&mut connection, ifindex, side, program, &name));
    if attached.is_err() {
        let _ = detach(ifindex);
    }
    attached
}

/// Takes this process's filters from an interface of the calling thread's namespace, and the qdisc
/// where they brought it and nobody else uses it.
///
/// # Errors
/// What the kernel says.
pub fn detach(ifindex: u32) -> io::Result<()> {
    let own = Owner::own()?;
    remove(&mut Connection::route()?, ifindex, |name| name.owner == own)
}

/// Removes what processes that are gone have left in a namespace: on how many interfaces.
///
/// # Errors
/// When the namespace is gone, or the kernel refuses.
pub fn sweep(netns: &Netns) -> anyhow::Result<usize> {
    let swept = netns.enter(|| {
        let mut connection = Connection::route()?;
        let body = tcmsg(0, 0, 0, 0);
        let clsact = connection.dump(libc::RTM_GETQDISC, &body, |message| {
            let filter = Filter::read(message)?;
            (filter.kind == "clsact").then_some(filter.ifindex)
        })?;
        let mut swept = 0;
        for ifindex in clsact {
            let found = filters(&mut connection, ifindex)?;
            if found.iter().any(|(_, filter)| filter.is_left()) {
                remove(&mut connection, ifindex, |name| !name.owner.is_alive())?;
                swept += 1;
            }
        }
        io::Result::Ok(swept)
    })??;
    Ok(swept)
}

/// Whose a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    owner: Owner,
    /// It brought the qdisc along.
    made: bool,
}

impl Name {
    fn text(self) -> String {
        let Self { owner: Owner { pid, since }, made } = self;
        format!("{OURS} {pid} {since} {}", if made { "qdisc" } else { "filter" })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(OURS) {
            return None;
        }
        let pid = words.next()?.parse().ok()?;
        let since = words.next()?.parse().ok()?;
        Some(Self { owner: Owner { pid, since }, made: words.next()? == "qdisc" })
    }
}

/// A filter or a qdisc, as the kernel tells of it.
#[derive(Debug)]
struct Filter {
    ifindex: u32,
    handle: u32,
    /// Priority and protocol.
    info: u32,
    kind: String,
    name: Option<Name>,
}

impl Filter {
    fn read(message: &Message<'_>) -> Option<Self> {
        let word = |at: usize| u32_of(message.body.get(at..at + 4)?);
        let mut filter = Self {
            ifindex: word(4)?,
            handle: word(8)?,
            info: word(16)?,
            kind: String::new(),
            name: None,
        };
        for (kind, value) in attributes(message.body.get(HEADER..)?) {
            match kind {
                TCA_KIND => filter.kind = string_of(value),
                TCA_OPTIONS => {
                    let name = attributes(value).find(|(kind, _)| *kind == TCA_BPF_NAME);
                    filter.name = name.and_then(|(_, text)| Name::parse(&string_of(text)));
                }
                _ => {}
            }
        }
        Some(filter)
    }

    fn is_left(&self) -> bool {
        self.name.is_some_and(|name| !name.owner.is_alive())
    }
}

/// All filters of an interface's clsact qdisc. A priority is told once by itself, without handle.
fn filters(connection: &mut Connection, ifindex: u32) -> io::Result<Vec<(Side, Filter)>> {
    let mut all = Vec::new();
    for side in Side::BOTH {
        let body = tcmsg(ifindex, 0, side.parent(), 0);
        let found = connection.dump(libc::RTM_GETTFILTER, &body, Filter::read)?;
        all.extend(found.into_iter().filter(|filter| filter.handle != 0).map(|f| (side, f)));
    }
    Ok(all)
}

fn remove(
    connection: &mut Connection,
    ifindex: u32,
    which: impl Fn(&Name) -> bool,
) -> io::Result<()> {
    let (ours, others): (Vec<_>, Vec<_>) = filters(connection, ifindex)?
        .into_iter()
        .partition(|(_, filter)| filter.name.as_ref().is_some_and(&which));
    for (side, filter) in &ours {
        let mut body = tcmsg(ifindex, filter.handle, side.parent(), filter.info);
        body.extend(attribute(TCA_KIND, b"bpf\0"));
        connection.order(libc::RTM_DELTFILTER, 0, &body)?;
    }
    if others.is_empty() && ours.iter().any(|(_, filter)| filter.name.is_some_and(|n| n.made)) {
        connection.order(libc::RTM_DELQDISC, 0, &tcmsg(ifindex, HANDLE, CLSACT, 0))?;
    }
    Ok(())
}

/// Whether it was not there.
fn add_qdisc(connection: &mut Connection, ifindex: u32) -> io::Result<bool> {
    let mut body = tcmsg(ifindex, HANDLE, CLSACT, 0);
    body.extend(attribute(TCA_KIND, b"clsact\0"));
    match connection.order(libc::RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

fn add_filter(
    connection: &mut Connection,
    ifindex: u32,
    side: Side,
    program: BorrowedFd<'_>,
    name: &Name,
) -> io::Result<()> {
    let fd = program.as_raw_fd() as u32;
    let options = [
        attribute(TCA_BPF_FD, &fd.to_ne_bytes()),
        attribute(TCA_BPF_NAME, format!("{}\0", name.text()).as_bytes()),
        attribute(TCA_BPF_FLAGS, &ACT_DIRECT.to_ne_bytes()),
    ]
    .concat();
    // Without a priority: the kernel gives it one of its own.
    let mut body = tcmsg(ifindex, 0, side.parent(), ALL);
    body.extend(attribute(TCA_KIND, b"bpf\0"));
    body.extend(attribute(TCA_OPTIONS, &options));
    connection.order(libc::RTM_NEWTFILTER, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}

fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, ifindex, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is() {
        let own = Name { owner: Owner::own().unwrap(), made: true };
        assert_eq!(Name::parse(&own.text()), Some(own));
    }

    #[test]
    fn what_others_named_is_left_alone() {
        for text in
            ["", "pathtrace", "pathtrace x 1 qdisc", "cil_from_container", "pathtraces 1 1 q"]
        {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
