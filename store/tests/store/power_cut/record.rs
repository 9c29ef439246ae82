//! Runs the writer under strace, life after life in one directory, and keeps what its calls did to the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::content::Image;
use super::disk::{Disk, Effect, Inode};
use super::kernel::{Kernel, UNTRACED};
use super::states::everything;
use super::trace::{self, Call, Moment};
use super::writer::{DIR, End, Task};

/// Environment that the writer and the checkers get besides their own, which they inherit whole.
pub(crate) const ENVIRONMENT: [(&str, &str); 0] = [];

/// The store below the root of a recording or a state: its directory's parent is made as well.
pub(crate) const STORE: &str = "state/store";

/// The longest string that strace writes out, in bytes; a longer one ends the test.
const LONGEST: &str = "16000000";

/// What happens next in a recording; effects by number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Begin(usize),
    End(usize),
    /// The process ended before the call had done anything.
    Forget(usize),
    /// So many changes are acknowledged, and so many have been asked for.
    Said {
        acknowledged: u64,
        asked: u64,
    },
    /// A process begins.
    Life,
}

/// Everything that a writer did to its disk.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    pub(crate) seed: u64,
    pub(crate) effects: Vec<Effect>,
    pub(crate) steps: Vec<Step>,
    /// The files that were made; all are empty and without a name at first.
    pub(crate) files: Vec<Inode>,
    /// Those that are synced at any time.
    pub(crate) synced: BTreeSet<Inode>,
    /// What each effect's call was, for people.
    pub(crate) briefs: Vec<String>,
    pub(crate) acknowledged: u64,
    pub(crate) asked: u64,
}

/// What goes on from life to life.
#[derive(Default)]
struct Recorder {
    recording: Recording,
    disk: Disk,
    next: Inode,
}

