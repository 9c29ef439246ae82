//! The store from outside: opened, written by many, killed, damaged.

#![allow(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

mod corruption;
mod damage;
mod dumping;
mod durable;
mod forbidden;
mod full_disk;
mod images;
mod interrupted;
mod invariants;
mod kill;
mod model;
mod namespaces;
mod opening;
mod power_cut;
mod sample;
mod traffic;
mod trial;
