//! `cargo power-cuts`: a machine that writes to a store and whose power is cut, again and again.
//!
//! ```text
//! Guest ──── Debian's kernel; an initramfs with the writer of store/examples/traffic.rs
//! Machine ── qemu, emulating; its disk is served by this process
//! Disk ───── a write cache: of what no flush has followed any part is lost in a cut, down to sectors
//! Bench ──── boot, compare what is there with what was acknowledged, write on, cut
//! ```
//! That it would see a loss is proven by a disk that ignores flushes.

mod cache;
mod guest;
mod machine;
mod moment;
mod nbd;
mod random;
mod rounds;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::time::{Instant, SystemTime};

use ::tests::binaries;
use nix::sys::signal::{SigSet, Signal};

use crate::emulation::{self, Failure};
use crate::usage;
use guest::Guest;
use machine::Event;
use moment::End;
use random::Random;
use rounds::{Bench, Subject};

/// Cuts on one disk; then there is a new one, and a store is made again.
const CUTS_OF_A_DISK: u64 = 6;
/// A disk that ignores flushes is found out in so many cuts.
const CUTS_OF_A_LIAR: u64 = 5;
/// Of a usual run.
const ROUNDS: u64 = 30;

/// Why it has not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The store, or the file system below it, is not as it must be.
    #[error("{0}")]
    Broken(String),
    /// Something else: nothing is known of the store.
    #[error("{0}")]
    Bench(String),
    /// By a signal.
    #[error("interrupted")]
    Interrupted,
}

impl Trouble {
    /// With a file.
    fn at(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| Self::Bench(format!("{}: {error}", path.display()))
    }

    fn with(self, more: &str) -> Self {
        match self {
            Self::Broken(what) => Self::Broken(what + more),
            Self::Bench(what) => Self::Bench(what + more),
            Self::Interrupted => Self::Interrupted,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(Failure(what): Failure) -> Self {
        Self::Bench(what)
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    /// Power cuts.
    pub(crate) rounds: u64,
    /// The proof by a disk that ignores flushes.
    pub(crate) proves: bool,
    /// Of all chances; by the clock if not given.
    pub(crate) seed: Option<u64>,
}

/// Runs it as a command.
pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    let options = match options(arguments) {
        Ok(options) => options,
        Err(what) => return usage(&format!("power-cuts: {what}")),
    };
    match perform(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("power-cuts: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[&str]) -> Result<Options, String> {
    let mut options = Options { rounds: ROUNDS, proves: true, seed: None };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = || {
            let text = rest.next().ok_or_else(|| format!("{argument} takes a number"))?;
            text.parse::<u64>().map_err(|error| format!("{argument} {text:?}: {error}"))
        };
        match *argument {
            "--rounds" => options.rounds = number()?,
            "--seed" => options.seed = Some(number()?),
            "--without-sync" => options.rounds = 0,
            other => return Err(format!("{other:?} is not understood")),
        }
    }
    Ok(options)
}

/// Runs it; an error unless everything held.
pub(crate) fn perform(options: Options) -> Result<(), Trouble> {
    if let Some(why) = emulation::hindrance() {
        return Err(Trouble::Bench(why));
    }
    let qemu = emulation::version()?;
    let target = binaries::target_folder().map_err(|error| Trouble::Bench(error.to_string()))?;
    let (sender, events) = channel();
    let signals = Signals::catch(sender.clone())?;
    let folder = Folder::make()?;
    let guest = Guest::make(&target, &folder.0)?;
    let by_clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.as_micros() as u64);
    let seed = options.seed.unwrap_or_else(by_clock);
    println!("{qemu}; seed {seed}");
    let remains = target.join(format!("power-cuts/failed-{seed}"));
    let random = Random::new(seed);
    let mut bench = Bench { guest: &guest, folder: &folder.0, remains: &remains, sender, events, random };
    let outcome =
        cuts(&mut bench, options.rounds).and_then(|()| if options.proves { proof(&mut bench) } else { Ok(()) });
    signals.release()?;
    outcome
}

/// The rounds: a cut each, and a last boot of each disk that finds everything.
fn cuts(bench: &mut Bench<'_>, rounds: u64) -> Result<(), Trouble> {
    let started = Instant::now();
    let mut cut = 0;
    while cut < rounds {
        let seed = bench.random.below(1 << 32);
        let mut subject = Subject::new(bench.folder, seed, true)?;
        for place in 0..CUTS_OF_A_DISK.min(rounds - cut) {
            cut += 1;
            let end = End::any(&mut bench.random, place == 0);
            println!("cut {cut}: {}", bench.live(&mut subject, end)?);
        }
        println!("checked: {}", bench.live(&mut subject, End::Checked)?);
    }
    if rounds > 0 {
        println!("{rounds} power cuts, nothing acknowledged is lost; {:.0} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The same with a disk that ignores flushes, where it must fail.
fn proof(bench: &mut Bench<'_>) -> Result<(), Trouble> {
    let mut subject = Subject::new(bench.folder, bench.random.below(1 << 32), false)?;
    for cut in 1..=CUTS_OF_A_LIAR {
        let end = End::late(&mut bench.random);
        match bench.live(&mut subject, end) {
            Ok(life) => println!("cut {cut} of a disk that ignores flushes: {life}"),
            Err(Trouble::Broken(what)) => {
                println!("a disk that ignores flushes is found out: {}", what.lines().next().unwrap_or_default());
                return fs::remove_dir_all(bench.remains).map_err(Trouble::at(bench.remains));
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Err(Trouble::Bench(format!("{CUTS_OF_A_LIAR} cuts of a disk that ignores flushes lost nothing: this sees nothing")))
}

/// A folder of this run; dropping it removes it.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Trouble> {
        let path = std::env::temp_dir().join(format!("dragline-power-cuts-{}", std::process::id()));
        fs::create_dir(&path).map_err(Trouble::at(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // There is nobody to tell; the system clears such folders.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// SIGINT and SIGTERM become events, so that nothing is left behind.
struct Signals(SigSet);

impl Signals {
    /// To be called while there is one thread: all later ones inherit it, and the children are given a clean slate by
    /// std.
    fn catch(events: Sender<Event>) -> Result<Self, Trouble> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().map_err(|error| Trouble::Bench(format!("signals cannot be blocked: {error}")))?;
        std::thread::spawn(move || {
            // The bench is gone when the process is about to end.
            while signals.wait().is_ok() && events.send(Event::Interrupted).is_ok() {}
        });
        Ok(Self(signals))
    }

    /// They kill again.
    fn release(self) -> Result<(), Trouble> {
        self.0.thread_unblock().map_err(|error| Trouble::Bench(format!("signals cannot be unblocked: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood() {
        let usual = Options { rounds: ROUNDS, proves: true, seed: None };
        assert_eq!(options(&[]), Ok(usual));
        assert_eq!(options(&["--rounds", "3", "--seed", "5"]), Ok(Options { rounds: 3, seed: Some(5), ..usual }));
        assert_eq!(options(&["--without-sync"]), Ok(Options { rounds: 0, ..usual }));
        assert!(options(&["--rounds"]).is_err());
        assert!(options(&["--round", "3"]).is_err());
    }
}
