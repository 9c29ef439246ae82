//! The ledger against a model that has every address in explicit sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;
use schemas::crd::{SpiderIPPool, SpiderReservedIP};
use schemas::intent::{AssignedAddress, Learned, Outcome, PodRef};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::catalogue::Object;

/// Addresses of a pool, by their last byte.
type Set = BTreeSet<u8>;

#[derive(Debug, Clone)]
enum Op {
    /// An ADD that tries these pools in this order, and takes one address of each family or none; it may end before it has
    /// written anything, with the agent.
    Add { pod: u8, nic: u8, pools: Vec<usize>, has_v6: bool, dies: bool },
    /// DEL.
    Withdraw { pod: u8, nic: u8 },
    /// What DEL has given back is verified gone.
    Free { pod: u8, nic: u8 },
    /// The agent ends and starts.
    Restart,
    /// A pool's addresses are these now, without those.
    Edit { pool: usize, ips: Set, excluded: Set },
    /// These are nobody's to give.
    Reserve(Set),
}

/// 10.6.0.N for pools 0 to 2, fd00:6::N for pool 3.
fn address(pool: usize, last: u8) -> IpAddr {
    match pool {
        3 => IpAddr::from([0xfd00, 6, 0, 0, 0, 0, 0, last.into()]),
        _ => IpAddr::from([10, 6, 0, last]),
    }
}

fn op() -> impl Strategy<Value = Op> {
    let set = |most: usize| vec(1..20u8, 0..most).prop_map(|numbers| numbers.into_iter().collect::<Set>());
    let pools = subsequence(vec![0usize, 1, 2], 1..=3).prop_shuffle();
    // Few enough for each to come and go several times.
    let nic = (0..3u8, 0..2u8);
    prop_oneof![
        8 => (nic.clone(), pools, any::<bool>(), prop::bool::weighted(0.1)).prop_map(|((pod, nic), pools, has_v6, dies)| {
            Op::Add { pod, nic, pools, has_v6, dies }
        }),
        8 => nic.clone().prop_map(|(pod, nic)| Op::Withdraw { pod, nic }),
        8 => nic.prop_map(|(pod, nic)| Op::Free { pod, nic }),
        1 => Just(Op::Restart),
        1 => (0..4usize, set(12), set(4)).prop_map(|(pool, ips, excluded)| Op::Edit { pool, ips, excluded }),
        1 => set(4).prop_map(Op::Reserve),
    ]
}

/// The whole truth, one address at a time.
#[derive(Debug, Clone, Default)]
struct Model {
    pools: BTreeMap<usize, (Set, Set)>,
    reserved: Set,
    /// Whose, and whether it is on its way back.
    held: BTreeMap<IpAddr, (String, bool)>,
    /// Whose it was last.
    before: BTreeMap<IpAddr, String>,
}

impl Model {
    /// The addresses of a pool; one that several pools have is that of the first.
    fn total(&self, pool: usize) -> BTreeSet<IpAddr> {
        let own = |pool: usize| {
            let (ips, excluded) = &self.pools[&pool];
            ips.difference(excluded).map(|last| address(pool, *last)).collect::<BTreeSet<IpAddr>>()
        };
        (0..pool).fold(own(pool), |total, earlier| total.difference(&own(earlier)).copied().collect())
    }

    fn free(&self, pool: usize) -> BTreeSet<IpAddr> {
        let is_free = |ip: &IpAddr| {
            let is_reserved = self.reserved.iter().any(|last| address(pool, *last) == *ip);
            !is_reserved && !self.held.contains_key(ip)
        };
        self.total(pool).into_iter().filter(is_free).collect()
    }

    /// Of the first pool that has any: the one that was this user's, else the lowest.
    fn choose(&self, pools: &[usize], user: &str) -> Option<(usize, IpAddr)> {
        pools.iter().find_map(|pool| {
            let free = self.free(*pool);
            let again = free.iter().find(|ip| self.before.get(*ip).is_some_and(|of| of == user));
            Some((*pool, *again.or(free.first())?))
        })
    }

