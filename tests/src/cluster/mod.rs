//! A Kubernetes control plane for tests: etcd and kube-apiserver as processes of one's own, or the cluster of
//! `KUBECONFIG`.
//!
//! ```text
//! Programs ── where they are: KUBEBUILDER_ASSETS, or what `cargo verify` built
//! Cluster ─── start, kill, restart, pause; users; the controller manager
//! Kubectl ─── kubectl as one user, for any thread
//! ```
//!
//! RBAC holds. There is no scheduler and no kubelet: pods are what somebody writes, and nothing runs in them.

mod error;
mod etcd;
mod kubectl;
mod options;
pub(crate) mod process;
mod programs;
mod relay;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

pub use error::{ClusterError, Missing};
pub use kubectl::Kubectl;
pub use options::{Durability, Options};
use options::{api_server_arguments, certificates, etcd_arguments};
use process::{Home, Process};
pub use programs::{Build, Programs};
use relay::Relay;

/// Names the kubeconfig of a cluster that is used instead of one of our own.
pub const KUBECONFIG: &str = "KUBECONFIG";

/// Set by `cargo verify` for the tests: what its set-up makes is there, and its absence is a failure.
pub const UNDER_VERIFY: &str = "DRAGLINE_VERIFY";

/// The servers take 5 s on an idle machine of two cores.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often a server that starts is asked whether it is ready: it tells nobody.
const ASKED_EVERY: Duration = Duration::from_millis(50);
/// Where servers listen: below what the kernel gives to outgoing connections (`net.ipv4.ip_local_port_range`), or else
/// a client that tries to reach a killed server might be given its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// The admin, by group.
const ADMINS: &str = "system:masters";

/// A cluster. What runs of it is killed when this is dropped, and when the process that started it dies.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    admin: Kubectl,
    own: Option<Own>,
}

/// The part of a cluster that runs here. In the order in which it is to end.
#[derive(Debug)]
struct Own {
    programs: Programs,
    address: SocketAddr,
    controllers: Option<Process>,
    api_server: Option<Process>,
    api_server_arguments: Vec<String>,
    etcd: Option<Process>,
    etcd_address: SocketAddr,
    etcd_arguments: Vec<String>,
    relay: Option<Relay>,
}

