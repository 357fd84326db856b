//! `tidegate simulate`: devices that publish over MQTT, and recorded data played again.

mod device;
mod pace;
mod publisher;
mod replay;
mod rows;
mod signal;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_config::{LogOutput, Span};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Failure;
use super::signals::Stop;
use crate::supervise::Supervisor;

pub use device::{Devices, devices};
pub use publisher::{Broker, Progress};
pub use replay::{Replay, Speed, replay};

/// Publishes what devices would, or what was recorded. Ctrl-C ends it in order.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the gateway listens
    #[arg(long, value_name = "mqtt://HOST:PORT", default_value = "mqtt://127.0.0.1:1883")]
    pub broker: Broker,
    /// How many devices; each is an MQTT client of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with = "replay")]
    pub devices: u32,
    /// Events a second, of all devices together
    #[arg(long, value_name = "R", default_value = "10", value_parser = rate, conflicts_with = "replay")]
    pub rate: f64,
    /// How long, such as 60s; until Ctrl-C if not given
    #[arg(long, value_name = "TIME", conflicts_with = "replay")]
    pub duration: Option<Span>,
    /// Quality of service: 0, 1 or 2
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2), conflicts_with = "replay")]
    pub qos: u8,
    /// Makes the signals the same again
    #[arg(long, value_name = "S", default_value_t = 1, conflicts_with = "replay")]
    pub seed: u64,
    /// Plays a CSV file instead; its first row names the columns, each further row becomes one event, a
    /// JSON object, at QoS 1 and in order. What a lost connection leaves unacknowledged is sent again,
    /// so that a row may then arrive twice
    #[arg(long, value_name = "FILE.csv", requires = "topic")]
    pub replay: Option<PathBuf>,
    /// The topic; `{column}` stands for the row's value in that column
    #[arg(long, requires = "replay")]
    pub topic: Option<String>,
    /// `max`: as fast as it is acknowledged; 1: as fast as it was recorded, by the time column; 60: sixty
    /// times as fast
    #[arg(long, value_name = "X|max", default_value = "max", requires = "replay")]
    pub speed: Speed,
    /// The column that holds the time; if not given, one called time, date, datetime or timestamp
    #[arg(long, value_name = "COLUMN", requires = "replay")]
    pub time_column: Option<String>,
    /// The MQTT client id of the replay
    #[arg(long, value_name = "ID", default_value = "replay", requires = "replay")]
    pub client_id: String,
}

/// Runs the command until its work is done or a signal comes: the report for standard output.
///
/// # Errors
/// [`Failure::EX_UNAVAILABLE`] if the gateway cannot be reached or keeps hanging up;
/// [`Failure::EX_NOINPUT`], [`Failure::EX_DATAERR`] and [`Failure::EX_USAGE`] for a file that cannot be
/// replayed.
pub fn run(options: Options) -> Result<String, Failure> {
    super::start_logging(&LogOutput::default())?;
    super::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let drain = CancellationToken::new();
        let work = publish(options, &drain);
        tokio::pin!(work);
        tokio::select! {
            report = &mut work => return report,
            signal = stop.requested() => info!("{signal}: stopping"),
        }
        drain.cancel();
        work.await
    })
}

async fn publish(options: Options, drain: &CancellationToken) -> Result<String, Failure> {
    let started = Instant::now();
    let Some((file, topic)) = options.replay.zip(options.topic) else {
        let devices = Devices {
            broker: options.broker,
            count: options.devices,
            rate: options.rate,
            duration: options.duration.map(|span| span.0),
            qos: options.qos,
            seed: options.seed,
        };
        let progress = simulate(&devices, drain).await?;
        return Ok(report(&progress, "events", started.elapsed()));
    };
    let replay = Replay {
        broker: options.broker,
        file,
        topic,
        speed: options.speed,
        time_column: options.time_column,
        client_id: options.client_id,
    };
    let progress = replay::replay(&replay, drain).await?;
    Ok(report(&progress, "rows", started.elapsed()))
}

/// Runs devices until all have ended.
async fn simulate(options: &Devices, drain: &CancellationToken) -> Result<Arc<Progress>, Failure> {
    // Of its own: it ends with the devices, whoever else the caller supervises.
    let supervisor = Supervisor::new();
    let progress = devices(options, &supervisor);
    tokio::select! {
        () = supervisor.ended() => {}
        () = drain.cancelled() => {
            supervisor.begin_drain();
            supervisor.ended().await;
        }
    }
    match progress.failure() {
        Some(why) => Err(Failure::new(Failure::EX_UNAVAILABLE, why)),
        None => Ok(progress),
    }
}

fn report(progress: &Progress, what: &str, took: Duration) -> String {
    let (sent, acknowledged) = (progress.sent(), progress.acknowledged());
    let again = match progress.sent_again() {
        0 => String::new(),
        again => format!(", {again} of them again after a lost connection"),
    };
    let rate = acknowledged as f64 / took.as_secs_f64().max(0.001);
    format!(
        "{sent} {what} sent{again}, {acknowledged} acknowledged, in {:.1} s ({rate:.0}/s)\n",
        took.as_secs_f64()
    )
}

/// Reads `--rate`.
fn rate(text: &str) -> Result<f64, String> {
    let rate = f64::from_str(text).ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "expected events a second, 0.001 to 1000000".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Result<Options, String> {
        let words = std::iter::once("simulate").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.options).map_err(|error| error.to_string())
    }

    #[test]
    fn the_options_are_bounded_and_do_not_contradict_each_other() {
        let plain = options("").unwrap();
        assert_eq!((plain.devices, plain.rate, plain.qos), (4, 10.0, 1));
        assert_eq!(options("--duration 60s").unwrap().duration, Some(Span::seconds(60)));
        assert!(options("--replay f.csv --topic t --speed 60").is_ok());
        for wrong in [
            "--devices 0",
            "--devices 10001",
            "--rate 0",
            "--rate NaN",
            "--rate 1e7",
            "--qos 3",
            "--duration 60",
            "--broker http://127.0.0.1",
            "--replay f.csv",
            "--replay f.csv --topic t --devices 3",
            "--topic t",
            "--replay f.csv --topic t --speed 0",
        ] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }
}
