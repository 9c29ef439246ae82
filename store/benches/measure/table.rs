//! Tables in Markdown, and the numbers in them.

use std::time::Duration;

/// Prints a table under a heading.
pub(crate) fn print<const N: usize>(heading: &str, head: [&str; N], rows: &[[String; N]]) {
    let cells = || std::iter::once(head.map(str::to_owned)).chain(rows.iter().cloned());
    let widths: [usize; N] =
        std::array::from_fn(|column| cells().map(|row| row[column].chars().count()).max().unwrap_or(0));
    println!("\n### {heading}\n");
    for (number, row) in cells().enumerate() {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!(" {cell:width$} |"));
        println!("|{}", padded.collect::<String>());
        if number == 0 {
            println!("|{}", widths.map(|width| format!("{}|", "-".repeat(width + 2))).concat());
        }
    }
}

/// The middle of some numbers, or any other share of the way from the least to the most; 0 for none.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * share).round() as usize).copied().unwrap_or(0.0)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

/// Seconds as milliseconds.
pub(crate) fn ms(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

pub(crate) fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

pub(crate) fn seconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(Duration::as_secs_f64).collect()
}
