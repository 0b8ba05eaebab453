//! The engine by itself: whatever carries the reads, and however the drive behaves, the bytes are those of the file.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::faults::Faults;
use super::*;
use crate::file::PAGE;
use crate::search_types::Residency;

const PAGES: usize = 90;

pub(super) struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    pub(super) bytes: Vec<u8>,
    sums: Vec<u32>,
}

pub(super) fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("pages");
    let bytes: Vec<u8> = (0..PAGES * PAGE).map(|at| (at / 7 + at / PAGE * 31) as u8).collect();
    std::fs::write(&path, &bytes).expect("written");
    let sums = bytes.chunks_exact(PAGE).map(crc32c::crc32c).collect();
    Fixture { _folder: folder, path, bytes, sums }
}

pub(super) fn open(fixture: &Fixture, io: IoEngine, reads: DriveReads) -> Drive {
    let params = OpenParams { io, reads, ..Residency::Ssd.into() };
    Drive::open(&fixture.path, fixture.sums.clone(), &params).expect("opens")
}

/// Reads all of `spans` with as many in flight as fit, looking at them in the order in which they were asked for.
fn read_all(queue: &mut Queue, spans: &[Span]) -> Vec<Result<Vec<u8>, String>> {
    let mut waiting: VecDeque<Ticket> = VecDeque::new();
    let mut found = Vec::new();
    let mut spans = spans.iter().peekable();
    while spans.peek().is_some() || !waiting.is_empty() {
        while let Some(ticket) = spans.peek().and_then(|span| queue.request(**span)) {
            waiting.push_back(ticket);
            spans.next();
        }
        let ticket = waiting.pop_front().expect("an empty queue takes any span that fits");
        queue.wait_for(ticket).expect("the system reads");
        found.push(queue.bytes(ticket).map(<[u8]>::to_vec).map_err(|error| error.to_string()));
        queue.release(ticket);
    }
    found
}

fn of_file(fixture: &Fixture, span: Span) -> &[u8] {
    &fixture.bytes[span.first as usize * PAGE..][..span.pages * PAGE]
}

const ENGINES: [IoEngine; 2] = [IoEngine::IoUring, IoEngine::Pread];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_the_drive_does_the_bytes_are_those_of_the_file(
        wanted in prop::collection::vec((0..PAGES as u64 - 8, 1..=8usize), 1..60),
        (short, put_off, delayed) in (0..60u32, 0..60u32, 0..90u32),
        depth in (1..40usize, 8..40usize),
        seed: u64,
        cached: bool,
    ) {
        let fixture = fixture();
        let spans: Vec<Span> = wanted.iter().map(|&(first, pages)| Span { first, pages }).collect();
        for io in ENGINES {
            let mut drive = open(&fixture, io, if cached { DriveReads::Cached } else { DriveReads::Direct });
            drive.misbehave(Faults { short, put_off, delayed, seed, ..Faults::default() });
            let drive = Arc::new(drive);
            let mut queue = Queue::new(&drive, Depth { reads: depth.0, pages: depth.1 }).expect("a queue");
            for (found, &span) in read_all(&mut queue, &spans).iter().zip(&spans) {
                prop_assert!(found.as_deref() == Ok(of_file(&fixture, span)), "{io:?} {span:?}");
            }
            prop_assert_eq!(queue.in_flight(), 0);
            let counted = drive.counters().snapshot();
            prop_assert_eq!((counted.in_flight, counted.crc_failures, counted.io_errors), (0, 0, 0));
            prop_assert_eq!(counted.reads - counted.repeated + counted.shared, spans.len() as u64);
        }
    }
}

#[test]
fn a_bad_page_fails_the_reads_of_that_page_alone() {
    let fixture = fixture();
    for io in ENGINES {
        let mut drive = open(&fixture, io, DriveReads::Direct);
        let (unreadable, flipped) = ([11].into(), [30].into());
        drive.misbehave(Faults { unreadable, flipped, delayed: 50, seed: 1, ..Faults::default() });
        let drive = Arc::new(drive);
        let mut queue = Queue::new(&drive, Depth { reads: 16, pages: 32 }).expect("a queue");
        let spans =
            [(9, 1), (10, 3), (11, 1), (29, 1), (29, 2), (30, 1), (31, 4)].map(|(first, pages)| Span { first, pages });
        let found = read_all(&mut queue, &spans);
        let name = fixture.path.display().to_string();
        for (span, found) in spans.iter().zip(&found) {
            let pages = span.first..span.first + span.pages as u64;
            match found {
                Ok(bytes) => assert_eq!(bytes, of_file(&fixture, *span), "{io:?}"),
                Err(message) if pages.contains(&11) => {
                    assert!(
                        message.contains(&name) && message.contains(&format!("page {} (byte", span.first)),
                        "{message}"
                    );
                    assert!(message.contains("os error 5"), "{message}");
                }
                Err(message) => {
                    assert!(pages.contains(&30), "{message}");
                    assert!(message.contains(&format!("page 30 (byte {}) does not match", 30 * PAGE)), "{message}");
                }
            }
        }
        assert_eq!(found.iter().filter(|found| found.is_err()).count(), 4);
        let counted = drive.counters().snapshot();
        assert_eq!((counted.crc_failures, counted.io_errors, counted.in_flight), (2, 2, 0));
    }
}

