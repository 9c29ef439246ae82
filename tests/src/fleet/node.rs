//! A node: its namespace, its agent, and the kubelet's part.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use netlink::testbed::{Netns, TestbedError};
use schemas::cni::error::CniError;
use schemas::name::NameError;
use schemas::wire::{
    AllocateCall, Answer, Call, FrameError, PROTOCOL, Part, Request, Withdrawal, read_frame, write_frame,
};

use super::pod::Sandbox;
use super::{Book, FleetError, Pod};
use crate::agent::{AgentError, AgentProcess, Settings, Source};
use crate::binaries::Binaries;

/// How long an ADD may take: the plugins' own time.
const DEADLINE: Duration = Duration::from_secs(30);
/// What an answer may be late by.
const SLACK: Duration = Duration::from_secs(5);
/// An agent lists the cluster before it is ready, and many start at once.
const READY_WITHIN: &str = "60s";
/// After an ADD that failed a kubelet waits before it makes another sandbox; it waits longer than this.
const PAUSE: Duration = Duration::from_millis(200);

/// Sandboxes have names that no other one of the process has.
static SANDBOXES: AtomicU64 = AtomicU64::new(0);

/// Why a call of the agent's gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It said no.
    #[error("refused: {0}")]
    Refused(CniError),
    /// It is not there, or went away: it may have done it, and may not.
    #[error("the agent does not answer: {0}")]
    Away(FrameError),
    /// It answered something else.
    #[error("the agent answers with {0}")]
    Otherwise(String),
    /// The name of the pod or of its network is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No namespace for a sandbox.
    #[error(transparent)]
    Netns(#[from] TestbedError),
}

/// A node.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    agent: Mutex<AgentProcess>,
    socket: PathBuf,
    folder: PathBuf,
}

impl Node {
    pub(super) fn new(
        netns: Netns,
        name: &str,
        folder: PathBuf,
        kubeconfig: PathBuf,
        lease_ttl: Duration,
    ) -> Result<Self, FleetError> {
        let namespaces = folder.join("netns");
        fs::create_dir_all(&namespaces)
            .map_err(|error| FleetError::system(format!("making {}", namespaces.display()), error))?;
        let socket = folder.join("agent.sock");
        let settings = Settings {
            node_name: name.to_owned(),
            state_dir: folder.join("state"),
            socket: socket.clone(),
            source: Source::Kubeconfig(kubeconfig),
            log: folder.join("agent.log"),
            arguments: vec![
                "--lease-ttl".into(),
                lease_ttl.as_secs().to_string(),
                "--netns-dir".into(),
                namespaces.display().to_string(),
            ],
        };
        let agent = AgentProcess::stopped(&Binaries::build()?.dragline, &netns, settings);
        Ok(Self { name: name.to_owned(), netns, agent: Mutex::new(agent), socket, folder })
    }

    /// Its agent.
    pub fn agent(&self) -> MutexGuard<'_, AgentProcess> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts its agent, without waiting for anything; one that runs is killed first.
    pub fn launch(&self) -> Result<(), FleetError> {
        Ok(self.agent().launch()?)
    }

    /// Waits until its agent is ready.
    pub fn wait_ready(&self) -> Result<(), FleetError> {
        Ok(self.agent().ask(&["status", "--wait", READY_WITHIN]).map(drop)?)
    }

    /// kill -9 of its agent, and starts it again without waiting for anything.
    pub fn crash(&self) -> Result<(), AgentError> {
        let mut agent = self.agent();
        agent.kill()?;
        agent.launch()
    }

    /// The folder in which its agent looks for the namespaces of pods: what is to be found is to be linked there.
    pub fn namespaces(&self) -> PathBuf {
        self.folder.join("netns")
    }

    /// What the agent answers.
    pub fn call(&self, call: Call) -> Result<Answer, CallError> {
        let ask = || -> Result<Answer, FrameError> {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(DEADLINE + SLACK))?;
            let deadline_ms = u32::try_from(DEADLINE.as_millis()).unwrap_or(u32::MAX);
            write_frame(&mut stream, &Request { protocol: PROTOCOL, deadline_ms, call })?;
            read_frame(&mut stream)
        };
        match ask().map_err(CallError::Away)? {
            Answer::Error(error) => Err(CallError::Refused(error)),
            answer => Ok(answer),
        }
    }

    /// One ADD for the pod's sandbox, which is made if there is none; again it is a repeated ADD.
    ///
    /// # Errors
    /// See [`CallError`]; the sandbox stays, as it does in a runtime.
    pub fn add(&self, pod: &Pod, book: &Book) -> Result<IpAddr, CallError> {
        let place = {
            let mut sandbox = pod.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
            if sandbox.is_none() {
                let container = format!("{}-{}", pod.name, SANDBOXES.fetch_add(1, Ordering::Relaxed));
                let netns = Netns::create(&format!("{}-{container}", self.name))?;
                *sandbox = Some(Sandbox { container, netns });
            }
            match &*sandbox {
                Some(sandbox) => pod.place(sandbox)?,
                None => return Err(CallError::Otherwise("no sandbox".into())),
            }
        };
        match self.call(Call::Allocate(AllocateCall { place, ipam: pod.ipam() }))? {
            Answer::Result(result) => {
                let address = result.ips.first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ip| ip.address.ip());
                book.given(pod, address);
                Ok(address)
            }
            other => Err(CallError::Otherwise(format!("{other:?}"))),
        }
    }

    /// One DEL of the pod's sandbox, which is gone then.
    ///
    /// # Errors
    /// See [`CallError`]; the sandbox stays.
    pub fn delete(&self, pod: &Pod, book: &Book) -> Result<(), CallError> {
        let mut sandbox = pod.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(container) = sandbox.as_ref().map(|sandbox| sandbox.container.clone()) else { return Ok(()) };
        book.taken_back(pod);
        self.call(Call::Withdraw(Withdrawal { key: Pod::key(&container)?, part: Part::Addresses }))?;
        *sandbox = None;
        Ok(())
    }

    /// The pod's sandbox is gone, and nobody has sent a DEL.
    pub fn lose(&self, pod: &Pod, book: &Book) {
        book.taken_back(pod);
        *pod.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What a kubelet does until the pod has an address: after an ADD that fails, DEL and another sandbox. With the time
    /// from the first ADD to the answer.
    ///
    /// # Errors
    /// The last one, when it has none for so long; its sandbox is gone then.
    pub fn start(&self, pod: &Pod, book: &Book, patience: Duration) -> Result<(IpAddr, Duration), CallError> {
        let begun = Instant::now();
        loop {
            match self.add(pod, book) {
                Ok(address) => return Ok((address, begun.elapsed())),
                Err(error) => {
                    self.stop(pod, book, patience.max(DEADLINE))?;
                    if begun.elapsed() > patience {
                        return Err(error);
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// DEL until it is done.
    ///
    /// # Errors
    /// The last one, when it is not done for so long.
    pub fn stop(&self, pod: &Pod, book: &Book, patience: Duration) -> Result<(), CallError> {
        let until = Instant::now() + patience;
        loop {
            match self.delete(pod, book) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// The resident memory of its agent, in bytes.
    pub fn memory(&self) -> io::Result<u64> {
        let pid = self.agent().pid().ok_or(io::ErrorKind::NotFound)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or(io::ErrorKind::InvalidData)?;
        let kilobytes = line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        Ok(kilobytes.ok_or(io::ErrorKind::InvalidData)? * 1024)
    }
}
