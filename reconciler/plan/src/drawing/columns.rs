//! The four columns of the page, and where in them things stand.

use std::collections::{BTreeMap, BTreeSet};

use super::svg::{Area, Svg};
use super::{MARGIN, Picture, WIDTH, framed};
use crate::explain::route_text;
use crate::object::{Link, LinkKind, Route, Rule};
use crate::ownership;
use crate::show::Table;

const ROW: f64 = 16.0;
const HEAD: f64 = 24.0;
const PAD: f64 = 10.0;
const GAP: f64 = 14.0;
const BETWEEN: f64 = 52.0;
const RULES: f64 = 344.0;
const TABLES: f64 = 424.0;
const NICS: f64 = 248.0;
const NODE: f64 = WIDTH - 2.0 * MARGIN - 3.0 * BETWEEN - RULES - TABLES - NICS - 10.0;
/// More routes of one table than these are only counted.
const MOST_ROUTES: usize = 16;
/// Of more tables than these, those that are not on the packet's way show few.
const MOST_TABLES: usize = 5;
const FEW_ROUTES: usize = 5;
/// More rules of one family than these are only counted.
const MOST_RULES: usize = 60;

/// Where a line may begin and end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spot {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) middle: f64,
}

/// What was drawn where.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// Each rule with its table.
    pub(super) rules: Vec<(Spot, u32)>,
    pub(super) chosen_rule: Option<Spot>,
    /// The heads of the tables.
    pub(super) tables: BTreeMap<u32, Spot>,
    pub(super) chosen_route: Option<Spot>,
    pub(super) nics: Vec<(String, Spot)>,
    /// Links of the node.
    node: BTreeMap<String, Spot>,
    pub(super) bottom: f64,
}

impl Columns {
    pub(super) fn draw(svg: &mut Svg, picture: &Picture<'_>, top: f64) -> Self {
        let mut columns = Self::default();
        let mut x = MARGIN;
        for (title, width) in
            [("RULES, ASKED FROM THE TOP", RULES), ("TABLES", TABLES), ("NICS OF THE POD", NICS), ("NODE", NODE)]
        {
            svg.text("column", (x, top), width, title);
            x += width + BETWEEN;
        }
        let start = top + 12.0;
        let bottoms = [
            columns.draw_rules(svg, picture, start),
            columns.draw_tables(svg, picture, start),
            columns.draw_nics(svg, picture, start),
            columns.draw_node(svg, picture, start),
        ];
        columns.bottom = bottoms.into_iter().fold(start, f64::max);
        columns
    }

    /// What a NIC hangs on: the node's end of the default CNI's link, else the uplink it was made on or shares a subnet with.
    pub(super) fn node_end(&self, picture: &Picture<'_>, nic: &str) -> Option<Spot> {
        if let Some((own, peer)) = picture.peer()
            && own == nic
        {
            return self.node.get(peer.0).copied();
        }
        let input = picture.context.input;
        let made = input.attachments.iter().find(|attachment| attachment.key.ifname.as_str() == nic);
        let master = made.and_then(|attachment| attachment.link.as_ref()).map(|intent| intent.master.as_str());
        let near = || {
            let own = picture.seen.addresses.iter().filter(|address| address.dev == nic);
            let mut found = own.flat_map(|own| {
                let is_near = move |it: &&crate::Address| {
                    ownership::is_node_uplink(&it.dev)
                        && it.address.is_ipv4() == own.address.is_ipv4()
                        && it.address.contains(own.address.ip())
                };
                input.node.addresses.iter().filter(is_near)
            });
            found.next().map(|address| address.dev.as_str())
        };
        self.node.get(master.or_else(near)?).copied()
    }

    fn draw_rules(&mut self, svg: &mut Svg, picture: &Picture<'_>, top: f64) -> f64 {
        let mut y = top;
        for v6 in [false, true].into_iter().filter(|v6| picture.draws(*v6)) {
            let mut rules: Vec<&Rule> = picture.seen.rules.iter().filter(|rule| rule.v6 == v6).collect();
            let shown = rules.len().min(MOST_RULES);
            let chosen = picture.chosen_rule();
            show(&mut rules, shown, |rule| Some(rule.to_string().as_str()) == chosen);
            let rows = shown + usize::from(rules.len() > shown);
            let area = Area { x: MARGIN, y, width: RULES, height: HEAD + rows as f64 * ROW + PAD };
            framed(svg, area, false);
            let family = if v6 { "IPv6" } else { "IPv4" };
            svg.text("head", (area.x + PAD, y + 17.0), RULES, &format!("{family} rules"));
            let mut row = y + HEAD;
            for rule in rules.iter().take(shown) {
                let spot = Spot { left: area.x, right: area.right(), middle: row + ROW / 2.0 };
                let line = rule.to_string();
                let is_chosen = chosen == Some(line.as_str());
                if is_chosen {
                    let lit = Area { x: area.x + 3.0, y: row, width: RULES - 6.0, height: ROW };
                    svg.area("lit", lit, 3.0);
                    self.chosen_rule = Some(spot);
                }
                self.rules.push((spot, rule.table));
                let class = match rule.protocol {
                    _ if is_chosen => "code chosen",
                    crate::tables::PROTOCOL => "code",
                    _ => "code quiet",
                };
                svg.text(class, (area.x + PAD, row + 12.0), RULES - 2.0 * PAD, &line);
                row += ROW;
            }
            more(svg, (area.x + PAD, row + 12.0), rules.len() - shown, "rules");
            y = area.bottom() + GAP;
        }
        y
    }

