//! One YAML or JSON document of a manifest: what it is, and where it is wrong.

use schemas::crd::coordinator::SpiderCoordinator;
use schemas::crd::ippool::SpiderIPPool;
use schemas::crd::multus_config::SpiderMultusConfig;
use schemas::crd::reserved_ip::SpiderReservedIP;
use schemas::crd::subnet::SpiderSubnet;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::catalogue::{CONF_NAME, Conf, Metadata, Object};

/// A document of a file.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// The line of the file at which it begins, from 1.
    pub first_line: usize,
    /// Its text.
    pub text: &'a str,
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line of the file, from 1.
    pub line: usize,
    /// The field and what is wrong with it.
    pub text: String,
    /// `Kind namespace/name`, where the document says so much.
    pub object: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Default, Deserialize)]
struct HeadMetadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: ConfigMapData,
}

#[derive(Default, Deserialize)]
struct ConfigMapData {
    #[serde(default, rename = "conf.yml")]
    conf: Option<String>,
}

/// The documents of a file: YAML separates them by lines that begin with `---`.
pub fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let mut position = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let is_separator =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\n', '\r']));
        if is_separator {
            documents.push(Document { first_line, text: &text[start..position] });
            start = position + line.len();
            first_line = index + 2;
        }
        position += line.len();
    }
    documents.push(Document { first_line, text: &text[start..] });
    documents
}

impl Document<'_> {
    /// The object, by `Kind namespace/name`; None for an empty document and for kinds that are not dragline's affair.
    ///
    /// # Errors
    /// Where and what is wrong.
    pub fn parse(&self) -> Result<Option<(String, Object)>, Fault> {
        let is_empty = self.text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        if is_empty {
            return Ok(None);
        }
        let head: Head = self.read(None)?;
        let key = format!("{} {}/{}", head.kind, head.metadata.namespace, head.metadata.name);
        if head.kind.ends_with("List") {
            let text = format!("kind {}: write its items as documents of their own, separated by '---'", head.kind);
            return Err(Fault { line: self.line_of("kind"), text, object: None });
        }
        if head.kind.is_empty() || head.metadata.name.is_empty() {
            let missing = if head.kind.is_empty() { "kind" } else { "metadata.name" };
            return Err(Fault { line: self.first_line, text: format!("{missing} is missing"), object: None });
        }
        let is_ours = head.api_version == "spiderpool.spidernet.io/v2beta1";
        let object = match head.kind.as_str() {
            "SpiderIPPool" if is_ours => {
                let pool: SpiderIPPool = self.read(Some(&key))?;
                self.check(&key, pool.spec.ranges().map_err(|error| error.to_string()))?;
                Object::IpPool(pool)
            }
            "SpiderCoordinator" if is_ours => {
                let coordinator: SpiderCoordinator = self.read(Some(&key))?;
                self.check(&key, coordinator.settings().map_err(|error| error.to_string()))?;
                Object::Coordinator(coordinator)
            }
            "SpiderReservedIP" if is_ours => {
                let reserved: SpiderReservedIP = self.read(Some(&key))?;
                self.check(&key, reserved.spec.ranges().map_err(|error| error.to_string()))?;
                Object::ReservedIp(reserved)
            }
            "SpiderMultusConfig" if is_ours => Object::MultusConfig(self.read::<SpiderMultusConfig>(Some(&key))?),
            "SpiderSubnet" if is_ours => Object::Subnet(self.read::<SpiderSubnet>(Some(&key))?),
            "Pod" if head.api_version == "v1" => Object::Pod(Box::new(self.read::<Metadata>(Some(&key))?)),
            "Namespace" if head.api_version == "v1" => Object::Namespace(Box::new(self.read::<Metadata>(Some(&key))?)),
            "Node" if head.api_version == "v1" => Object::Node(Box::new(self.read::<Metadata>(Some(&key))?)),
            "ConfigMap" if head.api_version == "v1" && head.metadata.name == CONF_NAME => {
                let map: ConfigMap = self.read(Some(&key))?;
                let conf = Conf::parse(&map.data.conf.unwrap_or_default());
                let text = |text: String| Fault { line: self.line_of("data"), text, object: Some(key.clone()) };
                Object::Conf(Box::new(conf.map_err(text)?))
            }
            kind if kind.starts_with("Spider") => {
                let text = format!(
                    "apiVersion/kind: {:?} {kind:?} is not known; dragline reads spiderpool.spidernet.io/v2beta1",
                    head.api_version
                );
                // A kind that is misspelt may mean any object of the file: none of them is taken away for it.
                let (field, object) = if is_ours { ("kind", None) } else { ("apiVersion", Some(key)) };
                return Err(Fault { line: self.line_of(field), text, object });
            }
            // Deployments, ConfigMaps and the like stand in the same files: they are others' affair.
            _ => return Ok(None),
        };
        Ok(Some((key, object)))
    }

    fn read<T: DeserializeOwned>(&self, key: Option<&str>) -> Result<T, Fault> {
        let mut path = String::new();
        let read = serde_saphyr::with_deserializer_from_str(self.text, |yaml| {
            serde_path_to_error::deserialize(yaml).map_err(|error| {
                path = error.path().to_string();
                error.into_inner()
            })
        });
        read.map_err(|error| {
            let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1)).max(1);
            Fault {
                line: self.first_line + line - 1,
                // "." is the document itself.
                text: [path.trim_matches('.'), one_line(&error.to_string()).as_str()]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .collect::<Vec<_>>()
                    .join(": "),
                object: key.map(ToOwned::to_owned),
            }
        })
    }

    /// A rule that the text's form does not show; the error begins with the field's path.
    fn check<T>(&self, key: &str, result: Result<T, String>) -> Result<(), Fault> {
        result.map(drop).map_err(|text| {
            let path = text.split([':', ' ']).next().unwrap_or_default();
            Fault { line: self.line_of(path), text: text.clone(), object: Some(key.to_owned()) }
        })
    }

    /// The line of a field's path such as `spec.ips[1]`, as far as the text's layout shows it.
    fn line_of(&self, path: &str) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut at = 0;
        let mut found = 0;
        for segment in path.split('.') {
            let (name, index) = segment
                .split_once('[')
                .map_or((segment, None), |(name, rest)| (name, rest.trim_end_matches(']').parse::<usize>().ok()));
            let Some(offset) = lines[at..].iter().position(|line| is_key(line, name)) else { break };
            found = at + offset;
            at = found + 1;
            if let Some(index) = index {
                let items = lines[at..].iter().enumerate().filter(|(_, line)| line.trim_start().starts_with('-'));
                if let Some((offset, _)) = items.into_iter().nth(index) {
                    found = at + offset;
                    at = found;
                }
            }
        }
        self.first_line + found
    }
}

