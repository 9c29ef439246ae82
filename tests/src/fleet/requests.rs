//! What the API server has been asked, by its own count.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::{ClusterError, Kubectl};

/// How many requests it has answered since its start, of each verb, resource and subresource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<(String, String), u64>);

impl Requests {
    /// Asks it.
    pub(super) fn count(kubectl: &Kubectl) -> Result<Self, ClusterError> {
        Ok(Self::parse(&kubectl.ask(&["get", "--raw", "/metrics"], "")?))
    }

    fn parse(text: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
            let Some((labels, value)) = line.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let found = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""));
                found.and_then(|value| value.strip_suffix('"')).unwrap_or_default()
            };
            let resource = match label("subresource") {
                "" => label("resource").to_owned(),
                subresource => format!("{}/{subresource}", label("resource")),
            };
            let value = value.parse().unwrap_or(0);
            *counts.entry((label("verb").to_owned(), resource)).or_default() += value;
        }
        Self(counts)
    }

    /// What has been asked since then, of the same API server.
    pub fn since(&self, then: &Self) -> Self {
        let differ = |(key, count): (&(String, String), &u64)| {
            let new = count - then.0.get(key).copied().unwrap_or(0).min(*count);
            (new > 0).then(|| (key.clone(), new))
        };
        Self(self.0.iter().filter_map(differ).collect())
    }

    /// How often that was asked for: `PATCH`, `spideripshards/status`.
    pub fn of(&self, verb: &str, resource: &str) -> u64 {
        self.0.get(&(verb.to_owned(), resource.to_owned())).copied().unwrap_or(0)
    }

    /// How often objects of that kind were written, their status included.
    pub fn writes(&self, resource: &str) -> u64 {
        let status = format!("{resource}/status");
        let is_write = |verb: &str| matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE");
        let counted = self.0.iter().filter(|((verb, of), _)| is_write(verb) && (of == resource || *of == status));
        counted.map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, ((verb, resource), count)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{verb} {resource} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_over_codes_and_by_subresource() {
        let line = |code: u16, verb: &str, subresource: &str, count: u32| {
            format!(
                "apiserver_request_total{{code=\"{code}\",resource=\"pods\",subresource=\"{subresource}\",verb=\"{verb}\"}} {count}\n"
            )
        };
        let before = Requests::parse(&line(200, "PATCH", "status", 3));
        let text = [line(200, "PATCH", "status", 5), line(422, "PATCH", "status", 1), line(200, "GET", "", 7)];
        let after = Requests::parse(&text.concat());
        let new = after.since(&before);
        assert_eq!((new.of("PATCH", "pods/status"), new.of("GET", "pods"), new.writes("pods")), (3, 7, 3));
        assert_eq!(new.to_string(), "GET pods 7, PATCH pods/status 3");
    }
}
