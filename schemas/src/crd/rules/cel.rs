//! Pieces of CEL about addresses. CEL knows addresses and networks, and has no order of addresses: it is made of their parts.

/// The numbers of 32 members, for what is to be done that often and no oftener.
pub(super) const FEW: &str = "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31]";

/// A of the entry A or A-B; `entry` is CEL.
pub(super) fn first(entry: &str) -> String {
    format!("{entry}.substring(0, ({entry} + '-').indexOf('-'))")
}

/// B of A-B, A of A.
pub(super) fn last(entry: &str) -> String {
    format!("{entry}.substring({entry}.indexOf('-') + 1)")
}

/// Both ends are addresses, of whatever family.
pub(super) fn is_range(entry: &str) -> String {
    format!("isIP({}) && isIP({})", first(entry), last(entry))
}

/// IPv4 addresses as a list of numbers. Each is a text that is known to be one.
pub(super) fn ipv4_numbers(addresses: &[&str]) -> String {
    let octets: Vec<String> = addresses.iter().map(|address| format!("{address}.split('.', 4)")).collect();
    let number = "int(o[0]) * 16777216 + int(o[1]) * 65536 + int(o[2]) * 256 + int(o[3])";
    format!("[{}].map(o, {number})", octets.join(", "))
}

/// One IPv6 address is not above another. Each is a text that is known to be one, without a dotted part.
///
/// Both are written as eight groups, `::` filled with zeros; the first of the 32 hexadecimal digits that differs decides.
pub(super) fn ipv6_at_most(low: &str, high: &str) -> String {
    let groups = |address: &str| {
        let zeros = format!("'0:0:0:0:0:0:0:'.substring(0, 2 * (9 - {address}.split(':').size()))");
        format!("{address}.lowerAscii().replace('::', ':' + {zeros}).split(':', 8)")
    };
    let digit = |address: usize| {
        let group = format!("g[{address}][i / 4]");
        let digit = format!("'0123456789abcdef'.indexOf({group}.charAt({group}.size() - 4 + i % 4))");
        format!("({group}.size() < 4 - i % 4 ? 0 : {digit})")
    };
    let digits: Vec<String> = (0..32).map(|digit| digit.to_string()).collect();
    let differences = format!("[{}].map(i, {} - {}).filter(d, d != 0)", digits.join(", "), digit(1), digit(0));
    format!("[[{}, {}]].all(g, [{differences}].all(d, d.size() == 0 || d[0] > 0))", groups(low), groups(high))
}

/// The first member of a list for which something does not hold, and there is one. `var` names the member in `holds`.
pub(super) fn first_offender(list: &str, var: &str, holds: &str) -> String {
    format!("{list}.filter({var}, !({holds}))[0]")
}

/// A text with values in the places of `%s` (texts) and `%d` (numbers). The API server cannot bound the size of most texts that
/// are computed, and takes joining them for endlessly expensive, but not this.
pub(super) fn filled(text: &str, values: &[&str]) -> String {
    format!("\"{text}\".format([{}])", values.join(", "))
}

/// The family of the text of an address, network or range, as the original names it.
pub(super) fn family(text: &str) -> String {
    format!("({text}.contains(':') ? 'IPv6' : 'IPv4')")
}
