//! Numbers in Prometheus' text format.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::agent::Agent;

/// Repairs take from a tenth of a millisecond to a second: finer than a third no bound is needed.
const SHORTEST: f64 = 50e-6;
const FACTOR: f64 = 1.33;
const BOUNDS: u16 = 36;

/// Counters that the agent's tasks keep.
#[derive(Debug)]
pub struct Metrics {
    /// Passes over sandboxes.
    pub passes: Counter,
    /// Steps applied, in pods and on the node.
    pub steps: Counter,
    /// Passes that put back what somebody else had changed.
    pub repairs: Counter,
    /// Slowed-down repairs.
    pub fights: Counter,
    /// Kernel events read.
    pub events: Counter,
    /// Calls answered.
    pub calls: Counter,
    /// Calls answered with an error.
    pub call_errors: Counter,
    /// SpiderEndpoints written or deleted.
    pub endpoint_writes: Counter,
    /// Claims and releases of addresses sent to the API server.
    pub lease_writes: Counter,
    /// Seconds from the event that told of a change, read, to the last step of the repair, applied.
    pub repair_seconds: Histogram,
    /// The same without the time that is given to others to complete what they are about.
    pub repair_work_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(SHORTEST, FACTOR, BOUNDS));
        let count = Counter::default;
        Self {
            passes: count(),
            steps: count(),
            repairs: count(),
            fights: count(),
            events: count(),
            calls: count(),
            call_errors: count(),
            endpoint_writes: count(),
            lease_writes: count(),
            repair_seconds: seconds(),
            repair_work_seconds: seconds(),
        }
    }
}

/// All numbers as text.
///
/// # Errors
/// When they cannot be written, which does not happen with a text.
pub fn text(agent: &Agent) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("dragline");
    let metrics = &agent.metrics;
    let counters = [
        ("reconcile_passes", "Passes over sandboxes", &metrics.passes),
        ("kernel_steps", "Changes sent to the kernel", &metrics.steps),
        ("repairs", "Passes that put back what something else had changed", &metrics.repairs),
        (
            "contested_repairs",
            "Repairs that were slowed down because another program keeps changing things",
            &metrics.fights,
        ),
        ("kernel_events", "Kernel events read", &metrics.events),
        ("calls", "Calls of plugins and the command line", &metrics.calls),
        ("call_errors", "Calls that ended in an error", &metrics.call_errors),
        ("endpoint_writes", "SpiderEndpoints written or deleted", &metrics.endpoint_writes),
        ("lease_writes", "Claims and releases of addresses sent to the API server", &metrics.lease_writes),
    ];
    for (name, help, counter) in counters {
        registry.register(name, help, counter.clone());
    }
    let histograms = [
        ("repair_seconds", "From a kernel event to the last step of the repair it led to", &metrics.repair_seconds),
        ("repair_work_seconds", "The same without the wait for what belongs together", &metrics.repair_work_seconds),
    ];
    for (name, help, histogram) in histograms {
        registry.register(name, help, histogram.clone());
    }
    let store = agent.ledger.store().counters();
    let from_store = [
        ("store_commits", "Transactions made durable", &store.commits),
        ("store_changes", "Intents and outcomes recorded", &store.changes),
        ("store_syncs", "Syncs of the disk", &store.syncs),
        ("store_bytes", "Bytes recorded", &store.bytes),
        ("store_snapshots", "Snapshots that have replaced grown logs of the journal", &store.snapshots),
        ("store_compactions", "Times that a grown sled was written anew", &store.compactions),
    ];
    for (name, help, counter) in from_store {
        let value: Counter = Counter::default();
        value.inc_by(store::Counters::read(counter));
        registry.register(name, help, value);
    }
    let netlink: Counter = Counter::default();
    netlink.inc_by(agent.kernel.changes_sent());
    registry.register("netlink_changes", "Changing netlink messages sent", netlink);
    let gauges = [
        ("sandboxes", "Sandboxes known", agent.ledger.len()),
        ("sandboxes_unconverged", "Sandboxes whose last pass ended in an error", agent.workers.unconverged()),
        ("sandboxes_contested", "Sandboxes that another program keeps changing", agent.workers.contested().len()),
        ("store_faults", "Things that were wrong with the store when it was opened", agent.record_faults.len()),
        ("addresses_allocated", "Addresses in use or on their way back", agent.ledger.allocated()),
    ];
    for (name, help, value) in gauges {
        let gauge: prometheus_client::metrics::gauge::Gauge = prometheus_client::metrics::gauge::Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
