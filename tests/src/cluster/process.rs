//! A server as a child process, in a network namespace of the caller's choice.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::ClusterError;

/// util-linux has it nearly everywhere; without it a server may outlive a test that is killed, not one that ends.
const SETPRIV: [&str; 3] = ["/usr/bin/setpriv", "/bin/setpriv", "/usr/sbin/setpriv"];
/// How much of a log is shown.
const LOG_LINES: usize = 12;

/// The network namespace that all of a cluster's processes are in.
#[derive(Debug, Clone)]
pub(crate) struct Home(Arc<File>);

impl Home {
    /// The calling thread's.
    pub(crate) fn here() -> Result<Self, ClusterError> {
        let opened = File::open("/proc/thread-self/ns/net");
        let file = opened.map_err(|error| ClusterError::system("opening the thread's network namespace", error))?;
        Ok(Self(Arc::new(file)))
    }

    /// Runs it in there.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.is_here()? {
            return inside();
        }
        thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                self.enter()?;
                inside()
            });
            visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Only where it is needed: it takes CAP_SYS_ADMIN.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if self.is_here()? { Ok(()) } else { Ok(setns(&*self.0, CloneFlags::CLONE_NEWNET)?) }
    }

    fn is_here(&self) -> io::Result<bool> {
        let (home, here) = (self.0.metadata()?, fs::metadata("/proc/thread-self/ns/net")?);
        Ok((home.dev(), home.ino()) == (here.dev(), here.ino()))
    }
}

/// Runs a program to its end with that text on standard input.
pub(crate) fn output(command: &mut Command, stdin: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pipe = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read to the end says why by its status.
            pipe.map(|mut pipe| io::Write::write_all(&mut pipe, stdin.as_bytes()))
        });
        child.wait_with_output()
    })
}

/// A server. It is killed when this is dropped, and when the process that started it dies.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
    /// The thread that started the child ends when this is dropped.
    _keeper: Sender<()>,
}

impl Process {
    /// Starts it; what it says is appended to the log.
    pub(crate) fn start(
        home: &Home,
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Self, ClusterError> {
        let failed = |error| ClusterError::system(format!("starting {}", program.display()), error);
        let mut command = match SETPRIV.iter().find(|path| Path::new(path).exists()) {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.map_err(|error| ClusterError::system(format!("opening {}", log.display()), error))?;
        let second = file.try_clone().map_err(failed)?;
        command.args(arguments).stdin(Stdio::null()).stdout(file).stderr(second);
        let (started, child) = mpsc::channel();
        let (keeper, ended) = mpsc::channel::<()>();
        let home = home.clone();
        // The kernel takes the death of the *thread* that started a child for its parent's: that thread stays.
        let starter = move || {
            let spawned = home.enter().and_then(|()| command.spawn());
            drop(home);
            if started.send(spawned).is_ok() {
                // An error: the server is gone.
                let _ = ended.recv();
            }
        };
        thread::Builder::new().name("keeper".into()).spawn(starter).map_err(failed)?;
        let child = child.recv().map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?.map_err(failed)?;
        Ok(Self { child, name, log: log.to_owned(), _keeper: keeper })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when it has ended by itself.
    pub(crate) fn is_alive(&mut self) -> Result<(), ClusterError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(ClusterError::Ended { program: self.name.into(), status, log: self.log_end() }),
            Err(error) => Err(ClusterError::system(format!("asking after {}", self.name), error)),
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<(), ClusterError> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| ClusterError::system(format!("killing {}", self.name), error))
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) fn terminate(&mut self) -> Result<(), ClusterError> {
        self.signal(Signal::SIGTERM)?;
        let ended = self.child.wait();
        ended.map(drop).map_err(|error| ClusterError::system(format!("waiting for the end of {}", self.name), error))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), ClusterError> {
        let failed = |error: io::Error| ClusterError::system(format!("sending {signal} to {}", self.name), error);
        let pid = i32::try_from(self.pid()).map_err(|error| failed(io::Error::other(error)))?;
        signal::kill(Pid::from_raw(pid), signal).map_err(|errno| failed(errno.into()))
    }

    /// The last lines of its log.
    pub(crate) fn log_end(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has gone already, or goes with the keeper.
        let _ = self.kill();
    }
}
