//! The machine: one qemu, which ends when it is told to, when its driver dies, or in mid-air.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use super::Trouble;
use super::guest::Guest;
use super::nbd::{self, Supply};
use crate::emulation;

/// In MiB.
const MEMORY: u32 = 256;

/// What happens in and to a machine.
#[derive(Debug)]
pub(super) enum Event {
    /// It has said a whole line.
    Line(String),
    /// The power is cut: nothing it does counts any more.
    Dark,
    /// It has ended.
    Gone,
    /// Its disk's cable does not work.
    Unplugged(String),
    /// The driver is to end.
    Interrupted,
}

/// A machine that runs. Dropping it kills it.
pub(super) struct Machine {
    qemu: Child,
    threads: Vec<JoinHandle<()>>,
}

impl Machine {
    /// Starts it with its disk plugged in. `variables` become init's environment; `kernel.log` and `qemu.log` are made
    /// in `folder`.
    pub(super) fn start(
        guest: &Guest,
        folder: &Path,
        supply: &Arc<Supply>,
        variables: &str,
        events: &Sender<Event>,
    ) -> Result<Self, Trouble> {
        let cannot = |what: &str, error: std::io::Error| Trouble::Bench(format!("{what}: {error}"));
        let (cable, plug) = UnixStream::pair().map_err(|error| cannot("a pair of sockets", error))?;
        let log = folder.join("qemu.log");
        let errors = std::fs::File::create(&log).map_err(Trouble::at(&log))?;
        let mut qemu = emulation::machine(&guest.kernel, &guest.initramfs, MEMORY, variables)
            .args(["-blockdev", "nbd,node-name=disk,server.type=fd,server.str=0,cache.direct=off,cache.no-flush=off"])
            .args(["-device", "virtio-blk-pci,drive=disk,write-cache=on"])
            .current_dir(folder)
            // A terminal's interrupt is for the driver.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(plug)))
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|error| cannot("setpriv (Debian: util-linux)", error))?;
        let console = qemu.stdout.take();
        let mut machine = Self { qemu, threads: Vec::new() };
        let console = console.ok_or_else(|| Trouble::Bench("the machine has no console".into()))?;
        let (says, supply) = (events.clone(), supply.clone());
        // Nobody listens to the last events of a machine that is being killed.
        machine.threads.push(std::thread::spawn(move || {
            let goes_dark = || drop(says.send(Event::Dark));
            if let Err(error) = nbd::serve(cable, &supply, goes_dark) {
                let _ = says.send(Event::Unplugged(error.to_string()));
            }
        }));
        let says = events.clone();
        machine.threads.push(std::thread::spawn(move || {
            let mut console = BufReader::new(console);
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) && line.ends_with(b"\n") {
                let _ = says.send(Event::Line(String::from_utf8_lossy(&line).trim_end().to_owned()));
                line.clear();
            }
            let _ = says.send(Event::Gone);
        }));
        Ok(machine)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        // Both end with what they read from.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
