//! Label selectors as Kubernetes evaluates them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whether the labels satisfy the selector; an empty one selects everything.
///
/// # Errors
/// An operator that Kubernetes does not define.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> Result<bool, String> {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return Ok(false);
        }
    }
    for expression in selector.match_expressions.iter().flatten() {
        let value = labels.get(&expression.key);
        let listed = || value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
        let holds = match expression.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => return Err(format!("operator {other:?} is not one of In, NotIn, Exists, DoesNotExist")),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)]) -> Result<bool, String> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        selects(&serde_json::from_str(selector).unwrap(), &labels)
    }

    #[test]
    fn kubernetes_table() {
        let app = [("app", "nginx"), ("tier", "web")];
        for (selector, expected) in [
            (r#"{}"#, true),
            (r#"{"matchLabels":{"app":"nginx"}}"#, true),
            (r#"{"matchLabels":{"app":"apache"}}"#, false),
            (r#"{"matchExpressions":[{"key":"app","operator":"In","values":["a","nginx"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["nginx"]}]}"#, false),
            (r#"{"matchExpressions":[{"key":"zone","operator":"NotIn","values":["a"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"zone","operator":"Exists"}]}"#, false),
            (r#"{"matchExpressions":[{"key":"zone","operator":"DoesNotExist"}]}"#, true),
        ] {
            assert_eq!(check(selector, &app), Ok(expected), "{selector}");
        }
        assert!(check(r#"{"matchExpressions":[{"key":"a","operator":"Gt"}]}"#, &app).is_err());
    }
}
