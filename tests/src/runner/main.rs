//! The runner behind the cargo aliases `quickstart`, `verify`, `benchmarks`, `power-cuts` and
//! `link-kinds`.

mod benchmarks;
mod checks;
mod emulation;
mod kinds;
mod power_cuts;
mod quickstart;
mod verify;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo quickstart [-- --keep | --no-color | -o json]   play examples/quickstart and check all of it
       cargo verify                                          set up, formatting, lints, dependencies, all tests, power cuts, link kinds
       cargo benchmarks [-- --cluster | --drift | -o json]   whole processes against the reference plugins, with 250 pods, and in
                                                             a cluster
       cargo power-cuts [-- --rounds N | --seed N | --without-sync]
                                                             the store on a machine whose power is cut
       cargo link-kinds                                      ipvlan, VLANs and bonds on a machine whose kernel has them";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (subcommand, rest) = match arguments.split_first() {
        Some((subcommand, rest)) => (subcommand.as_str(), rest),
        None => ("", [].as_slice()),
    };
    // The aliases end with `--` already: another one comes from `cargo quickstart -- --keep`.
    let rest: Vec<&str> = rest.iter().map(String::as_str).filter(|argument| *argument != "--").collect();
    match subcommand {
        "quickstart" => quickstart::run(&rest),
        "verify" => verify::run(&rest),
        "benchmarks" => benchmarks::run(&rest),
        "power-cuts" => power_cuts::run(&rest),
        "link-kinds" => kinds::run(&rest),
        _ => usage(&format!("{subcommand:?} is no subcommand")),
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("runner: {what}\n{USAGE}");
    ExitCode::from(2)
}