    fn draw_tables(&mut self, svg: &mut Svg, picture: &Picture<'_>, top: f64) -> f64 {
        let x = MARGIN + RULES + BETWEEN;
        let mut routes: BTreeMap<u32, Vec<&Route>> = BTreeMap::new();
        for route in picture.seen.routes.iter().filter(|route| picture.draws(route.dst.is_ipv6())) {
            routes.entry(route.table).or_default().push(route);
        }
        // Main first: it is what everybody knows.
        let order: BTreeSet<(bool, u32)> = routes.keys().map(|table| (*table != crate::tables::MAIN, *table)).collect();
        let is_crowded = order.len() > MOST_TABLES;
        let mut y = top;
        self.draw_local(svg, picture, x, &mut y);
        for (_, table) in order {
            let mut all = routes.remove(&table).unwrap_or_default();
            all.sort_by_key(|route| {
                (route.dst.is_ipv6(), std::cmp::Reverse(route.dst.prefix()), route.dst.ip(), route.metric)
            });
            // The chosen one is always among those that are shown.
            let is_lit = all.iter().any(|route| picture.is_chosen(route));
            let shown = all.len().min(if is_lit || !is_crowded { MOST_ROUTES } else { FEW_ROUTES });
            show(&mut all, shown, |route| picture.is_chosen(route));
            let chosen = all.iter().take(shown).position(|route| picture.is_chosen(route));
            let rows = shown + usize::from(all.len() > shown);
            let area = Area { x, y, width: TABLES, height: HEAD + rows as f64 * ROW + PAD };
            let head = framed(svg, area, chosen.is_some());
            self.tables.insert(table, head);
            let title = format!("table {}{}", Table(table), owner(picture, table));
            svg.text("head", (x + PAD, y + 17.0), TABLES, &title);
            let mut row = y + HEAD;
            for (place, route) in all.iter().take(shown).enumerate() {
                let is_chosen = chosen == Some(place);
                if is_chosen {
                    svg.area("lit", Area { x: x + 3.0, y: row, width: TABLES - 6.0, height: ROW }, 3.0);
                    self.chosen_route = Some(Spot { left: x, right: area.right(), middle: row + ROW / 2.0 });
                }
                let class = match route.protocol {
                    _ if is_chosen => "code chosen",
                    crate::tables::PROTOCOL => "code",
                    _ => "code quiet",
                };
                svg.text(class, (x + PAD, row + 12.0), TABLES - 2.0 * PAD, &route_text(route));
                row += ROW;
            }
            more(svg, (x + PAD, row + 12.0), all.len() - shown, "routes");
            y = area.bottom() + GAP;
        }
        svg.text("quiet", (x, y + 6.0), TABLES, "black: dragline's, grey: made by others");
        y + 12.0
    }

    /// Table local only where it decides.
    fn draw_local(&mut self, svg: &mut Svg, picture: &Picture<'_>, x: f64, y: &mut f64) {
        let taken = picture.explanation.and_then(|explanation| explanation.request.route.as_ref());
        let Some(taken) = taken.filter(|taken| taken.table == 255) else { return };
        let area = Area { x, y: *y, width: TABLES, height: HEAD + ROW + PAD };
        let head = framed(svg, area, true);
        self.tables.insert(255, head);
        svg.text("head", (x + PAD, *y + 17.0), TABLES, "table local: the pod's own addresses");
        svg.area("lit", Area { x: x + 3.0, y: *y + HEAD, width: TABLES - 6.0, height: ROW }, 3.0);
        svg.text("code chosen", (x + PAD, *y + HEAD + 12.0), TABLES - 2.0 * PAD, &taken.route);
        self.chosen_route = Some(Spot { left: x, right: area.right(), middle: *y + HEAD + ROW / 2.0 });
        *y = area.bottom() + GAP;
    }