fn is_key(line: &str, name: &str) -> bool {
    let line = line.trim_start().trim_start_matches("- ");
    let line = line.trim_start_matches('"');
    line.strip_prefix(name).is_some_and(|rest| rest.trim_start_matches('"').trim_start().starts_with(':'))
}

/// What is wrong, of an error that says first where, in lines of the document, and then draws a picture of the text.
fn one_line(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default().trim();
    let place = first.strip_prefix("error: line ").and_then(|rest| rest.split_once(": "));
    place.map_or(first, |(_, what)| what).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOL: &str = "apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderIPPool\nmetadata:\n  name: a\nspec:\n  subnet: 10.6.0.0/16\n  ips:\n  - 10.6.212.200-10.6.212.240\n  - 10.6.212.1\n";

    fn fault(text: &str) -> Fault {
        let faults: Vec<Fault> = split(text).iter().filter_map(|document| document.parse().err()).collect();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.into_iter().next().unwrap()
    }

    #[test]
    fn several_documents_keep_their_lines() {
        let text = format!("# first\n---\n{POOL}---\n{}", POOL.replace("name: a", "name: b"));
        let documents = split(&text);
        assert_eq!(documents.iter().map(|document| document.first_line).collect::<Vec<_>>(), [1, 3, 13]);
        assert!(documents[0].parse().unwrap().is_none());
        assert_eq!(documents[1].parse().unwrap().unwrap().0, "SpiderIPPool /a");
        assert_eq!(documents[2].parse().unwrap().unwrap().0, "SpiderIPPool /b");
    }

    #[test]
    fn a_fault_names_line_and_field() {
        let wrong = fault(&format!("---\n{}", POOL.replace("- 10.6.212.1\n", "- 10.7.212.1\n")));
        assert_eq!(wrong.line, 10, "{wrong:?}");
        assert!(wrong.text.starts_with("spec.ips[1]"), "{wrong:?}");
        assert_eq!(wrong.object.as_deref(), Some("SpiderIPPool /a"));
        let wrong = fault(&POOL.replace("subnet: 10.6.0.0/16", "subnet: [1]"));
        assert_eq!(wrong.line, 6, "{wrong:?}");
        assert!(wrong.text.starts_with("spec.subnet: ") && !wrong.text.contains("line"), "{wrong:?}");
        let wrong = fault(&POOL.replace("v2beta1", "v1"));
        assert!(wrong.text.contains("v2beta1"), "{wrong:?}");
        assert_eq!(fault("kind: SpiderIPPool\n").text, "metadata.name is missing");
        assert!(fault("a: [").line >= 1);
    }

    #[test]
    fn json_is_read_too() {
        let text = r#"{"apiVersion":"spiderpool.spidernet.io/v2beta1","kind":"SpiderIPPool","metadata":{"name":"j"},"spec":{"subnet":"10.6.0.0/16","ips":["10.6.0.5"]}}"#;
        assert_eq!(split(text)[0].parse().unwrap().unwrap().0, "SpiderIPPool /j");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", lines in proptest::collection::vec("[-a-z:\\[\\]{}\" ]{0,12}", 0..12)) {
            for text in [text, lines.join("\n"), format!("{POOL}{}", lines.join("\n"))] {
                for document in split(&text) { let _ = document.parse(); }
            }
        }
    }
}
