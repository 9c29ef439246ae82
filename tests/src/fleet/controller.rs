//! `dragline controller`, in a network namespace of its own.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netlink::testbed::Netns;
use nix::sys::signal::Signal;

use super::{FleetError, Ground};
use crate::binaries::Binaries;
use crate::cluster::ClusterError;
use crate::cluster::process::{Home, Process};

/// Where it answers, in its own namespace.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9811);
/// How long an answer is waited for.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// A controller with the rights that users give it. It is killed when this is dropped.
pub struct Controller {
    /// Its identity in the Lease.
    pub name: String,
    /// Its address in the cluster's network: by it the API server knows it.
    pub address: Ipv4Addr,
    process: Mutex<Option<Process>>,
    environment: Mutex<Vec<String>>,
    kubeconfig: PathBuf,
    folder: PathBuf,
    netns: Netns,
}

impl Controller {
    /// One of that name, which no other one of the ground has; it is not started yet.
    pub fn stopped(ground: &Ground, name: &str) -> Result<Self, FleetError> {
        let (netns, address) = ground.wire(&format!("controller-{name}"))?;
        let folder = ground.folder().join(format!("controller-{name}"));
        let cni = folder.join("cni");
        fs::create_dir_all(&cni).map_err(|error| FleetError::system(format!("making {}", cni.display()), error))?;
        Ok(Self {
            name: name.to_owned(),
            address,
            process: Mutex::new(None),
            environment: Mutex::default(),
            kubeconfig: ground.controllers()?,
            folder,
            netns,
        })
    }

    /// One that is started.
    pub fn start(ground: &Ground, name: &str) -> Result<Self, FleetError> {
        let controller = Self::stopped(ground, name)?;
        controller.launch()?;
        Ok(controller)
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the next start on it has these variables, `NAME=VALUE` each.
    pub fn set_environment(&self, variables: &[String]) {
        *self.environment.lock().unwrap_or_else(PoisonError::into_inner) = variables.to_vec();
    }

    /// Starts it, without waiting for anything; one that runs is killed first.
    pub fn launch(&self) -> Result<(), FleetError> {
        self.kill()?;
        let home = self.netns.run(Home::here)??;
        let program = Binaries::build()?.dragline.clone();
        let mut arguments = self.environment.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = |path: &PathBuf| path.display().to_string();
        arguments.extend([text(&program), "controller".into(), "--kubeconfig".into(), text(&self.kubeconfig)]);
        arguments.extend(["--cni-conf-dir".into(), text(&self.folder.join("cni"))]);
        arguments.extend(["--http".into(), HTTP.to_string(), "--identity".into(), self.name.clone()]);
        let log = self.folder.join("log");
        *self.process() = Some(Process::start(&home, "dragline controller", "env".as_ref(), &arguments, &log)?);
        Ok(())
    }

    /// kill -9.
    pub fn kill(&self) -> Result<(), ClusterError> {
        self.process().take().map_or(Ok(()), |mut process| process.kill())
    }

    /// SIGTERM, and waits until it has ended.
    pub fn terminate(&self) -> Result<(), ClusterError> {
        self.process().take().map_or(Ok(()), |mut process| process.terminate())
    }

    /// SIGSTOP: it does not know that time passes.
    pub fn pause(&self) -> Result<(), ClusterError> {
        self.process().as_ref().map_or(Ok(()), |process| process.signal(Signal::SIGSTOP))
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) -> Result<(), ClusterError> {
        self.process().as_ref().map_or(Ok(()), |process| process.signal(Signal::SIGCONT))
    }

    /// What it answers to a path: `/readyz`.
    ///
    /// # Errors
    /// It does not run, or does not answer within two seconds.
    pub fn ask(&self, path: &str) -> io::Result<String> {
        let asked = self.netns.run(|| {
            let mut stream = TcpStream::connect_timeout(&HTTP, ANSWERED_WITHIN)?;
            stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        asked.map_err(io::Error::other)?
    }

    /// Whether it leads, by its own words; one that does not answer does not.
    pub fn leads(&self) -> bool {
        self.ask("/metrics").is_ok_and(|text| text.lines().any(|line| line == "dragline_controller_leading 1"))
    }

    /// All that it has said since its first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}
