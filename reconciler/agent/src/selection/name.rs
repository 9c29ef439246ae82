//! Names and patterns of pools, taken apart to pools that are there.

use glob::{MatchOptions, Pattern};
use schemas::crd::ip_version::IpVersion;
use schemas::name::IfName;

use super::rule::Rule;
use super::{SelectionError, fit};
use crate::catalogue::{Catalogue, Pool};

/// As the shell matches, but names of pools have no parts.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: false, require_literal_leading_dot: false };

/// What names and patterns stand for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    /// Pools that are there, each once, in the order of the list.
    pub(super) pools: Vec<String>,
    /// Patterns that no pool of the family matches.
    pub(super) unmatched: Vec<String>,
}

/// Takes a list apart. A name stands for the pool of that name, of whatever family; a pattern for the pools of the
/// family that match it and that the list has not given before, the more specific first.
///
/// # Errors
/// A pool that is not there or is named twice, or a pattern that is none.
pub(super) fn expanded(
    catalogue: &Catalogue,
    version: IpVersion,
    names: &[String],
    ifname: &IfName,
    rule: Rule,
) -> Result<Expanded, SelectionError> {
    let literal: Vec<&String> = names.iter().filter(|name| !is_pattern(name)).collect();
    if let Some(name) = super::twice(literal) {
        return Err(SelectionError::Twice(name.to_string(), ifname.clone(), rule));
    }
    let mut found = Expanded::default();
    for name in names {
        if !is_pattern(name) {
            if !catalogue.pools.contains_key(name) {
                return Err(SelectionError::Unknown(name.clone(), rule));
            }
            if !found.pools.contains(name) {
                found.pools.push(name.clone());
            }
            continue;
        }
        let wrong = |problem| SelectionError::Pattern { pattern: name.clone(), rule, problem };
        let of_family = |pool: &Pool| pool.ranges.version == version;
        let matched = matched(catalogue, name, of_family).map_err(wrong)?;
        if matched.is_empty() {
            found.unmatched.push(name.clone());
        }
        for pool in matched {
            if !found.pools.contains(&pool) {
                found.pools.push(pool);
            }
        }
    }
    Ok(found)
}

/// The pools that a name or a pattern stands for, of either family; none for a pattern that cannot be read.
pub fn matching(catalogue: &Catalogue, name: &str) -> Vec<String> {
    if is_pattern(name) {
        return matched(catalogue, name, |_| true).unwrap_or_default();
    }
    catalogue.pools.get_key_value(name).map(|(name, _)| name.clone()).into_iter().collect()
}

fn matched(catalogue: &Catalogue, pattern: &str, is_wanted: impl Fn(&Pool) -> bool) -> Result<Vec<String>, String> {
    // `**` stands for folders there, and Go has `^` where the shell has `!`.
    let mut text = pattern.replace("[^", "[!");
    while text.contains("**") {
        text = text.replace("**", "*");
    }
    let pattern = Pattern::new(&text).map_err(|error| error.to_string())?;
    let is_matched = |(name, pool): &(&String, &Pool)| is_wanted(pool) && pattern.matches_with(name, OPTIONS);
    Ok(fit::in_order(catalogue.pools.iter().filter(is_matched)))
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}
