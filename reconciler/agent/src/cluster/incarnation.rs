//! Which incarnation of the node this agent is, and whether it may still give addresses.
//!
//! A Lease object `dragline-node-NODE` is held by one agent's store at a time; its number of transitions counts the stores that
//! have been the node's. A claim of addresses carries that number, so that an agent that comes back after another has
//! taken its place can neither claim nor give back anything. An agent that has not reached the API server for two thirds
//! of the time after which its addresses may be given away hands out no new ones.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use schemas::slot::Holder;
use store::{Change, Store};
use tokio::time::Instant;

use super::{Notice, State};
use crate::agent::Agent;
use crate::kubernetes::{AGENT_LEASE, FIELD_MANAGER};

const KEY_ID: &str = "incarnation/id";
const KEY_EPOCH: &str = "incarnation/epoch";
const KEY_CONTACT: &str = "incarnation/contact";
/// Annotation of the Lease: the UID of the Node object.
const NODE_UID: &str = "dragline.io/node-uid";
/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The part of the time to live after which the Lease is renewed, is another's to take, and no new addresses are given.
const RENEW: u32 = 12;
const TAKE: u32 = 4;
/// After this part of it without contact, what the node holds is read anew before any of it is given: the controller takes
/// a node for gone after a quarter at the earliest.
const AWAY: u32 = 5;

/// As what the agent stands in the cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// It has never reached the API server.
    Unknown,
    /// It is the node, since the last contact.
    Held {
        /// As whom it claims.
        holder: Holder,
        /// When the API server was last reached.
        contact: Contact,
        /// How often it was away for so long that the node may have been taken for gone.
        absences: u64,
    },
    /// Another agent is the node.
    Other(String),
}

/// A time that can be compared after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    boot_id: String,
    /// Seconds since boot, those asleep included.
    boot: u64,
    /// Seconds since 1970.
    wall: u64,
}

impl Contact {
    fn now(boot_id: &str) -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        Self {
            boot_id: boot_id.to_owned(),
            boot: boot.map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or(0)),
            wall: wall.map_or(0, |since| since.as_secs()),
        }
    }

    /// How long ago: by the clock that nobody sets where the boot is the same, else by the calendar; None when the
    /// calendar says that it is yet to come.
    fn age(&self, now: &Self) -> Option<Duration> {
        let seconds = if self.boot_id == now.boot_id {
            Some(now.boot.saturating_sub(self.boot))
        } else {
            now.wall.checked_sub(self.wall)
        };
        seconds.map(Duration::from_secs)
    }

    fn text(&self) -> String {
        format!("{} {} {}", self.boot_id, self.boot, self.wall)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (boot_id, boot, wall) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { boot_id: boot_id.to_owned(), boot, wall })
    }
}

