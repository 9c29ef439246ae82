//! `dragline agent` as a process of its own inside a node.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;

use netlink::testbed::{Netns, TestbedError};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long an agent may take to be ready.
const READY_WITHIN: &str = "10s";
/// Where metrics are served, in the node's namespace.
pub const HTTP: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9810);
/// util-linux has it nearly everywhere; without it an agent may outlive a test that is killed, not one that ends.
const SETPRIV: [&str; 3] = ["/usr/bin/setpriv", "/bin/setpriv", "/usr/sbin/setpriv"];

/// Where an agent learns what is declared.
#[derive(Debug, Clone)]
pub enum Source {
    /// From the files of this folder.
    Manifests(PathBuf),
    /// From the API server of this kubeconfig.
    Kubeconfig(PathBuf),
}

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name.
    pub node_name: String,
    /// Store, spool and conflists.
    pub state_dir: PathBuf,
    /// Where the plugins ask.
    pub socket: PathBuf,
    /// What is declared.
    pub source: Source,
    /// Where standard error goes, appended at every start.
    pub log: PathBuf,
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Source {
    /// The folder or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Manifests(path) | Self::Kubeconfig(path) => path,
        }
    }

    fn arguments(&self) -> [&OsStr; 2] {
        match self {
            Self::Manifests(folder) => ["--manifests".as_ref(), folder.as_os_str()],
            Self::Kubeconfig(file) => ["--kubeconfig".as_ref(), file.as_os_str()],
        }
    }
}

/// Why an agent does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The node's namespace.
    #[error(transparent)]
    Netns(#[from] TestbedError),
    /// A process or file.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A command of `dragline` failed.
    #[error("dragline {command} failed ({status}): {said}; the agent's log ends: {log}")]
    Command {
        /// Its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
        /// The log's last lines.
        log: String,
    },
    /// A command printed something else than JSON.
    #[error("dragline {command} printed no JSON: {source}")]
    Json {
        /// Its arguments.
        command: String,
        /// Where it is none.
        source: serde_json::Error,
    },
}

impl AgentError {
    fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }
}

/// An agent. It is killed when this is dropped, and when the process that started it dies.
pub struct AgentProcess {
    program: PathBuf,
    node: PathBuf,
    settings: Settings,
    variables: Vec<(String, String)>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// The thread that started the child ends when this is dropped.
    _keeper: Sender<()>,
}

impl AgentProcess {
    /// Starts one and waits until it is ready.
    pub fn start(program: &Path, node: &Netns, settings: Settings) -> Result<Self, AgentError> {
        let mut agent = Self::stopped(program, node, settings);
        agent.launch()?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// One that is not started yet.
    pub fn stopped(program: &Path, node: &Netns, settings: Settings) -> Self {
        Self { program: program.to_owned(), node: node.path().into(), settings, variables: Vec::new(), running: None }
    }

    /// Starts it, without waiting for anything. One that runs already is killed first.
    pub fn launch(&mut self) -> Result<(), AgentError> {
        self.kill()?;
        let mut command = self.agent_command()?;
        let door = File::open(&self.node).map_err(|error| AgentError::system("opening the node's namespace", error))?;
        let (started, child) = mpsc::channel();
        let (keeper, ended) = mpsc::channel::<()>();
        // The kernel takes the death of the *thread* that started a child for its parent's: that thread stays.
        let starter = move || {
            let spawned =
                setns(&door, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| command.spawn());
            drop(door);
            if started.send(spawned).is_ok() {
                // An error: the agent is gone.
                let _ = ended.recv();
            }
        };
        let failed = |error| AgentError::system("starting the agent", error);
        thread::Builder::new().name("keeper".into()).spawn(starter).map_err(failed)?;
        let child = child.recv().map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?.map_err(failed)?;
        self.running = Some(Running { child, _keeper: keeper });
        Ok(())
    }

    fn agent_command(&self) -> Result<Command, AgentError> {
        let settings = &self.settings;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&settings.log)
            .map_err(|error| AgentError::system(format!("opening {}", settings.log.display()), error))?;
        let mut command = match SETPRIV.iter().find(|path| Path::new(path).exists()) {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .arg("agent")
            .args(["--node-name", &settings.node_name])
            .arg("--state-dir")
            .arg(&settings.state_dir)
            .arg("--socket")
            .arg(&settings.socket)
            .args(settings.source.arguments())
            .args(["--http", &format!("{}:{}", HTTP.0, HTTP.1)])
            .args(&settings.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    /// Waits until `dragline status` says ready.
    pub fn wait_ready(&self) -> Result<(), AgentError> {
        self.ask(&["status", "--wait", READY_WITHIN]).map(drop)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), AgentError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let killed = running.child.kill().and_then(|()| running.child.wait());
        killed.map(drop).map_err(|error| AgentError::system("killing the agent", error))
    }

    /// SIGTERM, and waits until it has drained.
    pub fn terminate(&mut self) -> Result<ExitStatus, AgentError> {
        self.signal(Signal::SIGTERM)?;
        let Some(mut running) = self.running.take() else { return Ok(ExitStatus::from_raw(0)) };
        running.child.wait().map_err(|error| AgentError::system("stopping the agent", error))
    }

    /// Sends its process a signal, if it runs: SIGSTOP and SIGCONT.
    pub fn signal(&self, signal: Signal) -> Result<(), AgentError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let failed = |error: io::Error| AgentError::system("sending the agent a signal", error);
        let pid = i32::try_from(pid).map_err(|error| failed(io::Error::other(error)))?;
        kill(Pid::from_raw(pid), signal).map_err(|errno| failed(errno.into()))
    }

    /// From the next start on the agent has this variable in its environment.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it again after [`Self::kill`] or [`Self::terminate`], and waits until it is ready.
    pub fn restart(&mut self) -> Result<(), AgentError> {
        self.launch()?;
        self.wait_ready()
    }

    /// Runs `dragline ARGUMENTS` against it, whatever comes of it.
    pub fn run(&self, arguments: &[&str]) -> Result<Output, AgentError> {
        Command::new(&self.program)
            .args(arguments)
            .env("DRAGLINE_SOCKET", &self.settings.socket)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| AgentError::system(format!("starting dragline {}", arguments.join(" ")), error))
    }

    /// What `dragline ARGUMENTS` prints.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, AgentError> {
        let output = self.run(arguments)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(AgentError::Command {
            command: arguments.join(" "),
            status: output.status,
            said: String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).trim().to_owned(),
            log: self.log_end(),
        })
    }

    /// What `dragline get KIND -o json` lists.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>, AgentError> {
        let command = ["get", kind, "-o", "json"];
        let text = self.ask(&command)?;
        let list: Value =
            serde_json::from_str(&text).map_err(|source| AgentError::Json { command: command.join(" "), source })?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(&self.settings.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // It has gone already, or the world's end takes it.
        let _ = self.kill();
    }
}
