//! A node with its agent, its lanes of traffic and the book.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::agent::AgentProcess;
use tests::binaries::Binaries;
use tests::runtime::Runtime;
use tests::scene::Scene;

use crate::book::{Book, Claim};
use crate::judge;
use crate::lane::{CHAIN_POOL, Caller, ChainLane, IPAM_POOL, IpamLane, Lane};

/// What must come to pass does so in this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Bench {
    pub(crate) name: String,
    pub(crate) scene: Scene,
    pub(crate) agent: AgentProcess,
    pub(crate) book: Book,
    state: PathBuf,
}

impl Bench {
    /// A node whose agent is ready. Its store is on a disk: a sync takes its time there, and kills hit it.
    pub(crate) fn new(name: &str) -> Self {
        let scene = Scene::build(name).unwrap();
        scene.apply("all.yaml", &manifests()).unwrap();
        Binaries::build().unwrap().install_plugins(&scene.plugins()).unwrap();
        let state = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&state);
        fs::create_dir_all(&state).unwrap();
        let mut settings = scene.agent_settings();
        settings.state_dir.clone_from(&state);
        let agent = AgentProcess::start(&Binaries::build().unwrap().dragline, &scene.worker, settings).unwrap();
        Self { name: name.to_owned(), scene, agent, book: Book::default(), state }
    }

    pub(crate) fn lanes(&self, chains: u8, callers: u8) -> Vec<Lane> {
        let chains = (0..chains).map(|number| Lane::Chain(ChainLane::new(number, &self.scene)));
        chains.chain((0..callers).map(|number| Lane::Ipam(IpamLane::new(number, &self.name)))).collect()
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state
    }

    /// See [`judge`].
    pub(crate) fn judge(&self, lanes: &[&Lane], patience: Duration) -> Vec<String> {
        judge(&self.agent, &self.book, &self.state, lanes, patience)
    }
}

/// What is wrong at once, or still wrong after `patience`. To be called while nobody asks for anything.
pub(crate) fn judge(
    agent: &AgentProcess,
    book: &Book,
    state: &Path,
    lanes: &[&Lane],
    patience: Duration,
) -> Vec<String> {
    let claims = book.pages().claims.clone();
    let mut wrong = judge::lost_or_shared(&claims, &agent.list("attachments").unwrap());
    wrong.extend(in_kernel(&claims, lanes, |claim| matches!(claim, Some(Claim::Held { .. }))));
    if !wrong.is_empty() {
        return wrong;
    }
    // There is no event to wait for from outside: the agent is asked again until it has settled, or not.
    let until = Instant::now() + patience;
    loop {
        let wrong = unsettled(agent, &claims, state, lanes);
        if wrong.is_empty() || Instant::now() > until {
            return wrong;
        }
    }
}

fn unsettled(agent: &AgentProcess, claims: &BTreeMap<String, Claim>, state: &Path, lanes: &[&Lane]) -> Vec<String> {
    let (attachments, pools) = (agent.list("attachments").unwrap(), agent.list("ippools").unwrap());
    let mut wrong = judge::lost_or_shared(claims, &attachments);
    wrong.extend(judge::unsettled(claims, &attachments, &pools));
    wrong.extend(in_kernel(claims, lanes, |_| true));
    let check = agent.run(&["check"]).unwrap();
    if !check.status.success() {
        wrong.push(format!("dragline check: {}", String::from_utf8_lossy(&check.stdout)));
    }
    let spooled = spooled(state);
    if !spooled.is_empty() {
        wrong.push(format!("withdrawals are left in the spool: {spooled:?}"));
    }
    wrong
}

fn in_kernel(
    claims: &BTreeMap<String, Claim>,
    lanes: &[&Lane],
    is_asked: impl Fn(Option<&Claim>) -> bool,
) -> Vec<String> {
    let pods = lanes.iter().filter_map(|lane| match lane {
        Lane::Chain(lane) => Some((lane.key(), lane.pod.as_ref()?)),
        Lane::Ipam(_) => None,
    });
    let asked = pods.filter(|(key, _)| is_asked(claims.get(key)));
    asked.flat_map(|(key, pod)| judge::in_kernel(&key, claims.get(&key), pod)).collect()
}

/// Withdrawals that wait for the agent.
pub(crate) fn spooled(state: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(state.join("spool")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

/// What the lanes of a bench call with; apart from it, so that the agent can be killed meanwhile.
pub(crate) fn caller<'a>(scene: &'a Scene, book: &'a Book, state: &Path) -> Caller<'a> {
    let runtime = Runtime::new(&scene.worker, vec![scene.plugins()])
        .with_env("DRAGLINE_SOCKET", scene.agent_settings().socket)
        .with_env("DRAGLINE_STATE_DIR", state);
    Caller { scene, runtime, book }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = fs::remove_dir_all(&self.state);
    }
}

fn manifests() -> String {
    let api = "spiderpool.spidernet.io/v2beta1";
    let pool = |name: &str, ips: &str| {
        json!({"apiVersion": api, "kind": "SpiderIPPool", "metadata": {"name": name},
               "spec": {"ipVersion": 4, "subnet": "10.6.0.0/16", "gateway": "10.6.0.1", "ips": [ips]}})
    };
    let coordinator: Value = json!({
        "apiVersion": api, "kind": "SpiderCoordinator", "metadata": {"name": "default"},
        "spec": {"mode": "auto", "podCIDRType": "calico", "tunePodRoutes": true, "hostRuleTable": 500,
                 "hijackCIDR": ["169.254.0.0/16"]},
        "status": {"phase": "Synced", "overlayPodCIDR": ["10.233.64.0/18"], "serviceCIDR": ["10.233.0.0/18"]},
    });
    let pools = [pool(CHAIN_POOL, "10.6.212.200-10.6.212.240"), pool(IPAM_POOL, "10.6.213.10-10.6.213.60")];
    format!("{coordinator}\n---\n{}\n---\n{}\n", pools[0], pools[1])
}
