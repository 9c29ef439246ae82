//! A machine of its own, emulated by qemu: Debian's kernel, unpacked and not installed, and an initramfs that is made of
//! programs of this machine.

mod cpio;
mod initramfs;
mod kernel;

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) use initramfs::Initramfs;
pub(crate) use kernel::Kernel;

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    /// With a file.
    pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| Self(format!("{}: {error}", path.display()))
    }
}

/// Why it cannot be done on this machine at all.
pub(crate) fn hindrance() -> Option<String> {
    (!cfg!(target_arch = "x86_64")).then(|| "the machine is an x86_64 one, and this is none".to_owned())
}

/// The emulator's version.
///
/// # Errors
/// With what to install.
pub(crate) fn version() -> Result<String, Failure> {
    let told = output(Command::new(QEMU).arg("--version")).map_err(|Failure(what)| {
        Failure(format!("{what}; it takes (by Debian's names) qemu-system-x86, busybox-static, e2fsprogs, util-linux"))
    })?;
    Ok(told.lines().next().unwrap_or_default().to_owned())
}

/// A machine's command, with two serial lines: its standard output is the first, which init talks on; `kernel.log` in the
/// working directory is the second, the kernel's. `variables` become init's environment, `memory` is in MiB.
pub(crate) fn machine(kernel: &Kernel, initramfs: &Path, memory: u32, variables: &str) -> Command {
    // One boot in seven panics under load without no_timer_check.
    let line = format!(
        "console=ttyS1 loglevel=5 panic=-1 no_timer_check nokaslr mitigations=off random.trust_cpu=on {variables}"
    );
    // setpriv: no machine outlives its driver, whatever that one dies of.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", QEMU, "-accel", "tcg", "-m", &memory.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-append", &line, "-kernel"])
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        .args(["-serial", "file:/dev/stdout", "-serial", "file:kernel.log"]);
    command
}

/// What a command that must succeed says on standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Failure(format!("{program} cannot be started: {error}")))?;
    if !output.status.success() {
        return Err(Failure(format!("{program} failed ({}); what it said stands above", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
