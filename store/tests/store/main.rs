//! The store from outside: opened, written by many, killed, damaged.

#![allow(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

mod damage;
mod dumping;
mod durable;
mod invariants;
mod kill;
mod opening;
mod power_cut;
mod sample;
mod traffic;
