//! Probes of ADD: addresses that others use are not given, and gateways are there (../spec/ipam.md 1.4).
//!
//! Conflicts come first, all addresses at once: who asks for a gateway shows his address. An address in conflict is kept
//! from everybody, and where nobody relies on it yet, the next one is taken.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use netlink::{DetectError, Pace, Paces, Question, StepError};
use plan::Step;
use schemas::cni::error::CniError;
use schemas::cni::netconf::DetectKeys;
use schemas::intent::{AssignedAddress, Attachment, NetnsIdentity};
use schemas::name::{IfName, Mac};
use schemas::wire::Place;
use tokio::time::Instant;

use super::allocate::Given;
use super::place;
use crate::agent::Agent;
use crate::cluster::Notice;
use crate::detection::{Wanted, When};

/// So many addresses in conflict end an ADD: then it is no single mistake.
const MOST_CONFLICTS: usize = 8;

/// An address that somebody else has.
type Conflict = (AssignedAddress, Mac);

/// The probes of one ADD.
pub(super) struct Detection<'a> {
    agent: &'a Arc<Agent>,
    place: &'a Place,
    netns: &'a NetnsIdentity,
    deadline: Instant,
    wanted: Wanted,
    /// What was asked and is well.
    settled: BTreeSet<Question>,
    found: Vec<Conflict>,
    promised: Option<Given>,
}

impl<'a> Detection<'a> {
    /// By what the agent and the network configuration say.
    pub(super) fn new(
        agent: &'a Arc<Agent>,
        place: &'a Place,
        netns: &'a NetnsIdentity,
        keys: DetectKeys,
        deadline: Instant,
    ) -> Self {
        let wanted = Wanted::new(agent.config.detection, &agent.catalogue().conf, keys);
        let (settled, found) = (BTreeSet::new(), Vec::new());
        Self { agent, place, netns, deadline, wanted, settled, found, promised: None }
    }

    /// Asks for addresses that are reserved for this call, on the link that the main plugin has made. True when they are
    /// well; false when they were given back, and others are to be chosen.
    ///
    /// # Errors
    /// None of them is to be given; they were given back.
    pub(super) async fn accepts(&mut self, given: &Given) -> Result<bool, CniError> {
        match self.ask(&given.addresses).await {
            Ok(conflicts) if conflicts.is_empty() => Ok(true),
            Ok(conflicts) => {
                let is_fixed = |conflict: &Conflict| !self.is_reserved(&conflict.0);
                let has_fixed = conflicts.iter().any(is_fixed);
                // First, so that nobody else is given them.
                self.occupy(conflicts).await;
                self.give_back(given);
                let is_late = Instant::now() + Pace::CONFLICT.longest() * 2 > self.deadline;
                let is_end = has_fixed || is_late || self.found.len() >= MOST_CONFLICTS;
                if is_end { Err(self.conflict()) } else { Ok(false) }
            }
            Err(error) => {
                self.give_back(given);
                Err(error)
            }
        }
    }

    /// Whether these have to be asked for before they are put on the link: the attachment has none yet, and nobody has
    /// asked.
    pub(super) fn is_due(&self, known: Option<&Attachment>, given: &Given) -> bool {
        let is_prepared = known.is_some_and(|known| known.prepared);
        if known.is_some_and(|known| !known.addresses.is_empty()) && !is_prepared {
            return false;
        }
        let is_fresh =
            |assigned: &AssignedAddress| is_prepared || assigned.pool.is_empty() || self.is_reserved(assigned);
        given.addresses.iter().all(is_fresh) && !self.open_questions(&given.addresses, When::On).is_empty()
    }

    /// Keeps reserved addresses that are well for the next turn of the sandbox.
    pub(super) fn promise(&mut self, given: Given) {
        self.promised = Some(given);
    }

