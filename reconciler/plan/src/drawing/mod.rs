//! A pod on one page: rules, tables, NICs and node from left to right, and through them the way of a packet.

mod columns;
mod svg;

use schemas::name::Mac;

use crate::explain::{Basis, Context, Explanation, Fate, RuleVerdict, Verdict};
use crate::object::{Observed, Route};
use columns::{Columns, Spot};
use svg::{Area, Svg};

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// The pod's name.
    pub pod: &'a str,
    /// Its namespace.
    pub seen: &'a Observed,
    /// Where that comes from.
    pub basis: Basis,
    /// What the plan was made of.
    pub context: Context<'a>,
    /// The packet whose way is shown; its family alone is drawn then.
    pub explanation: Option<&'a Explanation>,
}

const MARGIN: f64 = 24.0;
const WIDTH: f64 = 1440.0;
/// The longest line of the sentences at the top, in characters.
const LINE: usize = 190;

impl Picture<'_> {
    /// The family that is drawn; None is both.
    fn family(&self) -> Option<bool> {
        self.explanation.map(|explanation| explanation.flow.to.is_ipv6())
    }

    fn draws(&self, v6: bool) -> bool {
        self.family().is_none_or(|family| family == v6)
    }

    /// The rule that decided, by its line.
    fn chosen_rule(&self) -> Option<&str> {
        let steps = &self.explanation?.request.rules;
        steps.iter().find(|step| step.verdict == RuleVerdict::Decides).map(|step| step.rule.as_str())
    }

    fn is_chosen(&self, route: &Route) -> bool {
        self.explanation
            .and_then(|explanation| explanation.request.route.as_ref())
            .is_some_and(|taken| taken.table == route.table && taken.route == crate::explain::route_text(route))
    }

    /// The NIC by which the packet leaves.
    fn leaves_by(&self) -> Option<&str> {
        let explanation = self.explanation?;
        let leaves = explanation.request.fate == Fate::Leaves
            && explanation.arrival.as_ref().is_none_or(|arrival| arrival.verdict == Verdict::Forwarded);
        leaves.then(|| explanation.request.route.as_ref()?.dev.as_deref()).flatten()
    }

    /// The link by which the pod reaches its node, and the other end's name and hardware address.
    fn peer(&self) -> Option<(&str, (&str, Mac))> {
        let sandbox = self.context.input.sandbox;
        if let Some(pair) = &sandbox.auxiliary {
            return Some((crate::AUXILIARY_LINK, (pair.host_name.as_str(), pair.host_mac)));
        }
        let baseline = sandbox.baseline.as_ref()?;
        let peer = baseline.peer.as_ref()?;
        Some((baseline.nic.as_str(), (peer.name.as_str(), peer.mac)))
    }
}

/// Draws it as SVG.
pub fn draw(picture: &Picture<'_>) -> String {
    let mut svg = Svg::default();
    let top = sentences(&mut svg, picture);
    let columns = Columns::draw(&mut svg, picture, top);
    wires(&mut svg, picture, &columns);
    path(&mut svg, picture, &columns);
    svg.finish(&format!("Pod {}", picture.pod), WIDTH, columns.bottom + MARGIN)
}

/// The headline and what decided; gives where the rest begins.
fn sentences(svg: &mut Svg, picture: &Picture<'_>) -> f64 {
    let inner = WIDTH - 2.0 * MARGIN;
    let mut y = MARGIN + 16.0;
    svg.text("title", (MARGIN, y), inner, &format!("Pod {}", picture.pod));
    y += 10.0;
    let mut line = |class: &str, indent: f64, text: &str| {
        for part in wrap(text, LINE) {
            y += 17.0;
            svg.text(class, (MARGIN + indent, y), inner - indent, &part);
        }
    };
    if picture.basis == Basis::Wanted {
        line("quiet", 0.0, "What is wanted, by the records; what the kernel really holds is not in them.");
    }
    if let Some(explanation) = picture.explanation {
        let is_bad = explanation.request.fate == Fate::Refused && explanation.arrival.is_none();
        line(if is_bad { "head bad" } else { "head chosen" }, 0.0, &explanation.headline);
        let decided = explanation.request.rules.iter().find(|step| step.verdict == RuleVerdict::Decides);
        if let Some(reason) = decided.and_then(|step| step.reason.as_ref()) {
            line("quiet", 0.0, &format!("Rule: {reason}"));
        }
        if let Some(reason) = explanation.request.route.as_ref().and_then(|route| route.reason.as_ref()) {
            line("quiet", 0.0, &format!("Route: {reason}"));
        }
        if let Some(source) = &explanation.source {
            let chosen = source.address.map_or_else(|| "none".to_owned(), |address| address.to_string());
            line("quiet", 0.0, &format!("Source: {chosen}, {}", source.why));
        }
        if let Some(hop) = explanation.request.route.as_ref().and_then(|route| route.next_hop.as_ref()) {
            line("quiet", 0.0, &format!("Next hop: {}", hop.neighbour));
        }
        if let Some(back) = &explanation.return_path {
            let class = if back.is_same { "quiet" } else { "bad" };
            line(class, 0.0, &format!("Way back: {}; {}", back.text, back.arrival.rp_filter.text));
        }
    }
    y + 26.0
}

/// Words in lines.
fn wrap(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// From each NIC to what it hangs on.
fn wires(svg: &mut Svg, picture: &Picture<'_>, columns: &Columns) {
    for (nic, spot) in &columns.nics {
        let Some(end) = columns.node_end(picture, nic) else { continue };
        let arrives = picture.explanation.is_some_and(|it| it.flow.iif.as_deref() == Some(nic));
        let is_way = arrives || picture.leaves_by() == Some(nic);
        svg.curve(if is_way { "path" } else { "wire" }, (spot.right, spot.middle), (end.left, end.middle));
        if is_way {
            svg.dot((end.left, end.middle));
        }
    }
    if picture.explanation.is_none() {
        for (spot, table) in &columns.rules {
            if let Some(head) = columns.tables.get(table) {
                svg.curve("wire", (spot.right, spot.middle), (head.left, head.middle));
            }
        }
    }
}

/// Rule, route and NIC of the packet.
fn path(svg: &mut Svg, picture: &Picture<'_>, columns: &Columns) {
    let Some(rule) = columns.chosen_rule else { return };
    let Some(route) = columns.chosen_route else { return };
    let is_refused = picture.explanation.is_some_and(|explanation| explanation.request.fate == Fate::Refused);
    let class = if is_refused { "refused" } else { "path" };
    svg.curve(class, (rule.right, rule.middle), (route.left, route.middle));
    let nic = picture.leaves_by().and_then(|nic| columns.nics.iter().find(|(name, _)| name == nic));
    let nic = nic.or_else(|| {
        // What stays in the pod ends at the NIC that has the address.
        let explanation = picture.explanation.filter(|it| it.request.fate == Fate::Stays)?;
        let to = explanation.flow.to;
        let holder = picture.seen.addresses.iter().find(|address| address.address.ip() == to)?;
        columns.nics.iter().find(|(name, _)| *name == holder.dev)
    });
    if let Some((_, spot)) = nic {
        svg.curve(class, (route.right, route.middle), (spot.left, spot.middle));
        svg.dot((spot.left, spot.middle));
    }
}

/// A box that is drawn with rows in it.
fn framed(svg: &mut Svg, area: Area, is_lit: bool) -> Spot {
    svg.area(if is_lit { "litbox" } else { "box" }, area, 6.0);
    Spot { left: area.x, right: area.right(), middle: area.y + (area.height / 2.0).min(14.0) }
}