impl Standing {
    /// What the store says.
    pub(super) fn remembered(store: &Store, node: &str) -> Self {
        let text = |key| store.catalogue_get(key).ok().flatten();
        let epoch = text(KEY_EPOCH).and_then(|text| text.parse().ok());
        let contact = text(KEY_CONTACT).and_then(|text| Contact::parse(&text));
        match (text(KEY_ID), epoch, contact) {
            (Some(_), Some(epoch), Some(contact)) => match Holder::new(node, epoch) {
                Ok(holder) => Self::Held { holder, contact, absences: 0 },
                Err(_) => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    /// Whether the agent is the node, in contact or not: then pods may have the addresses again that were theirs.
    pub fn is_node(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    /// Whether addresses may be given to pods that have none yet.
    ///
    /// # Errors
    /// Why not.
    pub fn may_give(&self, boot_id: &str, ttl: Duration) -> Result<(), String> {
        match self {
            Self::Unknown => {
                Err("the API server has not been reached yet, so it is not known which addresses this node holds"
                    .into())
            }
            Self::Other(who) => Err(who.clone()),
            Self::Held { contact, .. } => match contact.age(&Contact::now(boot_id)) {
                Some(age) if age < ttl * 2 / 3 => Ok(()),
                Some(age) => Err(format!(
                    "the API server has not been reached for {} s: after {} s other nodes may be given this node's free addresses",
                    age.as_secs(),
                    ttl.as_secs()
                )),
                None => {
                    Err("the clock stands before the last contact with the API server: set it, or reach the API server"
                        .into())
                }
            },
        }
    }
}

#[cfg(test)]
impl Standing {
    /// In contact at this moment.
    pub(super) fn held(holder: Holder, absences: u64) -> Self {
        Self::Held { holder, contact: Contact::now(""), absences }
    }
}

impl State {
    /// As what the agent stands in the cluster now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// As whom it claims, once it is the node.
    pub fn holder(&self) -> Option<Holder> {
        match &*self.standing.borrow() {
            Standing::Held { holder, .. } => Some(holder.clone()),
            Standing::Unknown | Standing::Other(_) => None,
        }
    }
}

/// The Lease as another has last renewed it, and since when it is seen like that.
struct Seen {
    identity: Option<String>,
    renewed: Option<MicroTime>,
    since: Instant,
}

/// Keeps the Lease for as long as the agent runs.
pub(super) async fn keep(agent: Arc<Agent>) {
    let Some(cluster) = &agent.cluster else { return };
    let id = match own_id(&agent).await {
        Ok(id) => id,
        Err(error) => {
            tracing::error!(error, "this node's identity cannot be recorded: it gives no new addresses");
            return;
        }
    };
    let api: Api<Lease> = Api::namespaced(cluster.client.clone(), &cluster.config.namespace);
    let ttl = cluster.config.lease_ttl;
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    // The Lease names the Node object: it has to be known.
    tokio::select! {
        () = cluster.synced() => {}
        () = &mut stopping => return,
    }
    let mut seen: Option<Seen> = None;
    let mut was_ours = false;
    let mut failures = 0_u32;
    loop {
        let wait = match tokio::time::timeout(ttl / 6, hold(&agent, cluster, &api, &id, was_ours, &mut seen)).await {
            Ok(Ok(Held::Ours)) => {
                was_ours = true;
                failures = 0;
                ttl / RENEW
            }
            // Its holder renews it three times in this while.
            Ok(Ok(Held::Theirs)) => ttl / RENEW / 2,
            // Somebody was faster: at once once more.
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                Duration::from_millis(50)
            }
            Ok(Ok(Held::Lost)) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "this node's Lease cannot be renewed");
                failures += 1;
                (BACKOFF.0 * (1 << failures.min(6))).min(BACKOFF.1).min(ttl / RENEW)
            }
            Err(_) => {
                tracing::warn!("this node's Lease cannot be renewed: the API server does not answer");
                BACKOFF.0.min(ttl / RENEW)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(spread(wait)) => {}
            () = &mut stopping => return,
        }
    }
}

enum Held {
    Ours,
    Theirs,
    Lost,
}

async fn hold(
    agent: &Agent,
    cluster: &State,
    api: &Api<Lease>,
    id: &str,
    was_ours: bool,
    seen: &mut Option<Seen>,
) -> Result<Held, kube::Error> {
    let node = &agent.config.node_name;
    let name = format!("{AGENT_LEASE}{node}");
    let node_uid = agent.catalogue().nodes.get(node).map(|node| node.uid.clone()).filter(|uid| !uid.is_empty());
    let Some(mut lease) = api.get_opt(&name).await? else {
        // One that was there is deleted with all that the node held: what is held now is another incarnation's.
        let transitions = cluster.holder().map_or(0, |holder| holder.epoch());
        let spec = spec(cluster, id, transitions);
        let metadata = ObjectMeta {
            name: Some(name),
            annotations: Some(annotations(node_uid.as_deref())),
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, spec: Some(spec) };
        api.create(&write(), &lease).await?;
        stand(agent, cluster, transitions + 1).await;
        return Ok(Held::Ours);
    };
    let found = lease.spec.clone().unwrap_or_default();
    let transitions = u64::try_from(found.lease_transitions.unwrap_or(0)).unwrap_or(0);
    let is_ours = found.holder_identity.as_deref() == Some(id);
    if !is_ours {
        if was_ours {
            let who = found.holder_identity.unwrap_or_default();
            let text = format!(
                "another agent ({who}) has become node {node}: this one gives no new addresses; stop one of them, and restart this one if it is to stay"
            );
            tracing::error!(text, "fenced");
            cluster.notice(Notice::Fenced(text.clone()));
            cluster.standing.send_replace(Standing::Other(text));
            return Ok(Held::Lost);
        }
        let is_as_before = seen
            .as_ref()
            .is_some_and(|seen| seen.identity == found.holder_identity && seen.renewed == found.renew_time);
        if !is_as_before {
            *seen = Some(Seen {
                identity: found.holder_identity.clone(),
                renewed: found.renew_time.clone(),
                since: Instant::now(),
            });
        }
        let quiet = seen.as_ref().map_or(Duration::ZERO, |seen| seen.since.elapsed());
        let recorded_uid = lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(NODE_UID))
            .cloned()
            .filter(|uid| !uid.is_empty());
        let is_another_node = matches!((&recorded_uid, &node_uid), (Some(before), Some(now)) if before != now);
        let is_given_up = found.holder_identity.as_deref().is_none_or(str::is_empty);
        if !(is_given_up || is_another_node || quiet >= cluster.config.lease_ttl / TAKE) {
            let left = (cluster.config.lease_ttl / TAKE).saturating_sub(quiet).as_secs();
            cluster.standing.send_replace(Standing::Other(format!(
                "another agent ({}) runs as node {node}: its place is taken in {left} s if it is not heard of",
                found.holder_identity.unwrap_or_default(),
            )));
            return Ok(Held::Theirs);
        }
        tracing::warn!(before = found.holder_identity, "another agent was this node: its place is taken");
    }
    let transitions = if is_ours { transitions } else { transitions + 1 };
    lease.spec = Some(spec(cluster, id, transitions));
    lease.metadata.annotations.get_or_insert_default().extend(annotations(node_uid.as_deref()));
    // With the version that was read: who has written since then is not overwritten.
    api.replace(&name, &write(), &lease).await?;
    stand(agent, cluster, transitions + 1).await;
    Ok(Held::Ours)
}

fn spec(cluster: &State, id: &str, transitions: u64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(id.to_owned()),
        lease_duration_seconds: Some(i32::try_from(cluster.config.lease_ttl.as_secs()).unwrap_or(i32::MAX)),
        lease_transitions: Some(i32::try_from(transitions).unwrap_or(i32::MAX)),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    }
}

