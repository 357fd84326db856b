use std::convert::Infallible;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// Events that are due at once, each with its number as payload.
struct Numbers(std::ops::Range<u32>, QoS);

impl Source for Numbers {
    type Error = Infallible;

    async fn next(&mut self) -> Result<Option<Message>, Infallible> {
        Ok(self.0.next().map(|number| Message {
            topic: "t".into(),
            payload: number.to_string().into(),
            qos: self.1,
        }))
    }
}

/// A source that fails after its events.
struct Torn(Numbers);

impl Source for Torn {
    type Error = &'static str;

    async fn next(&mut self) -> Result<Option<Message>, &'static str> {
        match self.0.next().await {
            Ok(Some(message)) => Ok(Some(message)),
            Ok(None) | Err(_) => Err("the file is torn"),
        }
    }
}

/// One MQTT packet of less than 128 bytes: its first byte and its body. None when the client left.
async fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    assert!(head[1] < 128);
    let mut body = vec![0; head[1].into()];
    stream.read_exact(&mut body).await.ok()?;
    Some((head[0], body))
}

/// Takes one connection and answers like a broker until it has read `limit` PUBLISH packets of QoS 1;
/// acknowledges all but the last `withheld` of them, then hangs up. Answers with what it read.
async fn serve(listener: &TcpListener, limit: usize, withheld: usize) -> Vec<String> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    while let Some((first, body)) = packet(&mut stream).await {
        match first >> 4 {
            1 => stream.write_all(&CONNACK).await.unwrap(),
            3 => {
                // Length and text of the topic `t`, then, beyond QoS 0, the packet id.
                let payload = if first & 0b110 == 0 { &body[3..] } else { &body[5..] };
                read.push(String::from_utf8(payload.to_vec()).unwrap());
                if read.len() <= limit - withheld {
                    stream.write_all(&[0x40, 2, body[3], body[4]]).await.unwrap();
                }
                if read.len() == limit {
                    break;
                }
            }
            _ => {}
        }
    }
    read
}

async fn listen() -> (TcpListener, Broker) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let broker = listener.local_addr().unwrap().into();
    (listener, broker)
}

fn publisher(broker: &Broker, window: u16) -> (Publisher, Arc<Progress>) {
    let progress = Arc::new(Progress::default());
    (Publisher::new(broker, "client", window, Arc::clone(&progress)), progress)
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn everything_is_acknowledged_before_the_end() {
    let (listener, broker) = listen().await;
    let (publisher, progress) = publisher(&broker, 10);
    let drain = CancellationToken::new();
    let source = Numbers(0..1000, QoS::AtLeastOnce);
    let (result, read) = tokio::join!(publisher.run(source, &drain), serve(&listener, 1001, 1));
    result.unwrap();
    assert_eq!(read, numbers(0..1000));
    assert_eq!((progress.sent(), progress.acknowledged(), progress.sent_again()), (1000, 1000, 0));
}

#[tokio::test]
async fn what_a_lost_connection_left_unacknowledged_is_sent_again_in_order() {
    let (listener, broker) = listen().await;
    let (publisher, progress) = publisher(&broker, 10);
    let drain = CancellationToken::new();
    let broker = async {
        let first = serve(&listener, 50, 4).await;
        let second = serve(&listener, 1000, 1).await;
        (first, second)
    };
    let source = Numbers(0..100, QoS::AtLeastOnce);
    let (result, (first, second)) = tokio::join!(publisher.run(source, &drain), broker);
    result.unwrap();
    assert_eq!(first, numbers(0..50));
    // Some that were acknowledged may have gone unheard.
    let from: u32 = second[0].parse().unwrap();
    assert!((40..=46).contains(&from), "{from}");
    assert_eq!(second, numbers(from..100));
    assert_eq!((progress.sent(), progress.acknowledged()), (100, 100));
    assert!(progress.sent_again() >= 4, "{}", progress.sent_again());
}

#[tokio::test]
async fn a_source_that_fails_does_so_after_what_it_gave_is_acknowledged() {
    let (listener, broker) = listen().await;
    let (publisher, progress) = publisher(&broker, 10);
    let drain = CancellationToken::new();
    let source = Torn(Numbers(0..20, QoS::AtLeastOnce));
    let (result, _) = tokio::join!(publisher.run(source, &drain), serve(&listener, 1000, 1));
    assert_eq!(result.unwrap_err().to_string(), "the file is torn");
    assert_eq!(progress.acknowledged(), 20);
}

#[tokio::test]
async fn at_qos_0_sent_is_all_there_is() {
    let (listener, broker) = listen().await;
    let (publisher, progress) = publisher(&broker, 10);
    let drain = CancellationToken::new();
    let source = Numbers(0..100, QoS::AtMostOnce);
    let (result, _) = tokio::join!(publisher.run(source, &drain), serve(&listener, 1000, 1000));
    result.unwrap();
    assert_eq!((progress.sent(), progress.acknowledged()), (100, 100));
}

#[tokio::test]
async fn a_gateway_that_refuses_the_client_is_not_tried_again() {
    let (listener, broker) = listen().await;
    let (publisher, _) = publisher(&broker, 10);
    let drain = CancellationToken::new();
    let refuse = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        packet(&mut stream).await.unwrap();
        stream.write_all(&[0x20, 2, 0, 5]).await.unwrap();
        packet(&mut stream).await
    };
    let source = Numbers(0..1, QoS::AtLeastOnce);
    let (result, _) = tokio::join!(publisher.run(source, &drain), refuse);
    assert_eq!(
        result.unwrap_err().to_string(),
        format!("{broker} refused the client \"client\": NotAuthorized")
    );
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_not_there_is_given_up_after_a_while() {
    let (listener, broker) = listen().await;
    drop(listener);
    let (publisher, _) = publisher(&broker, 10);
    let started = Instant::now();
    let drain = CancellationToken::new();
    let error = publisher.run(Numbers(0..1, QoS::AtLeastOnce), &drain).await.unwrap_err();
    assert!(matches!(error, GaveUp::Unreachable { .. }), "{error}");
    assert!(started.elapsed() >= PATIENCE);
}

#[tokio::test]
async fn a_drain_ends_it_while_the_gateway_is_away() {
    let (listener, broker) = listen().await;
    drop(listener);
    let (publisher, _) = publisher(&broker, 10);
    let drain = CancellationToken::new();
    drain.cancel();
    publisher.run(Numbers(0..1, QoS::AtLeastOnce), &drain).await.unwrap();
}

#[test]
fn a_broker_is_an_address_with_mqtt_in_front() {
    let read = |text: &str| text.parse::<Broker>().map(|broker| broker.to_string());
    assert_eq!(read("mqtt://127.0.0.1:1884").unwrap(), "mqtt://127.0.0.1:1884");
    assert_eq!(read("gateway.local").unwrap(), "mqtt://gateway.local:1883");
    assert_eq!(read("mqtt://[::1]:1884/").unwrap(), "mqtt://[::1]:1884");
    assert_eq!(read("mqtt://[::1]").unwrap(), "mqtt://[::1]:1883");
    for text in
        ["", "mqtt://", "http://a", "a:0", "a:x", "a:65536", "[::1", "[::1]x", "a b", "a/b", "u@a"]
    {
        assert!(read(text).is_err(), "{text}");
    }
}
