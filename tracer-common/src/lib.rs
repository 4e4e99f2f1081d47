//! The facts that the kernel side (`tracer-ebpf`) and the user side (`tracer`) share.
//!
//! - [`point`]: the catalogue of points a packet can be seen at. A new point is declared there.
//! - [`event`]: the wire layout of what the kernel side sends.
//! - [`filter`]: which packets are followed; evaluated in the kernel, tested here.
//! - [`expression`]: what a pcap-filter expression is evaluated on.
//! - [`track`]: the tables of followed packets and learned replies.
//! - [`same`]: whether a packet is what it was when it was last parsed.
//! - [`config`]: what the user side tells the kernel side before it is loaded.
//!
//! `no_std` and free of I/O, so that both compilers take it.
#![cfg_attr(not(feature = "user"), no_std)]

pub mod config;
pub mod event;
pub mod expression;
pub mod filter;
pub mod point;
pub mod same;
pub mod track;