#[test]
fn a_file_cut_short_is_an_error_of_the_read() {
    let fixture = fixture();
    for io in ENGINES {
        let drive = Arc::new(open(&fixture, io, DriveReads::Direct));
        let cut = std::fs::OpenOptions::new().write(true).open(&fixture.path).expect("writable");
        cut.set_len(80 * PAGE as u64 + 512).expect("cut");
        let mut queue = Queue::new(&drive, Depth { reads: 4, pages: 16 }).expect("a queue");
        let found = read_all(
            &mut queue,
            &[Span { first: 79, pages: 1 }, Span { first: 79, pages: 4 }, Span { first: 85, pages: 1 }],
        );
        assert!(found[0].is_ok());
        for (found, page) in found[1..].iter().zip([80, 85]) {
            let message = found.as_ref().expect_err("cut");
            assert!(message.contains(&format!("page {page}")) && message.contains("cut short"), "{message}");
        }
        std::fs::write(&fixture.path, &fixture.bytes).expect("written");
    }
}

#[test]
fn equal_spans_are_fetched_once_while_anyone_holds_them() {
    let fixture = fixture();
    let drive = Arc::new(open(&fixture, IoEngine::Auto, DriveReads::Direct));
    let mut queue = Queue::new(&drive, Depth { reads: 4, pages: 8 }).expect("a queue");
    let span = Span { first: 5, pages: 2 };
    let (a, b) = (queue.request(span).unwrap(), queue.request(span).unwrap());
    queue.wait_for(a).expect("read");
    assert!(queue.is_ready(b));
    queue.release(a);
    let c = queue.request(span).unwrap();
    for ticket in [b, c] {
        assert!(queue.bytes(ticket).unwrap() == of_file(&fixture, span));
        queue.release(ticket);
    }
    let counted = drive.counters().snapshot();
    assert_eq!((counted.reads, counted.shared, counted.pages), (1, 2, 2));
    let d = queue.request(span).unwrap();
    queue.wait_for(d).expect("read");
    assert_eq!(drive.counters().snapshot().reads, 2);
}

#[test]
fn reads_that_nobody_waits_for_land_before_their_memory_goes() {
    let fixture = fixture();
    for io in ENGINES {
        let drive = Arc::new(open(&fixture, io, DriveReads::Direct));
        for round in 0..20 {
            let mut queue = Queue::new(&drive, Depth { reads: 8, pages: 8 }).expect("a queue");
            let tickets: Vec<Ticket> =
                (0..8).map(|i| queue.request(Span { first: (round + i) % 80, pages: 1 }).unwrap()).collect();
            assert_eq!(queue.request(Span { first: 88, pages: 1 }), None, "the queue is full");
            if round % 2 == 0 {
                queue.enter(0).expect("sent");
            }
            tickets.iter().for_each(|&ticket| queue.release(ticket));
        }
        let counted = drive.counters().snapshot();
        assert_eq!((counted.in_flight, drive.buffers()), (0, 0));
    }
}

#[test]
fn a_system_that_refuses_io_uring_reads_by_threads() {
    let fixture = fixture();
    for number in [libc::ENOSYS, libc::EPERM, libc::ENOMEM] {
        let refuse = || Err(io::Error::from_raw_os_error(number));
        let open = |io| {
            let params = OpenParams { io, ..Residency::Ssd.into() };
            Drive::open_where(&fixture.path, fixture.sums.clone(), &params, refuse)
        };
        let drive = Arc::new(open(IoEngine::Auto).expect("the pool reads"));
        assert_eq!(drive.engine(), IoEngine::Pread);
        let mut queue = Queue::new(&drive, Depth { reads: 4, pages: 4 }).expect("a queue");
        let span = Span { first: 3, pages: 2 };
        assert!(read_all(&mut queue, &[span])[0].as_deref() == Ok(of_file(&fixture, span)));
        let message = open(IoEngine::IoUring).map(drop).expect_err("asked for by name").to_string();
        assert!(message.contains("io-uring") && message.contains("--io pread"), "{message}");
        assert_eq!(open(IoEngine::Pread).expect("never asked").engine(), IoEngine::Pread);
    }
}
