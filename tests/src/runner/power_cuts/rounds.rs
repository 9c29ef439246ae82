//! The course of things: boot, check, write, cut; and again on the same disk.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::Trouble;
use super::cache::{Disk, Loss};
use super::guest::Guest;
use super::machine::{Event, Machine};
use super::moment::{End, Moment};
use super::nbd::Supply;
use super::random::Random;
use crate::emulation::output;

/// In bytes. ext4 gives it a journal of 4 MiB, which is soon full; blocks of 4 KiB have to be asked for.
const DISK: u64 = 128 << 20;
/// Not in the path of an ordinary user.
const MKFS: [&str; 3] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"];
/// A machine says something in this time, even where many are emulated at once.
const PATIENCE: Duration = Duration::from_secs(180);
/// Changes that were asked for and could not yet be said by the serial line.
const UNSAID: u64 = 64;
/// How many console lines are kept for a report.
const REMEMBERED: usize = 30;

/// A disk, and what is known of the store on it. Numbers are counts of changes.
pub(super) struct Subject {
    disk: PathBuf,
    supply: Arc<Supply>,
    seed: u64,
    acknowledged: u64,
    asked: u64,
}

impl Subject {
    /// A disk with a new file system, and no store yet. One whose `heeds_flushes` is false lies to the machine.
    pub(super) fn new(folder: &Path, seed: u64, heeds_flushes: bool) -> Result<Self, Trouble> {
        let disk = folder.join("disk");
        let file = File::create(&disk).and_then(|file| file.set_len(DISK));
        file.map_err(Trouble::at(&disk))?;
        let mkfs = MKFS.into_iter().find(|path| Path::new(path).exists());
        let mkfs = mkfs.ok_or_else(|| Trouble::Bench("mkfs.ext4 (Debian: e2fsprogs) is missing".into()))?;
        output(Command::new(mkfs).args(["-q", "-F", "-b", "4096"]).arg(&disk))?;
        let file = File::options().read(true).write(true).open(&disk).map_err(Trouble::at(&disk))?;
        let supply = Supply::new(Disk::new(file, heeds_flushes).map_err(Trouble::at(&disk))?);
        Ok(Self { disk, supply: Arc::new(supply), seed, acknowledged: 0, asked: 0 })
    }

    /// Takes a line of the console; whether it was an acknowledgement, or what it has shown to be broken.
    fn hear(&mut self, line: &str) -> Result<Heard, Trouble> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "broken:" {
            return Err(Trouble::Broken(rest.to_owned()));
        }
        if line == "opening" {
            return Ok(Heard::Opening);
        }
        let Ok(number) = rest.parse::<u64>() else { return Ok(Heard::Other) };
        match verb {
            "found" if number < self.acknowledged => Err(Trouble::Broken(format!(
                "{} changes were acknowledged or seen and only {number} are there",
                self.acknowledged
            ))),
            "found" if number > self.asked + UNSAID => {
                Err(Trouble::Broken(format!("{} changes were asked for and {number} are there", self.asked)))
            }
            // What a reader has seen once must stay as well.
            "found" => {
                (self.acknowledged, self.asked) = (number, number);
                Ok(Heard::Found(number))
            }
            "try" => {
                self.asked = self.asked.max(number);
                Ok(Heard::Other)
            }
            // A line that was cut short is none.
            "ok" if number == self.asked => {
                self.acknowledged = number;
                Ok(Heard::Acknowledged)
            }
            _ => Ok(Heard::Other),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Opening,
    Found(u64),
    Acknowledged,
    Other,
}

/// What a boot has come to.
pub(super) struct Life {
    acknowledgements: u64,
    /// How many changes it has found, each time that it has opened the store.
    found: Vec<u64>,
    loss: Loss,
    took: Duration,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found: Vec<_> = self.found.iter().map(u64::to_string).collect();
        let found = if found.is_empty() { "never opened".to_owned() } else { format!("found {}", found.join(", ")) };
        let Loss { kept, lost, torn } = self.loss;
        write!(
            f,
            "{found}; then {} acknowledged; of {} unflushed writes {lost} lost, {torn} torn; {:.1} s",
            self.acknowledgements,
            kept + lost + torn,
            self.took.as_secs_f64()
        )
    }
}

/// What all boots use.
pub(super) struct Bench<'a> {
    pub(super) guest: &'a Guest,
    /// For files of this run only.
    pub(super) folder: &'a Path,
    /// Where a failure's remains go.
    pub(super) remains: &'a Path,
    pub(super) sender: Sender<Event>,
    pub(super) events: Receiver<Event>,
    pub(super) random: Random,
}

