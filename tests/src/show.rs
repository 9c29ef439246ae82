//! What `ip` shows of a namespace: by the program itself where there is one, since it has nothing in common with
//! dragline, else in the same form from an observation.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use netlink::testbed::{Netns, TestbedError};
use plan::object::Observed;
use plan::tables::MAIN;

/// Where distributions put `ip`; an ordinary user's PATH often lacks the latter ones.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] TestbedError),
    /// `ip` failed.
    #[error("ip {arguments} in {netns}: {what}")]
    Ip {
        /// What it was to do.
        arguments: String,
        /// Where.
        netns: String,
        /// What it said.
        what: String,
    },
}

/// `ip address`.
pub fn addresses(netns: &Netns) -> Result<String, ShowError> {
    show(netns, &["address"], |observed| observed.links.iter().map(|link| link_text(observed, &link.name)).collect())
}

/// `ip rule`.
pub fn rules(netns: &Netns) -> Result<String, ShowError> {
    show(netns, &["rule"], |observed| {
        let mut rules: Vec<_> = observed.rules.iter().filter(|rule| !rule.v6).collect();
        rules.sort_by_key(|rule| rule.priority);
        rules.iter().map(|rule| format!("{rule}\n")).collect()
    })
}

/// `ip route show table TABLE`.
pub fn routes(netns: &Netns, table: u32) -> Result<String, ShowError> {
    let table_text = if table == MAIN { "main".to_owned() } else { table.to_string() };
    show(netns, &["route", "show", "table", &table_text], |observed| {
        let routes = observed.routes.iter().filter(|route| route.table == table && route.dst.is_ipv4());
        let mut routes: Vec<_> = routes.collect();
        // The kernel's order: by destination, the wider first.
        routes.sort_by_key(|route| (route.dst.ip(), route.dst.prefix(), route.metric));
        routes.iter().map(|route| format!("{route}\n")).collect()
    })
}

/// The same for comparing: without ` proto NAME`, blanks at the ends of lines, and with one blank for several.
///
/// dragline marks what it makes with protocol 111, which `ip` prints and the seed's busybox `ip` does not; the seed also
/// has two blanks where busybox leaves a field out, and newer `ip` has a tab after a rule's priority.
pub fn comparable(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let mut words = line.split_whitespace().peekable();
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            if word == "proto" && words.peek().is_some() {
                words.next();
            } else {
                kept.push(word);
            }
        }
        kept.join(" ")
    });
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

fn show(netns: &Netns, arguments: &[&str], render: impl FnOnce(&Observed) -> String) -> Result<String, ShowError> {
    let Some(program) = ip_program() else { return Ok(render(&netns.scene()?.observe()?)) };
    let failed = |what: String| ShowError::Ip { arguments: arguments.join(" "), netns: netns.path().to_owned(), what };
    let output = netns.run(|| Command::new(program).args(arguments).output())?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // A table that was never used: `ip` takes the kernel's word for it as an error, and means none.
    let is_unused_table = text(&output.stderr).contains("FIB table does not exist");
    if output.status.success() || is_unused_table {
        Ok(text(&output.stdout))
    } else {
        Err(failed(text(&output.stderr)))
    }
}

/// Where `ip` is, if it is installed.
pub fn ip_program() -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| PathBuf::from(folder).join("ip")).find(|program| program.exists())
}

fn link_text(observed: &Observed, name: &str) -> String {
    let Some(link) = observed.link(name) else { return String::new() };
    let state = if link.up { "UP" } else { "DOWN" };
    let mut text = format!("{}: {name}: <{state}> mtu {} qlen {}\n", link.index, link.mtu, link.tx_queue_len);
    if let Some(mac) = link.mac {
        text.push_str(&format!("    link/ether {mac}\n"));
    }
    for address in observed.addresses.iter().filter(|address| address.dev == name) {
        let family = if address.address.is_ipv4() { "inet" } else { "inet6" };
        text.push_str(&format!("    {family} {} scope {} {name}\n", address.address, address.scope));
    }
    text
}

/// Permanent IPv4 neighbours as `ADDRESS dev LINK lladdr MAC PERMANENT`, sorted by address.
pub fn permanent_neighbours(netns: &Netns) -> Result<String, ShowError> {
    let observed = netns.scene()?.observe()?;
    let mut permanent: Vec<_> =
        observed.neighbours.iter().filter(|neighbour| neighbour.permanent && neighbour.address.is_ipv4()).collect();
    permanent.sort_by_key(|neighbour| neighbour.address);
    let line = |address: IpAddr, dev: &str, mac: String| format!("{address} dev {dev} lladdr {mac} PERMANENT\n");
    Ok(permanent
        .iter()
        .map(|found| line(found.address, &found.dev, found.mac.map(|mac| mac.to_string()).unwrap_or_default()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_blanks_do_not_count() {
        let newer = "32760:\tfrom 10.233.120.101 lookup 100 proto 111\n";
        assert_eq!(comparable(newer), comparable("32760: from 10.233.120.101 lookup 100"));
        let seed = "10.6.0.0/16 dev net1 scope link  src 10.6.212.202";
        assert_eq!(comparable("10.6.0.0/16 dev net1 proto kernel scope link src 10.6.212.202 \n\n"), comparable(seed));
        assert_ne!(comparable("default via 10.6.0.1 dev net1"), comparable("default via 10.6.0.1 dev eth0"));
    }
}
