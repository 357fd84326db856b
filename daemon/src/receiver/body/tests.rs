use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn all() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(2 * MAX_BODY))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn buffer(bytes: Vec<u8>, all: &Arc<Semaphore>) -> Buffer {
    Buffer { bytes, ..Buffer::new(all.clone()) }
}

#[tokio::test]
async fn a_body_is_read_and_its_memory_given_back() {
    let all = all();
    let read = read(Body::from(vec![7; 100_000]), all.clone()).await.unwrap();
    assert_eq!(read.bytes, [7; 100_000]);
    assert_eq!(all.available_permits(), 2 * MAX_BODY - 100_000);
    drop(read);
    assert_eq!(all.available_permits(), 2 * MAX_BODY);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let exact = read(Body::from(vec![7; MAX_BODY]), all()).await;
    assert_eq!(exact.map(|buffer| buffer.bytes.len()), Ok(MAX_BODY));
    let larger = read(Body::from(vec![7; MAX_BODY + 1]), all()).await;
    assert_eq!(larger.map(drop), Err(BodyError::TooLarge));
}

#[tokio::test]
async fn bodies_share_a_bound() {
    let all = Arc::new(Semaphore::new(150_000));
    let first = read(Body::from(vec![7; 100_000]), all.clone()).await.unwrap();
    let second = read(Body::from(vec![7; 100_000]), all.clone()).await;
    assert_eq!(second.map(drop), Err(BodyError::NoMemory));
    drop(first);
    assert!(read(Body::from(vec![7; 100_000]), all).await.is_ok());
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
    let silent = read(Body::new(Silent), all()).await;
    assert_eq!(silent.map(drop), Err(BodyError::TooSlow));
    assert_eq!(began.elapsed(), IDLE);
}

#[tokio::test]
async fn gzip_is_inflated_members_and_all() {
    let all = all();
    let text = b"tidegate ".repeat(60_000);
    let two = [gzip(&text), gzip(b"more")].concat();
    let inflated = inflate(&buffer(two, &all)).await.unwrap();
    assert_eq!(inflated.bytes, [&text[..], b"more"].concat());
    let empty = inflate(&buffer(gzip(b""), &all)).await.unwrap();
    assert_eq!(empty.bytes, b"");
    let full = inflate(&buffer(gzip(&vec![0; MAX_BODY]), &all)).await;
    assert_eq!(full.map(|buffer| buffer.bytes.len()), Ok(MAX_BODY));
}

#[tokio::test]
async fn a_gzip_bomb_is_refused_at_the_bound() {
    let all = all();
    let bomb = buffer(gzip(&vec![0; 40 * MAX_BODY]), &all);
    assert!(bomb.bytes.len() < MAX_BODY);
    assert_eq!(inflate(&bomb).await.map(drop), Err(BodyError::TooLarge));
    assert_eq!(all.available_permits(), 2 * MAX_BODY);
}

#[tokio::test]
async fn what_is_not_gzip_is_refused() {
    let whole = gzip(b"tidegate");
    for bytes in [b"not gzip".to_vec(), whole[..whole.len() - 4].to_vec(), Vec::new()] {
        let result = inflate(&buffer(bytes.clone(), &all())).await;
        assert!(matches!(result, Err(BodyError::NotGzip(_))), "{bytes:?}");
    }
}
