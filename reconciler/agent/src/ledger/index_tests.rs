use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::prelude::*;
use schemas::intent::{
    AssignedAddress, Attachment, AuxiliaryLink, Learned, LinkKindIntent, MacvlanMode, Outcome, PodRef, Sandbox,
};
use schemas::name::Mac;
use store::Store;

use super::*;
use crate::ledger::Update;

/// A sandbox of few and an interface of few, with or without each of what is indexed.
#[derive(Debug, Clone)]
struct Change {
    sandbox: u8,
    nic: u8,
    is_deleted: bool,
    is_wanted: bool,
    master: u8,
    in_container: bool,
    has_uplink: bool,
    has_pair: bool,
    state: AllocationState,
}

fn change() -> impl Strategy<Value = Change> {
    let state = prop_oneof![Just(AllocationState::Held), Just(AllocationState::Releasing)];
    ((0..3u8, 0..3u8, 0..3u8), any::<(bool, bool, bool, bool, bool)>(), state).prop_map(|(numbers, flags, state)| {
        Change {
            sandbox: numbers.0,
            nic: numbers.1,
            master: numbers.2,
            is_deleted: flags.0,
            is_wanted: flags.1,
            in_container: flags.2,
            has_uplink: flags.3,
            has_pair: flags.4,
            state,
        }
    })
}

impl Change {
    fn key(&self) -> AttachmentKey {
        let container = format!("c{}", self.sandbox).parse().unwrap();
        AttachmentKey { container, ifname: format!("net{}", self.nic).parse().unwrap() }
    }

    fn address(&self) -> IpAddr {
        IpAddr::from([10, 6, self.sandbox, self.nic])
    }

    fn update(&self) -> Update {
        let key = self.key();
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let host_name = format!("veth{}", self.master).parse().unwrap();
        let auxiliary = self.has_pair.then_some(AuxiliaryLink { host_name, pod_mac: mac, host_mac: mac });
        let sandbox = Sandbox {
            container: key.container.clone(),
            netns: None,
            baseline: None,
            auxiliary,
            sysctls_before: Vec::new(),
            generation: 1,
            outcome: Outcome::default(),
        };
        let update = Update { sandbox: Some(sandbox), ..Update::default() };
        if self.is_deleted {
            return Update { deleted: vec![key], freed: vec![self.address()], ..update };
        }
        let master: IfName = format!("eth{}", self.master).parse().unwrap();
        let link = LinkIntent {
            kind: LinkKindIntent::Macvlan(MacvlanMode::default()),
            master: master.clone(),
            master_in_container: self.in_container,
            mtu: None,
            mac: None,
        };
        let uplink = UplinkIntent { interfaces: vec![master], bond: None, vlan: Some(self.nic.into()) };
        let address = IpNetwork::new(self.address(), 16).unwrap();
        let attachment = Attachment {
            key: key.clone(),
            network: "net".parse().unwrap(),
            pod: PodRef::default(),
            ordinal: self.nic.into(),
            generation: 1,
            addresses: vec![AssignedAddress { address, gateway: None, pool: "p".into() }],
            routes: Vec::new(),
            allocated: true,
            link: Some(link),
            link_wanted: self.is_wanted,
            foreign_link: None,
            learned: Learned::default(),
            coordinate: None,
            uplink: self.has_uplink.then(|| Box::new(uplink)),
            closing: false,
            prepared: false,
        };
        let allocation = Allocation { address: self.address(), pool: "p".into(), owner: key, state: self.state };
        Update { put: vec![attachment], allocations: vec![allocation], ..update }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is changed in whatever order, it is what a start would make of the records.
    #[test]
    fn it_says_what_the_records_say(changes in vec(change(), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), "node", "boot").unwrap();
        let (ledger, faults) = Ledger::load(store, false).unwrap();
        prop_assert!(faults.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for change in &changes {
            runtime.block_on(ledger.commit(&change.key().container, change.update())).unwrap();
            let state = ledger.state();
            let mut wanted = Index::default();
            state.sandboxes.values().for_each(|records| wanted.add(records));
            state.allocations.values().for_each(|allocation| wanted.count(None, Some(allocation)));
            prop_assert_eq!(&state.index, &wanted);
        }
    }
}
