//! Recorded data, played again: each row of a CSV file becomes an event.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::QoS;
use tidegate_event::topic;
use tokio::fs::File;
use tokio::io::AsyncRead;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::publisher::{Broker, GaveUp, Message, Progress, Publisher, Source};
use super::rows::{Row, RowError, Rows, to_json};
use crate::commands::Failure;
use crate::commands::timestamp;

/// Rows that are not yet acknowledged; then the file is read no further.
const WINDOW: u16 = 256;
/// The columns that hold the time where nobody says which one does; capitals do not matter.
const TIME_COLUMNS: [&str; 4] = ["time", "date", "datetime", "timestamp"];

/// What is to be played, and how.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The gateway.
    pub broker: Broker,
    /// The CSV file; its first row names the columns.
    pub file: PathBuf,
    /// The topic; `{column}` stands for the row's value in that column.
    pub topic: String,
    /// How fast.
    pub speed: Speed,
    /// The column that holds the time; none: one with a usual name.
    pub time_column: Option<String>,
    /// The MQTT client id.
    pub client_id: String,
}

/// How fast recorded data is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// As fast as it is acknowledged.
    Max,
    /// So many times as fast as it was recorded.
    Times(f64),
}

impl FromStr for Speed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text.parse().ok().filter(|times| (1e-3..=1e9).contains(times));
        times.map(Self::Times).ok_or("expected max, or a number from 0.001 to 1000000000")
    }
}

/// Publishes each row of the file as a JSON object, in order, at QoS 1, and waits until the last one
/// is acknowledged. Rows are sent again after a lost connection: at least once.
///
/// # Errors
/// A file that is not there ([`Failure::EX_NOINPUT`]) or not a table ([`Failure::EX_DATAERR`]: the rows
/// before the one that is wrong are published), a topic or a speed that does not go with it
/// ([`Failure::EX_USAGE`]), a gateway that does not take it ([`Failure::EX_UNAVAILABLE`]).
pub async fn replay(options: &Replay, drain: &CancellationToken) -> Result<Arc<Progress>, Failure> {
    let name = options.file.display();
    let file =
        File::open(&options.file).await.map_err(|error| Failure::unreadable(&name, &error))?;
    let wrong_row = |error: RowError| match error {
        RowError::Io(error) => Failure::unreadable(&name, &error),
        other => Failure::new(Failure::EX_DATAERR, format!("{name}: {other}")),
    };
    let rows = Rows::open(file).await.map_err(wrong_row)?;
    let usage = |what: String| Failure::new(Failure::EX_USAGE, format!("{name}: {what}"));
    let recording = Recording::new(rows, options).map_err(usage)?;
    let progress = Arc::new(Progress::default());
    let publisher =
        Publisher::new(&options.broker, &options.client_id, WINDOW, Arc::clone(&progress));
    match publisher.run(recording, drain).await {
        Ok(()) => Ok(progress),
        Err(GaveUp::Source(error)) => {
            let mut failure = wrong_row(error);
            failure.message.push_str(&format!(
                "; {} rows before it were sent, {} acknowledged",
                progress.sent(),
                progress.acknowledged()
            ));
            Err(failure)
        }
        Err(gave_up) => {
            let acknowledged = progress.acknowledged();
            let message = format!("{gave_up}; {acknowledged} rows of {name} were acknowledged");
            Err(Failure::new(Failure::EX_UNAVAILABLE, message))
        }
    }
}

/// A file being played.
struct Recording<R> {
    rows: Rows<R>,
    topic: Vec<Piece>,
    clock: Option<Clock>,
    /// Read, and not yet due.
    waiting: Option<(Instant, Message)>,
}

/// A piece of the topic.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    /// The cell of this column.
    Cell(usize),
}

/// When rows are due.
struct Clock {
    column: usize,
    times: f64,
    /// When the first row was played, and when it was recorded.
    first: Option<(Instant, i64)>,
}

impl<R: AsyncRead + Unpin> Recording<R> {
    fn new(rows: Rows<R>, options: &Replay) -> Result<Self, String> {
        let columns = rows.columns();
        let listed = || columns.join(", ");
        let topic = pieces(&options.topic, columns)?;
        let clock = match options.speed {
            Speed::Max => None,
            Speed::Times(times) => {
                let named = |column: &String| match &options.time_column {
                    Some(name) => column == name,
                    None => TIME_COLUMNS.iter().any(|name| column.eq_ignore_ascii_case(name)),
                };
                let column = columns.iter().position(named).ok_or_else(|| {
                    let wanted = options.time_column.as_deref().unwrap_or("time or date");
                    format!("has no column {wanted} to tell the speed by; it has {}", listed())
                })?;
                Some(Clock { column, times, first: None })
            }
        };
        Ok(Self { rows, topic, clock, waiting: None })
    }

    fn message(&self, row: &Row) -> Result<Message, RowError> {
        let cell = |what: String| RowError::Cell { line: row.line, what };
        let mut topic = String::new();
        for piece in &self.topic {
            topic.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Cell(column) => &row.cells[*column],
            });
        }
        topic::check_name(&topic).map_err(|why| cell(format!("the topic {topic:?} {why}")))?;
        let payload = to_json(self.rows.columns(), &row.cells)
            .map_err(|why| cell(format!("cannot be written as JSON: {why}")))?;
        Ok(Message { topic, payload: payload.into(), qos: QoS::AtLeastOnce })
    }
}

impl Clock {
    /// When the row is due: at once if its time is not after the first one's.
    fn due(&mut self, row: &Row) -> Result<Instant, RowError> {
        let text = &row.cells[self.column];
        let recorded = timestamp::parse(text).ok_or_else(|| RowError::Cell {
            line: row.line,
            what: format!("{text:?} is not a time such as 2010-01-31T23:59:59Z"),
        })?;
        let (start, first) = *self.first.get_or_insert_with(|| (Instant::now(), recorded));
        let since = u64::try_from(recorded - first).unwrap_or_default();
        Ok(start + Duration::from_secs_f64(since as f64 / 1e6 / self.times))
    }
}

impl<R: AsyncRead + Unpin + Send> Source for Recording<R> {
    type Error = RowError;

    async fn next(&mut self) -> Result<Option<Message>, RowError> {
        if self.waiting.is_none() {
            let Some(row) = self.rows.next().await? else { return Ok(None) };
            let due = match &mut self.clock {
                Some(clock) => clock.due(&row)?,
                None => Instant::now(),
            };
            self.waiting = Some((due, self.message(&row)?));
        }
        if let (Some(_), Some((due, _))) = (&self.clock, &self.waiting) {
            sleep_until(*due).await;
        }
        Ok(self.waiting.take().map(|(_, message)| message))
    }
}

/// Takes `weather/{station}` apart.
fn pieces(topic: &str, columns: &[String]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = topic;
    while let Some((text, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| format!("the topic {topic:?} has a `{{` without its `}}`"))?;
        let column = columns.iter().position(|column| column == name).ok_or_else(|| {
            format!("has no column {name:?} for the topic {topic:?}; it has {}", columns.join(", "))
        })?;
        pieces.push(Piece::Text(text.to_owned()));
        pieces.push(Piece::Cell(column));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

#[cfg(test)]
mod tests;
