//! The store as a whole against other stores: opening it, the space it takes, dumping it.
//!
//! `cargo bench -p store --bench whole [-- opening|space|dump]`; on the disk that TMPDIR chooses.
//! DRAGLINE_BENCH_LARGE=1 goes on to a million records and a million pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where something it needs is missing")]

mod dump;
#[allow(dead_code, reason = "the other benchmark uses the rest")]
#[path = "../measure/mod.rs"]
mod measure;
mod opening;
mod space;

/// A topic by its name; it is told whether to go on to the large sizes.
type Topic = (&'static str, fn(bool));

const TOPICS: [Topic; 3] = [("opening", opening::run), ("space", space::run), ("dump", dump::run)];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [opening::CHILD, rest @ ..] = &arguments[..] {
        return opening::child(rest);
    }
    let large = std::env::var_os("DRAGLINE_BENCH_LARGE").is_some_and(|value| value == "1");
    for (name, run) in TOPICS {
        if arguments.is_empty() || arguments.contains(&name) {
            run(large);
        }
    }
}
