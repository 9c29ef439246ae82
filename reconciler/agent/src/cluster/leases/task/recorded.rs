//! What of a tenant's wishes is about the store.

use std::net::IpAddr;

use plan::lease::tenant::Reply;
use store::Change;

use super::doubt::{self, Elsewhere};
use super::{RETRY, Task};
use crate::cluster::Notice;
use crate::cluster::leases::suspects::{Found, QUARANTINE_SECONDS};
use crate::leased::set_of;

/// Texts of the store's catalogue: addresses on their way back.
pub(super) const KEY_LEAVING: &str = "leaving/";
/// Texts of the store's catalogue: addresses that have to be looked for on the wire.
pub(super) const KEY_SUSPECT: &str = "suspect/";

impl Task {
    /// Until it is durable nothing else goes on here: nothing that is not recorded is given.
    pub(super) async fn record(&mut self, addresses: &[IpAddr], suspect: &[IpAddr]) {
        let me = self.input.holder.clone();
        let elsewhere = doubt::elsewhere(&self.agent, &self.pool, &me, addresses.to_vec(), self.now().unix).await;
        // They are never recorded as the node's: after a kill it would not be known any more whose they are.
        let is_own = |address: &&IpAddr| !elsewhere.iter().any(|found| found.address == **address);
        let own: Vec<IpAddr> = addresses.iter().filter(is_own).copied().collect();
        let suspect: Vec<IpAddr> = suspect.iter().filter(is_own).copied().collect();
        loop {
            let mut change = Change::new();
            for address in &own {
                change = change.delete_catalogue(&format!("{KEY_LEAVING}{address}"));
            }
            for address in &suspect {
                change = change.put_catalogue(&format!("{KEY_SUSPECT}{address}"), &self.pool);
            }
            match self.agent.ledger.hold(&self.pool, &set_of(&own), me.epoch(), change).await {
                Ok(()) => break,
                Err(error) => self.not_recorded(&error).await,
            }
        }
        // Lost before, and its own now.
        own.iter().for_each(|address| {
            self.lost.remove(address);
        });
        tracing::debug!(pool = self.pool, addresses = ?own, "addresses are this node's");
        let now = self.now();
        self.keeper(|keeper| {
            // In one go: nobody is given what another pool has.
            keeper.tenant.took(now, Reply::Recorded);
            elsewhere.iter().for_each(|found| keeper.tenant.occupied(found.address, found.until));
        });
        for Elsewhere { address, text, .. } in &elsewhere {
            tracing::warn!(pool = self.pool, %address, text, "another pool has this address: nobody is given it of this one");
            let note = format!(
                "address {address} of this pool is another's: {text}; leave it to one of the two pools (spec.ips, spec.excludeIPs)"
            );
            self.cluster(|cluster| cluster.notice(Notice::Occupied(self.pool.clone(), note)));
        }
        suspect.iter().for_each(|address| self.suspects.look_for(*address));
        self.agent.ledger.wake();
    }

    /// What has been found out of a suspect address.
    pub(super) async fn found(&mut self, address: IpAddr, found: Found) {
        let now = self.now();
        self.suspects.report(&self.pool, address, &found);
        if let Found::Used(mac) = found {
            let note = format!(
                "address {address} is in use by {mac}, whom dragline does not know: it is kept from everybody for {} min; find it, or exclude the address",
                QUARANTINE_SECONDS / 60
            );
            self.cluster(|cluster| cluster.notice(Notice::Occupied(self.pool.clone(), note)));
            // Its text goes when the tenant has it forgotten.
            self.keeper(|keeper| keeper.tenant.occupied(address, now.unix.saturating_add(QUARANTINE_SECONDS)));
            return;
        }
        let change = Change::new().delete_catalogue(&format!("{KEY_SUSPECT}{address}"));
        if let Err(error) = self.agent.ledger.record(change).await {
            tracing::warn!(pool = self.pool, %address, %error, "it is looked for again after the next start");
        }
        self.keeper(|keeper| keeper.tenant.cleared(address, now));
        self.agent.ledger.wake();
    }

    pub(super) async fn forget(&mut self, addresses: &[IpAddr]) {
        let pool = self.pool.clone();
        let leaving = |gone: &[IpAddr]| {
            gone.iter().fold(Change::new(), |change, address| {
                change
                    .put_catalogue(&format!("{KEY_LEAVING}{address}"), &pool)
                    .delete_catalogue(&format!("{KEY_SUSPECT}{address}"))
            })
        };
        let gone = loop {
            match self.agent.ledger.let_go(&pool, addresses, leaving).await {
                Ok(gone) => break gone,
                Err(error) => self.not_recorded(&error).await,
            }
        };
        if gone.len() != addresses.len() {
            // Something of it has turned out to be in use just now: nothing is sent, and the tenant learns it.
            self.is_astray = true;
            return;
        }
        tracing::debug!(pool = self.pool, ?addresses, "addresses are given back");
        self.took(Reply::Forgotten);
    }

    pub(super) async fn erase(&mut self, addresses: &[IpAddr]) {
        let erase = |change: Change, address: &IpAddr| change.delete_catalogue(&format!("{KEY_LEAVING}{address}"));
        if let Err(error) = self.agent.ledger.record(addresses.iter().fold(Change::new(), erase)).await {
            tracing::warn!(pool = self.pool, %error, "what has been given back is not erased: it is tried after the next start");
        }
    }

    pub(super) async fn lose(&mut self, spare: &[IpAddr], used: Vec<IpAddr>) {
        tracing::error!(
            pool = self.pool,
            ?spare,
            ?used,
            "addresses that this node held are not its any more: somebody has changed the pool's shards"
        );
        let list =
            |addresses: &[IpAddr]| addresses.iter().take(16).map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let node = &self.agent.config.node_name;
        let note = format!(
            "node {node} held {} (in use: {}), and the pool's shards say otherwise: somebody has edited them",
            list(spare),
            list(&used)
        );
        self.cluster(|cluster| cluster.notice(Notice::Lost(self.pool.clone(), note)));
        self.lost.extend(spare.iter().copied());
        self.lost.extend(used);
        self.drop_lost().await;
    }

    /// Of what is lost, the records of those addresses that nobody uses.
    pub(super) async fn drop_lost(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        let taken = self.agent.ledger.taken();
        let idle: Vec<IpAddr> = self.lost.iter().copied().filter(|address| !taken.contains(address)).collect();
        if idle.is_empty() {
            return;
        }
        match self.agent.ledger.let_go(&self.pool, &idle, |_| Change::new()).await {
            Ok(gone) => self.lost.retain(|address| !gone.contains(address)),
            Err(error) => tracing::warn!(pool = self.pool, %error, "lost addresses stay recorded"),
        }
    }

    async fn not_recorded(&mut self, error: &store::CommitError) {
        tracing::error!(pool = self.pool, %error, "a lease cannot be recorded");
        tokio::time::sleep(RETRY).await;
    }
}
