//! Where a cluster is: in the network namespace in which it was started, to be reached by those who have a way there.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use libtest_mimic::Trial;
use netlink::testbed::{End, Netns};
use tests::cluster::{Cluster, ClusterError, Options};

use crate::bed::starting;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const PREFIX: u8 = 24;

pub(crate) fn trials() -> Vec<Trial> {
    vec![starting("place::a_node_asks_over_its_own_links", over_links)]
}

fn over_links(folder: &Path) -> Result<(), ClusterError> {
    let (server, node) = (Netns::create("place-server").unwrap(), Netns::create("place-node").unwrap());
    server.scene().unwrap().veth(End::here("eth0"), End::inside(&node, "eth0")).unwrap();
    for (netns, address) in [(&server, SERVER), (&node, NODE)] {
        let mut scene = netns.scene().unwrap();
        scene.address("eth0", IpNetwork::V4(Ipv4Network::new(address, PREFIX).unwrap())).unwrap();
        scene.up("eth0").unwrap();
    }
    let options = Options { address: SERVER, ..Options::default() };
    let mut cluster = server.run(|| Cluster::start(folder, &options)).unwrap()?;

    let kubectl = cluster.kubectl();
    kubectl.ask(&["create", "configmap", "here"], "")?;
    let on_node = node.run(|| kubectl.from_here()).unwrap()?;
    on_node.ask(&["get", "configmap", "here"], "")?;
    // In this world's own namespace there is no way to it.
    let port = cluster.address().unwrap().port();
    TcpStream::connect_timeout(&SocketAddr::from((SERVER, port)), Duration::from_secs(1)).unwrap_err();

    cluster.restart()?;
    on_node.ask(&["get", "configmap", "here"], "").map(drop)
}
