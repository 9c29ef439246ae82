//! What was last seen of the cluster, kept in the store: with it the node works while the API server is away.
//!
//! An object is a text of the catalogue under `object/KEY`, its JSON; a long one goes on under `object/KEY#1` and so on.

use std::collections::BTreeMap;

use schemas::crd::ippool::SpiderIPPoolStatus;
use serde_json::json;
use store::{Change, ReadError, Store};

use crate::catalogue::{CONF_NAME, Metadata, Object};
use crate::document::Document;

const PREFIX: &str = "object/";
/// The longest text of one record, below the store's limit.
const PART: usize = 30 << 10;

/// What is in the store, as texts.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    texts: BTreeMap<String, String>,
}

/// What was found in the store.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The objects, by the keys that manifests have.
    pub(super) objects: BTreeMap<String, Object>,
    /// What cannot be read, a line each.
    pub(super) faults: Vec<String>,
}

impl Remembered {
    /// Reads it; what cannot be read is told and left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn load(store: &Store) -> Result<(Self, Found), ReadError> {
        let store::Texts { texts: records, unreadable } = store.catalogue(PREFIX)?;
        let texts = joined(records);
        let (objects, mut faults) = parsed(&texts);
        faults.extend(unreadable.iter().map(|key| format!("remembered {key}: its record cannot be read")));
        Ok((Self { texts }, Found { objects, faults }))
    }

    /// The change that makes the store remember these objects and no others; None when it does.
    pub(super) fn update<'a>(&mut self, objects: impl Iterator<Item = (&'a String, &'a Object)>) -> Option<Change> {
        let wanted: BTreeMap<String, String> = objects.map(|(key, object)| (key.clone(), text(object))).collect();
        let mut change = Change::new();
        for (key, text) in &self.texts {
            let now = wanted.get(key);
            if now != Some(text) {
                // All parts go, those of the new text are put afterwards.
                change = keys(key, text).into_iter().fold(change, |change, (key, _)| change.delete_catalogue(&key));
            }
        }
        for (key, text) in &wanted {
            if self.texts.get(key) != Some(text) {
                change =
                    keys(key, text).into_iter().fold(change, |change, (key, part)| change.put_catalogue(&key, part));
            }
        }
        self.texts = wanted;
        (!change.is_empty()).then_some(change)
    }

    /// The store did not take the change: everything is written again next time.
    pub(super) fn forget(&mut self) {
        self.texts.values_mut().for_each(String::clear);
    }
}

/// The objects among the texts of a catalogue, as they are read; what cannot be read is left out.
pub(crate) fn remembered_objects(records: BTreeMap<String, String>) -> Vec<Object> {
    let ours = records.into_iter().filter(|(key, _)| key.starts_with(PREFIX));
    parsed(&joined(ours)).0.into_values().collect()
}

/// Texts by key, their parts in one.
fn joined(records: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut parts: BTreeMap<(String, usize), String> = BTreeMap::new();
    for (key, text) in records {
        let key = &key[PREFIX.len()..];
        match key.split_once('#') {
            None => {
                texts.insert(key.to_owned(), text);
            }
            Some((key, number)) => {
                parts.insert((key.to_owned(), number.parse().unwrap_or(usize::MAX)), text);
            }
        }
    }
    for ((key, _), part) in parts {
        if let Some(text) = texts.get_mut(&key) {
            text.push_str(&part);
        }
    }
    texts
}

/// Objects by key, and what cannot be read.
fn parsed(texts: &BTreeMap<String, String>) -> (BTreeMap<String, Object>, Vec<String>) {
    let mut objects = BTreeMap::new();
    let mut faults = Vec::new();
    for (key, text) in texts {
        match (Document { first_line: 1, text }).parse() {
            Ok(Some((_, object))) => {
                objects.insert(key.clone(), object);
            }
            Ok(None) => faults.push(format!("remembered {key}: it is of no known kind")),
            Err(fault) => faults.push(format!("remembered {key}: {}", fault.text)),
        }
    }
    (objects, faults)
}

/// The records of a text.
fn keys<'a>(key: &str, text: &'a str) -> Vec<(String, &'a str)> {
    let mut records = Vec::new();
    let mut rest = text;
    loop {
        let end = (0..=PART.min(rest.len())).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (part, left) = rest.split_at(end);
        let name =
            if records.is_empty() { format!("{PREFIX}{key}") } else { format!("{PREFIX}{key}#{}", records.len()) };
        records.push((name, part));
        rest = left;
        if rest.is_empty() {
            return records;
        }
    }
}

