//! The controller's half about pools: their status, and what gone nodes and pods leave behind.
//!
//! ```text
//! read ──▶ cluster ──▶ tally, share, conditions ──▶ status ──▶ perform
//!                 └──▶ upkeep, cleanup ───────────────────────▶
//! ```
//!
//! [`read`] watches, [`cluster`] keeps what was read, [`status`], [`upkeep`] and [`cleanup`] decide from that alone,
//! [`perform`] writes. Decisions are made anew from what is read; nothing but the pace and a few "since when" is
//! remembered, so ending at any point harms nothing, and neither does a second controller that has not noticed yet that
//! it does not lead. Nothing is written before every kind has been read whole.

pub mod agents;
pub mod cleanup;
pub mod cluster;
pub mod conditions;
pub mod kept;
mod owners;
mod pace;
pub mod perform;
pub mod read;
pub mod reasons;
pub mod shard;
pub mod share;
pub mod space;
pub mod status;
pub mod tally;
pub mod upkeep;

#[cfg(test)]
mod scale_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, StreamExt};
use futures::{FutureExt, stream};
use kube::runtime::watcher;
use schemas::crd::SpiderIPPool;
use serde_json::Value;

use super::Context;
use agents::Moment;
use cleanup::Chore;
use cluster::Cluster;
use pace::Pace;
use perform::{Writer, Written};
use read::Heard;
use reasons::Told;

type Said = watcher::Result<Heard>;

/// How much is read before anything is decided, when there is much.
const BATCH: usize = 10_000;
/// How many chores are done before reading goes on.
const CHORES: usize = 200;
/// How many writes are under way at a time.
const WRITES: usize = 8;
/// How long an answer of the API server is waited for; it gives up by itself after a minute at most.
const ANSWERED_WITHIN: Duration = Duration::from_secs(70);
/// Between two looks for what is to be cleared away.
const LOOKS: Duration = Duration::from_secs(5);

/// How long to sleep while there is nothing to wait for.
const IDLE: Duration = Duration::from_secs(3600);

/// Why this half ends, which it does not do by itself.
#[derive(Debug, thiserror::Error)]
pub enum PoolsError {
    /// The watches have ended, which they never do.
    #[error("the watches of pools and nodes have ended: start the controller again")]
    Ended,
}

/// Keeps pools in order until it is dropped, which it may be at any time.
///
/// # Errors
/// Only when what cannot happen does; an API server that is away is waited for.
pub async fn run(context: Context) -> Result<Infallible, PoolsError> {
    let Context { client, config, .. } = context;
    let mut heard = read::everything(&client, &config.namespace);
    let writer = Writer::new(client, &config.namespace, &config.identity);
    let mut pools = Pools::new(writer);
    loop {
        let wake = pools.wake();
        let first = tokio::select! {
            next = heard.next() => Some(next.ok_or(PoolsError::Ended)?),
            () = tokio::time::sleep_until(wake.into()) => None,
        };
        pools.hear(first, &mut heard);
        if pools.cluster.is_complete() {
            pools.look_at_pools().await;
            pools.clear_away().await;
        }
    }
}

/// What is known and remembered.
struct Pools {
    writer: Writer,
    cluster: Cluster,
    pace: Pace,
    statuses: BTreeMap<String, status::Memory>,
    cleanup: cleanup::Memory,
    /// When to look next for what is to be cleared away, and when that was done last.
    look: Option<Instant>,
    looked: Option<Instant>,
}

/// What is to be written about one pool.
struct Turn {
    name: String,
    object: SpiderIPPool,
    shape: Option<Value>,
    release: Option<Value>,
    status: Option<Value>,
    told: Vec<Told>,
}

impl Pools {
    fn new(writer: Writer) -> Self {
        Self {
            writer,
            cluster: Cluster::default(),
            pace: Pace::default(),
            statuses: BTreeMap::new(),
            cleanup: cleanup::Memory::default(),
            look: None,
            looked: None,
        }
    }

