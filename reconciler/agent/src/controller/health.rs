//! What the controller is asked about itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::http::{self, Answered, StatusCode};

/// What is still waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing is decided before it is there.
    Missing(String),
    /// Something is left undone until it is there.
    Lacking(String),
}

/// The controller's state, for `/readyz` and `/metrics`.
#[derive(Debug, Default)]
pub(super) struct Health {
    is_reached: AtomicBool,
    leads: AtomicBool,
    waits: Mutex<BTreeMap<String, Wait>>,
    /// Statuses of coordinators written.
    pub(super) coordinator_writes: Counter,
    /// Definitions of networks created or brought in line.
    pub(super) network_writes: Counter,
    /// Requests that failed.
    pub(super) failures: Counter,
    /// Watches that broke off.
    pub(super) watch_failures: Counter,
    networks_refused: AtomicI64,
}

impl Health {
    /// The API server has answered.
    pub(super) fn reached(&self) {
        self.is_reached.store(true, Ordering::Relaxed);
    }

    /// Whether this one leads. What was waited for is forgotten: a new term asks anew.
    pub(super) fn leads(&self, leads: bool) {
        self.waits().clear();
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// What a part waits for, or nothing any more. Tells whether that is new.
    pub(super) fn waits_for(&self, part: &str, wait: Option<Wait>) -> bool {
        let mut waits = self.waits();
        match wait {
            Some(wait) => waits.insert(part.to_owned(), wait.clone()) != Some(wait),
            None => waits.remove(part).is_some(),
        }
    }

    /// How many networks have no definition because they break a rule.
    pub(super) fn refuses_networks(&self, number: usize) {
        self.networks_refused.store(i64::try_from(number).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Wait>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a path.
    pub(super) fn answer(&self, path: &str) -> Answered {
        match path {
            "/healthz" => (StatusCode::OK, "ok\n".into()),
            "/readyz" => self.readiness(),
            "/metrics" => match self.metrics() {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            path => http::unknown(path),
        }
    }

    /// Ready is who could take over, and who leads and has read what he decides from.
    fn readiness(&self) -> Answered {
        if !self.is_reached.load(Ordering::Relaxed) {
            return (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n".into());
        }
        let role = if self.leads.load(Ordering::Relaxed) { "leading" } else { "standing by" };
        let waits = self.waits();
        let is_ready = !waits.values().any(|wait| matches!(wait, Wait::Missing(_)));
        let lines: String =
            waits.values().map(|(Wait::Missing(text) | Wait::Lacking(text))| format!("{text}\n")).collect();
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, format!("{}{role}\n{lines}", if is_ready { "ok: " } else { "" }))
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("dragline_controller");
        let counters = [
            ("coordinator_writes", "Statuses of SpiderCoordinators written", &self.coordinator_writes),
            ("network_writes", "NetworkAttachmentDefinitions created or brought in line", &self.network_writes),
            ("request_failures", "Requests to the API server that failed", &self.failures),
            ("watch_failures", "Watches that broke off or could not be started", &self.watch_failures),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("leading", "1 while this controller leads", i64::from(self.leads.load(Ordering::Relaxed))),
            (
                "networks_refused",
                "SpiderMultusConfigs without a definition because they break a rule",
                self.networks_refused.load(Ordering::Relaxed),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge: Gauge = Gauge::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_stands_by_and_who_has_read_what_he_leads_by() {
        let health = Health::default();
        assert_eq!(health.answer("/readyz").0, StatusCode::SERVICE_UNAVAILABLE);
        health.reached();
        assert_eq!(health.answer("/readyz"), (StatusCode::OK, "ok: standing by\n".into()));
        health.leads(true);
        assert!(health.waits_for("a", Some(Wait::Missing("a is missing".into()))));
        assert!(health.waits_for("b", Some(Wait::Lacking("b is lacking".into()))));
        assert!(!health.waits_for("b", Some(Wait::Lacking("b is lacking".into()))));
        let waiting = (StatusCode::SERVICE_UNAVAILABLE, "leading\na is missing\nb is lacking\n".into());
        assert_eq!(health.answer("/readyz"), waiting);
        assert!(health.waits_for("a", None));
        assert_eq!(health.answer("/readyz"), (StatusCode::OK, "ok: leading\nb is lacking\n".into()));
        assert!(health.answer("/metrics").1.contains("dragline_controller_leading 1\n"));
    }
}