/// An object as the text that [`Document`] reads, without what changes all the time.
fn text(object: &Object) -> String {
    let metadata =
        |kind: &str, object: &Metadata| json!({"apiVersion": "v1", "kind": kind, "metadata": object.metadata});
    let value = match object {
        Object::IpPool(pool) => {
            let mut pool = pool.clone();
            pool.metadata.resource_version = None;
            // The rest is of the moment.
            let size = pool.status.and_then(|status| status.shard_size);
            pool.status =
                size.map(|size| SpiderIPPoolStatus { shard_size: Some(size), ..SpiderIPPoolStatus::default() });
            json!(pool)
        }
        Object::Coordinator(coordinator) => json!(coordinator),
        Object::MultusConfig(network) => json!(network),
        Object::ReservedIp(reserved) => json!(reserved),
        Object::Subnet(subnet) => json!(subnet),
        Object::Pod(pod) => metadata("Pod", pod),
        Object::Namespace(namespace) => metadata("Namespace", namespace),
        Object::Node(node) => metadata("Node", node),
        // JSON is YAML too.
        Object::Conf(conf) => json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONF_NAME},
            "data": {"conf.yml": json!(conf).to_string()}}),
    };
    readable(value.to_string())
}

/// JSON as YAML reads it: characters that JSON leaves as they are and YAML refuses or folds are written as escapes. An
/// annotation may have them.
fn readable(json: String) -> String {
    let is_refused =
        |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    if !json.contains(is_refused) {
        return json;
    }
    let escaped = |c: char| if is_refused(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_annotation_is_remembered(
            annotation in any::<String>(),
            odd in "[\u{7f}-\u{a0}\u{2028}\u{feff}\u{ffff}\"\\\\]{0,6}",
        ) {
            let annotations = json!({"metadata": {"name": "a", "annotations": {"x": annotation, "y": odd}}});
            let pod: Metadata = serde_json::from_value(annotations).unwrap();
            let pod = Object::Pod(Box::new(pod));
            let read = (Document { first_line: 1, text: &text(&pod) }).parse();
            prop_assert_eq!(read.map(|read| read.map(|(_, object)| object)), Ok(Some(pod)));
        }
    }

    fn object(text: &str) -> (String, Object) {
        (Document { first_line: 1, text }).parse().unwrap().unwrap()
    }

    #[test]
    fn what_was_seen_is_read_again_and_written_only_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), "node", "boot").unwrap();
        let ips: Vec<String> = (0..4000).map(|n| format!("10.6.{}.{}", n / 200, n % 200)).collect();
        let pool = format!(
            "{{apiVersion: spiderpool.spidernet.io/v2beta1, kind: SpiderIPPool, metadata: {{name: long, uid: u}}, \
             spec: {{subnet: 10.6.0.0/16, ips: [{}]}}, status: {{shardSize: 64, fairShare: 7}}}}",
            ips.join(", ")
        );
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: default, uid: p, annotations: {x: ä}}}";
        let mut all: BTreeMap<String, Object> = [object(&pool), object(pod)].into();
        let (mut remembered, Found { objects: known, faults }) = Remembered::load(&store).unwrap();
        assert!(known.is_empty() && faults.is_empty());
        store.commit(remembered.update(all.iter()).unwrap()).unwrap();
        assert!(remembered.update(all.iter()).is_none());
        // What the pool's status says of the moment is not worth a write.
        if let Some(Object::IpPool(pool)) = all.get_mut("SpiderIPPool /long") {
            pool.status.as_mut().unwrap().fair_share = Some(9);
        }
        assert!(remembered.update(all.iter()).is_none());
        let (mut remembered, Found { objects: known, faults }) = Remembered::load(&store).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(known.keys().collect::<Vec<_>>(), ["Pod default/a", "SpiderIPPool /long"]);
        let Object::IpPool(read) = &known["SpiderIPPool /long"] else { panic!() };
        assert_eq!((read.spec.ips.len(), read.status.as_ref().unwrap().shard_size), (4000, Some(64)));
        all.remove("SpiderIPPool /long");
        store.commit(remembered.update(all.iter()).unwrap()).unwrap();
        assert_eq!(store.catalogue("").unwrap().texts.len(), 1);
    }
}
