//! A server under test: `kiln serve` on a free port, asked over plain sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_eval::load::client::{Connection, Target};
use serde_json::{Value, json};

use crate::common::Place;

/// Nothing in these tests takes that long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; killed with the test.
pub struct Server {
    pub child: Child,
    pub target: Target,
    pub address: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)))
            .map(|(_, v)| v)
    }

    /// Asserts that it is an error of this status and kind, typed as promised, and gives back its message.
    pub fn is_error(&self, status: u16, kind: &str) -> String {
        let body = self.json();
        assert_eq!((self.status, body["error"]["kind"].as_str()), (status, Some(kind)), "{}", self.text());
        crate::common::assert_keys(&body["error"], &["kind", "message", "request_id"]);
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("x-request-id"), body["error"]["request_id"].as_str());
        body["error"]["message"].as_str().expect("text").to_string()
    }
}

impl Server {
    /// Serves an index of `place` with these further arguments.
    pub fn start(place: &Place, args: &[&str]) -> Self {
        Self::start_with(place, args, |_| ())
    }

    pub fn start_with(place: &Place, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("kiln"));
        command.arg("serve").args(args).args(["--listen", "127.0.0.1:0", "--drain-grace", "200ms"]);
        command.current_dir(place.path("")).env_remove("KILN_LOG").env_remove("KILN_TOKEN");
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(place.path("server.log")).expect("a log"));
        prepare(&mut command);
        let mut child = command.spawn().expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            let _ = child.wait();
            panic!("the server does not listen: {line:?} {}", place.text("server.log"));
        };
        let address = url.strip_prefix("http://").expect("a URL").to_string();
        Self { child, target: Target::new(url, None).expect("a URL"), address }
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut connection = Connection::new(&self.target, PATIENCE);
        ask_on(&mut connection, &self.target.request(method, path, headers, body))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    /// A search by a JSON document.
    pub fn search(&self, body: &Value) -> Answer {
        self.search_text(&body.to_string())
    }

    pub fn search_text(&self, body: &str) -> Answer {
        self.ask("POST", "/v1/search", &["content-type: application/json"], body.as_bytes())
    }

    pub fn swap(&self) -> Answer {
        self.ask("POST", "/v1/index:swap", &[], b"")
    }

    /// A metric's value; 0 where it is not told yet.
    pub fn metric(&self, name: &str) -> f64 {
        let told = self.get("/metrics").text();
        let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits until a metric has reached a value.
    pub fn wait_for(&self, name: &str, at_least: f64) {
        let begin = Instant::now();
        while self.metric(name) < at_least {
            assert!(begin.elapsed() < PATIENCE, "{name} stays at {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for the end, which must come by itself, and gives back the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begin.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    /// Sends raw bytes on a connection of their own and reads until the server closes it.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request on a connection and reads the answer.
pub fn ask_on(connection: &mut Connection<'_>, request: &[u8]) -> Answer {
    let status = connection.exchange(request).unwrap_or_else(|fault| panic!("{}", fault.name()));
    Answer { status, head: connection.head().to_string(), body: connection.body().to_vec() }
}

/// A search for the first rows of `.fbin` queries.
pub fn body_of(queries: &[Vec<f32>], more: Value) -> Value {
    let mut body = json!({ "queries": queries });
    more.as_object().expect("an object").iter().for_each(|(name, value)| body[name] = value.clone());
    body
}

/// Raw queries.
pub fn raw_of(queries: &[Vec<f32>]) -> Vec<u8> {
    queries.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
}

/// A raw answer: ids and distances of each query.
pub fn parse_raw(bytes: &[u8]) -> Vec<(Vec<u64>, Vec<f32>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (count, k) = (word(0) as usize, word(4) as usize);
    assert_eq!(bytes.len(), 8 + count * k * 12);
    let id = |place: usize| u64::from_le_bytes(bytes[8 + 8 * place..16 + 8 * place].try_into().expect("eight bytes"));
    let distance = |place: usize| f32::from_bits(word(8 + 8 * count * k + 4 * place));
    let of = |query: usize| query * k..(query + 1) * k;
    (0..count).map(|query| (of(query).map(id).collect(), of(query).map(distance).collect())).collect()
}

/// Writes a file in the place of another as a deployment does: beside it, then renamed over it.
pub fn replace(place: &Place, name: &str, bytes: &[u8]) {
    place.write("incoming", bytes);
    std::fs::rename(place.path("incoming"), place.path(name)).expect("renamed");
}

pub fn open(path: &Path, residency: kiln_builder::Residency) -> kiln_builder::Searcher {
    kiln_builder::Index::open(path, residency).expect("opens")
}
