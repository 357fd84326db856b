//! Clients that wait for the log, and clients that make the gateway wait.

use tidegate_config::{ByteSize, Limits, Span};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::broker::{
    Broker, Client, LIMIT, connect, connect_with, publish, subscribe, text, until,
};
use super::disk::Sync;

const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: [u8; 2] = [0xd0, 0];

/// A log that takes nothing more.
async fn full() -> Broker {
    let broker = Broker::with(Limits::default(), 512 << 10).await;
    let mut filler = broker.client_5("filler").await;
    let payload = vec![b'x'; 60_000];
    for id in 1..=20 {
        if filler.ask(&publish(5, 2, id, "fill", &payload)).await.len() > 4 {
            assert!(filler.ask(&[0xe0, 0]).await.is_empty());
            return broker;
        }
    }
    panic!("a log of 512 KiB takes 20 times 60,000 bytes");
}

/// What does not fit into the log of [`full`] at all.
fn large(flags: u8, id: u16) -> Vec<u8> {
    publish(4, flags, id, "a", &[b'y'; 60_000])
}

/// A 3.1.1 client with a will.
async fn with_will(broker: &Broker) -> Client {
    let mut client = broker.dial().await;
    let rest = [text("wills/c"), text("gone")].concat();
    assert_eq!(client.ask(&connect_with(4, "c", 0x06, &[], &rest)).await, [0x20, 2, 0, 0]);
    client
}

#[tokio::test]
async fn a_3_1_1_client_that_waits_for_the_log_has_its_pings_answered() {
    let broker = full().await;
    let mut client = broker.client_4("c").await;
    client.send(&[large(2, 1), PINGREQ.to_vec(), publish(4, 2, 2, "a", b"x")].concat()).await;
    assert_eq!(client.packet().await, PINGRESP);
    client.expect_quiet().await;
    broker.log.release(broker.log.committed() + 1);
    assert_eq!(client.packet().await, [0x40, 2, 0, 1]);
    assert_eq!(client.packet().await, [0x40, 2, 0, 2]);
    // Each ping was answered once.
    assert_eq!(client.ask(&publish(4, 2, 3, "a", b"x")).await, [0x40, 2, 0, 3]);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_while_the_log_is_full_leaves_nothing_behind() {
    let broker = full().await;
    let mut client = with_will(&broker).await;
    client.send(&[large(2, 1), large(0, 0), PINGREQ.to_vec()].concat()).await;
    assert_eq!(client.packet().await, PINGRESP);
    let before = broker.log.committed();
    drop(client);
    until(|| broker.metrics.connections.get() == 0).await;
    assert_eq!((broker.metrics.refused.get(), broker.metrics.wills_lost.get()), (1 + 1, 0));
    broker.log.release(before + 1);
    let mut other = broker.client_4("other").await;
    assert_eq!(other.ask(&publish(4, 2, 1, "a", b"x")).await, [0x40, 2, 0, 1]);
    assert_eq!(broker.log.committed(), before + 1 + 1, "the will, and the other client's event");
    broker.stop().await;
}

#[tokio::test]
async fn a_goodbye_behind_events_that_wait_is_heard() {
    let broker = full().await;
    let mut client = with_will(&broker).await;
    client.send(&[large(2, 1), PINGREQ.to_vec(), vec![0xe0, 0]].concat()).await;
    assert_eq!(client.packet().await, PINGRESP);
    drop(client);
    until(|| broker.metrics.connections.get() == 0).await;
    let before = broker.log.committed();
    broker.log.release(before + 1);
    let mut other = broker.client_4("other").await;
    assert_eq!(other.ask(&publish(4, 2, 1, "a", b"x")).await, [0x40, 2, 0, 1]);
    assert_eq!(broker.log.committed(), before + 1, "the will stands in the log");
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_sent_before_it_left_is_stored_however_slow_the_disk_is() {
    const EVENTS: u64 = 50;
    let broker = Broker::with(Limits { max_inflight: 4, ..Limits::default() }, 64 << 20).await;
    let mut committed = broker.log.watch();
    let mut client = broker.client_4("c").await;
    broker.disk.set(Sync::Hangs);
    let mut all = publish(4, 0, 0, "a", b"x").repeat(EVENTS as usize);
    all.extend([PINGREQ, [0xe0, 0]].concat());
    client.send(&all).await;
    assert_eq!(client.packet().await, PINGRESP);
    drop(client);
    broker.disk.set(Sync::Works);
    committed.wait_for(|last| *last == EVENTS).await.unwrap();
    until(|| broker.metrics.connections.get() == 0).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_late_gets_an_answer_to_everything() {
    // What the gateway answers before it takes in no more, and what it then has read already.
    const PIPE: usize = 50_000;
    const FIRST: usize = 256 * 1024 + PIPE - 1000;
    const MORE: usize = 20_000;
    let broker = Broker::start().await;
    let mut client = broker.pipe(PIPE);
    let hello = connect(4, "c");
    client.write_all(&hello).await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    let mut sent = hello.len();
    for length in [FIRST, MORE] {
        client.write_all(&PINGREQ.repeat(length / 2)).await.unwrap();
        sent += length;
        until(|| broker.metrics.bytes_in.get() == sent as u64).await;
    }
    let mut answers = vec![0; FIRST + MORE];
    let read = timeout(LIMIT, client.read_exact(&mut answers)).await;
    read.expect("answers are missing").unwrap();
    assert!(answers.chunks(2).all(|answer| answer == PINGRESP));
    drop(client);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_let_go() {
    let limits = Limits {
        send_timeout: Span::milliseconds(300),
        max_queued: ByteSize::kib(256),
        ..Limits::default()
    };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut client = broker.pipe(1000);
    client.write_all(&[connect(4, "c"), subscribe(4, 1, "#", 0)].concat()).await.unwrap();
    let mut publisher = broker.client_4("p").await;
    let payload = vec![b'x'; 60_000];
    let mut id = 0;
    while broker.bus_metrics.dropped.get() == 0 {
        id += 1;
        let [high, low] = u16::to_be_bytes(id);
        assert_eq!(publisher.ask(&publish(4, 2, id, "a", &payload)).await, [0x40, 2, high, low]);
    }
    until(|| broker.metrics.stuck.get() == 1).await;
    publisher.expect_quiet().await;
    drop(client);
    broker.stop().await;
}
