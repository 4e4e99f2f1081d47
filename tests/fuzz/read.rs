//! What the fuzzer and the test of its corpus do with bytes that are said to be a capture file: what
//! `pathtrace -r` does with them.

use std::{io::Cursor, path::Path};

use tracer::{
    capture::{Merge, Merged, read::File},
    output::{Hops, Json, Sink as _, Text},
};

/// Reads them, and shows what they hold. Tells whether anything of it is a capture file.
pub fn read(bytes: &[u8]) -> bool {
    let open = || File::of(Path::new("a.pcapng"), Box::new(Cursor::new(bytes.to_vec())));
    let (Ok(file), Ok(again)) = (open(), open()) else { return false };
    let mut text = Text::new(Vec::new(), Hops::All, false);
    let mut json = Json::new(Vec::new());
    // Two of them, so that journeys get new numbers.
    for merged in Merge::new(vec![file, again]) {
        if let Merged::Journey(journey) = merged {
            text.journey(&journey).expect("memory takes all");
            json.journey(&journey).expect("memory takes all");
        }
    }
    true
}
