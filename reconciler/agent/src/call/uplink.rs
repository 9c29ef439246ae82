//! ADD as chain head: the uplink that the main plugin behind it needs on the node (../spec/controller.md 4).

use std::sync::Arc;

use plan::{Link, LinkKind, Observed, ownership};
use schemas::cni::error::CniError;
use schemas::intent::Attachment;
use schemas::uplink::UplinkIntent;
use schemas::wire::{Answer, Place, UplinkCall};
use tokio::time::Instant;

use super::{place, wait};
use crate::agent::Agent;
use crate::ledger::{SandboxRecords, Update};

/// Answers ADD of `ifacer`: once the uplink is there.
pub(super) async fn uplink(agent: &Arc<Agent>, call: UplinkCall, deadline: Instant) -> Result<Answer, CniError> {
    let netns = place::identify(agent, &call.place).await?;
    let container = call.place.key.container.clone();
    let generation = {
        // One at a time over all sandboxes: what one asks for may rule out what another does.
        let _uplinks = agent.node.uplinks().lock().await;
        agent.node.passed().await;
        let _turn = agent.ledger.lock(&container).await;
        let others = agent.ledger.uplinks_but(&call.place.key);
        let uplink = settled(call.uplink, &others, &agent.node.observed());
        check(&uplink, &others, &agent.node.observed())?;
        let records = place::records(agent, &container, &netns);
        let attachment = attachment(&records, &call.place, uplink);
        match agent.ledger.sandbox(&container).filter(|found| found.is_repeated_by(&records.sandbox, &attachment)) {
            Some(published) => published.sandbox.generation,
            None => {
                let sandbox = Some(records.sandbox.clone());
                let update = Update { sandbox, put: vec![attachment], ..Update::default() };
                agent.ledger.commit(&container, update).await.map_err(|error| wait::not_recorded(&error))?;
                records.sandbox.generation
            }
        }
    };
    wait::converged(agent, &container, generation, deadline).await?;
    Ok(Answer::Done)
}

/// A bond that is there is used as it is: the one of other attachments with how it was made, one that was there before
/// as a link of the node's own.
fn settled(uplink: UplinkIntent, others: &[UplinkIntent], node: &Observed) -> UplinkIntent {
    let Some(bond) = &uplink.bond else { return uplink };
    let same = others.iter().find(|other| other.bond.as_ref().is_some_and(|other| other.name == bond.name));
    if let Some(same) = same {
        return UplinkIntent { vlan: uplink.vlan, ..same.clone() };
    }
    let is_foreign = |link: &Link| matches!(link.kind, LinkKind::Bond(_)) && !ownership::has_our_alias(link);
    if node.link(bond.name.as_str()).is_some_and(is_foreign) {
        return UplinkIntent { interfaces: vec![bond.name.clone()], bond: None, vlan: uplink.vlan };
    }
    uplink
}

/// What cannot be together, in the original's words.
fn check(uplink: &UplinkIntent, others: &[UplinkIntent], node: &Observed) -> Result<(), CniError> {
    let refuse = |text: String| Err(CniError::new(CniError::INVALID_CONFIG, format!("ifacer: {text}")));
    if let Some(bond) = &uplink.bond
        && node.link(bond.name.as_str()).is_some_and(|link| !matches!(link.kind, LinkKind::Bond(_)))
    {
        return refuse(format!(
            "createBondDevice failure: a non-bond type interface named {} already exists on the host; name the bond \
             otherwise",
            bond.name
        ));
    }
    if let Some(missing) = uplink.interfaces.iter().find(|name| node.link(name.as_str()).is_none()) {
        return refuse(format!("the node has no interface {missing}: set `interfaces` to links that exist"));
    }
    let (Some(id), Some(name)) = (uplink.vlan, uplink.vlan_name()) else { return Ok(()) };
    let on_node = node.links.iter().filter(|link| link.kind == LinkKind::Vlan(id)).map(|link| link.name.clone());
    let asked = others.iter().filter(|other| other.vlan == Some(id)).filter_map(UplinkIntent::vlan_name);
    if let Some(other) = on_node.chain(asked).find(|other| *other != name) {
        return refuse(format!(
            "cannot have multiple different vlan interfaces with the same vlanId {id} on node at the same time: there is \
             {other}, and {name} is asked for"
        ));
    }
    let Some(found) = node.link(&name) else { return Ok(()) };
    let parent = uplink.base().and_then(|base| node.link(base.as_str()));
    if found.kind != LinkKind::Vlan(id) || parent.is_some_and(|parent| found.lower != Some(parent.index)) {
        return refuse(format!("the node's {name} is not the VLAN interface {id} of that link: rename or delete it"));
    }
    Ok(())
}

