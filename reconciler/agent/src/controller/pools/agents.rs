//! Which agents are heard of, and since when one is silent.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::kubernetes::AGENT_LEASE;

/// What tells an agent's Lease from others of that prefix: the UID of its node.
pub const NODE_UID: &str = "dragline.io/node-uid";
/// How long an agent may go without the API server, where its Lease does not say so.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// A point in time by both clocks: the wall's, which others write down, and the machine's, which never jumps.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// By the wall clock.
    pub wall: Timestamp,
    /// By the machine's.
    pub steady: Instant,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self { wall: Timestamp::now(), steady: Instant::now() }
    }

    /// So much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let wall = self.wall.saturating_add(SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX));
        Self { wall: wall.unwrap_or(Timestamp::MAX), steady: self.steady + time }
    }

    /// Seconds since 1970.
    pub fn unix(self) -> u64 {
        u64::try_from(self.wall.as_second()).unwrap_or_default()
    }
}

/// An agent, as its Lease shows it.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The node's incarnation, from 1.
    pub epoch: u64,
    /// How long the agent may go without the API server before others may have its addresses.
    pub ttl: Duration,
    /// When it says that it was last there.
    pub renewed: Option<Timestamp>,
    /// The Lease's UID.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
    /// When it was last seen to be renewed here, by a clock that all renewals are measured with.
    renewal_seen: Option<Instant>,
}

impl Agent {
    /// The node of an agent's Lease; None for other Leases, such as the controller's own.
    pub fn node_of(lease: &Lease) -> Option<String> {
        lease.annotations().get(NODE_UID)?;
        Some(lease.metadata.name.as_deref()?.strip_prefix(AGENT_LEASE)?.to_owned())
    }

    /// What a Lease says, with what was known before.
    pub fn of(lease: &Lease, before: Option<&Self>, now: Moment) -> Self {
        let spec = lease.spec.as_ref();
        let epoch = spec.and_then(|spec| spec.lease_transitions).and_then(|count| u64::try_from(count).ok());
        let ttl = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let renewal_seen = match before {
            Some(before) if before.renewed == renewed => before.renewal_seen,
            Some(_) => Some(now.steady),
            None => None,
        };
        Self {
            epoch: epoch.unwrap_or_default() + 1,
            ttl: ttl.filter(|seconds| *seconds > 0).map_or(DEFAULT_TTL, Duration::from_secs),
            renewed,
            uid: lease.uid().unwrap_or_default(),
            version: lease.resource_version().unwrap_or_default(),
            renewal_seen,
        }
    }

    /// After this time without renewal an agent counts as silent: it renews three times in it. It is also when another
    /// agent may take the node's name over.
    pub fn patience(&self) -> Duration {
        self.ttl / 4
    }

    /// In how much time the agent counts as silent, unless it renews; None when it does.
    pub fn silent_in(&self, now: Moment) -> Option<Duration> {
        let patience = self.patience();
        let by_wall = self.renewed.and_then(|renewed| {
            let age = now.wall.duration_since(renewed);
            // A clock that is a little ahead says "now", one that is far ahead says nothing.
            let is_ahead = age.is_negative() && age.unsigned_abs() <= patience;
            let age = if is_ahead { Duration::ZERO } else { Duration::try_from(age).ok()? };
            patience.checked_sub(age)
        });
        let by_eye =
            self.renewal_seen.and_then(|seen| patience.checked_sub(now.steady.saturating_duration_since(seen)));
        by_wall.max(by_eye)
    }

    /// Whether its last renewal is recent, as written or as seen.
    pub fn is_fresh(&self, now: Moment) -> bool {
        self.silent_in(now).is_some()
    }

    /// When an agent that has not been heard of since has certainly stopped handing out addresses (it stops after two
    /// thirds of the time), in seconds since 1970.
    pub fn harmless_from(&self) -> u64 {
        let renewed = self.renewed.map(|time| time.as_second()).and_then(|second| u64::try_from(second).ok());
        renewed.unwrap_or_default().saturating_add(self.ttl.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn lease(renewed: Timestamp) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some("dragline-node-controller".into());
        lease.metadata.annotations = Some([(NODE_UID.to_owned(), "u".to_owned())].into());
        lease.spec = Some(LeaseSpec {
            lease_transitions: Some(1),
            lease_duration_seconds: Some(400),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        });
        lease
    }

    #[test]
    fn an_agents_lease_is_told_from_others() {
        let mut lease = lease(Timestamp::UNIX_EPOCH);
        assert_eq!(Agent::node_of(&lease).as_deref(), Some("controller"));
        lease.metadata.annotations = None;
        assert_eq!(Agent::node_of(&lease), None, "another of that prefix");
    }

    #[test]
    fn silence_is_measured_by_both_clocks() {
        let start = Moment::now();
        let seconds = Duration::from_secs;
        let first = Agent::of(&lease(start.wall), None, start);
        assert_eq!((first.epoch, first.patience()), (2, seconds(100)));
        assert!(first.is_fresh(start.after(seconds(100))));
        assert!(!first.is_fresh(start.after(seconds(101))));
        assert_eq!(first.silent_in(start.after(seconds(40))), Some(seconds(60)));

        // A clock that is hours behind: only what is seen tells.
        let behind = start.wall - SignedDuration::from_hours(5);
        let stale = Agent::of(&lease(behind), None, start);
        assert!(!stale.is_fresh(start));
        let later = start.after(seconds(90));
        let renewed = Agent::of(&lease(behind + SignedDuration::from_secs(33)), Some(&stale), later);
        assert!(renewed.is_fresh(later) && renewed.is_fresh(start.after(seconds(190))));
        assert!(!renewed.is_fresh(start.after(seconds(191))));

        // A clock that is hours ahead does not keep a dead agent alive.
        let ahead = Agent::of(&lease(start.wall + SignedDuration::from_hours(5)), None, start);
        assert!(!ahead.is_fresh(start));
    }
}
