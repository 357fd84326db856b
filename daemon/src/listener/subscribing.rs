//! SUBSCRIBE and UNSUBSCRIBE: each filter in its turn, as if it had come in a packet of its own
//! (`[MQTT-3.8.4-5]`, `[MQTT-3.10.4-6]`).

use tidegate_event::{Filter, Qos};
use tokio::io::{AsyncRead, AsyncWrite};

use super::End;
use super::codec::Bad;
use super::codec::{self, Frame, Kind, Reason, Subscribe, SubscribeFilter, Unsubscribe, Version};
use super::connection::Connection;
use super::sessions;
use crate::bus::{Options, RetainHandling, Subscription, names_share, shared_filter};

/// A packet that the bus must be asked about.
pub(super) enum Request {
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
}

impl Request {
    /// Reads one, from a packet of one of both sorts.
    pub(super) fn read(frame: &Frame<'_>, version: Version) -> Result<Self, Bad> {
        match frame.kind {
            Kind::Unsubscribe => codec::unsubscribe(frame, version).map(Self::Unsubscribe),
            _ => codec::subscribe(frame, version).map(Self::Subscribe),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Does what the packet asks for, and answers it.
    pub(super) async fn answer(&mut self, request: Request) -> Result<(), End> {
        match request {
            Request::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Request::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe).await,
        }
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let Subscribe { id, filters, identifier } = subscribe;
        let mut granted = Vec::with_capacity(filters.len());
        let mut made = Vec::new();
        for requested in &filters {
            granted.push(match self.check(requested, identifier) {
                Ok(subscription) => {
                    let filter = self.journal.is_some().then(|| subscription.filter.clone());
                    let retained = self.subscriber.subscribe(vec![subscription]).await?;
                    let greeting = retained.iter().any(|it| it.qos > Qos::AtMostOnce);
                    made.extend(filter.and_then(|it| self.made(it, greeting)));
                    self.outbound.deliveries.extend(retained);
                    Ok(requested.qos)
                }
                Err(reason) => Err(reason),
            });
        }
        let version = self.version;
        let from = self.output().len();
        codec::write_suback(id, &granted, version, self.output());
        if let Some(journal) = &mut self.journal {
            journal.subscribed(made);
        }
        self.check_answer(from)
    }

    /// The subscription with this filter, to be kept with the session.
    fn made(&self, filter: Filter, greeting: bool) -> Option<sessions::Subscription> {
        let (options, from) = self.subscriber.held(&filter)?;
        Some(sessions::Subscription { filter, options, from, greeting })
    }

    /// Whether the client may have this subscription now.
    fn check(
        &mut self,
        requested: &SubscribeFilter,
        identifier: Option<u32>,
    ) -> Result<Subscription, Reason> {
        let limits = &self.shared.limits;
        let filter = Filter::new(&requested.text).map_err(|_| Reason::FilterInvalid)?;
        let shared = names_share(&requested.text);
        let topics = match shared {
            true => shared_filter(&requested.text).ok_or(Reason::FilterInvalid)?,
            false => filter.clone(),
        };
        if requested.text.len() > limits.max_topic_length
            || topics.as_str().split('/').count() > limits.max_topic_levels
        {
            return Err(Reason::FilterInvalid);
        }
        if !self.rights.may_subscribe(&topics) {
            return Err(Reason::NotAuthorized);
        }
        // Retained messages wait in `outbound`, in the client's turn: it must take those of earlier
        // subscriptions before it asks for more.
        let busy = self.outbound.deliveries.len() > limits.max_retained;
        let full = self.subscriber.subscriptions() >= limits.max_subscriptions;
        let new = !self.subscriber.has(&filter);
        if busy || (new && (full || !self.subscriber.fits(&filter))) {
            return Err(Reason::QuotaExceeded);
        }
        let options = Options {
            qos: requested.qos,
            no_local: requested.no_local || (self.bridge && !shared),
            retain_as_published: requested.retain_as_published || self.bridge,
            identifier,
        };
        // `[MQTT-3.3.1-9]` does not hold for shared ones: section 4.8.2.
        let retain_handling =
            if shared { RetainHandling::Never } else { requested.retain_handling };
        Ok(Subscription { filter, options, retain_handling })
    }

    async fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), End> {
        let parsed: Vec<_> = unsubscribe.filters.iter().map(|text| Filter::new(text)).collect();
        let valid: Vec<Filter> = parsed.iter().flatten().cloned().collect();
        let mut found = self.subscriber.unsubscribe(&valid).await?.into_iter();
        let answers: Vec<Result<(), Reason>> = parsed
            .iter()
            .map(|filter| match filter {
                Err(_) => Err(Reason::FilterInvalid),
                Ok(_) if found.next().unwrap_or_default() => Ok(()),
                Ok(_) => Err(Reason::NoSubscriptionExisted),
            })
            .collect();
        let version = self.version;
        let from = self.output().len();
        codec::write_unsuback(unsubscribe.id, &answers, version, self.output());
        if let Some(journal) = &mut self.journal {
            journal.unsubscribed(valid);
        }
        self.check_answer(from)
    }
}
