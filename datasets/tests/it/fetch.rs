//! Fetching, against a small HTTP server that misbehaves on purpose.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln_datasets::fetch::fetch_entry;
use kiln_datasets::{DatasetError, Entry, FetchOptions, Registry, open_rows};
use kiln_kernels::{DType, Metric, NoProgress, Rows};
use ndarray::Array2;

/// How the server treats the requests for `/file`, in order; the last holds for all that follow.
#[derive(Debug, Clone, Copy)]
enum Mood {
    /// Serves what is asked for.
    Good,
    /// Announces all, sends so many bytes, and hangs up.
    Drops(usize),
    /// Sends the whole file whatever range is asked for.
    IgnoresRanges,
    /// Answers with this status.
    Status(u16),
    /// From this request on the file is another one, of the same length.
    Changed,
}

struct Server {
    url: String,
    /// The heads of all requests.
    requests: Arc<Mutex<Vec<String>>>,
    _thread: JoinHandle<()>,
}

impl Server {
    fn start(content: Vec<u8>, moods: &'static [Mood]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let thread = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let stream = stream.unwrap();
                let head = head_of(&stream);
                seen.lock().unwrap().push(head.clone());
                // A client that hangs up early is part of the test.
                let _ = answer(stream, &head, &content, moods[number.min(moods.len() - 1)]);
            }
        });
        Self { url, requests, _thread: thread }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn head_of(stream: &TcpStream) -> String {
    let mut head = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        head.push_str(&line);
        head.push('\n');
    }
    head
}

/// The value of a header in a lower-cased head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn answer(mut stream: TcpStream, head: &str, content: &[u8], mood: Mood) -> std::io::Result<()> {
    let changed: Vec<u8> = content.iter().map(|byte| byte.wrapping_add(1)).collect();
    let (content, etag) = match mood {
        Mood::Changed => (changed.as_slice(), "\"two\""),
        _ => (content, "\"one\""),
    };
    if let Mood::Status(status) = mood {
        return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let same = header(head, "if-range").is_none_or(|validator| validator == etag);
    let range = header(head, "range").filter(|_| same && !matches!(mood, Mood::IgnoresRanges));
    let body = match range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some((first, last)) => {
            let first: usize = first.parse().unwrap();
            let end = last.parse::<usize>().map_or(content.len(), |last| (last + 1).min(content.len()));
            if first >= content.len() {
                return write!(
                    stream,
                    "HTTP/1.1 416 No\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    content.len()
                );
            }
            let body = &content[first..end];
            write!(stream, "HTTP/1.1 206 Part\r\nContent-Range: bytes {first}-{}/{}\r\n", end - 1, content.len())?;
            body
        }
        None => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            content
        }
    };
    write!(stream, "ETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    let sent = if let Mood::Drops(bytes) = mood { bytes.min(body.len()) } else { body.len() };
    stream.write_all(&body[..sent])?;
    stream.flush()
}

/// A big-ann file of 1,000 x 50 bytes.
fn content() -> Vec<u8> {
    let mut content = [1000u32.to_le_bytes(), 50u32.to_le_bytes()].concat();
    content.extend((0..50_000u32).map(|i| (i * 7 % 251) as u8));
    content
}

fn entry(url: &str) -> Entry {
    Entry {
        name: "test-set".to_string(),
        rows: 1000,
        dim: 50,
        metric: Metric::L2,
        dtype: DType::U8,
        queries: None,
        bytes: None,
        sha256: None,
        url: url.to_string(),
        query_url: None,
        truth_url: None,
        prefix: false,
        unsupported: None,
    }
}

fn options() -> FetchOptions {
    FetchOptions { retries: 3, backoff: Duration::from_millis(1), sha256: None }
}

/// Fetches the file; the folder must hold it and its digest afterwards, and nothing else.
fn fetched(server: &Server, dir: &Path) -> Vec<u8> {
    let path = fetch_entry(&entry(&server.url), dir, &options(), &NoProgress).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["test-set.hdf5", "test-set.hdf5.sha256"]);
    std::fs::read(path).unwrap()
}

fn failed(server: &Server, dir: &Path, options: &FetchOptions) -> String {
    let error = fetch_entry(&entry(&server.url), dir, options, &NoProgress).unwrap_err();
    assert!(!dir.join("test-set.hdf5").exists());
    error.to_string()
}

#[test]
fn a_file_arrives_with_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Good]);
    assert_eq!(fetched(&server, dir.path()), content());
    let record = std::fs::read_to_string(dir.path().join("test-set.hdf5.sha256")).unwrap();
    assert!(record.ends_with("  test-set.hdf5\n") && record.len() == 64 + 2 + 14, "{record:?}");
    assert!(header(&server.requests()[0], "user-agent").unwrap().starts_with("kiln/"));
    // A second fetch checks the file, and asks nobody.
    assert_eq!(fetched(&server, dir.path()), content());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_dropped_connection_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Drops(20_000), Mood::Drops(7), Mood::Good]);
    assert_eq!(fetched(&server, dir.path()), content());
    let requests = server.requests();
    assert_eq!(header(&requests[1], "range"), Some("bytes=20000-"));
    assert_eq!(header(&requests[2], "range"), Some("bytes=20007-"));
    assert_eq!(header(&requests[2], "if-range"), Some("\"one\""));
}

