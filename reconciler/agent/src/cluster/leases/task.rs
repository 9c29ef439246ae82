//! One pool's tenant at work: what happened goes in, what it wants is done.

mod doubt;
mod recorded;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use plan::lease::tenant::{Action, Now, Recorded, Reply, Seen};
use plan::lease::{Tenant, Windows};
use store::Change;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::recorded::{KEY_LEAVING, KEY_SUSPECT};
use super::keeper::Keeper;
use super::requests::Shards;
use super::suspects::Suspects;
use super::{Input, State};
use crate::agent::Agent;
use crate::cluster::fixed;
use crate::leased::set_of;

/// After something could not be recorded or fixed.
const RETRY: Duration = Duration::from_secs(1);

/// The pool's task.
struct Task {
    agent: Arc<Agent>,
    pool: String,
    input: Input,
    shards: Shards,
    started: u64,
    /// Not the node's any more though pods use them: they go when those do.
    lost: BTreeSet<IpAddr>,
    /// What the tenant decided does not fit what is in use.
    is_astray: bool,
    /// Nothing is given before the shards have been read.
    is_doubtful: bool,
    suspects: Suspects,
    begun: Instant,
    pending: FuturesUnordered<BoxFuture<'static, Reply>>,
    watching: Option<AbortHandle>,
    events: (mpsc::Sender<Seen>, mpsc::Receiver<Seen>),
}

