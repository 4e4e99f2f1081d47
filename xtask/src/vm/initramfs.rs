//! What a guest's kernel starts: an archive with a shell, the modules that reach its root, and what
//! is to be done.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{guest::quote, kernel::Kernel, modules};

/// Process 1 of the archive: reaches the root and lays the overlay over it.
const INIT: &str = include_str!("init.sh");

/// Process 1 of the overlay: the rest of a system, then the command.
const STAGE2: &str = include_str!("stage2.sh");

const DIRECTORY: u32 = 0o40755;
const FILE: u32 = 0o100644;
const PROGRAM: u32 = 0o100755;

/// The archive for a kernel; `script` is what the guest runs.
pub fn build(kernel: &Kernel, busybox: &Path, script: &str) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("{} not read", path.display()));
    let text = |file: &str| read(&kernel.modules().join(file)).map(|bytes| text_of(&bytes));
    let (dep, builtin) = (text("modules.dep")?, text("modules.builtin")?);
    let order = modules::in_order(&dep, &builtin, &modules::FOR_BOOT)?;

    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "lower", "over", "new", "mods"] {
        archive.add(directory, DIRECTORY, b"");
    }
    archive.add("bin/busybox", PROGRAM, &read(busybox)?);
    let mut names = String::new();
    for file in order {
        let name = file.rsplit('/').next().unwrap_or(file);
        archive.add(&format!("mods/{name}"), FILE, &read(&kernel.modules().join(file))?);
        names.push_str(name);
        names.push('\n');
    }
    archive.add("mods/order", FILE, names.as_bytes());
    let modules = quote(&kernel.modules().to_string_lossy());
    let config = format!("RELEASE={}\nMODULES={modules}\n", quote(kernel.release()));
    archive.add("vm.conf", FILE, config.as_bytes());
    archive.add("init", PROGRAM, INIT.as_bytes());
    archive.add("stage2", FILE, STAGE2.as_bytes());
    archive.add("command", FILE, script.as_bytes());
    Ok(archive.finish())
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A cpio archive as the kernel reads it, in the form that cpio calls `newc`.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // Inode, mode, owner, group, links, time, size, device twice, name's length, no checksum.
        let size = content.len() as u32;
        let name_size = name.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_names_and_contents_where_the_kernel_looks() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ed", "mode");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(&bytes[94..102], b"00000005", "the name's length, its end included");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..121], b"hello");
        assert_eq!(&bytes[124..130], b"070701", "the next entry is aligned");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
