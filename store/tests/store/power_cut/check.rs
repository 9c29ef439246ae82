//! Opens states in processes of their own, and counts what is wrong with them.
//!
//! A process of its own sees every panic of the store's threads and no one else's, and its end or its standstill harms
//! nobody. It answers each line on standard input (how many changes are acknowledged, how many were asked for, where
//! the state is) with one line on standard output: a verdict, the panics since the last one, and why.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use store::Store;

use super::content::{Content, Image, Node};
use super::record::{ENVIRONMENT, STORE, scratch};
use super::writer::say;
use crate::{sample, traffic};

/// The machine has gone down: its next boot opens what is left.
const NEXT_BOOT: &str = "5d1a3b2e-0000-4000-8000-000000000002";
/// The traffic's seed, for the checker.
const SEED: &str = "DRAGLINE_TEST_POWER_CUT_SEED";
/// Where failing states are kept, if anywhere.
const KEEP: &str = "DRAGLINE_POWER_CUT_KEEP";
/// The longest that a state may take; opening one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

static PANICS: AtomicU64 = AtomicU64::new(0);

/// The checker's side: answers until there are no more questions.
pub(crate) fn answer() {
    std::panic::set_hook(Box::new(|_| {
        PANICS.fetch_add(1, Ordering::SeqCst);
    }));
    let seed = std::env::var(SEED).expect("the parent names the seed").parse().unwrap();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let verdict = std::panic::catch_unwind(|| {
            let words: Vec<_> = line.splitn(3, ' ').collect();
            let [acknowledged, asked] = [0, 1].map(|at| words[at].parse().unwrap());
            verdict(Path::new(words[2]), seed, acknowledged, asked)
        });
        let (word, why) = verdict.unwrap_or(("failed", "a panic reaches the caller".to_owned()));
        say(&format!("{word} {} {}", panics(), why.escape_debug()));
    }
    say(&format!("end {} ", panics()));
}

/// The panics since it was asked last.
fn panics() -> u64 {
    PANICS.swap(0, Ordering::SeqCst)
}

fn verdict(dir: &Path, seed: u64, acknowledged: u64, asked: u64) -> (&'static str, String) {
    let store = match Store::open(&dir.join(STORE), sample::NODE, NEXT_BOOT) {
        Ok(store) => store,
        Err(error) => return ("failed", format!("it does not open: {error}")),
    };
    match store.load().map(|snapshot| traffic::turns_in(&snapshot, seed, acknowledged, asked)) {
        Ok(Ok(_)) => ("right", String::new()),
        Ok(Err(text)) => ("lost", text),
        Err(error) => ("failed", format!("it does not load: {error}")),
    }
}

/// A state to be checked.
pub(crate) struct Case {
    pub(crate) image: Image,
    pub(crate) acknowledged: u64,
    pub(crate) asked: u64,
    pub(crate) description: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Distinct directories, but for files that are never synced: those may hold anything.
    pub(crate) states: u64,
    /// Openings: the same state is opened again when more has been acknowledged, and now and then besides.
    pub(crate) checks: u64,
    /// Acknowledged changes are missing, or the store holds what never was.
    pub(crate) lost: u64,
    /// The store did not open or load.
    pub(crate) failed: u64,
    pub(crate) panics: u64,
    /// The first few, in words.
    pub(crate) examples: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, other: Self) {
        self.checks += other.checks;
        self.lost += other.lost;
        self.failed += other.failed;
        self.panics += other.panics;
        self.examples.extend(other.examples);
        self.examples.truncate(10);
    }

    pub(crate) fn is_clean(&self) -> bool {
        (self.lost, self.failed, self.panics) == (0, 0, 0)
    }
}

/// The parent's side of one checking process, which is started again when it has ended.
pub(crate) struct Checker {
    seed: u64,
    process: Option<Process>,
    findings: Findings,
    /// Where the states are made; its rest goes when the process has ended, whose threads may write for a while.
    scratch: tempfile::TempDir,
}

struct Process {
    child: Child,
    answers: Receiver<String>,
}

/// What it says of a state.
struct Answer {
    word: String,
    panics: u64,
    why: String,
}

