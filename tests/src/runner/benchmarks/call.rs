//! One call of one program, timed from before it is started until it has ended and its output is read.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::Value;

/// How a plugin is called.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) verb: &'a str,
    pub(super) container: &'a str,
    pub(super) netns: &'a str,
    pub(super) stdin: String,
}

/// What it took, and gave.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) time: Duration,
    /// Of the process, user and system together. Only meaningful while the caller's process ends no other children.
    pub(super) cpu: Duration,
    pub(super) output: Vec<u8>,
}

impl Taken {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.output).unwrap_or_default()
    }
}

/// Runs a plugin as a runtime does; one that fails is an error. The environment beats what the call gives.
pub(super) fn call(asked: &Call<'_>, environment: &[(&str, impl AsRef<OsStr>)]) -> io::Result<Taken> {
    let mut command = Command::new(asked.program);
    command
        .env_clear()
        .env("CNI_COMMAND", asked.verb)
        .env("CNI_CONTAINERID", asked.container)
        .env("CNI_NETNS", asked.netns)
        .env("CNI_IFNAME", "net1")
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", asked.container))
        .envs(environment.iter().map(|(name, value)| (name, value)));
    let taken = run(&mut command, asked.stdin.as_bytes())?;
    let text = String::from_utf8_lossy(&taken.1.output);
    if taken.0 { Ok(taken.1) } else { Err(io::Error::other(format!("{:?} {}: {text}", asked.program, asked.verb))) }
}

/// Runs a program that needs nothing.
pub(super) fn bare(program: &Path) -> io::Result<Taken> {
    run(&mut Command::new(program), b"").map(|(_, taken)| taken)
}

fn run(command: &mut Command, stdin: &[u8]) -> io::Result<(bool, Taken)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let before = children_cpu()?;
    let started = Instant::now();
    let mut child = command.spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        match pipe.write_all(stdin) {
            // It may have ended without reading.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut output)?;
    }
    let status = child.wait()?;
    let time = started.elapsed();
    let cpu = children_cpu()?.saturating_sub(before);
    Ok((status.success(), Taken { time, cpu, output }))
}

fn children_cpu() -> io::Result<Duration> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.unsigned_abs()))
}
