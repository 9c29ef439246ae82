//! `cargo quickstart`: plays examples/quickstart and checks all of it (../design/quickstart.md).

mod paths;
mod play;

use std::process::ExitCode;
use std::time::Instant;

use ::tests::binaries::Binaries;
use netlink::testbed::enter_private_world;
use nix::sys::signal::{SigSet, Signal};

use crate::checks::{Checks, Form};
use crate::usage;
use play::Play;

/// What becomes of the scene at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    TearDown,
    /// It stays until SIGINT or SIGTERM.
    Keep,
}

/// Why the play could not go on.
type Fault = Box<dyn std::error::Error>;

/// Runs it; success only if every check held.
pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    let (form, end) = match options(arguments) {
        Ok(options) => options,
        Err(what) => return usage(&format!("quickstart: {what}")),
    };
    match perform(form, end) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("quickstart: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[&str]) -> Result<(Form, End), String> {
    let (mut form, mut end) = (Form::for_people(), End::TearDown);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--keep" => end = End::Keep,
            "--no-color" if form == Form::Coloured => form = Form::Plain,
            "--no-color" => {}
            "-o" | "--output" if rest.next() == Some(&"json") => form = Form::Json,
            "-o" | "--output" => return Err("-o takes json".into()),
            "-ojson" | "-o=json" | "--output=json" => form = Form::Json,
            other => return Err(format!("{other:?} is not understood")),
        }
    }
    Ok((form, end))
}

fn perform(form: Form, end: End) -> Result<bool, Fault> {
    eprintln!("quickstart: building dragline and its plugins");
    let binaries = Binaries::build()?;
    // While there is one thread: all later ones inherit it, and the children are given a clean slate by std.
    let mut until = SigSet::empty();
    if end == End::Keep {
        until.add(Signal::SIGINT);
        until.add(Signal::SIGTERM);
        until.thread_block()?;
    }
    enter_private_world()?;
    let started = Instant::now();
    let mut checks = Checks::new(form);
    let mut play = Play::set_up(binaries, &mut checks)?;
    let repair = play.perform(&mut checks)?;
    match end {
        End::TearDown => play.withdraw(&mut checks)?,
        End::Keep => {
            play.invite();
            until.wait()?;
        }
    }
    drop(play);
    let (held, failed) = checks.counts();
    checks.chapter(&format!("{held} checks held, {failed} did not, in {:.1} s", started.elapsed().as_secs_f64()));
    if form == Form::Json {
        println!("{}", checks.to_json(repair));
    }
    Ok(failed == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_in_any_order() {
        assert_eq!(options(&["--keep", "-o", "json"]), Ok((Form::Json, End::Keep)));
        assert_eq!(options(&["-o", "json", "--no-color"]), Ok((Form::Json, End::TearDown)));
        assert!(options(&["-o", "yaml"]).is_err());
        assert!(options(&["--kept"]).is_err());
    }
}
