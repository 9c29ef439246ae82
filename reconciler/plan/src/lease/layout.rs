//! Where an address lies: which shard, which slot, which bit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// How many slots a shard has, whatever its size.
pub const SLOTS: usize = 64;
const SIZE_MIN: u32 = 64;
const SIZE_MAX: u32 = 4096;

/// A size that no shard has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shards of {0} addresses: status.shardSize of a pool is a multiple of 64, from 64 to 4096")]
pub struct LayoutError(u32);

/// The size of the shards of a pool with so many usable addresses: the power of two that is nearest to a 64th of them,
/// 64 to 4096. 41 → 64, 65,534 → 1024, a million → 4096 at most.
pub fn size_for(total: u128) -> u32 {
    let floor = total.max(1).ilog2();
    // √2 is the middle between two powers: squared, it needs no fractions. Past 2^62 the size has long been the largest.
    let is_upper = floor < 62 && total * total >= 1 << (2 * floor + 1);
    let exponent = (floor + u32::from(is_upper)).clamp(12, 18) - 6;
    1 << exponent
}

/// The name of a shard: `pool.number`.
pub fn name(pool: &str, number: u128) -> String {
    format!("{pool}.{number}")
}

/// The pool and the number of a shard of that name; none when it is no shard's.
pub fn number_of(name: &str) -> Option<(&str, u128)> {
    let (pool, digits) = name.rsplit_once('.')?;
    let number: u128 = digits.parse().ok()?;
    (!pool.is_empty() && number.to_string() == digits).then_some((pool, number))
}

/// How a subnet is cut into shards of one size, and these into 64 slots of consecutive addresses. It hangs on the subnet
/// alone, which a pool cannot change: editing a pool's ranges moves no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    is_v4: bool,
    /// The subnet's first and last address.
    first: u128,
    last: u128,
    /// Addresses of a shard.
    size: u32,
}

