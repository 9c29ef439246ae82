//! Tables and priorities: the one place that gives out numbers (../design/interfaces.md, quickstart.md).

/// Table main.
pub const MAIN: u32 = 254;
/// The table of the default CNI's interface.
pub const DEFAULT_NIC: u32 = 100;
/// The highest priority number of our rules in a pod: they go down from here, just above main's 32766.
pub const FIRST_PRIORITY: u32 = 32765;
/// The pod's rule for replies to what came by the auxiliary link, before all others of ours (../spec/coordinator.md 7g).
pub const REPLY_PRIORITY: u32 = 1000;
/// The mark of such connections.
pub const REPLY_MARK: u32 = 1;
/// The node's rule that leads to the pods' underlay addresses (../spec/coordinator.md 7c).
pub const NODE_PRIORITY: u32 = 1000;
/// The node's table when nothing says otherwise.
pub const NODE_TABLE: u32 = 500;
/// The kernel's metric of IPv6 routes that are given none (`IP6_RT_PRIO_USER`).
pub const USER_METRIC: u32 = 1024;
/// The kernel's metric of IPv6 routes that come with an address (`IP6_RT_PRIO_ADDRCONF`).
pub const KERNEL_METRIC: u32 = 256;
/// The metric of default routes by router advertisements on a NIC that does not hold the default route.
pub const ADVERTISED_METRIC: u32 = 2048;
/// Our route, rule, neighbour and address protocol number.
pub const PROTOCOL: u8 = 111;

/// The table of the attachment with that ordinal: 101, 102, ... with the kernel's own 253-255 left out.
pub fn of_ordinal(ordinal: u32) -> u32 {
    let table = DEFAULT_NIC.saturating_add(1).saturating_add(ordinal);
    if table < 253 { table } else { table.saturating_add(3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_never_given() {
        assert_eq!(of_ordinal(0), 101);
        assert_eq!(of_ordinal(151), 252);
        assert_eq!(of_ordinal(152), 256);
        let given: std::collections::BTreeSet<u32> = (0..1000).map(of_ordinal).collect();
        assert_eq!(given.len(), 1000);
        assert!(given.is_disjoint(&(253..=255).collect()));
    }
}
