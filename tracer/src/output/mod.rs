//! What is shown: text and JSON, each a sink fed with the same records.

pub mod record;