    /// When there is something to do although nothing is heard.
    fn wake(&self) -> Instant {
        let next = self.pace.next().into_iter().chain(self.look).min();
        next.filter(|_| self.cluster.is_complete()).unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// Takes what was heard, and what else is there without waiting.
    fn hear(&mut self, first: Option<Said>, more: &mut BoxStream<'static, Said>) {
        let now = Moment::now();
        let rest = std::iter::from_fn(|| more.next().now_or_never().flatten()).take(BATCH);
        let mut is_new = false;
        for said in first.into_iter().chain(rest) {
            match said {
                Ok(heard) => {
                    self.cluster.hear(heard, now);
                    is_new = true;
                }
                Err(error) => tracing::warn!(%error, "a watch was interrupted; it is taken up again"),
            }
        }
        for pool in self.cluster.take_dirty() {
            self.pace.changed(pool, now.steady);
        }
        if is_new {
            let soonest = self.looked.map_or(now.steady, |looked| looked + LOOKS);
            self.look_at(soonest.max(now.steady));
        }
    }

    fn look_at(&mut self, time: Instant) {
        self.look = Some(self.look.map_or(time, |known| known.min(time)));
    }

    /// Decides and writes about the pools whose turn it is.
    async fn look_at_pools(&mut self) {
        let now = Moment::now();
        let turns: Vec<Turn> =
            self.pace.take(now.steady).into_iter().filter_map(|name| self.decide(name, now)).collect();
        let writer = &self.writer;
        let write = |turn: Turn| async move {
            let written = within(write(writer, &turn)).await;
            (turn.name, written)
        };
        let written: Vec<_> = stream::iter(turns).map(write).buffer_unordered(WRITES).collect().await;
        for (name, written) in written {
            let is_done = match written {
                Ok(is_done) => is_done,
                Err(error) => {
                    tracing::warn!(pool = name, %error, "the pool could not be written; it is tried again");
                    false
                }
            };
            self.pace.ended(&name, is_done, Instant::now());
        }
    }

    fn decide(&mut self, name: String, now: Moment) -> Option<Turn> {
        let Some(pool) = self.cluster.pools.get(&name) else {
            self.statuses.remove(&name);
            self.pace.forget(&name);
            return None;
        };
        let memory = self.statuses.entry(name.clone()).or_default();
        let verdict = status::decide(&self.cluster, &name, memory, now);
        if let Some(time) = verdict.again {
            self.pace.later(name.clone(), time, now.steady);
        }
        let is_free = self.cluster.named(&name).is_empty()
            && !self.cluster.shards_of(pool).any(|(_, shard)| cleanup::is_held(shard));
        let release = upkeep::release(&pool.object).filter(|_| is_free);
        let turn = Turn {
            object: pool.object.clone(),
            shape: upkeep::shape(pool),
            release,
            status: verdict.patch,
            told: verdict.told,
            name,
        };
        let is_idle = turn.shape.is_none() && turn.release.is_none() && turn.status.is_none();
        if is_idle {
            self.pace.ended(&turn.name, true, now.steady);
        }
        (!is_idle).then_some(turn)
    }

    /// Does what [`cleanup`] finds, a part of it when there is much.
    async fn clear_away(&mut self) {
        let now = Moment::now();
        if self.look.is_none_or(|look| look > now.steady) {
            return;
        }
        let findings = cleanup::look(&self.cluster, &mut self.cleanup, now);
        self.look = None;
        self.looked = Some(now.steady);
        if !findings.chores.is_empty() {
            // What is left, was overtaken or failed.
            self.look_at(now.steady + LOOKS);
        }
        if let Some(time) = findings.again {
            self.look_at(now.steady + time.max(LOOKS));
        }
        let writer = &self.writer;
        let clear = |chore: Chore| async move {
            let cleared = within(writer.clear(&chore)).await;
            (chore, cleared)
        };
        let chores = findings.chores.into_iter().take(CHORES);
        let done: Vec<_> = stream::iter(chores).map(clear).buffer_unordered(WRITES).collect().await;
        let mut edits = Vec::new();
        for (chore, cleared) in done {
            match cleared {
                Ok(Written::Done(())) => {
                    tracing::info!(?chore, "cleared away");
                    if let Chore::Slots(edit) = chore {
                        edits.push(edit);
                    }
                }
                Ok(Written::Overtaken) => tracing::debug!(?chore, "left alone: something else is there by now"),
                Err(error) => tracing::warn!(?chore, %error, "could not be cleared away; it is tried again"),
            }
        }
        for told in perform::told(&edits) {
            if let Some(pool) = self.cluster.pools.get(&told.pool) {
                // What cannot be told is told nobody.
                let _ = within(self.writer.tell(&told, &pool.object).map(Ok)).await;
            }
        }
    }
}

/// What comes of it, in time: a server that hangs is one that fails.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let answered = tokio::time::timeout(ANSWERED_WITHIN, request).await;
    answered.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
}

/// Whether all of it was written.
async fn write(writer: &Writer, turn: &Turn) -> kube::Result<bool> {
    let mut is_done = true;
    // First what holds for the version that was read: writing the status makes another one.
    if let Some(shape) = &turn.shape {
        is_done &= writer.patch(&turn.name, shape).await? != Written::Overtaken;
    }
    if let Some(release) = &turn.release {
        is_done &= writer.let_go(&turn.object, release).await? != Written::Overtaken;
    }
    if let Some(status) = &turn.status {
        if writer.patch_status(&turn.name, status).await? == Written::Overtaken {
            return Ok(false);
        }
        for told in &turn.told {
            writer.tell(told, &turn.object).await;
        }
    }
    Ok(is_done)
}
