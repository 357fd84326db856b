use super::*;

const WEATHER: &str = "date,station,temp\n\
     2010-01-01T01:00:00-08:00,sf,47.4\n\
     2010-01-01T02:00:00-08:00,oakland,46.9\n\
     2010-01-01T01:30:00-08:00,sf,46.5\n";

fn options(topic: &str, speed: Speed) -> Replay {
    Replay {
        broker: "127.0.0.1".parse().unwrap(),
        file: PathBuf::new(),
        topic: topic.into(),
        speed,
        time_column: None,
        client_id: "replay".into(),
    }
}

async fn recording(
    text: &'static str,
    options: &Replay,
) -> Result<Recording<&'static [u8]>, String> {
    Recording::new(Rows::open(text.as_bytes()).await.unwrap(), options)
}

#[tokio::test]
async fn each_row_becomes_an_event_in_order() {
    let mut recording =
        recording(WEATHER, &options("weather/{station}/hourly", Speed::Max)).await.unwrap();
    let mut events = Vec::new();
    while let Some(Message { topic, payload, qos }) = recording.next().await.unwrap() {
        assert_eq!(qos, QoS::AtLeastOnce);
        events.push((topic, String::from_utf8(payload.to_vec()).unwrap()));
    }
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].0, "weather/sf/hourly");
    assert_eq!(
        events[1].1,
        r#"{"date":"2010-01-01T02:00:00-08:00","station":"oakland","temp":46.9}"#
    );
}

#[tokio::test(start_paused = true)]
async fn rows_come_when_they_are_due() {
    let mut recording = recording(WEATHER, &options("t", Speed::Times(60.0))).await.unwrap();
    let start = Instant::now();
    let mut seconds = Vec::new();
    while recording.next().await.unwrap().is_some() {
        seconds.push(start.elapsed().as_secs());
    }
    // An hour is a minute; the third row is older than the second and does not wait.
    assert_eq!(seconds, [0, 60, 60]);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_not_due_yet_is_not_lost_when_waiting_is_given_up() {
    let mut recording = recording(WEATHER, &options("t", Speed::Times(1.0))).await.unwrap();
    recording.next().await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(1), recording.next()).await;
    assert!(early.is_err());
    let second = recording.next().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&second.payload).contains("46.9"));
}

#[tokio::test]
async fn what_does_not_go_with_the_file_is_refused_before_anything_is_sent() {
    let refused = async |options: &Replay| recording(WEATHER, options).await.err().unwrap();
    assert_eq!(
        refused(&options("weather/{city}", Speed::Max)).await,
        "has no column \"city\" for the topic \"weather/{city}\"; it has date, station, temp"
    );
    assert_eq!(
        refused(&options("weather/{station", Speed::Max)).await,
        "the topic \"weather/{station\" has a `{` without its `}`"
    );
    let mut other_column = options("t", Speed::Times(1.0));
    other_column.time_column = Some("when".into());
    assert_eq!(
        refused(&other_column).await,
        "has no column when to tell the speed by; it has date, station, temp"
    );
}

#[tokio::test]
async fn a_cell_that_cannot_be_used_is_refused_with_its_line() {
    let text = "time,name\n2010-01-01,a\nyesterday,b\n";
    let mut timed = recording(text, &options("t", Speed::Times(1.0))).await.unwrap();
    timed.next().await.unwrap();
    let error = timed.next().await.unwrap_err().to_string();
    assert_eq!(error, "line 3: \"yesterday\" is not a time such as 2010-01-31T23:59:59Z");
    let wildcard = "name\n+\n";
    let mut wildcard = recording(wildcard, &options("t/{name}", Speed::Max)).await.unwrap();
    let error = wildcard.next().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "line 2: the topic \"t/+\" contains the wildcard `+`, which only a filter may"
    );
}

#[test]
fn a_speed_is_a_number_or_max() {
    assert_eq!("max".parse(), Ok(Speed::Max));
    assert_eq!("60".parse(), Ok(Speed::Times(60.0)));
    for text in ["", "0", "-1", "fast", "NaN", "inf", "60x"] {
        assert!(text.parse::<Speed>().is_err(), "{text}");
    }
}