    fn catalogue(&self) -> Catalogue {
        let texts =
            |pool: usize, set: &Set| set.iter().map(|last| address(pool, *last).to_string()).collect::<Vec<_>>();
        let object = |(pool, (ips, excluded)): (&usize, &(Set, Set))| {
            let (version, subnet) = if *pool == 3 { (6, "fd00:6::/64") } else { (4, "10.6.0.0/16") };
            let spec = json!({"ipVersion": version, "subnet": subnet, "ips": texts(*pool, ips), "excludeIPs": texts(*pool, excluded)});
            let object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
                "metadata": {"name": format!("p{pool}")}, "spec": spec});
            Object::IpPool(serde_json::from_value::<SpiderIPPool>(object).unwrap())
        };
        let reserved = [(4, 0), (6, 3)].into_iter().map(|(version, pool)| {
            let object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderReservedIP",
                "metadata": {"name": format!("r{version}")}, "spec": {"ipVersion": version, "ips": texts(pool, &self.reserved)}});
            Object::ReservedIp(serde_json::from_value::<SpiderReservedIP>(object).unwrap())
        });
        Catalogue::of(self.pools.iter().map(object).chain(reserved))
    }
}

/// A ledger, its disk and its pools.
struct Subject {
    folder: TempDir,
    ledger: Option<Ledger>,
    runtime: tokio::runtime::Runtime,
}

impl Subject {
    fn new(model: &Model) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut subject = Self { folder: tempfile::tempdir().unwrap(), ledger: None, runtime };
        subject.restart(model);
        subject
    }

    fn restart(&mut self, model: &Model) {
        self.ledger = None;
        let store = Store::open(&self.folder.path().join("store"), "node", "boot").unwrap();
        let (ledger, faults) = Ledger::load(store, false).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        ledger.declare(&model.catalogue());
        self.ledger = Some(ledger);
    }

    fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    fn commit(&self, container: &ContainerId, update: Update) {
        self.runtime.block_on(self.ledger().commit(container, update)).unwrap();
    }
}

fn key(pod: u8, nic: u8) -> AttachmentKey {
    AttachmentKey { container: format!("c{pod}").parse().unwrap(), ifname: format!("net{nic}").parse().unwrap() }
}

fn attachment(pod: u8, nic: u8, given: &[(usize, IpAddr)]) -> Attachment {
    let assigned = |(pool, ip): &(usize, IpAddr)| {
        let length = if ip.is_ipv4() { 16 } else { 64 };
        AssignedAddress { address: IpNetwork::new(*ip, length).unwrap(), gateway: None, pool: format!("p{pool}") }
    };
    Attachment {
        key: key(pod, nic),
        network: "net".parse().unwrap(),
        pod: PodRef { namespace: "default".into(), name: format!("pod{pod}"), uid: format!("u{pod}") },
        ordinal: nic.into(),
        generation: 1,
        addresses: given.iter().map(assigned).collect(),
        routes: Vec::new(),
        allocated: true,
        link: None,
        link_wanted: false,
        foreign_link: None,
        learned: Learned::default(),
        coordinate: None,
        uplink: None,
        closing: false,
        prepared: false,
    }
}

fn sandbox(pod: u8) -> Sandbox {
    let container = key(pod, 0).container;
    let (sysctls_before, outcome) = (Vec::new(), Outcome::default());
    Sandbox { container, netns: None, baseline: None, auxiliary: None, sysctls_before, generation: 1, outcome }
}

fn allocations(attachment: &Attachment, state: AllocationState) -> Vec<Allocation> {
    let one = |assigned: &AssignedAddress| Allocation {
        address: assigned.address.ip(),
        pool: assigned.pool.clone(),
        owner: attachment.key.clone(),
        state,
    };
    attachment.addresses.iter().map(one).collect()
}

