//! The table.

use serde_json::{Value, json};

use super::sample::Samples;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Microseconds,
    PerSecond,
    Events,
    Bytes,
}

/// What a number is to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim {
    /// At most so many times the peer's median.
    Ratio(f64),
    /// The median is below so many microseconds, or a size below so many bytes.
    Below(f64),
    /// Over so many a second.
    Over(f64),
}

/// A line of the table; times in microseconds, rates in events a second, sizes in bytes.
#[derive(Debug, Clone)]
pub(super) struct Row {
    what: String,
    unit: Unit,
    p50: f64,
    p99: Option<f64>,
    peer: Option<(String, f64)>,
    aim: Option<Aim>,
}

impl Row {
    pub(super) fn time(what: &str, samples: &Samples) -> Self {
        Self { p99: Some(samples.p99()), ..Self::single(what, Unit::Microseconds, samples.p50()) }
    }

    pub(super) fn rate(what: &str, per_second: f64) -> Self {
        Self::single(what, Unit::PerSecond, per_second)
    }

    /// A time that is a mean already.
    pub(super) fn mean(what: &str, microseconds: f64) -> Self {
        Self::single(what, Unit::Microseconds, microseconds)
    }

    /// How often something happens.
    pub(super) fn count(what: &str, events: f64) -> Self {
        Self::single(what, Unit::Events, events)
    }

    pub(super) fn size(what: &str, bytes: u64) -> Self {
        Self::single(what, Unit::Bytes, bytes as f64)
    }

    fn single(what: &str, unit: Unit, value: f64) -> Self {
        Self { what: what.to_owned(), unit, p50: value, p99: None, peer: None, aim: None }
    }

    /// The largest instead of the 99th percentile, where there are few samples.
    pub(super) fn up_to_max(self, samples: &Samples) -> Self {
        Self { p99: Some(samples.max()), ..self }
    }

    pub(super) fn against(self, peer: &str, value: f64) -> Self {
        Self { peer: Some((peer.to_owned(), value)), ..self }
    }

    pub(super) fn aim(self, aim: Aim) -> Self {
        Self { aim: Some(aim), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, peer)| self.p50 / peer)
    }

    fn is_met(&self) -> Option<bool> {
        self.aim.map(|aim| match aim {
            Aim::Ratio(most) => self.ratio().is_some_and(|ratio| ratio <= most),
            Aim::Below(most) => self.p50 < most,
            Aim::Over(least) => self.p50 > least,
        })
    }

    fn aim_text(&self) -> String {
        let text = match self.aim {
            None => return String::new(),
            Some(Aim::Ratio(most)) => format!("≤ {most} ×"),
            Some(Aim::Below(most)) => format!("< {}", self.shown(most)),
            Some(Aim::Over(least)) => format!("> {}", self.shown(least)),
        };
        format!("{text} {}", if self.is_met() == Some(true) { "met" } else { "**missed**" })
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Events => format!("{value:.2}"),
            Unit::Bytes => format!("{:.1} MB", value / 1e6),
            Unit::Microseconds if value >= 100.0 => format!("{:.2} ms", value / 1000.0),
            Unit::Microseconds => format!("{value:.1} µs"),
        }
    }

    fn line(&self) -> String {
        let p99 = self.p99.map(|p99| self.shown(p99)).unwrap_or_default();
        let peer = self.peer.as_ref().map(|(name, value)| format!("{name} {}", self.shown(*value))).unwrap_or_default();
        let ratio = self.ratio().map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default();
        format!("| {} | {} | {p99} | {peer} | {ratio} | {} |", self.what, self.shown(self.p50), self.aim_text())
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": match self.unit {
                Unit::PerSecond => "1/s",
                Unit::Events => "1",
                Unit::Bytes => "bytes",
                Unit::Microseconds => "us",
            },
            "p50": self.p50,
            "p99": self.p99,
            "peer": self.peer.as_ref().map(|(name, value)| json!({"name": name, "p50": value})),
            "ratio": self.ratio(),
            "aim": self.aim.map(|_| json!({"text": self.aim_text(), "met": self.is_met()})),
        })
    }
}

/// As Markdown.
pub(super) fn markdown(rows: &[Row], conditions: &str) -> String {
    let head = "| what | p50 | p99 | against | ratio | aim |\n|---|---|---|---|---|---|";
    let lines: Vec<String> = rows.iter().map(Row::line).collect();
    format!("{head}\n{}\n\n{conditions}", lines.join("\n"))
}

/// As JSON: `{"conditions":"…","rows":[{"what","unit","p50","p99","peer","ratio","aim"}]}`.
pub(super) fn json(rows: &[Row], conditions: &str) -> Value {
    json!({"conditions": conditions, "rows": rows.iter().map(Row::json).collect::<Vec<_>>()})
}
