//! Topic aliases of a client's PUBLISH packets (MQTT 5.0 section 3.3.2.3.4). They end with the
//! connection.

use super::codec::{Bad, Publish, Reason};

/// What the aliases stand for.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// Behind alias 1, 2, ….
    topics: Vec<Option<Box<str>>>,
    maximum: u16,
    max_topic_length: usize,
    /// Bytes of the topics.
    bytes: usize,
}

impl Aliases {
    /// `maximum` is what the client was told; `max_topic_length` is in bytes.
    pub(super) fn new(maximum: u16, max_topic_length: usize) -> Self {
        Self { maximum, max_topic_length, ..Self::default() }
    }

    /// Bytes that they take.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.topics.capacity() * size_of::<Option<Box<str>>>()
    }

    /// The topic of `publish`, which may set an alias or use one.
    pub(super) fn resolve<'a>(&'a mut self, publish: &Publish<'a>) -> Result<&'a str, Bad> {
        let Some(alias) = publish.alias else { return Ok(publish.topic) };
        if alias > self.maximum {
            return Err(Bad(
                Reason::TopicAliasInvalid,
                "topic alias above limits.max-topic-aliases",
            ));
        }
        let place = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let topic = self.topics.get(place).and_then(Option::as_deref);
            return topic.ok_or(Bad::protocol("topic alias that stands for nothing"));
        }
        if self.topics.len() <= place {
            self.topics.resize(place + 1, None);
        }
        // What is too long to be published takes no memory.
        let fits = publish.topic.len() <= self.max_topic_length;
        let new: Option<Box<str>> = fits.then(|| publish.topic.into());
        self.bytes += new.as_ref().map_or(0, |topic| topic.len());
        let old = std::mem::replace(&mut self.topics[place], new);
        self.bytes -= old.map_or(0, |topic| topic.len());
        Ok(publish.topic)
    }
}
