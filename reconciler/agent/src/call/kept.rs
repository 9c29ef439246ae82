//! The address that a pod's identity had before: it has that one again, or none yet.

use std::net::IpAddr;
use std::time::Duration;

use schemas::cni::error::CniError;
use schemas::crd::ip_version::IpVersion;
use schemas::wire::Place;

use crate::agent::Agent;
use crate::cluster::{Known, Standing, State};
use crate::cooling;
use crate::identity::Identity;
use crate::ledger::Unkept;
use crate::selection::Candidates;

/// An address that a node has which is not the one where the identity's last pod was is another's, if that lasts so long.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// For whom addresses are chosen.
pub(super) struct Chooser<'a> {
    pub(super) agent: &'a Agent,
    pub(super) place: &'a Place,
    pub(super) standing: &'a Standing,
    /// Only pods that have had an address get one.
    pub(super) only_own: bool,
}

/// An address of the identity, where it may be now.
struct Own {
    pool: String,
    address: IpAddr,
    known: Option<Known>,
}

impl Chooser<'_> {
    /// For whom this interface's addresses are kept; None for a pod without an identity.
    pub(super) fn owner(&self) -> Option<String> {
        let identity = Identity::of(&self.agent.catalogue(), &self.place.pod)?;
        Some(identity.reservation(self.place.key.ifname.as_str()).to_string())
    }

    /// Reserves the address of one of these pools that is kept for the owner. None when there is none, so that any other
    /// one will do: it has had none yet, or one of a pool that it is not to use any more, or that the pool does not have
    /// any more.
    ///
    /// # Errors
    /// It has one that cannot be had now, and who has it.
    pub(super) fn own(&self, candidates: &Candidates, owner: &str) -> Result<Option<(String, IpAddr)>, CniError> {
        let Some(Own { pool, address, known }) = self.find(candidates, owner)? else { return Ok(None) };
        let user = cooling::user(&self.place.pod, self.place.key.ifname.as_str());
        let is_again = self.agent.ledger.was_last_of(&user, address);
        let may_give = || match &self.agent.cluster {
            None => true,
            Some(cluster) if self.only_own => is_again && cluster.tenants.give_kept_again(&pool, address, owner),
            Some(cluster) => cluster.tenants.give_kept(&pool, address, owner, self.standing),
        };
        let why = match self.agent.ledger.reserve_kept(&pool, address, owner, may_give) {
            Ok(()) => return Ok(Some((pool, address))),
            Err(Unkept::Unusable) => return Ok(None),
            Err(Unkept::Used(allocation)) => {
                let sandbox = self.agent.ledger.sandbox(&allocation.owner.container);
                let user = sandbox.as_ref().and_then(|records| records.attachments.get(&allocation.owner.ifname));
                let catalogue = self.agent.catalogue();
                let is_anothers = user.is_some_and(|user| {
                    let is_same =
                        user.pod.namespace == self.place.pod.namespace && user.pod.name == self.place.pod.name;
                    let identity = Identity::of(&catalogue, &user.pod);
                    let is_same = is_same
                        || identity.is_some_and(|one| owner == one.reservation(user.key.ifname.as_str()).to_string());
                    !is_same
                });
                if is_anothers {
                    return Ok(None);
                }
                format!("sandbox {} of this node has it until its DEL is done", allocation.owner.container)
            }
            Err(Unkept::Promised) => "it is in use on this node, or another ADD is being given it".to_owned(),
            Err(Unkept::Occupied) => "others use it (dragline get leases -o wide)".to_owned(),
            Err(Unkept::NotHeld) => match &self.agent.cluster {
                None => "it is kept for another pod".to_owned(),
                Some(cluster) => match self.elsewhere(cluster, &pool, address, known.as_ref()) {
                    Some(why) => why,
                    None => return Ok(None),
                },
            },
        };
        let text = format!("{address} of pool {pool} is kept for {owner} and cannot be had yet: {why}");
        Err(CniError::new(CniError::TRY_AGAIN, text))
    }

    /// Where its address is.
    fn find(&self, candidates: &Candidates, owner: &str) -> Result<Option<Own>, CniError> {
        let is_meant = |address: &IpAddr, pool: &String| {
            address.is_ipv4() == (candidates.version == IpVersion::V4) && candidates.pools.contains(pool)
        };
        let local = self.agent.ledger.kept_for(owner);
        let held = local.iter().find(|(address, pool, is_held)| *is_held && is_meant(address, pool));
        if let Some((address, pool, _)) = held {
            return Ok(Some(Own { pool: pool.clone(), address: *address, known: None }));
        }
        let Some(cluster) = &self.agent.cluster else { return Ok(None) };
        let Some(known) = cluster.fixed.of(&self.place.pod) else {
            let text = format!("which addresses {owner} had before is not known yet: the API server is being asked");
            return Err(CniError::new(CniError::TRY_AGAIN, text));
        };
        let ifname = self.place.key.ifname.as_str();
        let named = known.named.iter().find(|named| named.ifname == ifname && is_meant(&named.address, &named.pool));
        let found = named.filter(|named| self.agent.ledger.is_usable(&named.pool, named.address)).cloned();
        Ok(found.map(|named| Own { pool: named.pool, address: named.address, known: Some(known) }))
    }

    /// Who has an address that this node is to have; None when it has become another's for good.
    fn elsewhere(&self, cluster: &State, pool: &str, address: IpAddr, known: Option<&Known>) -> Option<String> {
        let Some(holder) = cluster.tenants.blocked(pool, address) else {
            let last = known.map(|known| known.node.as_str()).filter(|node| *node != self.agent.config.node_name);
            let last = last.map(|node| format!(" from node {node}, which had it last")).unwrap_or_default();
            return Some(format!("this node is claiming it{last}"));
        };
        cluster.fixed.doubt(&self.place.pod);
        if let Some(until) = holder.strip_prefix('!') {
            let until = format!("until {until} (seconds since 1970)");
            return Some(format!("somebody unknown was seen to use it, so nobody is given it {until}"));
        }
        if let Some(known) = known {
            let is_its_node = holder.split('~').next() == Some(known.node.as_str());
            let is_lost = known.blocked.is_some_and(|since| since.elapsed() >= LOST_AFTER);
            if is_lost && !is_its_node {
                tracing::warn!(pool, %address, holder, "an address that was this pod's is another's: it is given another one");
                return None;
            }
        }
        Some(match holder.strip_prefix('=') {
            Some(other) => format!("it is kept for {other}"),
            None => format!("node {holder} has not given it back"),
        })
    }
}
