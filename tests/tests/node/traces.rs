//! What could be left behind: in a namespace, and in the store.

use std::fs;
use std::path::Path;

use netlink::testbed::Netns;
use plan::tables::MAIN;
use tests::scene::WORKER;
use tests::show;

use super::{eventually, holds};

/// Everything of a namespace that a DEL has to leave as it was: byte-equal texts, and all objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    rules: String,
    main: String,
    links: Vec<String>,
    addresses: Vec<String>,
    routes: Vec<String>,
    neighbours: String,
}

impl Traces {
    pub(crate) fn of(netns: &Netns) -> Self {
        let observed = netns.scene().unwrap().observe().unwrap();
        // IPv6 comes and goes by itself: link-local addresses pass duplicate detection.
        let addresses = observed.addresses.iter().filter(|found| found.address.is_ipv4());
        let routes = observed.routes.iter().filter(|found| found.dst.is_ipv4());
        Self {
            rules: show::rules(netns).unwrap(),
            main: show::routes(netns, MAIN).unwrap(),
            links: sorted(observed.links.iter().map(|link| format!("{} {:?} {}", link.name, link.mac, link.up))),
            addresses: sorted(addresses.map(|found| format!("{found:?}"))),
            routes: sorted(routes.map(|found| format!("{found:?}"))),
            neighbours: show::permanent_neighbours(netns).unwrap(),
        }
    }
}

impl Traces {
    /// The same, once links that have come up are seen to carry: the kernel looks some time after, and until then it
    /// calls their routes `linkdown`.
    pub(crate) fn at_rest(netns: &Netns) -> Self {
        eventually("carrier on all links", || {
            let found = Self::of(netns);
            holds(!found.main.contains("linkdown"), &found.main)?;
            Ok(found)
        })
    }

    /// Waits until the namespace is like this.
    pub(crate) fn return_to(&self, netns: &Netns) {
        eventually(&format!("{} as it was", netns.path()), || {
            let differing = self.differing(&Self::of(netns));
            if differing.is_empty() { Ok(()) } else { Err(differing) }
        });
    }

    /// What is otherwise now.
    fn differing(&self, now: &Self) -> String {
        let fields = |traces: &Self| {
            let lists = [&traces.links, &traces.addresses, &traces.routes].map(|list| list.join("\n"));
            let texts = [&traces.rules, &traces.main, &traces.neighbours].map(String::clone);
            lists.into_iter().chain(texts)
        };
        let pairs = fields(self).zip(fields(now)).filter(|(before, now)| before != now);
        pairs.map(|(before, now)| format!("before:\n{before}\nnow:\n{now}\n")).collect()
    }

    /// Without what is new in a link that was made again.
    pub(crate) fn forget_links(&mut self) {
        self.links.clear();
    }
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    texts
}

/// Nothing is on record in the store of an agent that has ended.
pub(crate) fn store_is_empty(state_dir: &Path) -> Result<(), String> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let store = store::Store::open(&state_dir.join("store"), WORKER, boot_id.trim()).unwrap();
    let snapshot = store.load().unwrap();
    let is_empty = snapshot.sandboxes.is_empty()
        && snapshot.attachments.is_empty()
        && snapshot.allocations.is_empty()
        && snapshot.unreadable.is_empty();
    if is_empty { Ok(()) } else { Err(format!("{snapshot:?}")) }
}