fn act(model: &mut Model, subject: &mut Subject, op: &Op) {
    match op {
        Op::Add { pod, nic, pools, has_v6, dies } => {
            let (key, user) = (key(*pod, *nic), format!("u{pod}/net{nic}"));
            let owner = key.to_string();
            if model.held.values().any(|(of, _)| *of == owner) {
                return;
            }
            let families = [Some(pools.as_slice()), has_v6.then_some([3].as_slice())];
            let (mut wanted, mut given) = (Vec::new(), Vec::new());
            for pools in families.into_iter().flatten() {
                let ledger = subject.ledger();
                wanted.push(model.choose(pools, &user));
                let reserved = pools
                    .iter()
                    .find_map(|pool| Some((*pool, ledger.reserve(&format!("p{pool}"), &user, false, |_| true)?)));
                given.push(reserved);
            }
            assert_eq!(given, wanted);
            if *dies {
                return subject.restart(model);
            }
            let found: Vec<(usize, IpAddr)> = given.iter().flatten().copied().collect();
            if found.len() < given.len() {
                found.iter().for_each(|(_, ip)| subject.ledger().unreserve(*ip));
                return;
            }
            let attachment = attachment(*pod, *nic, &found);
            let allocations = allocations(&attachment, AllocationState::Held);
            let update =
                Update { sandbox: Some(sandbox(*pod)), put: vec![attachment], allocations, ..Update::default() };
            subject.commit(&key.container, update);
            for (_, ip) in found {
                model.before.remove(&ip);
                let before = model.held.insert(ip, (owner.clone(), false));
                assert_eq!(before, None, "{ip} is given twice");
            }
        }
        Op::Withdraw { pod, nic } | Op::Free { pod, nic } => {
            let key = key(*pod, *nic);
            let owner = key.to_string();
            let Some(records) = subject.ledger().sandbox(&key.container) else { return };
            let Some(attachment) = records.attachments.get(&key.ifname).cloned() else { return };
            let own: Vec<IpAddr> = attachment.addresses.iter().map(|assigned| assigned.address.ip()).collect();
            let is_withdrawn = own.iter().all(|ip| model.held[ip].1);
            let is_free = matches!(op, Op::Free { .. });
            if is_free != is_withdrawn {
                return;
            }
            if is_free {
                let is_last = records.attachments.len() == 1;
                let sandbox = (!is_last).then(|| sandbox(*pod));
                let update = Update { sandbox, deleted: vec![key.clone()], freed: own.clone(), ..Update::default() };
                subject.commit(&key.container, update);
                for ip in own {
                    assert_eq!(model.held.remove(&ip).map(|(of, _)| of), Some(owner.clone()));
                    model.before.insert(ip, format!("u{pod}/net{nic}"));
                }
            } else {
                let allocations = allocations(&attachment, AllocationState::Releasing);
                let put = vec![Attachment { closing: true, allocated: false, ..attachment }];
                let update = Update { sandbox: Some(sandbox(*pod)), put, allocations, ..Update::default() };
                subject.commit(&key.container, update);
                own.iter().for_each(|ip| model.held.get_mut(ip).unwrap().1 = true);
            }
        }
        Op::Restart => subject.restart(model),
        Op::Edit { pool, ips, excluded } => {
            model.pools.insert(*pool, (ips.clone(), excluded.clone()));
            subject.ledger().declare(&model.catalogue());
        }
        Op::Reserve(reserved) => {
            model.reserved.clone_from(reserved);
            subject.ledger().declare(&model.catalogue());
        }
    }
}

fn compare(model: &Model, ledger: &Ledger) {
    let found: BTreeMap<IpAddr, (String, bool)> = ledger
        .allocations()
        .into_iter()
        .map(|it| (it.address, (it.owner.to_string(), it.state == AllocationState::Releasing)))
        .collect();
    assert_eq!(found, model.held);
    for pool in model.pools.keys() {
        let total = model.total(*pool);
        let is_used = |ip: &&IpAddr| model.held.contains_key(*ip);
        let wanted = PoolCounts {
            total: total.len() as u128,
            used: total.iter().filter(is_used).count() as u128,
            releasing: ledger
                .allocations()
                .iter()
                .filter(|it| it.pool == format!("p{pool}") && it.state == AllocationState::Releasing)
                .count() as u128,
            free: model.free(*pool).len() as u128,
        };
        assert_eq!(ledger.counts(&format!("p{pool}")), Some(wanted), "pool {pool}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any pools, pods, orders and ends of the agent: the addresses of the model, none twice, none lost.
    #[test]
    fn it_gives_what_the_model_gives(ops in vec(op(), 1..60)) {
        let mut model = Model::default();
        for (pool, ips) in [(0, 1..8), (1, 5..12), (2, 12..16), (3, 1..9)] {
            model.pools.insert(pool, (ips.collect(), Set::new()));
        }
        let mut subject = Subject::new(&model);
        for op in &ops {
            act(&mut model, &mut subject, op);
            compare(&model, subject.ledger());
        }
        subject.restart(&model);
        compare(&model, subject.ledger());
    }
}
