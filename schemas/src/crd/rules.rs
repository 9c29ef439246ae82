//! What the API server checks of one object beyond types, choices and bounds, in place of the original's webhooks.
//!
//! Each rule is CEL, placed in the schema as `x-kubernetes-validations`. The API server of Kubernetes 1.33 takes
//! them; older ones cannot bound the costs of comparing networks. A rule
//! about one value stands at that value, so that an object that was stored before the rule came can still be changed
//! elsewhere. Every list and text that a rule reads is bounded in its schema: the API server refuses a definition whose rules
//! could become expensive.
//!
//! Labels, annotations, other objects and the text of JSON are out of CEL's sight: what they decide is the controller's.

mod address;
mod cel;
mod coordinator;
mod network;

use kube::core::{Message, Reason, Rule};
use serde_json::Value;

pub(super) use address::{pool, reserved, subnet};
pub(super) use coordinator::coordinator;
pub(super) use network::network;

/// A rule and its place in the schema.
pub(super) struct Placed {
    /// The path below the object, `.spec.ips[]` for each entry of a list; empty for the object.
    at: String,
    rule: Rule,
}

/// At that place, this CEL is true; else the text is said. `self` is the value of the place.
fn text(at: impl Into<String>, holds: impl Into<String>, message: impl Into<String>) -> Placed {
    Placed { at: at.into(), rule: Rule::new(holds).message(Message::Message(message.into())) }
}

/// As [`text`], the text being the value of another piece of CEL.
fn said(at: impl Into<String>, holds: impl Into<String>, message: impl Into<String>) -> Placed {
    Placed { at: at.into(), rule: Rule::new(holds).message(Message::Expression(message.into())) }
}

impl Placed {
    /// The field below the place that the text is about, `.gateway`.
    fn about(mut self, field: &str) -> Self {
        self.rule = self.rule.field_path(field);
        self
    }

    fn forbidden(mut self) -> Self {
        self.rule = self.rule.reason(Reason::FieldValueForbidden);
        self
    }

    fn required(mut self) -> Self {
        self.rule = self.rule.reason(Reason::FieldValueRequired);
        self
    }

    /// The same rule in a schema that is part of another one.
    fn below(mut self, place: &str) -> Self {
        self.at.insert_str(0, place);
        self
    }
}

/// A value that an object keeps once it has one.
fn kept(at: &str, key: &str) -> Placed {
    let holds = format!("!has(oldSelf.{key}) || (has(self.{key}) && self.{key} == oldSelf.{key})");
    text(at, holds, format!("{key} is not changeable")).about(&format!(".{key}")).forbidden()
}

/// Nothing can be done with an object of this kind without `spec`.
fn has_spec() -> Placed {
    text("", "has(self.spec)", "there is no spec").about(".spec").required()
}

/// Puts the rules into the tree of a schema, in their order.
///
/// # Panics
/// The schema has no such place.
pub(super) fn place(schema: &mut Value, rules: Vec<Placed>) {
    bound_selectors(schema);
    for Placed { at, rule } in rules {
        let rule = serde_json::to_value(rule).expect("a rule has text keys only");
        let node = find(schema, &at).unwrap_or_else(|| panic!("there is no {at} for the rule {rule}"));
        let validations = &mut node["x-kubernetes-validations"];
        match validations.as_array_mut() {
            Some(list) => list.push(rule),
            None => *validations = Value::Array(vec![rule]),
        }
    }
}

/// Label selectors are Kubernetes' own type, which has no bounds.
fn bound_selectors(schema: &mut Value) {
    for selector in ["podAffinity", "namespaceAffinity", "nodeAffinity"] {
        if let Some(expressions) = find(schema, &format!(".spec.{selector}.matchExpressions")) {
            expressions["maxItems"] = 64.into();
            expressions["items"]["properties"]["operator"]["maxLength"] = 64.into();
        }
    }
}

fn find<'a>(schema: &'a mut Value, at: &str) -> Option<&'a mut Value> {
    let mut node = schema;
    for step in at.split('.').skip(1) {
        let name = step.trim_end_matches("[]");
        node = node.get_mut("properties")?.get_mut(name)?;
        if name.len() < step.len() {
            node = node.get_mut("items")?;
        }
    }
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::super::all;
    use super::*;

    /// Every rule of every kind, one a line: its place, the field that it is about, and what it says.
    fn listed(at: &str, schema: &Value, lines: &mut Vec<String>) {
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let part = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
            let text = match part("messageExpression") {
                "" => part("message"),
                // The text before its values.
                expression => expression.split("\".format(").next().unwrap_or_default().trim_start_matches('"'),
            };
            assert!(!text.is_empty() && !text.contains('\n'), "{at}: {rule}");
            let about = part("fieldPath");
            let about = if about.is_empty() { String::new() } else { format!(" ({about})") };
            lines.push(format!("{at}{about}: {text}"));
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            listed(&format!("{at}.{name}"), property, lines);
        }
        if let Some(items) = schema.get("items") {
            listed(&format!("{at}[]"), items, lines);
        }
    }

    /// The file is written by hand: a rule is not lost, and no text changed, by the way.
    #[test]
    fn every_rule_is_there() {
        let mut lines = Vec::new();
        for definition in all() {
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            listed(&definition.spec.names.kind, &schema["openAPIV3Schema"], &mut lines);
        }
        lines.sort();
        let mut expected: Vec<String> = include_str!("rules/rules.txt").lines().map(str::to_owned).collect();
        expected.sort();
        let without = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|line| !those.contains(line)).cloned().collect()
        };
        let (lost, new) = (without(&expected, &lines), without(&lines, &expected));
        assert!(lines == expected, "lost:\n{}\nnew:\n{}", lost.join("\n"), new.join("\n"));
    }

    /// The API server bounds the costs of a rule by the sizes of what it reads.
    #[test]
    fn what_rules_read_is_bounded() {
        fn unbounded(at: &str, schema: &Value, lines: &mut Vec<String>) {
            let has_rules = schema.get("x-kubernetes-validations").is_some();
            if has_rules && schema["type"] == "string" && schema.get("maxLength").is_none() {
                lines.push(at.to_owned());
            }
            for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                unbounded(&format!("{at}.{name}"), property, lines);
            }
            if let Some(items) = schema.get("items") {
                let mut below = Vec::new();
                unbounded(&format!("{at}[]"), items, &mut below);
                if items.to_string().contains("x-kubernetes-validations") && schema.get("maxItems").is_none() {
                    lines.push(at.to_owned());
                }
                lines.append(&mut below);
            }
        }
        let mut lines = Vec::new();
        for definition in all() {
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            unbounded(&definition.spec.names.kind, &schema["openAPIV3Schema"], &mut lines);
        }
        assert!(lines.is_empty(), "{lines:?}");
    }

    #[test]
    #[should_panic(expected = "there is no .spec.nowhere for the rule")]
    fn a_rule_needs_its_place() {
        place(&mut serde_json::json!({"properties": {"spec": {}}}), vec![text(".spec.nowhere", "true", "never")]);
    }
}
