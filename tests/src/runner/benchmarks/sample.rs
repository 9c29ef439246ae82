//! Samples of one thing, and what is said of them.

use std::time::Duration;

/// Times in microseconds, in the order they were taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e6);
    }

    /// Takes over the others.
    pub(super) fn extend(&mut self, others: &Self) {
        self.0.extend(&others.0);
    }

    /// The value that so large a part of the samples does not exceed; 0 when there are none.
    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (part * (sorted.len().saturating_sub(1)) as f64).round() as usize;
        sorted.get(at).copied().unwrap_or_default()
    }

    /// The median.
    pub(super) fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    /// All but one in a hundred are at most this.
    pub(super) fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    pub(super) fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}
