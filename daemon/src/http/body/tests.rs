use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const MAX: usize = 8 << 20;

fn bodies() -> Bodies {
    Bodies::new(MAX, 2 * MAX, Duration::from_secs(60))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn buffer(bytes: Vec<u8>, bodies: &Bodies) -> Buffer {
    Buffer { bytes, ..Buffer::new(bodies.clone()) }
}

#[tokio::test]
async fn a_body_is_read_and_its_memory_given_back() {
    let bodies = bodies();
    let read = bodies.read(Body::from(vec![7; 100_000])).await.unwrap();
    assert_eq!(read.bytes, [7; 100_000]);
    assert_eq!(bodies.all.available_permits(), 2 * MAX - 100_000);
    drop(read);
    assert_eq!(bodies.all.available_permits(), 2 * MAX);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let exact = bodies().read(Body::from(vec![7; MAX])).await;
    assert_eq!(exact.map(|buffer| buffer.bytes.len()), Ok(MAX));
    let larger = bodies().read(Body::from(vec![7; MAX + 1])).await;
    assert_eq!(larger.map(drop), Err(BodyError::TooLarge(MAX)));
}

#[tokio::test]
async fn bodies_share_a_bound() {
    let bodies = Bodies::new(MAX, 150_000, Duration::from_secs(60));
    let first = bodies.read(Body::from(vec![7; 100_000])).await.unwrap();
    let second = bodies.read(Body::from(vec![7; 100_000])).await;
    assert_eq!(second.map(drop), Err(BodyError::NoMemory));
    drop(first);
    assert!(bodies.read(Body::from(vec![7; 100_000])).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_not_waited_for() {
    struct Silent;
    impl HttpBody for Silent {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>>
        {
            std::task::Poll::Pending
        }
    }
    let began = tokio::time::Instant::now();
    let silent = bodies().read(Body::new(Silent)).await;
    assert_eq!(silent.map(drop), Err(BodyError::TooSlow));
    assert_eq!(began.elapsed(), IDLE);
}

#[tokio::test]
async fn gzip_is_inflated_members_and_all() {
    let bodies = bodies();
    let text = b"tidegate ".repeat(60_000);
    let two = [gzip(&text), gzip(b"more")].concat();
    let inflated = inflate(&buffer(two, &bodies)).await.unwrap();
    assert_eq!(inflated.bytes, [&text[..], b"more"].concat());
    let empty = inflate(&buffer(gzip(b""), &bodies)).await.unwrap();
    assert_eq!(empty.bytes, b"");
    let full = inflate(&buffer(gzip(&vec![0; MAX]), &bodies)).await;
    assert_eq!(full.map(|buffer| buffer.bytes.len()), Ok(MAX));
}

#[tokio::test]
async fn a_gzip_bomb_is_refused_at_the_bound() {
    let bodies = bodies();
    let bomb = buffer(gzip(&vec![0; 40 * MAX]), &bodies);
    assert!(bomb.bytes.len() < MAX);
    assert_eq!(inflate(&bomb).await.map(drop), Err(BodyError::TooLarge(MAX)));
    assert_eq!(bodies.all.available_permits(), 2 * MAX);
}

#[tokio::test]
async fn what_is_not_gzip_is_refused() {
    let whole = gzip(b"tidegate");
    for bytes in [b"not gzip".to_vec(), whole[..whole.len() - 4].to_vec(), Vec::new()] {
        let result = inflate(&buffer(bytes.clone(), &bodies())).await;
        assert!(matches!(result, Err(BodyError::NotGzip(_))), "{bytes:?}");
    }
}
