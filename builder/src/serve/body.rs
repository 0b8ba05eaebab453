//! Bodies: read within limits of size, time and memory.
//!
//! In: a request's body as it comes. Out: its bytes, counted against the memory that all bodies may hold together for as
//! long as they are there.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, Kind};

/// What all bodies may hold, as a multiple of what one may.
const BODIES: usize = 16;

/// Bodies too large are read on for so long and thrown away, so that the client comes to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Memory that bodies and large answers share.
pub(crate) struct BodyMemory(Arc<Semaphore>);

/// Some of it; given back when dropped.
#[derive(Default)]
pub(crate) struct Held(Option<OwnedSemaphorePermit>);

impl BodyMemory {
    /// Room for some bodies of `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Semaphore::new(limit.saturating_mul(BODIES).min(Semaphore::MAX_PERMITS))))
    }

    /// Holds `bytes` more.
    pub(crate) fn hold(&self, held: &mut Held, bytes: usize) -> Result<(), ApiError> {
        let wanted = u32::try_from(bytes).ok();
        let more = wanted.and_then(|wanted| Arc::clone(&self.0).try_acquire_many_owned(wanted).ok());
        let more =
            more.ok_or_else(|| ApiError::new(Kind::Overloaded, "bodies hold all the memory they may: try later"))?;
        match &mut held.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Reads a whole body of at most `limit` bytes, which must be there after `patience`.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        limit: usize,
        patience: Duration,
    ) -> Result<(Bytes, Held), ApiError> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let too_large =
            || ApiError::new(Kind::TooLarge, format!("the body is larger than {limit} bytes: send fewer queries"));
        if announced.is_some_and(|length| length > limit) {
            discard(body).await;
            return Err(too_large());
        }
        let whole = async {
            let mut held = Held::default();
            let (mut first, mut joined) = (Bytes::new(), BytesMut::new());
            while let Some(frame) = body.frame().await {
                let frame =
                    frame.map_err(|error| ApiError::new(Kind::Malformed, format!("the body broke off: {error}")))?;
                let Ok(data) = frame.into_data() else { continue };
                if first.len() + joined.len() + data.len() > limit {
                    return Err(too_large());
                }
                self.hold(&mut held, data.len())?;
                if first.is_empty() && joined.is_empty() {
                    first = data;
                    continue;
                }
                if joined.is_empty() {
                    joined.reserve(announced.unwrap_or(2 * first.len()));
                    joined.extend_from_slice(&std::mem::take(&mut first));
                }
                joined.extend_from_slice(&data);
            }
            Ok((if joined.is_empty() { first } else { joined.freeze() }, held))
        };
        match tokio::time::timeout(patience, whole).await {
            Ok(Err(error)) if error.kind == Kind::TooLarge => {
                discard(body).await;
                Err(error)
            }
            Ok(outcome) => outcome,
            Err(_) => {
                let problem = format!("the body was not there after {} s", patience.as_secs_f64());
                Err(ApiError::new(Kind::SlowBody, problem))
            }
        }
    }
}

async fn discard(mut body: Body) {
    let all = async { while matches!(body.frame().await, Some(Ok(_))) {} };
    // Whoever still sends after that is cut off.
    let _ = tokio::time::timeout(LINGER, all).await;
}

/// Bytes of an answer that give their memory back when they are sent.
pub(crate) struct Answer {
    bytes: Vec<u8>,
    _held: Held,
}

impl Answer {
    pub(crate) fn into_bytes(bytes: Vec<u8>, held: Held) -> Bytes {
        Bytes::from_owner(Self { bytes, _held: held })
    }
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// Frames of `bytes` bytes each, and then the end or, where `silent`, nothing.
    struct Frames {
        left: usize,
        bytes: usize,
        silent: bool,
    }

    impl hyper::body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match (self.left, self.silent) {
                (0, true) => Poll::Pending,
                (0, false) => Poll::Ready(None),
                _ => {
                    self.left -= 1;
                    Poll::Ready(Some(Ok(Frame::data(vec![self.left as u8; self.bytes].into()))))
                }
            }
        }
    }

    fn read(memory: &BodyMemory, left: usize, bytes: usize, silent: bool) -> Result<(Bytes, Held), ApiError> {
        let body = Body::new(Frames { left, bytes, silent });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(memory.read(&HeaderMap::new(), body, 100, Duration::from_millis(50)))
    }

    #[test]
    fn bodies_are_whole_or_refused() {
        let memory = BodyMemory::new(100);
        let (bytes, _held) = read(&memory, 3, 2, false).expect("fits");
        assert_eq!(&bytes[..], [2, 2, 1, 1, 0, 0]);
        assert!(read(&memory, 0, 0, false).expect("fits").0.is_empty());
        assert_eq!(read(&memory, 10, 10, false).expect("fits").0.len(), 100);
        assert_eq!(read(&memory, 11, 10, false).err().expect("refused").kind, Kind::TooLarge);
        assert_eq!(read(&memory, 3, 10, true).err().expect("refused").kind, Kind::SlowBody);
    }

    #[test]
    fn bodies_hold_no_more_memory_than_they_may_together() {
        let memory = BodyMemory::new(100);
        let mut held: Vec<_> = (0..BODIES).map(|_| read(&memory, 1, 100, false).expect("fits")).collect();
        assert_eq!(read(&memory, 1, 1, false).err().expect("refused").kind, Kind::Overloaded);
        // An answer keeps what it holds until its last byte is gone.
        let (_, of_one) = held.pop().expect("one");
        let answer = Answer::into_bytes(vec![1, 2, 3], of_one);
        assert!(read(&memory, 1, 1, false).is_err());
        assert_eq!(&answer[..], [1, 2, 3]);
        drop(answer);
        assert!(read(&memory, 1, 100, false).is_ok());
    }
}
