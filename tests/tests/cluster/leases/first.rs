//! Two nodes and the seed's pool: what users see.

use libtest_mimic::Trial;
use tests::fleet::{Book, Fleet, Ground};

use super::{assert_right, assert_shown, beside_others, pool, start_all, stop_all};
use crate::bed::eventually;

const ADDRESSES: usize = 41;

pub(super) fn trials() -> Vec<Trial> {
    vec![beside_others("leases::what_one_node_gives_back_another_one_gives", two_nodes)]
}

fn two_nodes(ground: &Ground) {
    let fleet = Fleet::start(ground, "two", &pool(1, 41, 2)).unwrap();
    let book = Book::default();
    let pods = fleet.bind("web", 4, &fleet.nodes).unwrap();
    start_all(&fleet, &book, &pods);
    assert_eq!(book.held().len(), 4);
    assert_right(&fleet, &book);
    shown(&fleet, &book);

    // All that is left, on the first node alone.
    let rest = fleet.bind_to(&fleet.nodes[0], "rest", ADDRESSES - 4).unwrap();
    start_all(&fleet, &book, &rest);
    assert_eq!(book.held().len(), ADDRESSES);
    assert_right(&fleet, &book);

    // And then on the other one.
    stop_all(&fleet, &book, &rest);
    fleet.application("rest").delete(&ground.objects).unwrap();
    let others = fleet.bind_to(&fleet.nodes[1], "others", ADDRESSES - 4).unwrap();
    start_all(&fleet, &book, &others);
    assert_eq!(book.held().len(), ADDRESSES);
    assert_right(&fleet, &book);
    assert_shown(&fleet, &book);
}

fn shown(fleet: &Fleet<'_>, book: &Book) {
    assert_shown(fleet, book);
    let kubectl = fleet.ground().kubectl();
    for (address, tenure) in book.held() {
        let name = tenure.pod.split('/').next_back().unwrap_or_default();
        let text =
            eventually("the line of an endpoint", || kubectl.ask(&["get", "se", name, "--namespace", &fleet.name], ""));
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let header = ["NAME", "INTERFACE", "IPV4POOL", "IPV4", "IPV6POOL", "IPV6", "NODE"];
        assert_eq!(lines.next().unwrap(), header, "{text}");
        let address = format!("{address}/16");
        // The columns of IPv6 are empty.
        assert_eq!(lines.next().unwrap(), [name, "net1", &fleet.name, &address, &tenure.node], "{text}");
    }
}
