//! How many addresses of each pool are in use, as the controller has last counted them: numbers for people and for whether
//! a pool is full. They change all the time, and nothing else of the agent follows from them.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event};

/// Of one pool; None of what nobody has counted yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// `status.totalIPCount`.
    pub total: Option<i64>,
    /// `status.allocatedIPCount`.
    pub allocated: Option<i64>,
    /// `status.leasedIPCount`.
    pub leased: Option<i64>,
}

/// Of all pools, by name.
#[derive(Debug, Default)]
pub struct Counted(RwLock<BTreeMap<String, Counts>>);

impl Counted {
    /// A pool's numbers.
    pub fn of(&self, pool: &str) -> Counts {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(pool).copied().unwrap_or_default()
    }

    /// Takes over what a watch of the pools says.
    pub(super) fn hear(&self, event: &Result<Event<DynamicObject>, watcher::Error>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Event::Apply(pool) | Event::InitApply(pool)) => {
                let number = |field: &str| pool.data.get("status")?.get(field)?.as_i64();
                let counts = Counts {
                    total: number("totalIPCount"),
                    allocated: number("allocatedIPCount"),
                    leased: number("leasedIPCount"),
                };
                all.insert(pool.name_any(), counts);
            }
            Ok(Event::Delete(pool)) => {
                all.remove(&pool.name_any());
            }
            // What has gone unheard is not declared any more, so that nobody asks for its numbers.
            Ok(Event::Init | Event::InitDone) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_numbers_hold_until_the_pool_goes() {
        let counted = Counted::default();
        let pool = |status: serde_json::Value| -> DynamicObject {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
        };
        counted.hear(&Ok(Event::InitApply(pool(json!({"totalIPCount": 9, "allocatedIPCount": 1})))));
        assert_eq!(counted.of("p"), Counts { total: Some(9), allocated: Some(1), leased: None });
        counted.hear(&Ok(Event::Apply(pool(json!({"totalIPCount": 9, "allocatedIPCount": 2, "leasedIPCount": 4})))));
        assert_eq!(counted.of("p"), Counts { total: Some(9), allocated: Some(2), leased: Some(4) });
        assert_eq!(counted.of("q"), Counts::default());
        counted.hear(&Ok(Event::Delete(pool(json!(null)))));
        assert_eq!(counted.of("p"), Counts::default());
    }
}
