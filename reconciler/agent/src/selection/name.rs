//! Names and patterns of pools, taken apart to pools that are there.

use std::collections::BTreeSet;

use glob::{MatchOptions, Pattern};
use schemas::crd::ip_version::IpVersion;
use schemas::name::IfName;

use super::rule::Rule;
use super::{SelectionError, fit};
use crate::catalogue::{Catalogue, Pool};

/// As the shell matches, but names of pools have no parts.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: false, require_literal_leading_dot: false };

/// A name or a pattern, and why nothing can be had of it.
pub(super) type Reason = (String, String);

/// What names and patterns stand for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    /// Pools that are there, each once, in the order of the list.
    pub(super) pools: Vec<String>,
    /// Names of pools that are not there, or are not valid: with one of them nothing is given.
    pub(super) lacking: Vec<Reason>,
    /// Patterns that no pool of the family matches.
    pub(super) unmatched: Vec<String>,
    /// Pools that a pattern matches and that are not valid; of which family they are is not known.
    pub(super) invalid: Vec<Reason>,
}

/// Takes a list apart. A name stands for the pool of that name, of whatever family; a pattern for the pools of the
/// family that match it and that the list has not given before, the more specific first.
///
/// # Errors
/// A pool that is named twice, or a pattern that is none.
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
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for name in names {
        if !is_pattern(name) {
            if !catalogue.pools.contains_key(name) {
                found.lacking.push((name.clone(), lacking(catalogue, name, rule)));
            } else if seen.insert(name.clone()) {
                found.pools.push(name.clone());
            }
            continue;
        }
        let wrong = |problem| SelectionError::Pattern { pattern: name.clone(), rule, problem };
        let pattern = read(name).map_err(wrong)?;
        let matched = matched(catalogue, &pattern, |pool| pool.ranges.version == version);
        if matched.is_empty() {
            found.unmatched.push(name.clone());
        }
        found.pools.extend(matched.into_iter().filter(|pool| seen.insert(pool.clone())));
        let invalid = catalogue.invalid.iter().filter(|(pool, _)| pattern.matches_with(pool, OPTIONS));
        let invalid = invalid.filter(|(pool, _)| seen.insert((*pool).clone()));
        found.invalid.extend(invalid.map(|(pool, fault)| (pool.clone(), format!("invalid IPPool {pool}: {fault}"))));
    }
    Ok(found)
}

/// Why there is no pool of that name.
fn lacking(catalogue: &Catalogue, name: &str, rule: Rule) -> String {
    match catalogue.invalid.get(name) {
        Some(fault) => format!("it is there and not valid: {fault}; correct it"),
        None => format!("not found; create it or correct its name in {rule}"),
    }
}

/// The pools that a name or a pattern stands for, of either family; none for a pattern that cannot be read.
pub fn matching(catalogue: &Catalogue, name: &str) -> Vec<String> {
    if is_pattern(name) {
        return read(name).map(|pattern| matched(catalogue, &pattern, |_| true)).unwrap_or_default();
    }
    catalogue.pools.get_key_value(name).map(|(name, _)| name.clone()).into_iter().collect()
}

/// A pattern as the shell has it.
fn read(pattern: &str) -> Result<Pattern, String> {
    // `**` stands for folders there, and Go has `^` where the shell has `!`.
    let mut text = pattern.replace("[^", "[!");
    while text.contains("**") {
        text = text.replace("**", "*");
    }
    Pattern::new(&text).map_err(|error| error.to_string())
}

fn matched(catalogue: &Catalogue, pattern: &Pattern, is_wanted: impl Fn(&Pool) -> bool) -> Vec<String> {
    let is_matched = |(name, pool): &(&String, &Pool)| is_wanted(pool) && pattern.matches_with(name, OPTIONS);
    fit::in_order(catalogue.pools.iter().filter(is_matched))
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}
