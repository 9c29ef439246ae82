//! SpiderIPShard: a window of a pool's addresses, and which node holds which of them.
#![allow(clippy::duplicated_attributes, reason = "the lint does not tell one printer column from another")]
#![allow(unreachable_pub, reason = "KubeSchema makes a public copy of the struct inside a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::null_is_empty;

/// How many slots a shard has, whatever its size.
pub const SLOTS: usize = 64;

/// Which addresses the shard is about. Nothing of it can be changed.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderIPShard",
    plural = "spideripshards",
    shortname = "sis",
    category = "spiderpool",
    status = "SpiderIPShardStatus",
    derive = "PartialEq",
    doc = "A SpiderIPShard says which node holds which addresses of one window of a SpiderIPPool. Agents make it and write it; it is not meant to be edited.",
    selectable = ".spec.pool",
    printcolumn(name = "POOL", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "FIRST", type_ = "string", json_path = ".spec.first"),
    printcolumn(name = "SIZE", type_ = "integer", json_path = ".spec.size")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a shard's window is not changeable"))]
pub struct SpiderIPShardSpec {
    /// The pool.
    pub pool: String,
    /// The pool's UID: of a pool that was deleted and made again, an older shard is void.
    #[serde(rename = "poolUID")]
    pub pool_uid: String,
    /// The first address of the window.
    pub first: String,
    /// How many addresses the window has, 64 times those of a slot.
    #[schemars(range(min = 64, max = 4096))]
    pub size: u32,
}

/// Who holds what of the window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderIPShardStatus {
    /// The slots, 64 of them, each size/64 addresses in their order: empty when free, the node that holds it whole, or
    /// holders with the addresses of each as hexadecimal bits, node-a:3,node-b:c.
    #[serde(default, deserialize_with = "null_is_empty")]
    #[schemars(length(min = 64, max = 64), inner(length(max = 4096)))]
    pub slots: Vec<String>,
}

impl SpiderIPShard {
    /// The texts of the slots; all free when nobody has claimed any yet.
    pub fn slots(&self) -> Vec<String> {
        let slots = self.status.as_ref().map(|status| status.slots.clone()).unwrap_or_default();
        if slots.is_empty() { vec![String::new(); SLOTS] } else { slots }
    }
}
