//! The real program against an agent of a few lines.
#![allow(clippy::unwrap_used, reason = "the scene is part of the tests")]

mod add;
mod del;
mod install;
mod others;
mod scene;