impl Bench<'_> {
    /// Boots once, hears what has come of the disk, and ends the machine as told.
    pub(super) fn live(&mut self, subject: &mut Subject, end: End) -> Result<Life, Trouble> {
        let before = self.folder.join("disk.before");
        fs::copy(&subject.disk, &before).map_err(Trouble::at(&before))?;
        let mut console = Vec::new();
        let outcome = self.boot(subject, end, &mut console);
        let log = self.folder.join("kernel.log");
        let log = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let complaint = log.lines().find(|line| line.contains("EXT4-fs error") || line.contains("Kernel panic"));
        let outcome = match (outcome, complaint) {
            (Ok(_), Some(complaint)) => Err(Trouble::Broken(complaint.to_owned())),
            (outcome, _) => outcome,
        };
        outcome.map_err(|trouble| self.with_remains(trouble, &console))
    }

    fn boot(&mut self, subject: &mut Subject, end: End, console: &mut Vec<String>) -> Result<Life, Trouble> {
        let started = Instant::now();
        // In half of the boots the writer is killed a few times, too; in microseconds.
        let life = if self.random.below(2) == 0 { 200_000 + self.random.below(1_500_000) } else { 0 };
        let Subject { seed, acknowledged, .. } = *subject;
        // Within a boot the bounds are not told again: it is this side that knows them.
        let asked = acknowledged + 1_000_000;
        let expire = 5 << self.random.below(10);
        let variables = format!("life={life} expire={expire} seed={seed} acknowledged={acknowledged} asked={asked}");
        let mut waiting = match end {
            End::Cut { after, cut } => Some((after, cut)),
            End::Checked => None,
        };
        if let Some((_, cut)) = waiting.take_if(|(after, _)| *after == Moment::Start) {
            subject.supply.cut(cut);
        }
        let machine = Machine::start(self.guest, self.folder, &subject.supply, &variables, &self.sender)?;
        let (mut found, mut acknowledgements) = (Vec::new(), 0);
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(Event::Line(line)) => {
                    let heard = subject.hear(&line);
                    console.push(line);
                    let moment = match heard? {
                        Heard::Opening => Moment::Opening,
                        Heard::Found(number) => {
                            found.push(number);
                            continue;
                        }
                        Heard::Acknowledged => {
                            acknowledgements += 1;
                            Moment::Acknowledged(acknowledgements)
                        }
                        Heard::Other => continue,
                    };
                    if let Some((_, cut)) = waiting.take_if(|(after, _)| *after == moment) {
                        subject.supply.cut(cut);
                    }
                    if matches!(end, End::Checked) && acknowledgements >= 3 {
                        break;
                    }
                }
                Ok(Event::Dark) => break,
                Ok(Event::Gone) if console.is_empty() => {
                    return Err(Trouble::Bench("the machine does not boot".into()));
                }
                Ok(Event::Gone) => return Err(Trouble::Broken("the machine has ended by itself".into())),
                Ok(Event::Unplugged(why)) => return Err(Trouble::Bench(format!("the disk's cable: {why}"))),
                Ok(Event::Interrupted) => return Err(Trouble::Interrupted),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(Trouble::Bench(format!("the machine has said nothing in {PATIENCE:?}")));
                }
            }
        }
        drop(machine);
        // What was on its way when the power went was said before.
        for event in self.events.try_iter() {
            match event {
                Event::Line(line) => {
                    let heard = subject.hear(&line);
                    console.push(line);
                    match heard? {
                        Heard::Found(number) => found.push(number),
                        Heard::Acknowledged => acknowledgements += 1,
                        Heard::Opening | Heard::Other => {}
                    }
                }
                Event::Interrupted => return Err(Trouble::Interrupted),
                Event::Dark | Event::Gone | Event::Unplugged(_) => {}
            }
        }
        let loss = subject.supply.restore(&mut self.random).map_err(Trouble::at(&subject.disk))?;
        Ok(Life { acknowledgements, found, loss, took: started.elapsed() })
    }

    /// Keeps what is needed to look at it: the disk as it was before this boot, and what the machine said.
    fn with_remains(&self, trouble: Trouble, console: &[String]) -> Trouble {
        // A machine that was dropped on an error has left its last words.
        let interrupted = self.events.try_iter().any(|event| matches!(event, Event::Interrupted));
        if interrupted || matches!(trouble, Trouble::Interrupted) {
            return Trouble::Interrupted;
        }
        let last = &console[console.len().saturating_sub(REMEMBERED)..];
        let log = fs::read(self.folder.join("kernel.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let log: Vec<_> = log.lines().take_while(|line| !line.contains("Call Trace")).collect();
        let log = &log[log.len().saturating_sub(REMEMBERED)..];
        let errors = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        let kept = fs::create_dir_all(self.remains)
            .and_then(|()| fs::copy(self.folder.join("disk.before"), self.remains.join("disk")))
            .and_then(|_| fs::copy(self.folder.join("kernel.log"), self.remains.join("kernel.log")))
            .and_then(|_| fs::write(self.remains.join("console"), console.join("\n")));
        let kept = match kept {
            Ok(()) => format!("the disk before this boot is kept in {}", self.remains.display()),
            Err(error) => format!("the disk could not be kept: {error}"),
        };
        trouble.with(&format!(
            "\n--- console\n{}\n--- kernel\n{}\n--- qemu\n{errors}---\n{kept}",
            last.join("\n"),
            log.join("\n")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_or_seen_must_stay() {
        let file = File::open("/dev/null").unwrap();
        let supply = Arc::new(Supply::new(Disk::new(file, true).unwrap()));
        let mut subject = Subject { disk: PathBuf::new(), supply, seed: 1, acknowledged: 0, asked: 0 };
        let mut hear = |line: &str| subject.hear(line).map_err(|trouble| trouble.to_string());
        assert_eq!(hear("up"), Ok(Heard::Other));
        assert_eq!(hear("opening"), Ok(Heard::Opening));
        assert_eq!(hear("found 0"), Ok(Heard::Found(0)));
        assert_eq!(hear("try 1"), Ok(Heard::Other));
        assert_eq!(hear("ok 1"), Ok(Heard::Acknowledged));
        assert_eq!(hear("try 12"), Ok(Heard::Other));
        assert_eq!(hear("ok 1"), Ok(Heard::Other));
        assert_eq!(hear("found 2"), Ok(Heard::Found(2)));
        assert!(hear("found 1").is_err());
        assert!(hear("found 67").is_err());
        assert!(hear("broken: all").is_err());
    }
}