fn attachment(records: &SandboxRecords, place: &Place, uplink: UplinkIntent) -> Attachment {
    let known = records.attachments.get(&place.key.ifname).cloned();
    let attachment = known.unwrap_or_else(|| Attachment {
        learned: schemas::intent::Learned::default(),
        key: place.key.clone(),
        network: place.network.clone(),
        pod: place.pod.clone(),
        ordinal: records.free_ordinal(),
        generation: 0,
        addresses: Vec::new(),
        routes: Vec::new(),
        allocated: false,
        link: None,
        link_wanted: false,
        foreign_link: None,
        coordinate: None,
        uplink: None,
        closing: false,
        prepared: false,
    });
    Attachment { uplink: Some(Box::new(uplink)), generation: records.sandbox.generation, closing: false, ..attachment }
}

#[cfg(test)]
mod tests {
    use plan::Bond;

    use super::*;

    fn link(name: &str, index: u32, kind: LinkKind, alias: Option<&str>) -> Link {
        let alias = alias.map(str::to_owned);
        Link {
            name: name.into(),
            index,
            kind,
            mac: None,
            mtu: 1500,
            up: true,
            alias,
            lower: Some(2),
            master: None,
            tx_queue_len: 0,
        }
    }

    fn node(links: &[Link]) -> Observed {
        let hardware =
            [("ens1", 2), ("ens2", 3)].map(|(name, index)| link(name, index, LinkKind::Other(String::new()), None));
        Observed { links: [&hardware[..], links].concat(), ..Observed::default() }
    }

    fn asked(text: &str) -> UplinkIntent {
        serde_json::from_str::<schemas::cni::ifacer::IfacerConf>(text).unwrap().intent().unwrap()
    }

    #[test]
    fn a_vlan_id_is_on_one_link() {
        let wanted = asked(r#"{"interfaces":["ens1"],"vlanID":100}"#);
        let refused = |others: &[UplinkIntent], links: &[Link]| {
            check(&wanted, others, &node(links)).map_err(|error| error.msg).unwrap_err()
        };
        let text = "cannot have multiple different vlan interfaces with the same vlanId 100 on node at the same time";
        assert!(refused(&[], &[link("other", 9, LinkKind::Vlan(100), None)]).contains(text));
        assert!(refused(&[asked(r#"{"interfaces":["ens2"],"vlanID":100}"#)], &[]).contains(text));
        assert!(refused(&[], &[link("ens1.100", 9, LinkKind::Veth, None)]).contains("rename or delete it"));
        assert!(
            check(&wanted, std::slice::from_ref(&wanted), &node(&[link("ens1.100", 9, LinkKind::Vlan(100), None)]))
                .is_ok()
        );
        assert!(check(&asked(r#"{"interfaces":["ens9"],"vlanID":1}"#), &[], &node(&[])).is_err());
    }

    #[test]
    fn a_bond_that_is_there_is_used_as_it_is() {
        let wanted = asked(r#"{"interfaces":["ens1","ens2"],"vlanID":7,"bond":{"name":"bond0","mode":1}}"#);
        let other = asked(r#"{"interfaces":["ens2","ens1"],"bond":{"name":"bond0","mode":0}}"#);
        let settle = |others: &[UplinkIntent], links: &[Link]| settled(wanted.clone(), others, &node(links));
        assert_eq!(settle(&[], &[]), wanted);
        assert_eq!(settle(std::slice::from_ref(&other), &[]), UplinkIntent { vlan: Some(7), ..other });
        let bond = |alias| link("bond0", 9, LinkKind::Bond(Bond::default()), alias);
        assert_eq!(settle(&[], &[bond(Some("dragline:uplink/bond0"))]), wanted);
        assert_eq!(settle(&[], &[bond(None)]), asked(r#"{"interfaces":["bond0"],"vlanID":7}"#));
        let error = check(&wanted, &[], &node(&[link("bond0", 9, LinkKind::Veth, None)])).unwrap_err().msg;
        assert!(error.contains("a non-bond type interface named bond0 already exists on the host"), "{error}");
    }
}