    fn draw_nics(&mut self, svg: &mut Svg, picture: &Picture<'_>, top: f64) -> f64 {
        let x = MARGIN + RULES + TABLES + 2.0 * BETWEEN;
        let mut y = top;
        for link in picture.seen.links.iter().filter(|link| link.name != "lo") {
            let own = picture.seen.addresses.iter().filter(|address| address.dev == link.name);
            let addresses: Vec<String> = own.map(|address| address.address.to_string()).collect();
            let mut lines = vec![describe(link), format!("{}, mtu {}", if link.up { "up" } else { "down" }, link.mtu)];
            if link.mtu == 0 {
                // Nobody looked at it.
                lines.truncate(1);
            }
            let told = lines.len();
            lines.extend(addresses);
            let height = HEAD + lines.len() as f64 * ROW + PAD;
            let area = Area { x, y, width: NICS, height };
            let is_way = picture.leaves_by() == Some(&link.name)
                || picture.explanation.is_some_and(|it| it.flow.iif.as_deref() == Some(&link.name));
            let spot = framed(svg, area, is_way);
            let title = format!("{}{}", link.name, if link.up { "" } else { " is down" });
            let class = match (link.up, is_way) {
                (false, _) => "head bad",
                (true, true) => "head chosen",
                (true, false) => "head",
            };
            svg.text(class, (x + PAD, y + 17.0), NICS - 2.0 * PAD, &title);
            for (place, line) in lines.iter().enumerate() {
                let class = if place < told { "code quiet" } else { "code" };
                svg.text(class, (x + PAD, y + HEAD + place as f64 * ROW + 12.0), NICS - 2.0 * PAD, line);
            }
            self.nics.push((link.name.clone(), spot));
            y = area.bottom() + GAP;
        }
        y
    }

    fn draw_node(&mut self, svg: &mut Svg, picture: &Picture<'_>, top: f64) -> f64 {
        let x = MARGIN + RULES + TABLES + NICS + 3.0 * BETWEEN;
        let mut boxes: Vec<(String, Vec<String>)> = Vec::new();
        if let Some((nic, peer)) = picture.peer() {
            boxes.push((peer.0.to_owned(), vec![format!("other end of {nic}"), peer.1.to_string()]));
        }
        let masters = picture.context.input.attachments.iter().filter_map(|attachment| attachment.link.as_ref());
        for master in masters.map(|intent| intent.master.to_string()) {
            if !boxes.iter().any(|(name, _)| *name == master) {
                boxes.push((master, vec!["uplink".into()]));
            }
        }
        for address in &picture.context.input.node.addresses {
            let text = address.address.to_string();
            match boxes.iter_mut().find(|(name, _)| *name == address.dev) {
                Some((_, lines)) => lines.push(text),
                None => {
                    let what = if ownership::is_node_uplink(&address.dev) { "uplink" } else { "of the default CNI" };
                    boxes.push((address.dev.clone(), vec![what.into(), text]));
                }
            }
        }
        let mut y = top + 10.0;
        let height: f64 = boxes.iter().map(|(_, lines)| HEAD + lines.len() as f64 * ROW + PAD + GAP).sum();
        if !boxes.is_empty() {
            svg.area("group", Area { x: x - 10.0, y: top, width: NODE + 20.0, height: height + 6.0 }, 8.0);
        }
        for (name, lines) in boxes {
            let area = Area { x, y, width: NODE, height: HEAD + lines.len() as f64 * ROW + PAD };
            let spot = framed(svg, area, false);
            svg.text("head", (x + PAD, y + 17.0), NODE - 2.0 * PAD, &name);
            for (place, line) in lines.iter().enumerate() {
                let class = if place == 0 { "quiet" } else { "code" };
                svg.text(class, (x + PAD, y + HEAD + place as f64 * ROW + 12.0), NODE - 2.0 * PAD, line);
            }
            self.node.insert(name, spot);
            y = area.bottom() + GAP;
        }
        y
    }
}

/// Brings the chosen one among the first `shown`, which keep their order.
fn show<T>(all: &mut [T], shown: usize, is_chosen: impl Fn(&T) -> bool) {
    if let (Some(place), Some(last)) = (all.iter().position(is_chosen), shown.checked_sub(1))
        && place > last
    {
        all.swap(place, last);
    }
}

fn more(svg: &mut Svg, at: (f64, f64), left: usize, what: &str) {
    if left > 0 {
        svg.text("quiet", at, 200.0, &format!("… and {left} more {what}"));
    }
}

/// Whose table it is.
fn owner(picture: &Picture<'_>, table: u32) -> String {
    let input = picture.context.input;
    let of = input.attachments.iter().find(|it| crate::tables::of_ordinal(it.ordinal) == table);
    match (table, of, &input.sandbox.baseline) {
        (crate::tables::DEFAULT_NIC, _, None) if input.sandbox.auxiliary.is_some() => {
            format!(": replies by {}", crate::AUXILIARY_LINK)
        }
        (crate::tables::DEFAULT_NIC, _, Some(baseline)) => format!(": {}", baseline.nic),
        (_, Some(attachment), _) => format!(": {}", attachment.key.ifname),
        _ => String::new(),
    }
}

fn describe(link: &Link) -> String {
    let kind = match &link.kind {
        LinkKind::Macvlan(mode) => format!("macvlan {}", format!("{mode:?}").to_lowercase()),
        LinkKind::Ipvlan(mode) => format!("ipvlan {}", format!("{mode:?}").to_lowercase()),
        LinkKind::Vlan(id) => format!("vlan {id}"),
        LinkKind::Bond(_) => "bond".to_owned(),
        LinkKind::Veth => "veth".to_owned(),
        LinkKind::Other(name) if name.is_empty() => "link".to_owned(),
        LinkKind::Other(name) => name.clone(),
    };
    match link.mac {
        Some(mac) => format!("{kind} {mac}"),
        None => kind,
    }
}
