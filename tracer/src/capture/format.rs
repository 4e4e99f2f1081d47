//! The blocks of pcapng (draft-ietf-opsawg-pcapng) that are written and read, and what is pathtrace's own
//! in them. Written little-endian; read in either order.

/// Section Header Block. Its type reads the same in both byte orders.
pub(super) const SECTION: u32 = 0x0A0D_0D0A;
/// Interface Description Block.
pub(super) const INTERFACE: u32 = 1;
/// Enhanced Packet Block.
pub(super) const PACKET: u32 = 6;
/// What pathtrace keeps of a journey: a block type for local use (its highest bit is set). Other readers
/// pass over it without a word. Custom Blocks (0xBAD) would be the place for it; tshark 4.0 counts
/// those as frames.
pub(super) const RECORD: u32 = 0x8000_5054;

/// Types that a block may have when the next one is looked for behind a damaged place.
pub(super) const KNOWN: [u32; 4] = [SECTION, INTERFACE, PACKET, RECORD];

/// The byte-order magic of a section, as its writer's order has it.
pub(super) const ORDER: u32 = 0x1A2B_3C4D;
/// The first bytes of classic pcap files: micro- and nanoseconds, both orders.
pub(super) const CLASSIC: [u32; 4] = [0xA1B2_C3D4, 0xD4C3_B2A1, 0xA1B2_3C4D, 0x4D3C_B2A1];

/// Bytes of a block around its body: type, length, length again.
pub(super) const FRAME: usize = 12;
/// The longest block that is read. Wireshark's limit (`MAX_BLOCK_SIZE` of wiretap/pcapng.c).
pub(super) const LONGEST: usize = 16 << 20;

/// Options: of any block, of sections, of interfaces, of packets.
pub(super) mod option {
    pub const END: u16 = 0;
    pub const COMMENT: u16 = 1;
    pub const HARDWARE: u16 = 2;
    pub const OS: u16 = 3;
    pub const APPLICATION: u16 = 4;
    pub const IF_NAME: u16 = 2;
    pub const IF_DESCRIPTION: u16 = 3;
    pub const IF_TSRESOL: u16 = 9;
    pub const FLAGS: u16 = 2;
    pub const PACKET_ID: u16 = 5;
    /// For local use: of a section, a piece of what a [`RECORD`] would hold (a piece is as long as an
    /// option can be); of a packet, the journey's number and the hop that it was captured at.
    pub const OWN: u16 = 0x8050;
}

/// Link types (tcpdump.org/linktypes.html).
pub(super) mod link {
    pub const ETHERNET: u16 = 1;
    /// An IPv4 or IPv6 packet.
    pub const RAW: u16 = 101;
    /// Anything: `LINKTYPE_USER0`.
    pub const OTHER: u16 = 147;
}

/// How what is pathtrace's own begins.
const MAGIC: &[u8; 10] = b"pathtrace\0";
/// Version of what is in it. A reader takes none that is higher.
pub(super) const VERSION: u16 = 1;
/// Most bytes of an option's value that are written.
const OPTION: usize = 65_532;

/// A block in the making.
pub(super) struct Block<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Block<'a> {
    pub fn begin(out: &'a mut Vec<u8>, kind: u32) -> Self {
        let start = out.len();
        out.extend(kind.to_le_bytes());
        out.extend([0; 4]);
        Self { out, start }
    }

    pub fn u16(self, value: u16) -> Self {
        self.out.extend(value.to_le_bytes());
        self
    }

    pub fn u32(self, value: u32) -> Self {
        self.out.extend(value.to_le_bytes());
        self
    }

    pub fn u64(self, value: u64) -> Self {
        self.out.extend(value.to_le_bytes());
        self
    }

    /// Bytes, and zeros up to the next multiple of four.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.out.extend(bytes);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self
    }

    pub fn option(self, code: u16, value: &[u8]) -> Self {
        let value = value.get(..OPTION).unwrap_or(value);
        let len = value.len() as u16;
        self.u16(code).u16(len).bytes(value)
    }

    /// A text, cut between characters where it is too long.
    pub fn text(self, code: u16, text: &str) -> Self {
        let end = text.floor_char_boundary(OPTION);
        self.option(code, &text.as_bytes()[..end])
    }

    /// Writes the lengths.
    pub fn end(self) {
        let len = (self.out.len() - self.start + 4) as u32;
        self.out.extend(len.to_le_bytes());
        self.out[self.start + 4..self.start + 8].copy_from_slice(&len.to_le_bytes());
    }

    /// Ends the options, then the block.
    pub fn end_options(self) {
        self.u16(option::END).u16(0).end();
    }
}

/// What a [`RECORD`] or a section's own options hold: magic, version, length and checksum of the text,
/// and the text.
pub(super) fn seal(text: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(text.len() + 20);
    sealed.extend(MAGIC);
    sealed.extend(VERSION.to_le_bytes());
    sealed.extend((text.len() as u32).to_le_bytes());
    sealed.extend(crc32fast::hash(text).to_le_bytes());
    sealed.extend(text);
    sealed
}

/// Pieces of a sealed text, each an option long.
pub(super) fn pieces(sealed: &[u8]) -> impl Iterator<Item = &[u8]> {
    sealed.chunks(OPTION)
}

/// Why a sealed text cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It is somebody else's.
    Foreign,
    /// A later pathtrace wrote it.
    Newer(u16),
    /// It is not what was written.
    Checksum,
}

/// The text of a sealed one.
pub(super) fn unseal(sealed: &[u8]) -> Result<&[u8], Broken> {
    let rest = sealed.strip_prefix(MAGIC).ok_or(Broken::Foreign)?;
    let (version, rest) = rest.split_first_chunk().ok_or(Broken::Checksum)?;
    match u16::from_le_bytes(*version) {
        VERSION => {}
        newer if newer > VERSION => return Err(Broken::Newer(newer)),
        _ => return Err(Broken::Checksum),
    }
    let (len, rest) = rest.split_first_chunk().ok_or(Broken::Checksum)?;
    let (sum, rest) = rest.split_first_chunk().ok_or(Broken::Checksum)?;
    let text = rest.get(..u32::from_le_bytes(*len) as usize).ok_or(Broken::Checksum)?;
    if crc32fast::hash(text) == u32::from_le_bytes(*sum) { Ok(text) } else { Err(Broken::Checksum) }
}

/// The byte order of a section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Little,
    Big,
}

impl Order {
    /// By the byte-order magic.
    pub fn of(magic: [u8; 4]) -> Option<Self> {
        match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
            (ORDER, _) => Some(Self::Little),
            (_, ORDER) => Some(Self::Big),
            _ => None,
        }
    }

    pub fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The options in this much of a block's body; what does not hold together ends them.
    pub fn options(self, mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        std::iter::from_fn(move || {
            let (code, behind) = rest.split_first_chunk()?;
            let (len, behind) = behind.split_first_chunk()?;
            let (code, len) = (self.u16(*code), usize::from(self.u16(*len)));
            if code == option::END {
                return None;
            }
            let value = behind.get(..len)?;
            rest = behind.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((code, value))
        })
    }
}
