//! `cargo link-kinds`: the trials of tests/links that take kinds of links which few machines for tests have (ipvlan, VLAN
//! sub-interfaces, bonds), in a virtual machine whose kernel has them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ::tests::binaries::{self, Binaries};
use ::tests::runtime::reference_plugins;
use serde_json::Value;

use crate::emulation::{self, Failure, Initramfs, Kernel, output};
use crate::usage;

const INIT: &str = include_str!("init.sh");
/// For the scene and for what is tested in it.
const MODULES: [&str; 9] =
    ["veth", "bridge", "macvlan", "ipvlan", "8021q", "bonding", "nft_chain_nat", "nft_nat", "nft_ct"];
/// In MiB; the initramfs is in it twice while it is unpacked.
const MEMORY: u32 = 1024;
/// A machine that says nothing for so long has stopped.
const PATIENCE: Duration = Duration::from_secs(120);
/// All of it takes a part of this, even where many things are done at once.
const DEADLINE: Duration = Duration::from_secs(600);
/// How many lines of the kernel's log are shown of a machine that failed.
const SHOWN: usize = 30;

/// Runs it as a command.
pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    if let Some(argument) = arguments.first() {
        return usage(&format!("link-kinds: {argument:?} is not understood"));
    }
    match perform(&mut |line| println!("{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("link-kinds: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Boots once and runs all trials; `hear` is given each line that the machine says.
///
/// # Errors
/// Unless every trial has run and held.
pub(crate) fn perform(hear: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    if let Some(why) = emulation::hindrance() {
        return Err(Failure(why));
    }
    println!("{}", emulation::version()?);
    let target = binaries::target_folder().map_err(|error| Failure(error.to_string()))?;
    let folder = Folder::make()?;
    let kernel = Kernel::fetch(&target)?;
    let initramfs = folder.0.join("initramfs");
    let size = pack(&kernel, &target, &initramfs)?;
    println!("an initramfs of {} MB", size / 1_000_000);
    let started = Instant::now();
    let outcome = boot(&kernel, &initramfs, &folder.0, hear);
    println!("the machine took {:.0} s", started.elapsed().as_secs_f64());
    outcome.map_err(|Failure(what)| {
        let log = fs::read(folder.0.join("kernel.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        let errors = fs::read_to_string(folder.0.join("qemu.log")).unwrap_or_default();
        let shown = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        Failure(format!("{what}\n--- kernel\n{shown}\n--- qemu\n{errors}---"))
    })
}

/// The agent, the plugins, the reference plugins and the trials.
fn pack(kernel: &Kernel, target: &Path, path: &Path) -> Result<usize, Failure> {
    let programs = Binaries::build().map_err(|error| Failure(error.to_string()))?;
    let reference = reference_plugins()
        .ok_or_else(|| Failure("the reference plugins (Debian: containernetworking-plugins) are missing".into()))?;
    let mut initramfs = Initramfs::new(INIT)?;
    ["/sys", "/run", "/tmp"].iter().for_each(|folder| initramfs.directory(folder));
    let trials = build_trials(target)?;
    for (program, name) in [(&programs.dragline, "dragline"), (&programs.plugins, "dragline-cni"), (&trials, "links")] {
        let stripped = path.with_file_name(name);
        // What only a debugger reads is the larger part of them.
        let strip = Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
        let is_stripped = strip.is_ok_and(|status| status.success());
        initramfs.program(if is_stripped { &stripped } else { program }, &format!("/bin/{name}"))?;
    }
    // `macvlan` is by what they are found.
    for plugin in ["macvlan", "vlan"] {
        initramfs.program(&reference.join(plugin), &format!("/usr/lib/cni/{plugin}"))?;
    }
    initramfs.modules(kernel, &MODULES)?;
    initramfs.write(path)
}

/// The test program, built as `cargo test --workspace` builds it.
fn build_trials(target: &Path) -> Result<PathBuf, Failure> {
    let mut build = Command::new(binaries::cargo());
    build
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["test", "--quiet", "--workspace", "--test", "links", "--no-run", "--message-format", "json"])
        .arg("--target-dir")
        .arg(target);
    let messages = output(&mut build)?;
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "links").then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    program.ok_or_else(|| Failure("cargo names no program for the test `links`".into()))
}

/// What happens to the machine.
enum Event {
    Line(String),
    Gone,
}

fn boot(kernel: &Kernel, initramfs: &Path, folder: &Path, hear: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let log = folder.join("qemu.log");
    let errors = fs::File::create(&log).map_err(Failure::at(&log))?;
    let mut command = emulation::machine(kernel, initramfs, MEMORY, "threads=1");
    // Each has a thread of its own on this machine.
    command.args(["-smp", "2"]).current_dir(folder).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let child = command.spawn().map_err(|error| Failure(format!("setpriv (Debian: util-linux): {error}")))?;
    let mut machine = Machine(child);
    let console = machine.0.stdout.take().ok_or_else(|| Failure("the machine has no console".into()))?;
    let (says, events) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            // The driver may have ended.
            let _ = says.send(Event::Line(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        let _ = says.send(Event::Gone);
    });
    let outcome = follow(&events, hear);
    drop(machine);
    // It ends with what it reads from.
    let _ = reader.join();
    outcome
}

/// Hears the machine until it is done.
fn follow(events: &Receiver<Event>, hear: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
        match events.recv_timeout(patience) {
            Ok(Event::Line(line)) => {
                hear(&line);
                match line.split_once(' ') {
                    Some(("ended", "0")) => return Ok(()),
                    Some(("ended", code)) => return Err(Failure(format!("trials in the machine failed ({code})"))),
                    Some(("broken:", what)) => return Err(Failure(what.to_owned())),
                    _ => {}
                }
            }
            Ok(Event::Gone) => return Err(Failure("the machine has ended by itself".into())),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(Failure(format!("the machine is not done in {DEADLINE:?}, or silent for {PATIENCE:?}")));
            }
        }
    }
}

/// A machine that runs. Dropping it kills it.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder of this run; dropping it removes it.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("dragline-link-kinds-{}", std::process::id()));
        fs::create_dir(&path).map_err(Failure::at(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // There is nobody to tell; the system clears such folders.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(lines: &[&str]) -> Result<(), String> {
        let (says, events) = channel();
        lines.iter().for_each(|line| says.send(Event::Line((*line).to_owned())).unwrap());
        says.send(Event::Gone).unwrap();
        follow(&events, &mut |_| {}).map_err(|failure| failure.to_string())
    }

    #[test]
    fn only_a_machine_whose_trials_held_is_good() {
        assert_eq!(ends(&["up after 3 s", "test a ... ok", "ended 0", ""]), Ok(()));
        assert!(ends(&["test a ... FAILED", "ended 101"]).unwrap_err().contains("failed (101)"));
        assert_eq!(ends(&["broken: veth is not loaded"]), Err("veth is not loaded".to_owned()));
        assert!(ends(&["up after 3 s"]).unwrap_err().contains("ended by itself"));
    }
}
