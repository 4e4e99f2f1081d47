//! The `pathtrace` command.
fn main() {}
