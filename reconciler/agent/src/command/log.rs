//! What a running program says, on standard error.

use super::Failure;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Logging {
    /// How log lines look
    #[arg(long, env = "DRAGLINE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: Format,
    /// What is logged: error, warn, info, debug, trace, or a filter such as dragline=debug
    #[arg(long, env = "DRAGLINE_LOG", default_value = "info")]
    log: String,
}

impl Logging {
    pub(super) fn start(&self) -> Result<(), Failure> {
        // sled tells every page that it writes: only who asks for it gets that.
        let filter = tracing_subscriber::EnvFilter::try_new(format!("sled=warn,{}", self.log))
            .map_err(|error| Failure::Usage(format!("--log {:?}: {error}", self.log)))?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            Format::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
            Format::Json => log.json().init(),
        }
        Ok(())
    }
}
