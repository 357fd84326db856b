//! What the alerts service counts, readable from outside while it runs.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidegate_config::Alert;

/// The counts of all rules, in the order of the config.
#[derive(Debug, Default)]
pub struct Stats {
    /// One a rule.
    pub rules: Vec<RuleStats>,
}

/// The counts of one rule.
#[derive(Debug, Default)]
pub struct RuleStats {
    /// The rule's name.
    pub alert: String,
    /// Alerts raised.
    pub raised: AtomicU64,
    /// Alerts cleared.
    pub cleared: AtomicU64,
    /// Alerts that are raised now.
    pub open: AtomicU64,
    /// Events without a number at the place that the rule names.
    pub ignored_values: AtomicU64,
    /// Events that would have begun an alert for one device too many, or one with too long a name.
    pub ignored_devices: AtomicU64,
}

impl Stats {
    /// Zeros for these rules.
    pub fn new(config: &[Alert]) -> Arc<Self> {
        let rule = |alert: &Alert| RuleStats { alert: alert.name.clone(), ..RuleStats::default() };
        Arc::new(Self { rules: config.iter().map(rule).collect() })
    }
}
