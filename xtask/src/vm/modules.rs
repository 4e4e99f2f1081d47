//! Which kernel modules a guest loads to reach its root, and in what order.

use std::collections::HashMap;

use anyhow::{Result, bail};

/// What a guest needs before it has a root: the devices it has, and the overlay.
pub const FOR_BOOT: [&str; 4] = ["virtio_pci", "virtio_console", "virtiofs", "overlay"];

/// The files to load, each after those that it depends on, by what depmod wrote: `modules.dep` and
/// `modules.builtin`. What is built in needs none.
pub fn in_order<'a>(dep: &'a str, builtin: &str, wanted: &[&str]) -> Result<Vec<&'a str>> {
    let files: HashMap<String, (&str, &str)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (name(file), (file, needs)))
        .collect();
    let mut order = Vec::new();
    for &module in wanted {
        if let Some(&(file, needs)) = files.get(module) {
            // depmod lists all that a module depends on, the last of which comes first.
            for file in needs.split_whitespace().rev().chain([file]) {
                if !order.contains(&file) {
                    order.push(file);
                }
            }
        } else if !builtin.lines().any(|line| name(line) == module) {
            bail!("this kernel has no {module}, which a guest needs");
        }
    }
    Ok(order)
}

/// `kernel/fs/fuse/virtiofs.ko` is `virtiofs`; what is written with a dash is named with an
/// underscore.
fn name(file: &str) -> String {
    let file = file.trim().rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/fuse/fuse.ko:
";

    #[test]
    fn each_after_what_it_depends_on_and_once() -> Result<()> {
        let order = in_order(DEP, "", &["virtio_pci", "virtiofs"])?;
        let names: Vec<String> = order.into_iter().map(name).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "fuse", "virtiofs"]);
        Ok(())
    }

    #[test]
    fn what_is_built_in_needs_no_file() -> Result<()> {
        let builtin = "kernel/fs/overlayfs/overlay.ko\nkernel/drivers/char/virtio-console.ko\n";
        assert!(in_order(DEP, builtin, &["overlay", "virtio_console"])?.is_empty());
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = in_order(DEP, "", &["overlay"]).unwrap_err();
        assert!(error.to_string().contains("no overlay"), "{error}");
    }
}
