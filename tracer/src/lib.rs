//! pathtrace: where did this packet go, and if it did not arrive, where and why did it stop?
//!
//! Data goes one way, and every room has one job:
//!
//! ```text
//! tracer-ebpf ──ring buffer──▶ probe ─▶ event ─▶ journey ─▶ explain ─▶ output
//!                                ▲                             ▲          ▲
//!                                └────────── host ─────────────┴──────────┘
//! ```
//!
//! `docs/architecture.md` follows one packet's events through all of it.

pub mod capture;
pub mod cli;
pub mod command;
pub mod event;
pub mod explain;
pub mod host;
pub mod journey;
pub mod output;
pub mod probe;
pub mod run;
pub mod select;
