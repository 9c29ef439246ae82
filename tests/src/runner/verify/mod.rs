//! `cargo verify`: set-up, formatting, lints, dependencies, all tests, power cuts, link kinds; each stage told, none skipped
//! silently.

mod api_server;
mod setup;
mod tally;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use tests::binaries;
use tests::cluster::UNDER_VERIFY;

use crate::emulation;
use crate::kinds;
use crate::power_cuts::{self, Options};
use crate::usage;
use setup::Tools;
use tally::Tally;

/// Power cuts of the store; `cargo power-cuts` makes more.
const POWER_CUTS: u64 = 3;

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// How a stage ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    Failed(String),
    /// It could not be run here; why.
    Skipped(String),
}

struct Stage {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs all stages, whatever comes of the earlier ones; only without its set-up nothing is run.
pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    if let Some(argument) = arguments.first() {
        return usage(&format!("verify: {argument:?} is not understood"));
    }
    let target = match binaries::target_folder() {
        Ok(target) => target,
        Err(error) => {
            eprintln!("verify: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Tools { deny, mut api_server } = match setup::set_up(&target) {
        Ok(tools) => tools,
        Err(what) => {
            eprintln!("verify: {what}");
            return ExitCode::FAILURE;
        }
    };
    let mut tally = Tally::default();
    let stages = [
        stage("formatting", || cargo(&["fmt", "--all", "--check"])),
        stage("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        stage("dependencies", || ended(Command::new(&deny).args(["check", "bans", "licenses", "sources"]))),
        stage("advisories", || advisories(&deny)),
        stage("API server", || api_server.finish()),
        stage("tests", || tests(&mut tally)),
        stage("power cuts", power_cuts),
        stage("link kinds", || link_kinds(&mut tally)),
    ];
    summarise(&stages, &tally)
}

fn stage(name: &'static str, run: impl FnOnce() -> Outcome) -> Stage {
    println!("\n== {name}");
    let started = Instant::now();
    let outcome = run();
    Stage { name, outcome, took: started.elapsed() }
}

fn cargo(arguments: &[&str]) -> Outcome {
    ended(Command::new(binaries::cargo()).args(arguments))
}

fn ended(command: &mut Command) -> Outcome {
    match command.current_dir(WORKSPACE).status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(format!("{} cannot be started: {error}", command.get_program().display())),
    }
}

/// Known vulnerabilities, by the public database; a machine that cannot fetch it, and has no copy, cannot tell.
fn advisories(deny: &Path) -> Outcome {
    let fetched = ended(Command::new(deny).args(["fetch", "db"]));
    let check = |further: &[&str]| ended(Command::new(deny).arg("check").args(further).arg("advisories"));
    match fetched {
        Outcome::Passed => check(&["--disable-fetch"]),
        Outcome::Failed(_) | Outcome::Skipped(_) if setup::has_advisory_database() => check(&["--disable-fetch"]),
        Outcome::Failed(why) | Outcome::Skipped(why) => {
            Outcome::Skipped(format!("the advisory database cannot be fetched from here ({why}) and there is no copy"))
        }
    }
}

fn tests(tally: &mut Tally) -> Outcome {
    let mut command = Command::new(binaries::cargo());
    command.current_dir(WORKSPACE).args(["test", "--workspace", "--no-fail-fast"]);
    command.env(UNDER_VERIFY, "1");
    match tally.follow(&mut command) {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => {
            tally.at_least_one_failed();
            Outcome::Failed(status.to_string())
        }
        Err(error) => Outcome::Failed(format!("cargo test cannot be started: {error}")),
    }
}

fn power_cuts() -> Outcome {
    if let Some(why) = emulation::hindrance() {
        return Outcome::Skipped(why);
    }
    match power_cuts::perform(Options { rounds: POWER_CUTS, proves: false, seed: None }) {
        Ok(()) => Outcome::Passed,
        Err(trouble) => {
            println!("{trouble}");
            Outcome::Failed(trouble.to_string().lines().next().unwrap_or_default().to_owned())
        }
    }
}

fn link_kinds(tally: &mut Tally) -> Outcome {
    if let Some(why) = emulation::hindrance() {
        return Outcome::Skipped(why);
    }
    let heard = kinds::perform(&mut |line| {
        println!("{line}");
        tally.add(line);
    });
    match heard {
        Ok(()) => Outcome::Passed,
        Err(failure) => {
            println!("{failure}");
            tally.at_least_one_failed();
            Outcome::Failed(failure.to_string().lines().next().unwrap_or_default().to_owned())
        }
    }
}

fn summarise(stages: &[Stage], tally: &Tally) -> ExitCode {
    println!("\n== summary");
    for stage in stages {
        let (word, why) = match &stage.outcome {
            Outcome::Passed => ("ok", ""),
            Outcome::Failed(why) => ("FAILED", why.as_str()),
            Outcome::Skipped(why) => ("SKIPPED", why.as_str()),
        };
        println!("{:<13} {word:<8} {:>6.1} s  {why}", stage.name, stage.took.as_secs_f64());
    }
    println!("{tally}");
    let is_failed = stages.iter().any(|stage| matches!(stage.outcome, Outcome::Failed(_)));
    if is_failed || !tally.has_run() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
