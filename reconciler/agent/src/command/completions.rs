//! `dragline completions`.

use clap_complete::Shell;

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

pub(super) fn run(arguments: &Arguments, command: &mut clap::Command) -> Result<(), Failure> {
    let shell: Shell = arguments.shell.parse().map_err(Failure::Usage)?;
    clap_complete::generate(shell, command, "dragline", &mut std::io::stdout());
    Ok(())
}