/// A directory for what need not outlive the test: in memory, unless TMPDIR says otherwise.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let here = std::env::var_os("TMPDIR").is_none() && memory.is_dir();
    if here { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Records the lives, each with so many turns.
pub(crate) fn record(seed: u64, lives: &[(u64, End)]) -> Recording {
    // A process that ends inside of a long write may have written a part of it; that is for `kill.rs`.
    let mut differences = Vec::new();
    while differences.len() < 5 {
        match try_record(seed, lives) {
            Ok(recording) => return recording,
            Err(text) => differences.push(text),
        }
    }
    panic!("five times the writer left not what its system calls say (calls / disk): {differences:#?}");
}

/// What a log of calls below `root` says, without anything to compare it with.
pub(crate) fn read(root: &Path, log: &str) -> Recording {
    let mut recorder = Recorder::default();
    recorder.read(root, log);
    recorder.recording
}

fn try_record(seed: u64, lives: &[(u64, End)]) -> Result<Recording, String> {
    let dir = scratch();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut recorder = Recorder::default();
    recorder.recording.seed = seed;
    for (number, (turns, end)) in lives.iter().enumerate() {
        let Recording { acknowledged, asked, .. } = recorder.recording;
        let task = Task { seed, acknowledged, asked, turns: *turns };
        let log = dir.path().join("log");
        run(&root, &log, &task, end);
        recorder.recording.steps.push(Step::Life);
        let ambiguous = recorder.read(&root, &fs::read_to_string(&log).unwrap());
        recorder.settle(&root, &ambiguous).map_err(|text| format!("life {number} ({end:?}): {text}"))?;
    }
    Ok(recorder.recording)
}

/// One life.
fn run(root: &Path, log: &PathBuf, task: &Task, end: &End) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-xx", "-v", "-qq", "--seccomp-bpf", "-s", LONGEST, "-e", "raw=read,readv"]);
    strace.args(["-e", &format!("trace=!{}", UNTRACED.replace(' ', ""))]).arg("-o").arg(log);
    if let End::Killed { call, number } = end {
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={number}")]);
    }
    let output = strace
        .arg(std::env::current_exe().unwrap())
        .args(["power_cut::writer", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, root.join(STORE))
        .envs([task.environment(end)])
        .envs(ENVIRONMENT)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap_or_else(|error| panic!("cannot run strace ({error}): install it, on Debian apt-get install strace"));
    let killed = matches!(end, End::Killed { .. }) && !output.status.success();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(killed || output.status.success(), "the recorded writer failed ({}): {text}", output.status);
}

impl Recorder {
    /// Goes through the calls of one life; returns the effects whose calls never ended.
    fn read(&mut self, root: &Path, log: &str) -> Vec<usize> {
        let mut kernel = Kernel::new(root);
        let (calls, moments) = trace::parse(log);
        let programs = calls.iter().filter(|call| call.name == "execve").count();
        assert_eq!(programs, 1, "the writer starts another program");
        let mut begun = BTreeMap::new();
        for moment in moments {
            match moment {
                Moment::Begins(at) => {
                    let call = &calls[at];
                    self.listen(call);
                    if call.result.is_some_and(|result| result < 0) {
                        continue;
                    }
                    let begins = kernel.begin(&mut self.disk, &mut self.next, call);
                    let effect = begins.effect.clone().map(|effect| self.begin(effect, call));
                    begun.insert(at, (begins, effect));
                }
                Moment::Ends(at) => {
                    let Some((begins, effect)) = begun.remove(&at) else { continue };
                    kernel.end(&calls[at], begins);
                    if let Some(number) = effect {
                        self.end(number);
                    }
                }
            }
        }
        self.disk.in_flight()
    }

    /// Notes what the writer says of itself.
    fn listen(&mut self, call: &Call) {
        if call.name != "write" || call.number(0) != 1 {
            return;
        }
        for line in String::from_utf8_lossy(&call.string(1)).lines() {
            let Some((word, number)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) else { continue };
            let number: u64 = number.parse().unwrap_or_else(|_| panic!("{line:?}"));
            let Recording { acknowledged, asked, .. } = &mut self.recording;
            match word {
                "try" => *asked = number.max(*asked),
                "ack" => *acknowledged = number.max(*acknowledged),
                _ => panic!("{line:?}"),
            }
            let said = Step::Said { acknowledged: *acknowledged, asked: *asked };
            self.recording.steps.push(said);
        }
    }

    fn begin(&mut self, effect: Effect, call: &Call) -> usize {
        let number = self.recording.effects.len();
        match effect {
            Effect::Sync(inode) => self.recording.synced.extend([inode]),
            Effect::SyncAll => self.recording.synced.extend(self.disk.files.keys()),
            Effect::Write { .. } | Effect::Resize { .. } | Effect::Zero { .. } | Effect::Name(_) => {}
        }
        self.recording.files = self.disk.files.keys().copied().collect();
        self.disk.begin(number, &effect);
        self.recording.effects.push(effect);
        self.recording.briefs.push(call.brief());
        self.recording.steps.push(Step::Begin(number));
        number
    }

    fn end(&mut self, number: usize) {
        self.disk.end(number, &self.recording.effects[number]);
        self.recording.steps.push(Step::End(number));
    }

    /// Of the calls that the process did not live to see the end of, finds out which have done their work: the directory
    /// must then be exactly what all the calls say.
    fn settle(&mut self, root: &Path, open: &[usize]) -> Result<(), String> {
        let real = Image::read(root).unwrap();
        let changes = self.disk.changes_in_flight();
        assert!(changes.len() < 10, "{} calls at once", changes.len());
        let done = |set: usize| changes.iter().enumerate().filter(move |(at, _)| set >> at & 1 == 1).map(|(_, n)| *n);
        let matches = |set: &usize| {
            let mut disk = self.disk.clone();
            done(*set).for_each(|number| disk.apply(&self.recording.effects[number]));
            everything(&disk).digest() == real.digest()
        };
        let Some(set) = (0..1 << changes.len()).find(matches) else {
            let difference = everything(&self.disk).difference(&real);
            return Err(difference);
        };
        let done: Vec<_> = done(set).collect();
        for &number in open {
            if done.contains(&number) {
                self.end(number);
            } else {
                self.disk.forget(number);
                self.recording.steps.push(Step::Forget(number));
            }
        }
        Ok(())
    }
}
