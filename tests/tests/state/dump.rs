//! A dump as text, and as a person would edit it.

use serde_json::Value;

/// A whole dump: a header, records, and a trailer, a line each.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Dump(String);

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Dump {
    pub(crate) fn new(text: String) -> Self {
        assert!(text.ends_with('\n') && text.lines().count() >= 2, "no dump: {text:?}");
        Self(text)
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    fn lines(&self) -> Vec<&str> {
        self.0.lines().collect()
    }

    pub(crate) fn header(&self) -> Value {
        serde_json::from_str(self.lines()[0]).unwrap()
    }

    /// The lines of records, in their order.
    pub(crate) fn records(&self) -> Vec<&str> {
        let lines = self.lines();
        lines[1..lines.len() - 1].to_vec()
    }

    /// Those of one tree.
    pub(crate) fn of_tree(&self, tree: &str) -> Vec<&str> {
        let start = format!(r#"{{"tree":"{tree}","#);
        self.records().into_iter().filter(|line| line.starts_with(&start)).collect()
    }

    /// All that must be the same in two dumps of the same content: what is not is when they were made, and the checksum
    /// that covers this.
    pub(crate) fn content(&self) -> (Value, Vec<&str>) {
        let mut header = self.header();
        header["time"] = Value::Null;
        (header, self.records())
    }

    /// The same with other records; header and trailer do not fit them any more.
    pub(crate) fn with_records<S: AsRef<str>>(&self, records: impl IntoIterator<Item = S>) -> Self {
        let lines = self.lines();
        let mut text = format!("{}\n", lines[0]);
        for record in records {
            text.push_str(record.as_ref());
            text.push('\n');
        }
        text.push_str(lines[lines.len() - 1]);
        text.push('\n');
        Self(text)
    }

    /// The same without any line that names a container.
    pub(crate) fn without(&self, container: &str) -> Self {
        let quoted = format!("\"{container}\"");
        let kept: Vec<&str> = self.records().into_iter().filter(|line| !line.contains(&quoted)).collect();
        assert!(kept.len() < self.records().len(), "nothing of {container} is in {self:?}");
        self.with_records(kept)
    }
}
