//! An object store on this machine that speaks as much of S3 as units need, and fails as it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Whole,
    /// 500, without having done anything.
    ServerError,
    /// The connection ends without an answer.
    Dropped,
    /// Half of the body, and the connection ends.
    Half,
    /// Nothing, for as long as the client waits.
    Never,
}

type Faults = dyn Fn(usize, &str) -> Answer + Send + Sync;

/// A server of objects, which ends with the tests.
pub struct ObjectServer {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// By bucket and key.
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    requests: AtomicUsize,
    faults: Mutex<Arc<Faults>>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    range: Option<String>,
    body: Vec<u8>,
}

impl ObjectServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let whole: Arc<Faults> = Arc::new(|_, _| Answer::Whole);
        let state = State { objects: Mutex::default(), requests: AtomicUsize::new(0), faults: Mutex::new(whole) };
        let state = Arc::new(state);
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                std::thread::spawn(move || state.serve(&stream));
            }
        });
        Self { address, state }
    }

    /// From now on, requests end as `faults` says of their number and path.
    pub fn answer(&self, faults: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) {
        self.state.requests.store(0, Ordering::Relaxed);
        *self.state.faults.lock().expect("no panic") = Arc::new(faults);
    }

    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Changes an object.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.state.objects.lock().expect("no panic");
        change(objects.get_mut(path).unwrap_or_else(|| panic!("no object {path}")));
    }

    /// Paths of all objects.
    pub fn paths(&self) -> Vec<String> {
        self.state.objects.lock().expect("no panic").keys().cloned().collect()
    }
}

impl State {
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let faults = Arc::clone(&self.faults.lock().expect("no panic"));
            let answer = faults(number, &request.path);
            let (head, body) = match answer {
                Answer::Whole | Answer::Half => self.carry_out(&request),
                Answer::ServerError => (head("500 Internal Server Error", 0, ""), Vec::new()),
                Answer::Dropped => return,
                // Until the client hangs up.
                Answer::Never => return drop(reader.read(&mut [0])),
            };
            let sent = if answer == Answer::Half { body.len() / 2 } else { body.len() };
            let mut writer = stream;
            if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&body[..sent])).is_err() {
                return;
            }
            if sent < body.len() {
                return;
            }
        }
    }

    fn carry_out(&self, request: &Request) -> (String, Vec<u8>) {
        let mut objects = self.objects.lock().expect("no panic");
        match request.method.as_str() {
            "PUT" => {
                let tag = format!("ETag: \"{}\"\r\n", etag(&request.body));
                objects.insert(request.path.clone(), request.body.clone());
                (head("200 OK", 0, &tag), Vec::new())
            }
            "POST" => {
                // Of many objects; those that are not there are no error.
                let text = String::from_utf8_lossy(&request.body).into_owned();
                let mut deleted = String::new();
                for (key, _) in text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>")) {
                    objects.remove(&format!("{}/{key}", request.path.trim_end_matches('/')));
                    deleted += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
                xml(format!("<DeleteResult>{deleted}</DeleteResult>"))
            }
            "GET" if request.query.contains("list-type=2") => {
                let prefix = request.query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
                let prefix = prefix.unwrap_or_default().replace("%2F", "/");
                let bucket = format!("{}/", request.path.trim_end_matches('/'));
                let entry = |(path, bytes): (&String, &Vec<u8>)| {
                    let key = path.strip_prefix(&bucket)?;
                    key.starts_with(&prefix).then(|| {
                        let length = bytes.len();
                        let time = "2026-01-01T00:00:00.000Z";
                        format!(
                            "<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>\"1\"</ETag><Size>{length}</Size></Contents>"
                        )
                    })
                };
                let entries: String = objects.iter().filter_map(entry).collect();
                xml(format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"))
            }
            "GET" | "HEAD" => match objects.get(&request.path) {
                None => (head("404 Not Found", 0, ""), Vec::new()),
                Some(bytes) => {
                    let (first, last) = range(request.range.as_deref(), bytes.len());
                    let part = bytes[first..last].to_vec();
                    let more = format!(
                        "ETag: \"{}\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Range: bytes {first}-{}/{}\r\n",
                        etag(bytes),
                        last.saturating_sub(1),
                        bytes.len()
                    );
                    let status = if request.range.is_some() { "206 Partial Content" } else { "200 OK" };
                    let body = if request.method == "HEAD" { Vec::new() } else { part.clone() };
                    (head(status, part.len(), &more), body)
                }
            },
            _ => (head("501 Not Implemented", 0, ""), Vec::new()),
        }
    }
}

fn xml(text: String) -> (String, Vec<u8>) {
    (head("200 OK", text.len(), "Content-Type: application/xml\r\n"), text.into_bytes())
}

fn head(status: &str, length: usize, more: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n")
}

/// Tells contents apart.
fn etag(bytes: &[u8]) -> String {
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// First byte and the byte after the last.
fn range(range: Option<&str>, length: usize) -> (usize, usize) {
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")).and_then(|r| r.split_once('-'))
    else {
        return (0, length);
    };
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (first, length.min(last + 1)),
        (Ok(first), Err(_)) => (first, length),
        (Err(_), suffix) => (length - suffix.unwrap_or(0).min(length), length),
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (mut range, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim().to_string()),
            "content-length" => length = value.trim().parse().ok()?,
            _ => (),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_string(), query: query.to_string(), range, body })
}
