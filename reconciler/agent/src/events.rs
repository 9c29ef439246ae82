//! Kernel events only say where to look: a changed namespace is observed whole.

use std::sync::Arc;
use std::time::Duration;

use netlink::{Event, EventScope, Events};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::worker::Cause;
use crate::{estranged, node};

/// Against what no event tells of: changes of sysctls and nexthop objects.
const RESYNC: Duration = Duration::from_secs(60);
/// Where so much happens that events are lost again and again, looks at everything are so far apart.
const LOST_PACE: Duration = Duration::from_secs(1);
/// Where events of the pods' namespaces cannot be heard (CAP_NET_BROADCAST is missing), time has to do.
const RESYNC_DEAF: Duration = Duration::from_secs(1);

/// Starts listening, and the slow resync beside it.
pub fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) {
    let scope = match Events::open(&agent.kernel) {
        Ok(events) => {
            let scope = events.scope();
            if scope == EventScope::AllNamespaces {
                agent.node.set_hears_all_namespaces();
            }
            let agent = Arc::clone(agent);
            tasks.spawn(async move { listen(&agent, events).await });
            Some(scope)
        }
        Err(error) => {
            tracing::error!(%error, "kernel events cannot be heard at all");
            None
        }
    };
    let interval = if scope == Some(EventScope::AllNamespaces) { RESYNC } else { RESYNC_DEAF };
    if interval == RESYNC_DEAF {
        tracing::warn!(every = ?interval, "events of pods are not heard: drift is looked for by time; grant CAP_NET_BROADCAST");
    }
    let agent = Arc::clone(agent);
    tasks.spawn(async move { resync(&agent, interval).await });
}

async fn listen(agent: &Arc<Agent>, mut events: Events) {
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    // Events were lost, and when everything is to be looked at for it.
    let mut lost = None;
    let mut looked: Option<Instant> = None;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = at(lost) => {
                (lost, looked) = (None, Some(Instant::now()));
                // A namespace may have gone unheard, and its number be another's by now.
                agent.workers.forget_numbers();
                agent.mark_all();
                continue;
            }
            () = &mut stopping => return,
        };
        agent.metrics.events.inc();
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(%error, "kernel events are read no more: drift is looked for by time");
                return resync(agent, RESYNC_DEAF).await;
            }
        };
        match event {
            Event::Changed { nsid: Some(nsid), what } => {
                if let Some(container) = agent.workers.container_of(nsid) {
                    agent.mark_changed(&container, what);
                }
            }
            Event::Changed { nsid: None, .. } => {
                node::mark_soon(agent);
            }
            Event::Gone { nsid } => {
                for container in agent.workers.gone(nsid) {
                    agent.mark(&container, Cause::Event);
                }
            }
            Event::Lost => {
                tracing::warn!("kernel events were lost: everything is looked at");
                let now = Instant::now();
                lost.get_or_insert_with(|| looked.map_or(now, |looked| now.max(looked + LOST_PACE)));
            }
        }
    }
}

/// Completes at that time; never without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn resync(agent: &Arc<Agent>, interval: Duration) {
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {
                agent.mark_in_turn().await;
                estranged::find_again(agent).await;
            }
            () = &mut stopping => return,
        }
    }
}