impl Cluster {
    /// Starts etcd and an API server in the calling thread's network namespace, and waits until it is ready. Data,
    /// credentials and logs are in the folder, which is made, and deleted when the cluster is dropped.
    pub fn start(folder: &Path, options: &Options) -> Result<Self, ClusterError> {
        let programs = Programs::find()?;
        let home = Home::here()?;
        fs::create_dir_all(folder)
            .map_err(|error| ClusterError::system(format!("making {}", folder.display()), error))?;
        let address = SocketAddr::from((options.address, free_port(options.address)?));
        let etcd = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST)?));
        let token = token()?;
        let tokens = folder.join("tokens.csv");
        fs::write(&tokens, format!("{token},admin,admin,{ADMINS}\n"))
            .map_err(|error| ClusterError::system(format!("writing {}", tokens.display()), error))?;
        let relay = options.is_etcd_far.then(|| Relay::start(&home, etcd)).transpose();
        let relay = relay.map_err(|error| ClusterError::system("starting a relay to etcd", error))?;
        let storage = relay.as_ref().map_or(etcd, |relay| relay.address);
        let own = Own {
            address,
            controllers: None,
            api_server: None,
            api_server_arguments: api_server_arguments(folder, address, storage, options),
            etcd: None,
            etcd_address: etcd,
            etcd_arguments: etcd_arguments(folder, etcd, options.durability),
            relay,
            programs: programs.clone(),
        };
        let admin = Kubectl {
            program: programs.path("kubectl"),
            kubeconfig: folder.join("kubeconfig"),
            cache: folder.join("cache"),
            home,
        };
        let mut cluster = Self { folder: folder.to_owned(), admin, own: Some(own) };
        cluster.start_etcd()?;
        cluster.launch()?;
        cluster.wait_listening()?;
        let authority = cluster.authority()?;
        kubectl::write(cluster.kubeconfig(), &kubectl::plain(&format!("https://{address}"), &authority, &token))?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// The cluster of that kubeconfig, whose user must be an administrator. The folder is for kubeconfigs of others.
    pub fn foreign(folder: &Path, kubeconfig: &Path) -> Result<Self, ClusterError> {
        fs::create_dir_all(folder)
            .map_err(|error| ClusterError::system(format!("making {}", folder.display()), error))?;
        let built = Programs::find().map(|programs| programs.path("kubectl"));
        let admin = Kubectl {
            program: built.unwrap_or_else(|_| "kubectl".into()),
            kubeconfig: kubeconfig.to_owned(),
            cache: folder.join("cache"),
            home: Home::here()?,
        };
        admin.ask(&["version"], "")?;
        Ok(Self { folder: folder.to_owned(), admin, own: None })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        self.admin.kubeconfig()
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.admin
    }

    /// Where the API server listens, when it runs here.
    pub fn address(&self) -> Option<SocketAddr> {
        self.own.as_ref().map(|own| own.address)
    }

    /// Where its data, credentials and logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig of a new service account, as agents and controllers have them; it has no rights yet. The
    /// namespace must be there.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<PathBuf, ClusterError> {
        self.admin.ask(&["create", "serviceaccount", "--namespace", namespace, name], "")?;
        let token = self.admin.ask(&["create", "token", "--namespace", namespace, "--duration=24h", name], "")?;
        let file = self.folder.join(format!("{namespace}_{name}.kubeconfig"));
        self.admin.derive(&file, |user| *user = json!({"token": token.trim()}))
    }

    /// The kubeconfig of any user of these groups: the administrator's, who impersonates them. RBAC looks at the user.
    pub fn user(&self, name: &str, groups: &[&str]) -> Result<PathBuf, ClusterError> {
        let file = self.folder.join(format!("{}.kubeconfig", name.replace(['/', ':'], "_")));
        self.admin.derive(&file, |user| {
            user["as"] = json!(name);
            user["as-groups"] = json!(groups);
        })
    }

    /// The API server's own numbers, as Prometheus would fetch them.
    pub fn metrics(&self) -> Result<String, ClusterError> {
        self.admin.ask(&["get", "--raw", "/metrics"], "")
    }

    /// The API server's process, while it runs here.
    pub fn api_server_pid(&self) -> Option<u32> {
        self.own.as_ref()?.api_server.as_ref().map(Process::pid)
    }

    /// etcd's process, while it runs here.
    pub fn etcd_pid(&self) -> Option<u32> {
        self.own.as_ref()?.etcd.as_ref().map(Process::pid)
    }

    /// The controller manager's process, while it runs here.
    pub fn controller_manager_pid(&self) -> Option<u32> {
        self.own.as_ref()?.controllers.as_ref().map(Process::pid)
    }

    /// kill -9 of the API server, and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), ClusterError> {
        kill(&mut self.own("killing the API server")?.api_server)
    }

    /// kill -9 of the API server where it runs, then starts it at the same address with the same data, and waits until
    /// it is ready.
    pub fn restart(&mut self) -> Result<(), ClusterError> {
        self.kill()?;
        self.launch()?;
        self.wait_listening()?;
        self.wait_ready()
    }

    /// SIGSTOP of the API server: connections stay, answers do not come.
    pub fn pause(&mut self) -> Result<(), ClusterError> {
        signal(self.own("pausing the API server")?.api_server.as_ref(), Signal::SIGSTOP)
    }

    /// Ends [`Self::pause`].
    pub fn resume(&mut self) -> Result<(), ClusterError> {
        signal(self.own("resuming the API server")?.api_server.as_ref(), Signal::SIGCONT)
    }

    /// kill -9 of etcd, and waits until it is gone.
    pub fn stop_etcd(&mut self) -> Result<(), ClusterError> {
        kill(&mut self.own("killing etcd")?.etcd)
    }

    /// Starts etcd at the same address with the same data, without waiting for anything; one that runs is killed first.
    pub fn start_etcd(&mut self) -> Result<(), ClusterError> {
        self.stop_etcd()?;
        let (home, log) = (self.admin.home.clone(), self.folder.join("etcd.log"));
        let own = self.own("starting etcd")?;
        let program = own.programs.path("etcd");
        own.etcd = Some(Process::start(&home, "etcd", &program, &own.etcd_arguments, &log)?);
        Ok(())
    }

    /// SIGSTOP of etcd: the API server still answers what it knows, and no write ends.
    pub fn pause_etcd(&mut self) -> Result<(), ClusterError> {
        signal(self.own("pausing etcd")?.etcd.as_ref(), Signal::SIGSTOP)
    }

    /// Ends [`Self::pause_etcd`].
    pub fn resume_etcd(&mut self) -> Result<(), ClusterError> {
        signal(self.own("resuming etcd")?.etcd.as_ref(), Signal::SIGCONT)
    }

    /// From now on all that the API server and etcd say to each other arrives so much later, each way. Only where
    /// [`Options::is_etcd_far`].
    pub fn delay_etcd(&mut self, delay: Range<Duration>) -> Result<(), ClusterError> {
        const WHAT: &str = "delaying etcd";
        let relay = self.own(WHAT)?.relay.as_ref();
        relay.ok_or(ClusterError::NotOurs { what: WHAT }).map(|relay| relay.delay(delay))
    }

    /// Has etcd forget what was before the present revision, which it tells. An API server that runs goes on serving what
    /// it has in memory; one that is started afterwards knows nothing older.
    pub fn compact_etcd(&mut self) -> Result<u64, ClusterError> {
        let home = self.admin.home.clone();
        let etcd = self.own("compacting etcd")?.etcd_address;
        home.run(|| etcd::compact(etcd)).map_err(|error| ClusterError::system("compacting etcd", error))
    }

    /// Starts the controller manager with these controllers (`garbagecollector`, `namespace`, ...) and waits for
    /// nothing; one that runs is killed first.
    pub fn start_controller_manager(&mut self, controllers: &[&str]) -> Result<(), ClusterError> {
        let (home, log) = (self.admin.home.clone(), self.folder.join("kube-controller-manager.log"));
        let kubeconfig = self.kubeconfig().display().to_string();
        let own = self.own("starting the controller manager")?;
        kill(&mut own.controllers)?;
        let arguments = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--controllers={}", controllers.join(",")),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
        ];
        let program = own.programs.path("kube-controller-manager");
        own.controllers = Some(Process::start(&home, "kube-controller-manager", &program, &arguments, &log)?);
        Ok(())
    }

    /// Starts the API server, without waiting for anything.
    pub fn launch(&mut self) -> Result<(), ClusterError> {
        let (home, log) = (self.admin.home.clone(), self.folder.join("kube-apiserver.log"));
        let own = self.own("starting the API server")?;
        let program = own.programs.path("kube-apiserver");
        own.api_server = Some(Process::start(&home, "kube-apiserver", &program, &own.api_server_arguments, &log)?);
        Ok(())
    }

    /// Waits until the API server says that it is ready.
    pub fn wait_ready(&mut self) -> Result<(), ClusterError> {
        let kubectl = self.admin.clone();
        self.wait(|_| {
            let asked = kubectl.ask(&["get", "--raw", "/readyz", "--request-timeout=5s"], "");
            asked.map(drop).map_err(|error| error.to_string())
        })
    }

    /// Cheaper to ask than whether it is ready.
    fn wait_listening(&mut self) -> Result<(), ClusterError> {
        let home = self.admin.home.clone();
        self.wait(|address| {
            let connected = home.run(|| TcpStream::connect_timeout(&address, READY_WITHIN).map(drop));
            connected.map_err(|error| error.to_string())
        })
    }

    fn wait(&mut self, ask: impl Fn(SocketAddr) -> Result<(), String>) -> Result<(), ClusterError> {
        let own = self.own("waiting for the API server")?;
        let until = Instant::now() + READY_WITHIN;
        while let Err(found) = ask(own.address) {
            for process in [&mut own.etcd, &mut own.api_server].into_iter().flatten() {
                process.is_alive()?;
            }
            if Instant::now() > until {
                let log = own.api_server.as_ref().map(Process::log_end).unwrap_or_default();
                return Err(ClusterError::NotReady {
                    program: "kube-apiserver".into(),
                    within: READY_WITHIN,
                    found,
                    log,
                });
            }
            thread::sleep(ASKED_EVERY);
        }
        Ok(())
    }

    fn own(&mut self, what: &'static str) -> Result<&mut Own, ClusterError> {
        self.own.as_mut().ok_or(ClusterError::NotOurs { what })
    }

    /// The authority that the API server made for itself: the last of the two certificates in its file.
    fn authority(&self) -> Result<PathBuf, ClusterError> {
        let (chain, file) = (certificates(&self.folder).join("apiserver.crt"), self.folder.join("authority.crt"));
        let copied = fs::read_to_string(&chain).and_then(|text| {
            let last = text.rfind("-----BEGIN").map_or("", |start| &text[start..]);
            fs::write(&file, last)
        });
        copied.map_err(|error| ClusterError::system(format!("copying {}", chain.display()), error))?;
        Ok(file)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.own = None;
        // What is left of it harms nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn kill(process: &mut Option<Process>) -> Result<(), ClusterError> {
    process.take().map_or(Ok(()), |mut process| process.kill())
}

fn signal(process: Option<&Process>, signal: Signal) -> Result<(), ClusterError> {
    process.map_or(Ok(()), |process| process.signal(signal))
}

/// A port at which nobody listens, and which this process was not given before. Programs that look at the same time
/// begin at different ones.
fn free_port(address: Ipv4Addr) -> Result<u16, ClusterError> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let first =
        PORTS.start + u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start)).unwrap_or_default();
    let mut candidates = (first..PORTS.end).chain(PORTS.start..first);
    let is_free = |port: &u16| !given.contains(port) && TcpListener::bind((address, *port)).is_ok();
    let port = candidates.find(is_free).ok_or_else(|| {
        ClusterError::system(format!("finding a free port of {address}"), io::Error::from(io::ErrorKind::AddrInUse))
    })?;
    given.insert(port);
    Ok(port)
}

/// A token that nobody guesses: on the host's loopback the API server has other visitors.
fn token() -> Result<String, ClusterError> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.map_err(|error| ClusterError::system("reading /dev/urandom", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