    /// What was promised, now that it is this call's turn again; None when there is nothing, or the attachment has got
    /// addresses meanwhile, by the same ADD asked twice.
    ///
    /// # Errors
    /// The attachment was withdrawn meanwhile.
    pub(super) fn resume(&mut self, known: Option<&Attachment>) -> Result<Option<Given>, CniError> {
        let Some(given) = self.promised.take() else { return Ok(None) };
        match known.filter(|known| known.link_wanted && !known.closing) {
            Some(known) if known.addresses.is_empty() || known.prepared => Ok(Some(given)),
            Some(_) => {
                self.give_back(&given);
                Ok(None)
            }
            None => {
                self.give_back(&given);
                let text = format!("attachment {} was withdrawn while its addresses were probed", self.place.key);
                Err(CniError::new(CniError::TRY_AGAIN, text))
            }
        }
    }

    /// Gives reservations back, also those for other NICs.
    pub(super) fn give_back(&self, given: &Given) {
        given.others.iter().flat_map(|(_, other)| &other.addresses).for_each(|assigned| {
            self.agent.ledger.unreserve(assigned.address.ip());
        });
        for assigned in given.addresses.iter().filter(|assigned| self.is_reserved(assigned)) {
            self.agent.ledger.unreserve(assigned.address.ip());
        }
    }

    /// Asks for addresses that the attachment has and keeps.
    ///
    /// # Errors
    /// One of them is another's too, or a gateway does not answer.
    pub(super) async fn approves(&mut self, addresses: &[AssignedAddress]) -> Result<(), CniError> {
        let conflicts = self.ask(addresses).await?;
        if conflicts.is_empty() {
            return Ok(());
        }
        self.occupy(conflicts).await;
        Err(self.conflict())
    }

    /// The same, without what an earlier plugin of the chain has had asked.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn approves_new(&mut self, addresses: &[AssignedAddress]) -> Result<(), CniError> {
        self.settled.extend(self.agent.findings.of(&self.place.key));
        self.approves(addresses).await
    }

    /// The error of a call that found conflicts, if it did: there are no other addresses.
    pub(super) fn exhausted(&self) -> Option<CniError> {
        (!self.found.is_empty()).then(|| self.conflict())
    }

    /// ADD has succeeded with these addresses: what is to be probed behind its back is begun. `is_late`: they came to a
    /// link that was up already, which the kernel tells nobody.
    pub(super) async fn succeeded(self, addresses: &[AssignedAddress], is_late: bool) {
        let (agent, key) = (self.agent, &self.place.key);
        if is_late {
            let ips: Vec<IpAddr> = addresses.iter().map(|assigned| assigned.address.ip()).collect();
            if let Err(error) = agent.kernel.announce(self.netns, key.ifname.as_str(), &ips).await {
                tracing::warn!(attachment = %key, %error, "neighbours are not told of the new addresses");
            }
        }
        let known = agent.findings.of(key);
        let mut open = self.open_questions(addresses, When::Background);
        open.retain(|question| !known.contains(question));
        agent.findings.note(agent, key, self.settled.iter().chain(&open).copied());
        if open.is_empty() {
            return;
        }
        let (agent, place, netns) = (Arc::clone(agent), self.place.clone(), self.netns.clone());
        let addresses = addresses.to_vec();
        tokio::spawn(async move { behind(&agent, &place, &netns, &addresses, &open).await });
    }

    fn is_reserved(&self, assigned: &AssignedAddress) -> bool {
        !assigned.pool.is_empty() && !self.agent.ledger.is_owner(assigned.address.ip(), &self.place.key)
    }

    fn open_questions(&self, addresses: &[AssignedAddress], when: When) -> Vec<Question> {
        let mut questions = questions(addresses, self.wanted, when);
        questions.retain(|question| !self.settled.contains(question));
        questions
    }

    /// Who else has these addresses, if anybody.
    async fn ask(&mut self, addresses: &[AssignedAddress]) -> Result<Vec<Conflict>, CniError> {
        let open = self.open_questions(addresses, When::On);
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let ifname = &self.place.key.ifname;
        let asked = async {
            if !raise(self.agent, self.netns, ifname).await? {
                return Ok(None);
            }
            let told = probe(self.agent, self.netns, ifname, addresses, &open).await;
            told.map(Some).map_err(|error| CniError::new(CniError::FAILED, format!("detection: {error}")))
        };
        let late = || {
            let text = format!("detection on the pod's interface {ifname} has not ended before the deadline");
            CniError::new(CniError::TRY_AGAIN, text)
        };
        let Some(told) = tokio::time::timeout_at(self.deadline, asked).await.map_err(|_| late())?? else {
            // A main plugin that makes its link afterwards: the coordinator's ADD comes when it is there.
            return Ok(Vec::new());
        };
        if told.conflicts.is_empty() && !told.unreachable.is_empty() {
            return Err(CniError::new(CniError::FAILED, told.unreachable.join("; ")));
        }
        let in_conflict: BTreeSet<IpAddr> = told.conflicts.iter().map(|(assigned, _)| assigned.address.ip()).collect();
        let is_well = |question: &Question| match question {
            Question::Conflict(address) => !in_conflict.contains(address),
            Question::Gateway { .. } => in_conflict.is_empty(),
        };
        self.settled.extend(open.into_iter().filter(is_well));
        Ok(told.conflicts)
    }

    async fn occupy(&mut self, conflicts: Vec<Conflict>) {
        for conflict in &conflicts {
            occupy(self.agent, conflict).await;
        }
        self.found.extend(conflicts);
    }

    fn conflict(&self) -> CniError {
        let mut text = conflict_text(&self.place.key.ifname, &self.found);
        let is_one = self.found.windows(2).all(|pair| pair[0].1 == pair[1].1);
        if self.found.len() >= MOST_CONFLICTS && is_one {
            text.push_str("; one neighbour answers for all of them: is it a proxy (proxy_arp, ndppd)?");
        }
        CniError::new(CniError::TRY_AGAIN, text)
    }
}

