//! An explanation as people read it.

use std::fmt::Write;

use super::{Arrival, Basis, Explanation, Fate, ReturnPath, RuleStep, RuleVerdict, Verdict, Way};
use crate::object::{Route, RouteKind};
use crate::show::Table;

/// A route as `ip route` writes it, those of table local included.
pub(crate) fn route(route: &Route) -> String {
    let kind = match route.kind {
        RouteKind::Other(2) => "local",
        RouteKind::Other(3) => "broadcast",
        _ => return route.to_string().trim_end().to_owned(),
    };
    let mut text = format!("{kind} {}", route.dst.ip());
    let bits = if route.dst.is_ipv4() { 32 } else { 128 };
    if route.dst.prefix() != bits {
        let _ = write!(text, "/{}", route.dst.prefix());
    }
    if let Some(dev) = &route.dev {
        let _ = write!(text, " dev {dev}");
    }
    text
}

/// How far the reason stands in.
const INDENT: &str = "                 ";

impl Explanation {
    /// The whole of it, with a headline first.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.headline);
        // Writing to a String cannot fail.
        if self.basis == Basis::Wanted {
            text.push_str("(what is wanted, by the records: what the kernel really holds is not in them)\n");
        }
        if let Some(arrival) = &self.arrival {
            let _ = writeln!(text, "\narrival by {}", arrival.nic);
            let _ = writeln!(text, "  verdict        {:?}: {}", arrival.verdict, arrival.why);
            rp_filter(&mut text, arrival);
        }
        let _ = writeln!(text, "\nrules, in the kernel's order");
        rules(&mut text, &self.request.rules);
        let is_dropped = self.arrival.as_ref().is_some_and(|arrival| arrival.verdict == Verdict::Dropped);
        way(&mut text, if is_dropped { "\nway, were it not dropped" } else { "\nway" }, &self.request);
        if let Some(source) = &self.source {
            let chosen = source.address.map_or_else(|| "none".to_owned(), |address| address.to_string());
            let _ = writeln!(text, "  source         {chosen}: {}", source.why);
        }
        if let Some(path) = &self.return_path {
            self.return_path(&mut text, path);
        }
        for note in &self.notes {
            let _ = writeln!(text, "\nnote: {note}");
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn return_path(&self, text: &mut String, path: &ReturnPath) {
        let _ = writeln!(text, "\nway back       {}", path.text);
        // Of a packet that arrives it has been told.
        if self.arrival.is_none() {
            let _ = writeln!(text, "  arrives by     {}: {}", path.arrival.nic, path.arrival.why);
            rp_filter(text, &path.arrival);
        }
        for step in path.answer.rules.iter().filter(|step| step.verdict == RuleVerdict::Decides) {
            let _ = writeln!(text, "  answered by    {}", step.rule);
            if let Some(reason) = &step.reason {
                let _ = writeln!(text, "{INDENT}{reason}");
            }
        }
        match &path.answer.route {
            Some(taken) => {
                let _ = writeln!(text, "  along          {} (table {})", taken.route, Table(taken.table));
            }
            None => {
                let _ = writeln!(text, "  refused        {}", path.answer.why);
            }
        }
    }
}

fn rules(text: &mut String, rules: &[RuleStep]) {
    let width = rules.iter().map(|step| step.rule.chars().count()).max().unwrap_or(0);
    for step in rules {
        let mark = match step.verdict {
            RuleVerdict::Decides => '>',
            RuleVerdict::Empty => '.',
            RuleVerdict::NotMatched => ' ',
            RuleVerdict::Unknown => '?',
        };
        let _ = writeln!(text, "{mark} {:<width$}  {}", step.rule, step.why);
        if step.verdict == RuleVerdict::Decides
            && let Some(reason) = &step.reason
        {
            let _ = writeln!(text, "          because  {reason}");
        }
    }
}

fn way(text: &mut String, title: &str, way: &Way) {
    let _ = writeln!(text, "{title}");
    let Some(taken) = &way.route else {
        let _ = writeln!(text, "  refused        {}", way.why);
        return;
    };
    let _ = writeln!(text, "  route          {} (table {})", taken.route, Table(taken.table));
    let decided = way.rules.iter().find(|step| step.verdict == RuleVerdict::Decides);
    let told = decided.and_then(|step| step.reason.as_ref());
    if let Some(reason) = taken.reason.as_ref().filter(|reason| Some(*reason) != told) {
        let _ = writeln!(text, "{INDENT}{reason}");
    }
    if way.fate == Fate::Refused {
        let _ = writeln!(text, "  refused        {}", way.why);
    }
    if let Some(dev) = taken.dev.as_deref().filter(|_| way.fate == Fate::Leaves) {
        let _ = writeln!(text, "  device         {dev}");
    }
    for other in &taken.others {
        let via = other.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        let _ = writeln!(text, "  or             {}{via}", other.dev.as_deref().unwrap_or("an unknown NIC"));
    }
    if let Some(hop) = &taken.next_hop {
        let _ = writeln!(
            text,
            "  next hop       {}{}",
            hop.address,
            if taken.gateway.is_none() { ", on the link" } else { "" }
        );
        let _ = writeln!(text, "  neighbour      {}", hop.neighbour);
        if let Some(reason) = &hop.reason {
            let _ = writeln!(text, "{INDENT}{reason}");
        }
    }
}

fn rp_filter(text: &mut String, arrival: &Arrival) {
    let _ = writeln!(text, "  rp_filter      {}", arrival.rp_filter.text);
    if let Some(reason) = &arrival.rp_filter.reason {
        let _ = writeln!(text, "{INDENT}{reason}");
    }
}