/// By this annotation the controller knows an agent's Lease; without a Node object it is empty.
fn annotations(node_uid: Option<&str>) -> std::collections::BTreeMap<String, String> {
    [(NODE_UID.to_owned(), node_uid.unwrap_or_default().to_owned())].into()
}

fn write() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// The agent is the node: recorded before anybody acts on it.
async fn stand(agent: &Agent, cluster: &State, epoch: u64) {
    let holder = match Holder::new(&agent.config.node_name, epoch) {
        Ok(holder) => holder,
        Err(error) => {
            cluster.standing.send_replace(Standing::Other(format!("this node's name cannot hold addresses: {error}")));
            return;
        }
    };
    let contact = Contact::now(agent.kernel.boot_id());
    let change = Change::new().put_catalogue(KEY_EPOCH, &epoch.to_string()).put_catalogue(KEY_CONTACT, &contact.text());
    if let Err(error) = agent.ledger.record(change).await {
        tracing::error!(%error, "the contact with the API server is not recorded");
        return;
    }
    let absences = match cluster.standing() {
        Standing::Held { contact: last, absences, .. } => {
            let was_away = last.age(&contact).is_none_or(|age| age > cluster.config.lease_ttl / AWAY);
            absences + u64::from(was_away)
        }
        Standing::Unknown | Standing::Other(_) => 0,
    };
    cluster.standing.send_replace(Standing::Held { holder, contact, absences });
}

/// The identity of this store: random, recorded before it is used.
async fn own_id(agent: &Agent) -> Result<String, String> {
    if let Some(id) = agent.ledger.store().catalogue_get(KEY_ID).map_err(|error| error.to_string())? {
        return Ok(id);
    }
    let id = new_id()?;
    agent.ledger.record(Change::new().put_catalogue(KEY_ID, &id)).await.map_err(|error| error.to_string())?;
    Ok(id)
}

/// The same of a store that no agent has open. Blocking.
pub(crate) fn identity(store: &Store) -> Result<String, String> {
    if let Some(id) = store.catalogue_get(KEY_ID).map_err(|error| error.to_string())? {
        return Ok(id);
    }
    let id = new_id()?;
    store.commit(Change::new().put_catalogue(KEY_ID, &id)).map_err(|error| error.to_string())?;
    Ok(id)
}

fn new_id() -> Result<String, String> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// About that long, so that nodes that started together do not stay together.
pub(super) fn spread(wait: Duration) -> Duration {
    let mut random = [0_u8; 2];
    // Without randomness nothing is wrong but the load's shape.
    let _ = getrandom::fill(&mut random);
    wait.mul_f64(0.9 + 0.2 * f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(boot_id: &str, boot: u64, wall: u64) -> Contact {
        Contact { boot_id: boot_id.into(), boot, wall }
    }

    #[test]
    fn the_calendar_counts_only_after_a_reboot() {
        let then = contact("a", 100, 1000);
        assert_eq!(then.age(&contact("a", 160, 1)), Some(Duration::from_secs(60)));
        assert_eq!(then.age(&contact("b", 5, 1090)), Some(Duration::from_secs(90)));
        assert_eq!(then.age(&contact("b", 5, 999)), None);
        assert_eq!(Contact::parse(&then.text()), Some(then));
        assert_eq!(Contact::parse("x"), None);
    }
}
