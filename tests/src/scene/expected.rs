//! The tables of ../design/quickstart.md, as [`crate::show::comparable`] leaves what `ip` prints.

/// `ip rule` in the pod.
pub const RULES: &str = "\
0: from all lookup local
32760: from 10.233.120.101 lookup 100
32761: from all to 169.254.0.0/16 lookup 100
32762: from all to 10.233.65.96 lookup 100
32763: from all to 10.233.64.0/18 lookup 100
32764: from all to 10.233.0.0/18 lookup 100
32765: from all to 10.6.212.131 lookup 100
32766: from all lookup main
32767: from all lookup default";

/// `ip route` in the pod.
pub const MAIN: &str = "\
default via 10.6.0.1 dev net1
10.6.0.0/16 dev net1 scope link src 10.6.212.200";

/// `ip route show table 100` in the pod.
pub const TABLE_100: &str = "\
default via 10.233.65.96 dev eth0
10.6.212.131 dev eth0 scope link
10.233.0.0/18 via 10.6.212.131 dev eth0
10.233.64.0/18 via 10.6.212.131 dev eth0
10.233.65.96 dev eth0 scope link
169.254.0.0/16 via 10.6.212.131 dev eth0";

/// `ip rule` on the node.
pub const NODE_RULES: &str = "\
0: from all lookup local
1000: from all lookup 500
32766: from all lookup main
32767: from all lookup default";

/// `ip rule` where dragline has nothing to do.
pub const NO_RULES: &str = "\
0: from all lookup local
32766: from all lookup main
32767: from all lookup default";

/// `ip rule` in the pod with `default-route-nic: eth0`.
pub const ETH0_RULES: &str = "\
0: from all lookup local
32763: from 10.233.120.101 lookup 100
32764: from 10.6.212.200 lookup 101
32765: from all to 10.6.0.0/16 lookup 101
32766: from all lookup main
32767: from all lookup default";

/// `ip route` in the pod with `default-route-nic: eth0`; also its table 100, for what has eth0's address.
pub const ETH0_MAIN: &str = TABLE_100;

/// `ip route show table 101` in the pod with `default-route-nic: eth0`: net1's routes, and those by eth0 that every
/// table has.
pub const ETH0_TABLE_101: &str = "\
default via 10.6.0.1 dev net1
10.6.0.0/16 dev net1 scope link src 10.6.212.200
10.6.212.131 dev eth0 scope link
10.233.0.0/18 via 10.6.212.131 dev eth0
10.233.64.0/18 via 10.6.212.131 dev eth0
10.233.65.96 dev eth0 scope link
169.254.0.0/16 via 10.6.212.131 dev eth0";

/// `ip route` in a pod as the default CNI leaves it.
pub const DEFAULT_CNI_MAIN: &str = "\
default via 10.233.65.96 dev eth0
10.233.65.96 dev eth0 scope link";
