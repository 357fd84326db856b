//! What the HTTP listeners count.

use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Figures of all HTTP listeners. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(in crate::listener) struct Metrics {
    requests: Family<CodeLabel, Counter>,
    /// Events that were acknowledged after their commit.
    pub(super) stored: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

impl Metrics {
    /// Counts a request by what it was answered with.
    pub(super) fn answered(&self, status: StatusCode) {
        self.requests.get_or_create(&CodeLabel { code: status.as_u16() }).inc();
    }

    /// Enters the figures, each as `tidegate_http_…`.
    pub(in crate::listener) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("tidegate_http");
        registry.register("requests", "HTTP requests, by their answer", self.requests.clone());
        registry.register(
            "stored",
            "Events acknowledged over HTTP after their commit",
            self.stored.clone(),
        );
    }
}