#[test]
fn a_later_run_resumes_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Drops(30_000), Mood::Status(503), Mood::Good]);
    let message = failed(&server, dir.path(), &FetchOptions { retries: 1, ..options() });
    assert!(message.contains("resumes at byte 30000"), "{message}");
    assert_eq!(fetched(&server, dir.path()), content());
    assert_eq!(header(&server.requests()[2], "range"), Some("bytes=30000-"));
}

#[test]
fn a_server_without_ranges_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Drops(20_000), Mood::IgnoresRanges]);
    assert_eq!(fetched(&server, dir.path()), content());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_file_that_changed_is_never_spliced() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Drops(20_000), Mood::Changed]);
    let changed: Vec<u8> = content().iter().map(|byte| byte.wrapping_add(1)).collect();
    assert_eq!(fetched(&server, dir.path()), changed);
}

#[test]
fn a_complete_part_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test-set.hdf5.part"), content()).unwrap();
    std::fs::write(dir.path().join("test-set.hdf5.part.etag"), "\"one\"").unwrap();
    let server = Server::start(content(), &[Mood::Good]);
    assert_eq!(fetched(&server, dir.path()), content());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_missing_file_is_not_asked_for_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Status(404)]);
    let message = failed(&server, dir.path(), &options());
    assert!(message.contains(&server.url) && message.contains("404"), "{message}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn retries_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Status(500)]);
    let message = failed(&server, dir.path(), &options());
    assert!(message.contains("500") && message.contains("4 attempts"), "{message}");
    assert_eq!(server.requests().len(), 4);
    // Nobody listens on a port that was just given back.
    let unused = format!("http://{}/file", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let error = fetch_entry(&entry(&unused), dir.path(), &options(), &NoProgress).unwrap_err();
    assert!(matches!(error, DatasetError::Fetch { .. }), "{error}");
}

#[test]
fn a_wrong_digest_is_refused_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Good]);
    let expected = "ab".repeat(32);
    let message = failed(&server, dir.path(), &FetchOptions { sha256: Some(expected.clone()), ..options() });
    assert!(message.contains(&expected), "{message}");
    assert!(!dir.path().join("test-set.hdf5.part").exists());
}

#[test]
fn a_file_that_changed_on_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Good]);
    fetched(&server, dir.path());
    std::fs::write(dir.path().join("test-set.hdf5"), b"something else").unwrap();
    let error = fetch_entry(&entry(&server.url), dir.path(), &options(), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("changed since it was fetched"), "{error}");
}

#[test]
fn a_prefix_is_a_range_with_its_own_header() {
    for moods in [&[Mood::Good][..], &[Mood::IgnoresRanges], &[Mood::Drops(1000), Mood::Good]] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(content(), moods);
        // The queries and the truth come from the same address: nothing looks inside them here.
        let set = Entry {
            rows: 100,
            prefix: true,
            query_url: Some(server.url.clone()),
            truth_url: None,
            ..entry(&server.url)
        };
        let path = fetch_entry(&set, dir.path(), &options(), &NoProgress).unwrap();
        let rows = open_rows(&path).unwrap().read(0..100).unwrap();
        let expected = Array2::from_shape_vec((100, 50), content()[8..8 + 5000].to_vec()).unwrap();
        assert_eq!(rows, Rows::U8(expected));
    }
}

#[test]
fn a_prefix_of_too_short_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(content(), &[Mood::Good]);
    let set = Entry { rows: 5000, prefix: true, ..entry(&server.url) };
    let message = fetch_entry(&set, dir.path(), &options(), &NoProgress).unwrap_err().to_string();
    assert!(message.contains("250008 bytes are wanted") && message.contains("50008"), "{message}");
    let set = Entry { dim: 25, prefix: true, ..entry(&server.url) };
    let dir = tempfile::tempdir().unwrap();
    let message = fetch_entry(&set, dir.path(), &options(), &NoProgress).unwrap_err().to_string();
    assert!(message.contains("1000 rows of 50"), "{message}");
}

#[test]
fn what_cannot_be_fetched_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let error = kiln_datasets::fetch("no-such-set", dir.path(), &options(), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("kiln datasets list"), "{error}");
    let error = kiln_datasets::fetch("kosarak-jaccard", dir.path(), &options(), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("not supported"), "{error}");
    assert!(Registry::built_in().entries().len() > 50);
}
