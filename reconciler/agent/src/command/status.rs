//! `dragline status`.

use std::time::{Duration, Instant};

use schemas::wire::{Answer, Call, StatusReport};

use super::ask::{Output, print, print_json, unexpected};
use super::{Ask, Failure, client};

/// Between two questions of `--wait`: an agent that does not listen yet cannot tell when it will.
const INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Wait so long until it is ready: 500ms, 10s, 2m
    #[arg(long, value_parser = duration)]
    wait: Option<Duration>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration such as 500ms, 10s or 2m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("unit {unit:?} of {text:?} is not one of ms, s, m")),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let until = Instant::now() + arguments.wait.unwrap_or_default();
    let report = loop {
        let asked = ask(arguments);
        let is_ready = matches!(&asked, Ok(report) if report.ready);
        if is_ready || Instant::now() >= until {
            break asked?;
        }
        std::thread::sleep(INTERVAL);
    };
    if arguments.output == Output::Json {
        print_json(&report)?;
    } else {
        show(&report)?;
    }
    if report.ready { Ok(()) } else { Err(Failure::DoesNotHold) }
}

fn ask(arguments: &Arguments) -> Result<StatusReport, Failure> {
    match client::ask(&arguments.ask.socket, Call::Status)? {
        Answer::Status(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

fn show(report: &StatusReport) -> Result<(), Failure> {
    print(&format!(
        "{}: node {}, version {}, {} sandboxes ({} not as wanted), {} addresses in use",
        if report.ready { "ready" } else { "not ready" },
        report.node,
        report.version,
        report.sandboxes,
        report.unconverged,
        report.allocated
    ))?;
    for reason in &report.reasons {
        print(&format!("missing: {reason}"))?;
    }
    for warning in &report.warnings {
        print(&format!("warning: {warning}"))?;
    }
    Ok(())
}