impl Layout {
    /// The shards of `size` addresses of a subnet.
    ///
    /// # Errors
    /// The size is none that a shard has.
    pub fn new(subnet: IpNetwork, size: u32) -> Result<Self, LayoutError> {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) || !size.is_multiple_of(SIZE_MIN) {
            return Err(LayoutError(size));
        }
        let (first, last) = (bits(subnet.network()), bits(subnet.broadcast()));
        Ok(Self { is_v4: subnet.is_ipv4(), first, last, size })
    }

    /// How many addresses a shard has.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many addresses a slot has, 1 to 64.
    pub fn width(&self) -> u32 {
        self.size / SIZE_MIN
    }

    /// The shard of an address; none when it is not of the subnet.
    pub fn number(&self, address: IpAddr) -> Option<u128> {
        self.offset(address).map(|offset| offset / u128::from(self.size))
    }

    /// The number of the subnet's last shard.
    pub fn last_number(&self) -> u128 {
        (self.last - self.first) / u128::from(self.size)
    }

    /// The first and last address of a shard. It goes past a small subnet's end, but not past that of the family. None
    /// when the subnet has no such shard.
    pub fn window(&self, number: u128) -> Option<(IpAddr, IpAddr)> {
        if number > self.last_number() {
            return None;
        }
        let first = self.first + number * u128::from(self.size);
        let end = if self.is_v4 { u128::from(u32::MAX) } else { u128::MAX };
        let last = first.saturating_add(u128::from(self.size) - 1).min(end);
        Some((self.address(first), self.address(last)))
    }

    /// The shard, the slot and the bit of an address; none when it is not of the subnet.
    pub fn place(&self, address: IpAddr) -> Option<(u128, usize, u32)> {
        let offset = self.offset(address)?;
        let (size, width) = (u128::from(self.size), u128::from(self.width()));
        let inside = offset % size;
        // Below 64 both.
        Some((offset / size, (inside / width) as usize, (inside % width) as u32))
    }

    /// The addresses of a slot's bits, ascending. Bits past the subnet's end name none.
    pub fn addresses(&self, number: u128, slot: usize, mask: u64) -> Vec<IpAddr> {
        let Some(first) = self.slot_start(number, slot) else { return Vec::new() };
        (0..self.width())
            .filter(|bit| mask & (1 << bit) != 0)
            .filter_map(|bit| first.checked_add(u128::from(bit)))
            .filter(|address| *address <= self.last)
            .map(|address| self.address(address))
            .collect()
    }

    /// Where a slot begins; none when it lies past the subnet's end.
    pub(super) fn slot_start(&self, number: u128, slot: usize) -> Option<u128> {
        if number > self.last_number() || slot >= SLOTS {
            return None;
        }
        let inside = slot as u128 * u128::from(self.width());
        (self.first + number * u128::from(self.size)).checked_add(inside).filter(|first| *first <= self.last)
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        self.inside(address).map(|address| address - self.first)
    }

    /// The address as a number, when it is of the subnet.
    pub(super) fn inside(&self, address: IpAddr) -> Option<u128> {
        let number = bits(address);
        (address.is_ipv4() == self.is_v4 && (self.first..=self.last).contains(&number)).then_some(number)
    }

    /// The part of a range that lies in the subnet, as numbers.
    pub(super) fn clip(&self, first: IpAddr, last: IpAddr) -> Option<(u128, u128)> {
        if first.is_ipv4() != self.is_v4 || last.is_ipv4() != self.is_v4 {
            return None;
        }
        let (first, last) = (bits(first).max(self.first), bits(last).min(self.last));
        (first <= last).then_some((first, last))
    }

    /// The shard of an address of the subnet.
    pub(super) fn number_of_bits(&self, address: u128) -> u128 {
        (address - self.first) / u128::from(self.size)
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.is_v4 {
            // Numbers of this family fit: all come from addresses of the subnet, or are cut to the family's end.
            IpAddr::V4(Ipv4Addr::from_bits((number & u128::from(u32::MAX)) as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(number))
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn layout(subnet: &str, size: u32) -> Layout {
        Layout::new(subnet.parse().unwrap(), size).unwrap()
    }

    #[test]
    fn sizes() {
        for (total, size) in [
            (0, 64),
            (1, 64),
            (41, 64),
            (4096, 64),
            (5792, 64),
            (5793, 128),
            (65_534, 1024),
            (46_340, 512),
            (46_341, 1024),
            (1_000_000, 4096),
            (1 << 18, 4096),
            (1 << 64, 4096),
            (u128::MAX, 4096),
        ] {
            assert_eq!(size_for(total), size, "{total}");
        }
        let subnet = "10.0.0.0/8".parse().unwrap();
        for size in [0, 1, 63, 65, 4097, 8192, u32::MAX] {
            assert_eq!(Layout::new(subnet, size), Err(LayoutError(size)));
        }
    }

    #[test]
    fn names() {
        assert_eq!(name("pool.a", 7), "pool.a.7");
        assert_eq!(number_of("pool.a.7"), Some(("pool.a", 7)));
        for wrong in
            ["", "7", ".7", "a.", "a.07", "a.+7", "a.-1", "a.x", "a.999999999999999999999999999999999999999999"]
        {
            assert_eq!(number_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn windows_at_the_ends() {
        let small = layout("10.6.212.128/28", 64);
        assert_eq!(small.window(0), Some((ip("10.6.212.128"), ip("10.6.212.191"))));
        assert_eq!(small.window(1), None);
        assert_eq!(small.place(ip("10.6.212.143")), Some((0, 15, 0)));
        assert_eq!(small.place(ip("10.6.212.144")), None, "not of the subnet");
        assert!(small.addresses(0, 16, 1).is_empty(), "past the subnet");
        let top = layout("255.255.255.240/28", 64);
        assert_eq!(top.window(0), Some((ip("255.255.255.240"), ip("255.255.255.255"))));
        let all = layout("0.0.0.0/0", 4096);
        assert_eq!(all.place(ip("255.255.255.255")), Some((1 << 20) - 1).map(|number| (number, 63, 63)));
        let all6 = layout("::/0", 64);
        assert_eq!(all6.number(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), Some((1 << 122) - 1));
        assert_eq!(all6.window((1 << 122) - 1).unwrap().1, ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert_eq!(all6.window(u128::MAX), None);
        assert_eq!(all6.number(ip("10.0.0.1")), None);
        let top6 = layout("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124", 4096);
        assert_eq!(top6.window(0).unwrap().1, ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert!(top6.addresses(0, 63, u64::MAX).is_empty());
        assert_eq!(top6.addresses(0, 0, u64::MAX).len(), 16);
        assert_eq!(layout("10.0.0.1/32", 4096).addresses(0, 0, u64::MAX), [ip("10.0.0.1")]);
    }

    #[test]
    fn a_subnet_is_known_by_its_network_address() {
        assert_eq!(layout("10.6.212.77/16", 1024), layout("10.6.0.0/16", 1024));
    }

    proptest! {
        #[test]
        fn every_address_has_one_place(base: u128, prefix in 0u8..=128, offset: u128, size in 1u32..=64, is_v4: bool) {
            let network = if is_v4 {
                IpNetwork::new(IpAddr::V4(Ipv4Addr::from_bits(base as u32)), prefix.min(32)).unwrap()
            } else {
                IpNetwork::new(IpAddr::V6(Ipv6Addr::from_bits(base)), prefix).unwrap()
            };
            let layout = Layout::new(network, size * 64).unwrap();
            let address = layout.address(layout.first + (layout.last - layout.first).min(offset & (u128::MAX >> prefix.min(127))));
            let (number, slot, bit) = layout.place(address).unwrap();
            prop_assert!(slot < SLOTS && bit < layout.width());
            prop_assert_eq!(layout.number(address), Some(number));
            prop_assert_eq!(layout.addresses(number, slot, 1 << bit), [address]);
            let (first, last) = layout.window(number).unwrap();
            prop_assert!(first <= address && address <= last);
        }

        #[test]
        fn the_size_is_the_nearest_power(total in 4096u128..=262_144) {
            let size = f64::from(size_for(total));
            prop_assert!(((total as f64 / 64.0).log2().round() - size.log2()).abs() < 1e-9);
        }
    }
}
