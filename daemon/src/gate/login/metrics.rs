//! What the logins count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Figures of all logins. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    logins: Family<ResultLabel, Counter>,
    /// Penalties that began for an address.
    pub(super) penalties: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Metrics {
    pub(super) fn login(&self, result: &'static str) {
        self.logins.get_or_create(&ResultLabel { result }).inc();
    }

    /// How many logins ended so.
    #[cfg(test)]
    pub(super) fn count(&self, result: &'static str) -> u64 {
        self.logins.get_or_create(&ResultLabel { result }).get()
    }

    /// Enters the figures, each as `tidegate_…`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tidegate_logins",
            "Clients by what their login was: let in (password, remembered, token, certificate, \
             anonymous) or not",
            self.logins.clone(),
        );
        registry.register(
            "tidegate_login_penalties",
            "Times that an address has to wait because too many of its logins failed",
            self.penalties.clone(),
        );
    }
}