/// Runs until the agent stops.
pub(super) async fn run(agent: Arc<Agent>, pool: String, mut inputs: watch::Receiver<Input>) {
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        let input = inputs.borrow_and_update().clone();
        // What is recorded is good, unless somebody may have taken this node for gone meanwhile.
        let is_doubtful = input.absences > 0;
        let work = async {
            match Task::begin(&agent, &pool, input, is_doubtful).await {
                Ok(mut task) => task.work(&mut inputs).await,
                Err(error) => {
                    tracing::warn!(pool, error, "addresses of this pool cannot be claimed yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        tokio::select! {
            // As another incarnation, or of another pool of that name, it begins anew.
            () = work => {}
            () = &mut stopping => return,
        }
    }
}

impl Task {
    async fn begin(agent: &Arc<Agent>, pool: &str, mut input: Input, is_doubtful: bool) -> Result<Self, String> {
        let cluster = agent.cluster.as_ref().ok_or("there is no cluster")?;
        let shards = |windows: &Windows| Shards {
            client: cluster.client.clone(),
            pool: pool.to_owned(),
            pool_uid: input.pool_uid.clone(),
            layout: *windows.layout(),
        };
        let mut found = shards(&input.windows);
        if input.size.is_none() {
            let size = found.fix_size().await?;
            let catalogue = agent.catalogue();
            let declared = catalogue.pools.get(pool).ok_or("it is not declared any more")?;
            input.windows = super::windows(&catalogue, declared, Some(size));
            input.size = Some(size);
            found = shards(&input.windows);
        }
        let mut task = Self {
            agent: Arc::clone(agent),
            pool: pool.to_owned(),
            shards: found,
            started: input.started,
            input,
            lost: BTreeSet::new(),
            is_astray: false,
            is_doubtful,
            suspects: Suspects::new(agent.kernel.clone()),
            begun: Instant::now(),
            pending: FuturesUnordered::new(),
            watching: None,
            events: mpsc::channel(64),
        };
        task.move_in().await?;
        Ok(task)
    }

    /// Makes the tenant of what the store has.
    async fn move_in(&mut self) -> Result<(), String> {
        let ledger = &self.agent.ledger;
        let texts = |prefix: &'static str| -> Result<BTreeSet<IpAddr>, String> {
            let found = ledger.store().catalogue(prefix).map_err(|error| error.to_string())?.texts;
            let own = found.into_iter().filter(|(_, pool)| *pool == self.pool);
            Ok(own.filter_map(|(key, _)| key[prefix.len()..].parse().ok()).collect())
        };
        let (leaving, suspect) = (texts(KEY_LEAVING)?, texts(KEY_SUSPECT)?);
        let epoch = self.input.holder.epoch();
        let (current, void) = ledger.leased_by_epoch(&self.pool, epoch);
        let void: Vec<IpAddr> = void.iter().flat_map(|(first, last)| plan::allocate::each(first, last)).collect();
        if !void.is_empty() {
            // An earlier incarnation's, which others may have been given since.
            let gone = ledger.let_go(&self.pool, &void, |_| Change::new()).await.map_err(|error| error.to_string())?;
            self.lost.extend(void.into_iter().filter(|address| !gone.contains(address)));
        }
        // What is in use and no record tells of is, if anybody's, this node's: it is not to be given back before it is free.
        let mut found = ledger.estranged();
        found.retain(|address| self.input.windows.is_usable(*address));
        let mut found = set_of(&found);
        found.subtract(&current);
        if !found.is_empty() {
            let held = ledger.hold(&self.pool, &found, epoch, Change::new()).await;
            held.map_err(|error| error.to_string())?;
        }
        let (current, _) = ledger.leased_by_epoch(&self.pool, epoch);
        let taken = ledger.taken();
        let mut used = BTreeSet::new();
        let mut recorded = Vec::new();
        for address in current.iter().flat_map(|(first, last)| plan::allocate::each(first, last)) {
            let state = if taken.contains(&address) {
                used.insert(address);
                Recorded::Used
            } else if suspect.contains(&address) {
                self.suspects.look_for(address);
                Recorded::Suspect
            } else {
                Recorded::Spare
            };
            recorded.push((address, state));
        }
        recorded.extend(
            leaving
                .into_iter()
                .filter(|address| !current.contains(*address))
                .map(|address| (address, Recorded::Forgotten)),
        );
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| error.to_string())?;
        let (holder, windows) = (self.input.holder.clone(), self.input.windows.clone());
        let mut tenant = Tenant::new(holder, windows, recorded, self.now(), u64::from_le_bytes(seed));
        tenant.fence(self.input.is_fenced || self.is_doubtful);
        tenant.keep(fixed::kept_of(&self.agent, &self.pool));
        let absences = self.input.absences;
        self.cluster(|cluster| {
            cluster.tenants.keepers().insert(self.pool.clone(), Keeper::new(tenant, used, absences));
        });
        // Who was told that there is none, while there was no tenant, asks this one.
        self.agent.ledger.wake();
        Ok(())
    }

    async fn work(&mut self, inputs: &mut watch::Receiver<Input>) {
        let mut is_new = true;
        loop {
            if std::mem::take(&mut is_new) {
                self.tell();
            }
            self.drop_lost().await;
            let until = self.act().await;
            if self.is_astray {
                tracing::error!(pool = self.pool, "what is recorded of this pool's addresses is read anew");
                self.move_out();
                return;
            }
            let sleep = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = inputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let input = inputs.borrow_and_update().clone();
                    let is_another = input.holder != self.input.holder
                        || input.absences != self.input.absences
                        || input.pool_uid != self.input.pool_uid
                        || (input.size.is_some() && input.size != self.input.size);
                    if is_another {
                        self.move_out();
                        return;
                    }
                    let windows = if input.size.is_none() { self.input.windows.clone() } else { input.windows.clone() };
                    is_new = true;
                    self.input = Input { size: self.input.size, windows, ..input };
                }
                Some(reply) = self.pending.next() => self.took(reply),
                Some(seen) = self.events.1.recv() => self.took(Reply::Watched(seen)),
                Some((address, found)) = self.suspects.next() => self.found(address, found).await,
                () = sleep => {}
            }
        }
    }

    /// Tells the tenant what has changed.
    fn tell(&mut self) {
        let now = self.now();
        let (input, is_doubtful) = (self.input.clone(), self.is_doubtful);
        let started = input.started.saturating_sub(std::mem::replace(&mut self.started, input.started));
        self.keeper(|keeper| {
            keeper.tenant.pool(input.windows, input.fair_share, input.waiting);
            keeper.tenant.missing(input.missing);
            keeper.tenant.fence(input.is_fenced || is_doubtful);
            (0..started).for_each(|_| keeper.tenant.started(now));
        });
    }

    /// Tells the tenant what the ledger has in use: before anything is decided, so that nothing in use is given up.
    fn tell_used(&self) {
        let now = self.now();
        let before = self.keeper(|keeper| keeper.used()).unwrap_or_default();
        let taken = self.agent.ledger.taken_of(&self.pool, &before);
        let kept = fixed::kept_of(&self.agent, &self.pool);
        self.keeper(|keeper| keeper.tenant.keep(kept));
        if self.keeper(|keeper| keeper.follow(&taken, &before, now)).unwrap_or(false) {
            self.agent.ledger.wake();
        }
    }

    /// Does what the tenant wants; when it is to be asked again.
    async fn act(&mut self) -> Option<Instant> {
        loop {
            self.tell_used();
            let now = self.now();
            let actions = self.keeper(|keeper| keeper.tenant.want(now)).unwrap_or_default();
            let mut until = None;
            let mut has_recorded = false;
            for action in actions {
                match action {
                    Action::Sleep { until_ms } => until = Some(self.begun + Duration::from_millis(until_ms)),
                    Action::List => self.ask(|shards| Box::pin(shards.list())),
                    Action::Get { number, is_fresh } => self.ask(|shards| Box::pin(shards.get(number, is_fresh))),
                    Action::Create { number } => self.write(|shards| Box::pin(shards.create(number))),
                    Action::Patch { number, edits } => self.write(|shards| Box::pin(shards.patch(number, edits))),
                    Action::Register => self.enter(true),
                    Action::Unregister => self.enter(false),
                    Action::Watch(is_wanted) => self.watch(is_wanted),
                    Action::Record { addresses, suspect } => {
                        self.record(&addresses, &suspect).await;
                        has_recorded = true;
                    }
                    Action::Forget { addresses } => {
                        self.forget(&addresses).await;
                        has_recorded = true;
                    }
                    Action::Erase { addresses } => self.erase(&addresses).await,
                    Action::Unkeep { addresses } => fixed::unkeep(&self.agent, &self.pool, &addresses),
                    Action::Lost { spare, used } => self.lose(&spare, used).await,
                }
            }
            // What is durable now may be given, or sent.
            if !has_recorded || self.is_astray {
                return until;
            }
        }
    }

    fn took(&mut self, reply: Reply) {
        let now = self.now();
        let is_listed = matches!(reply, Reply::Listed(_));
        self.keeper(|keeper| keeper.tenant.took(now, reply));
        if is_listed && std::mem::take(&mut self.is_doubtful) {
            let is_fenced = self.input.is_fenced;
            self.keeper(|keeper| keeper.tenant.fence(is_fenced));
            self.agent.ledger.wake();
        }
    }

    fn ask(&self, request: impl FnOnce(Shards) -> BoxFuture<'static, Reply>) {
        self.pending.push(request(self.shards.clone()));
    }

    fn write(&self, request: impl FnOnce(Shards) -> BoxFuture<'static, Reply>) {
        self.agent.metrics.lease_writes.inc();
        self.ask(request);
    }

    fn enter(&self, is_waiting: bool) {
        let me = self.input.holder.clone();
        tracing::info!(pool = self.pool, is_waiting, "this node waits for an address of the pool, or no more");
        self.write(|shards| Box::pin(shards.wait(me, is_waiting)));
    }

    fn watch(&mut self, is_wanted: bool) {
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
        if !is_wanted {
            return;
        }
        let (mut stream, events) = (Box::pin(self.shards.watch()), self.events.0.clone());
        let watching = tokio::spawn(async move {
            while let Some(seen) = stream.next().await {
                if events.send(seen).await.is_err() {
                    return;
                }
            }
        });
        self.watching = Some(watching.abort_handle());
    }

    fn move_out(&mut self) {
        self.watch(false);
        self.cluster(|cluster| cluster.tenants.keepers().remove(&self.pool));
    }

    fn keeper<T>(&self, act: impl FnOnce(&mut Keeper) -> T) -> Option<T>
    where
        T: Default,
    {
        self.cluster(|cluster| cluster.tenants.keepers().get_mut(&self.pool).map(act)).flatten()
    }

    fn cluster<T>(&self, act: impl FnOnce(&State) -> T) -> Option<T> {
        self.agent.cluster.as_ref().map(act)
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Now {
            ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            unix: unix.map_or(0, |since| since.as_secs()),
        }
    }
}
