//! What a tenant asks of the API server.

use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt};
use plan::lease::tenant::{Reply, Seen};
use plan::lease::{Layout, SlotEdit, json_patch, name, number_of};
use schemas::crd::ip_shard::SpiderIPShardSpec;
use schemas::crd::{SpiderIPPool, SpiderIPShard};
use schemas::slot::Holder;
use serde_json::json;

use crate::kubernetes::FIELD_MANAGER;

/// A request that is not answered in this time may have happened or not.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many shards come in one answer.
const PAGE: u32 = 100;

/// The shards of one pool.
#[derive(Clone)]
pub(crate) struct Shards {
    pub(crate) client: Client,
    pub(crate) pool: String,
    pub(crate) pool_uid: String,
    pub(crate) layout: Layout,
}

impl Shards {
    fn api(&self) -> Api<SpiderIPShard> {
        Api::all(self.client.clone())
    }

    /// All of them, no older than now.
    pub(crate) async fn list(self) -> Reply {
        let fields = format!("spec.pool={}", self.pool);
        let mut params = ListParams::default().fields(&fields).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = match tokio::time::timeout(PATIENCE, self.api().list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return self.unknown("list", &error.to_string()),
                Err(_) => return self.unknown("list", "no answer"),
            };
            all.extend(page.items.iter().filter_map(|shard| self.seen(shard)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Reply::Listed(all),
            }
        }
    }

    /// One of them.
    pub(crate) async fn get(self, number: u128, is_fresh: bool) -> Reply {
        let params = if is_fresh { GetParams::default() } else { GetParams::any() };
        let name = name(&self.pool, number);
        match tokio::time::timeout(PATIENCE, self.api().get_with(&name, &params)).await {
            Ok(Ok(shard)) => self.seen(&shard).map_or(Reply::Void, Reply::Seen),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Reply::Absent,
            Ok(Err(error)) => self.unknown(&name, &error.to_string()),
            Err(_) => self.unknown(&name, "no answer"),
        }
    }

    /// Makes one.
    pub(crate) async fn create(self, number: u128) -> Reply {
        let name = name(&self.pool, number);
        let Some((first, _)) = self.layout.window(number) else { return self.unknown(&name, "no such window") };
        let spec = SpiderIPShardSpec {
            pool: self.pool.clone(),
            pool_uid: self.pool_uid.clone(),
            first: first.to_string(),
            size: self.layout.size(),
        };
        let mut shard = SpiderIPShard::new(&name, spec);
        shard.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "spiderpool.spidernet.io/v2beta1".into(),
            kind: "SpiderIPPool".into(),
            name: self.pool.clone(),
            uid: self.pool_uid.clone(),
            ..OwnerReference::default()
        }]);
        let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match tokio::time::timeout(PATIENCE, self.api().create(&post, &shard)).await {
            Ok(Ok(shard)) => self.seen(&shard).map_or(Reply::Void, Reply::Seen),
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => Reply::Exists,
            Ok(Err(error)) => self.unknown(&name, &error.to_string()),
            Err(_) => self.unknown(&name, "no answer"),
        }
    }

    /// Changes slots, all of them or none.
    pub(crate) async fn patch(self, number: u128, edits: Vec<SlotEdit>) -> Reply {
        let name = name(&self.pool, number);
        let patch = match serde_json::from_value(json_patch(&edits)) {
            Ok(patch) => Patch::Json::<()>(patch),
            Err(error) => return self.unknown(&name, &error.to_string()),
        };
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match tokio::time::timeout(PATIENCE, self.api().patch_status(&name, &params, &patch)).await {
            Ok(Ok(shard)) => self.seen(&shard).map_or(Reply::Void, Reply::Seen),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Reply::Absent,
            // A test that failed, or another write at the same instant: nothing has changed.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 409 | 422) => Reply::Refused,
            Ok(Err(error)) => self.unknown(&name, &error.to_string()),
            Err(_) => self.unknown(&name, "no answer"),
        }
    }

    /// Enters the node among those who wait, or takes it out.
    pub(super) async fn wait(self, me: Holder, is_waiting: bool) -> Reply {
        let entry = is_waiting.then(|| match me.epoch() {
            1 => Timestamp::now().to_string(),
            epoch => format!("{} {epoch}", Timestamp::now()),
        });
        let patch = Patch::Merge(json!({"status": {"waiting": {me.node(): entry}}}));
        let api: Api<SpiderIPPool> = Api::all(self.client.clone());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match tokio::time::timeout(PATIENCE, api.patch_status(&self.pool, &params, &patch)).await {
            Ok(Ok(_)) => Reply::Done,
            // Without its pool there is nothing to wait for.
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Reply::Done,
            Ok(Err(error)) => self.unknown("status.waiting", &error.to_string()),
            Err(_) => self.unknown("status.waiting", "no answer"),
        }
    }

    /// Fixes how many addresses a shard of the pool has, unless another node has done so before; what holds then.
    pub(crate) async fn fix_size(&self) -> Result<u32, String> {
        let api: Api<SpiderIPPool> = Api::all(self.client.clone());
        let mut pool = api.get(&self.pool).await.map_err(|error| error.to_string())?;
        if pool.uid().as_deref() != Some(self.pool_uid.as_str()) {
            return Err("it has been deleted and made again".to_owned());
        }
        if let Some(size) = pool.status.as_ref().and_then(|status| status.shard_size) {
            return Ok(size);
        }
        pool.status.get_or_insert_default().shard_size = Some(self.layout.size());
        let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        // With the version that was read: of two nodes one is refused.
        let written = api.replace_status(&self.pool, &post, &pool).await.map_err(|error| error.to_string())?;
        written.status.and_then(|status| status.shard_size).ok_or_else(|| {
            "its definition in the API server is older than this agent: apply `dragline crds`".to_owned()
        })
    }

    /// Every shard as it is, and as it changes.
    pub(super) fn watch(&self) -> impl Stream<Item = Seen> + Send + use<> {
        let config = watcher::Config::default().fields(&format!("spec.pool={}", self.pool));
        let shards = self.clone();
        watch(self.api(), config).default_backoff().filter_map(move |event| {
            let seen = match event {
                Ok(Event::Apply(shard) | Event::InitApply(shard)) => shards.seen(&shard),
                Ok(Event::Delete(_) | Event::Init | Event::InitDone) => None,
                Err(error) => {
                    tracing::warn!(pool = shards.pool, %error, "the pool's shards cannot be watched");
                    None
                }
            };
            std::future::ready(seen)
        })
    }

    /// As a tenant reads it; None of one that is another pool's of the same name, or of other windows.
    fn seen(&self, shard: &SpiderIPShard) -> Option<Seen> {
        let name = shard.name_any();
        let (_, number) = number_of(&name).filter(|(pool, _)| *pool == self.pool)?;
        let (first, _) = self.layout.window(number)?;
        let spec = &shard.spec;
        let is_ours =
            spec.pool_uid == self.pool_uid && spec.size == self.layout.size() && spec.first == first.to_string();
        let version = shard.resource_version().and_then(|version| version.parse().ok());
        match version.filter(|_| is_ours) {
            Some(version) => Some(Seen { number, version, slots: shard.slots() }),
            None => {
                tracing::warn!(
                    shard = shard.name_any(),
                    pool = self.pool,
                    "this shard is of another pool of that name, or of other windows: it is not used"
                );
                None
            }
        }
    }

    fn unknown(&self, what: &str, error: &str) -> Reply {
        tracing::warn!(pool = self.pool, what, error, "the API server did not say what came of it");
        Reply::Unknown
    }
}