impl Drop for Detection<'_> {
    /// A call that ends in between leaves no reservation behind.
    fn drop(&mut self) {
        if let Some(given) = self.promised.take() {
            self.give_back(&given);
        }
    }
}

fn questions(addresses: &[AssignedAddress], wanted: Wanted, when: When) -> Vec<Question> {
    let conflicts = addresses.iter().map(|assigned| Question::Conflict(assigned.address.ip()));
    let gateways = addresses.iter().filter_map(|assigned| {
        let (gateway, source) = (assigned.gateway?, assigned.address.ip());
        (gateway.is_ipv4() == source.is_ipv4()).then_some(Question::Gateway { gateway, source })
    });
    let conflicts = conflicts.filter(|_| wanted.conflict == when);
    conflicts.chain(gateways.filter(|_| wanted.gateway == when)).collect()
}

/// In the original's words.
fn conflict_text(ifname: &IfName, conflicts: &[Conflict]) -> String {
    let text = |(assigned, mac): &Conflict| {
        let ip = assigned.address.ip();
        format!("ip conflict: pod's interface {ifname} with an conflicting ip {ip}, {ip} is located at {mac}")
    };
    conflicts.iter().map(text).collect::<Vec<_>>().join("; ")
}

/// What the wire told.
#[derive(Default)]
struct Told {
    conflicts: Vec<Conflict>,
    /// A text for each gateway that did not answer.
    unreachable: Vec<String>,
}

/// Asks for conflicts, then, when there are none, for gateways.
async fn probe(
    agent: &Agent,
    netns: &NetnsIdentity,
    ifname: &IfName,
    addresses: &[AssignedAddress],
    open: &[Question],
) -> Result<Told, DetectError> {
    let (conflicts, gateways): (Vec<Question>, Vec<Question>) =
        open.iter().partition(|question| matches!(question, Question::Conflict(_)));
    let detect = async |questions: &[Question]| match agent
        .kernel
        .detect(netns, ifname.as_str(), questions, Paces::default())
        .await
    {
        Err(error @ DetectError::NotAsked { .. }) => {
            tracing::debug!(%ifname, %error, "nothing is probed");
            Ok(None)
        }
        told => told.map(Some),
    };
    let mut told = Told::default();
    let Some(answers) = detect(&conflicts).await? else { return Ok(told) };
    for (question, mac) in conflicts.iter().zip(answers) {
        let is_asked = |assigned: &&AssignedAddress| *question == Question::Conflict(assigned.address.ip());
        told.conflicts.extend(addresses.iter().find(is_asked).cloned().zip(mac));
    }
    if !told.conflicts.is_empty() {
        return Ok(told);
    }
    let Some(answers) = detect(&gateways).await? else { return Ok(told) };
    for (question, answer) in gateways.iter().zip(answers) {
        if let (Question::Gateway { gateway, source }, None) = (question, answer) {
            told.unreachable.push(format!(
                "gateway {gateway} is unreachable: it was asked {} times by {source} on the pod's interface {ifname} and did not answer within {:?}",
                Pace::GATEWAY.tries,
                Pace::GATEWAY.longest()
            ));
        }
    }
    Ok(told)
}

