//! Tables as kubectl prints them.

use serde_json::Value;

/// A column: its header and where its value stands in an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    header: &'static str,
    pointer: &'static str,
}

impl Column {
    /// A column of the value at a JSON pointer.
    pub(super) fn path(header: &'static str, pointer: &'static str) -> Self {
        Self { header, pointer }
    }
}

/// The table, three blanks between the columns, without blanks at line ends.
pub(super) fn text(columns: &[Column], objects: &[Value]) -> String {
    let header = columns.iter().map(|column| column.header.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header)
        .chain(objects.iter().map(|object| columns.iter().map(|column| cell(object.pointer(column.pointer))).collect()))
        .collect();
    let width = |index: usize| rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.iter().map(|one| cell(Some(one))).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_align_and_missing_values_are_blank() {
        let columns = [Column::path("NAME", "/name"), Column::path("IPS", "/ips"), Column::path("NODE", "/node")];
        let objects =
            [json!({"name": "a-long-name", "node": "n1"}), json!({"name": "b", "ips": [1, "x"], "node": "n2"})];
        assert_eq!(
            text(&columns, &objects),
            "NAME          IPS   NODE\na-long-name         n1\nb             1,x   n2"
        );
    }
}