impl Process {
    fn start(seed: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["power_cut::checker", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(SEED, seed.to_string())
            .envs(ENVIRONMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(answer) = line.strip_prefix(':') {
                    // Who asked may have lost patience.
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        Self { child, answers }
    }

    fn ask(&mut self, question: &str) -> Result<Answer, String> {
        let stdin = self.child.stdin.as_mut().expect("nobody asks after the end");
        writeln!(stdin, "{question}").map_err(|error| error.to_string())?;
        self.hear()
    }

    fn hear(&mut self) -> Result<Answer, String> {
        let line =
            self.answers.recv_timeout(PATIENCE).map_err(|error| format!("the process that opens it: {error}"))?;
        let [word, panics, why] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        Ok(Answer { word: word.to_owned(), panics: panics.parse().unwrap(), why: why.to_owned() })
    }

    /// Lets it end, and hears of the panics that came late.
    fn end(mut self) -> Result<u64, String> {
        self.child.stdin = None;
        self.hear().map(|answer| answer.panics)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Checker {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, process: None, findings: Findings::default(), scratch: scratch() }
    }

    /// Checks all that come.
    pub(crate) fn check(mut self, cases: impl Iterator<Item = Case>) -> Findings {
        cases.for_each(|case| self.check_one(&case));
        match self.process.map(Process::end) {
            Some(Ok(panics)) => self.findings.panics += panics,
            Some(Err(error)) => {
                self.findings.failed += 1;
                self.findings.examples.push(format!("at the end: {error}"));
            }
            None => {}
        }
        self.findings
    }

    fn check_one(&mut self, case: &Case) {
        let dir = self.scratch.path().join(self.findings.checks.to_string());
        std::fs::create_dir(&dir).and_then(|()| case.image.write(&dir)).unwrap();
        let question = format!("{} {} {}", case.acknowledged, case.asked, dir.display());
        let process = self.process.get_or_insert_with(|| Process::start(self.seed));
        let Answer { word, panics, why } = process.ask(&question).unwrap_or_else(|why| {
            self.process = None;
            Answer { word: "failed".to_owned(), panics: 0, why }
        });
        // What a thread of the store still holds on to goes at the end.
        let _ = std::fs::remove_dir_all(&dir);
        self.findings.checks += 1;
        self.findings.lost += u64::from(word == "lost");
        self.findings.failed += u64::from(word == "failed");
        self.findings.panics += panics;
        if (word.as_str(), panics) != ("right", 0) && self.findings.examples.len() < 10 {
            let kept = keep(case).map_or_else(String::new, |path| format!("; kept in {}", path.display()));
            let text = format!("{word}, {panics} panics: {why}\n    {}{kept}", case.description);
            self.findings.examples.push(text);
        }
    }
}

/// Keeps a failing state if somebody wants to see it.
fn keep(case: &Case) -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os(KEEP)?).join(format!("{:016x}", case.image.digest()));
    std::fs::create_dir_all(&dir).and_then(|()| case.image.write(&dir)).unwrap();
    Some(dir)
}

#[test]
fn a_checker_sees_loss_failure_and_panic() {
    let case = |nodes: &[(&str, Node)], acknowledged| Case {
        image: Image(nodes.iter().map(|(path, node)| (path.into(), node.clone())).collect()),
        acknowledged,
        asked: 3,
        description: "by hand".to_owned(),
    };
    let dirs = [("state", Node::Dir), (STORE, Node::Dir)];
    let findings = Checker::new(1).check([case(&[], 0), case(&[], 3)].into_iter());
    assert_eq!((findings.checks, findings.lost, findings.failed), (2, 1, 0), "{findings:?}");
    let junk = [&dirs[..], &[("state/store/junk", Node::File(Content::default()))]].concat();
    let findings = Checker::new(1).check([case(&junk, 0)].into_iter());
    assert_eq!((findings.checks, findings.lost, findings.failed), (1, 0, 1), "{findings:?}");

    let mut process = Process::start(1);
    let answer = process.ask("no number").unwrap();
    assert_eq!((answer.word.as_str(), answer.panics), ("failed", 1));
    let dir = scratch();
    let answer = process.ask(&format!("0 0 {}", dir.path().display())).unwrap();
    assert_eq!((answer.word.as_str(), answer.panics), ("right", 0));
    assert_eq!(process.end(), Ok(0));
}