/// Sets the link up, as the original does; false when there is none.
async fn raise(agent: &Agent, netns: &NetnsIdentity, ifname: &IfName) -> Result<bool, CniError> {
    let observed = place::observe(agent, netns, Vec::new()).await?;
    match observed.link(ifname.as_str()) {
        None => return Ok(false),
        Some(link) if link.up => return Ok(true),
        Some(_) => {}
    }
    let (kernel, netns, dev) = (agent.kernel.clone(), netns.clone(), ifname.to_string());
    let raised = tokio::task::spawn_blocking(move || -> Result<bool, String> {
        let mut pass = kernel.pass(&netns).map_err(|error| error.to_string())?;
        match pass.apply(&[Step::SetLinkUp { dev }]).pop() {
            Some(Err(StepError::NoLink { .. })) => Ok(false),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(())) | None => Ok(true),
        }
    });
    let failed = |error: String| {
        CniError::new(CniError::FAILED, format!("the pod's interface {ifname} cannot be set up for detection: {error}"))
    };
    raised.await.map_err(|error| failed(error.to_string()))?.map_err(failed)
}

/// Keeps an address of our pools from everybody, and tells people.
async fn occupy(agent: &Agent, (assigned, mac): &Conflict) {
    let (address, pool) = (assigned.address.ip(), &assigned.pool);
    if pool.is_empty() {
        return;
    }
    match agent.ledger.occupy(pool, address, *mac).await {
        Ok(occupant) => {
            let text = occupant.text(address);
            tracing::warn!(text, "address conflict");
            if let Some(cluster) = &agent.cluster {
                cluster.notice(Notice::Occupied(pool.clone(), text));
            }
        }
        Err(error) => tracing::error!(%address, %mac, %error, "the quarantine of an address is not recorded"),
    }
}

/// Probes for which ADD did not wait: what is found is told, and nothing is taken away.
async fn behind(
    agent: &Arc<Agent>,
    place: &Place,
    netns: &NetnsIdentity,
    addresses: &[AssignedAddress],
    open: &[Question],
) {
    let (key, ifname) = (&place.key, &place.key.ifname);
    let told = match raise(agent, netns, ifname).await {
        Ok(true) => probe(agent, netns, ifname, addresses, open).await.map_err(|error| error.to_string()),
        Ok(false) => Err(format!("there is no interface {ifname} yet")),
        Err(error) => Err(error.to_string()),
    };
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            tracing::warn!(attachment = %key, error, "nothing was probed");
            return;
        }
    };
    for conflict in &told.conflicts {
        occupy(agent, conflict).await;
    }
    let texts: Vec<String> = match told.conflicts.is_empty() {
        true => told.unreachable.clone(),
        false => vec![conflict_text(ifname, &told.conflicts)],
    };
    for text in &texts {
        tracing::warn!(attachment = %key, pod = %place.pod, text, "probed after ADD");
    }
    if !told.unreachable.is_empty() {
        agent.findings.set_unreachable(key, format!("{} ({key}): {}", place.pod, told.unreachable.join("; ")));
    }
    if let (Some(cluster), true) = (&agent.cluster, place.pod.is_named()) {
        let notice = if told.conflicts.is_empty() { Notice::Unreachable } else { Notice::Conflict };
        for text in texts {
            cluster.notice(notice(place.pod.clone(), text));
        }
    }
}
