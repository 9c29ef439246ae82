//! `dragline`: agent, controller and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    dragline::command::run()
}
