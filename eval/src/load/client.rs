//! A lean HTTP/1.1 client: one connection, one request at a time, over plain sockets.
//!
//! In: a [`Target`] and requests as whole bytes, prepared beforehand. Out: the status and body of each answer, or what
//! went wrong as a word. It knows what a search server needs and no more: no TLS, no redirects, bodies of announced
//! length only.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Bytes of an answer's head at most.
const HEAD: usize = 16 << 10;

/// A connection idle for longer may have been closed by the server: it is looked at before it is used.
const FRESH: Duration = Duration::from_secs(1);

/// Where a server is.
#[derive(Debug, Clone)]
pub struct Target {
    /// As given, without a slash at its end.
    pub url: String,
    host: String,
    path: String,
    addresses: Vec<SocketAddr>,
    token: Option<String>,
}

/// A URL that no request can be sent to.
#[derive(Debug, thiserror::Error)]
#[error("--url {url}: {problem}; use http://HOST:PORT")]
pub struct TargetError {
    /// As given.
    pub url: String,
    /// What is wrong.
    pub problem: String,
}

impl Target {
    /// The server at `url`, asked with `token` where one is given.
    ///
    /// # Errors
    /// When the URL is not `http://`, or its host is unknown.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, TargetError> {
        let failed = |problem: String| TargetError { url: url.to_string(), problem };
        let trimmed = url.trim_end_matches('/');
        let rest = trimmed.strip_prefix("http://").ok_or_else(|| failed("it does not begin with http://".into()))?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let with_port =
            if host.rsplit(']').next().unwrap_or(host).contains(':') { host.to_string() } else { format!("{host}:80") };
        let addresses: Vec<SocketAddr> = match with_port.to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => return Err(failed(format!("its host cannot be found: {error}"))),
        };
        if addresses.is_empty() {
            return Err(failed("its host has no address".into()));
        }
        Ok(Self { url: trimmed.to_string(), host: host.to_string(), path: path.to_string(), addresses, token })
    }

    /// A whole request. `path` may hold a query string; `headers` are lines without their ends.
    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
        let mut head = format!("{method} {}{path} HTTP/1.1\r\nhost: {}\r\n", self.path, self.host);
        if let Some(token) = &self.token {
            head += &format!("authorization: Bearer {token}\r\n");
        }
        headers.iter().for_each(|line| head += &format!("{line}\r\n"));
        if method != "GET" {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        [head.as_bytes(), body].concat()
    }
}

/// What went wrong with a request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No connection could be made.
    Connect,
    /// The connection was closed or broke before the whole answer was there.
    Closed,
    /// The answer was not there in time.
    Timeout,
    /// The answer is not one.
    Malformed,
}

impl Fault {
    /// `connect`, `closed`, `timeout` or `malformed`.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Connect => "connect",
            Fault::Closed => "closed",
            Fault::Timeout => "timeout",
            Fault::Malformed => "malformed",
        }
    }
}

/// A connection that is made when it is needed, and again after it was closed.
#[derive(Debug)]
pub struct Connection<'a> {
    target: &'a Target,
    timeout: Duration,
    stream: Option<(TcpStream, Instant)>,
    answer: Vec<u8>,
    body: std::ops::Range<usize>,
}

impl<'a> Connection<'a> {
    /// A connection to `target` that waits `timeout` for an answer.
    pub fn new(target: &'a Target, timeout: Duration) -> Self {
        Self { target, timeout, stream: None, answer: Vec::new(), body: 0..0 }
    }

    /// Connects, if that was not done yet.
    ///
    /// # Errors
    /// [`Fault::Connect`].
    pub fn connect(&mut self) -> Result<(), Fault> {
        if let Some((stream, used)) = &self.stream
            && used.elapsed() > FRESH
            && !is_open(stream)
        {
            self.stream = None;
        }
        if self.stream.is_none() {
            let connected = self.target.addresses.iter().find_map(|a| TcpStream::connect_timeout(a, self.timeout).ok());
            let stream = connected.ok_or(Fault::Connect)?;
            let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(self.timeout)));
            set.and_then(|()| stream.set_write_timeout(Some(self.timeout))).map_err(|_| Fault::Connect)?;
            self.stream = Some((stream, Instant::now()));
        }
        Ok(())
    }

    /// Sends a request and waits for the whole answer: its status; the [`body`](Self::body) stays until the next one. On a
    /// fault the connection is given up.
    ///
    /// # Errors
    /// What went wrong on the way; a status other than 200 is no fault.
    pub fn exchange(&mut self, request: &[u8]) -> Result<u16, Fault> {
        self.connect()?;
        let Some((mut stream, _)) = self.stream.take() else { return Err(Fault::Connect) };
        stream.write_all(request).map_err(|error| fault(&error))?;
        let (status, keep) = self.read_answer(&mut stream)?;
        if keep {
            self.stream = Some((stream, Instant::now()));
        }
        Ok(status)
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.answer[self.body.clone()]
    }

    /// The head of the last answer.
    pub fn head(&self) -> &str {
        std::str::from_utf8(&self.answer[..self.body.start]).unwrap_or_default()
    }

    fn read_answer(&mut self, stream: &mut TcpStream) -> Result<(u16, bool), Fault> {
        self.answer.clear();
        self.body = 0..0;
        let (status, keep, begin, length) = loop {
            if let Some(head) = parse_head(&self.answer)? {
                break head;
            }
            if self.answer.len() > HEAD {
                return Err(Fault::Malformed);
            }
            read_some(stream, &mut self.answer, 4096)?;
        };
        while self.answer.len() < begin + length {
            let missing = begin + length - self.answer.len();
            read_some(stream, &mut self.answer, missing)?;
        }
        self.body = begin..begin + length;
        Ok((status, keep))
    }
}

/// Status, whether the connection stays open, where the body begins and its length; `None` while the head is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(u16, bool, usize, usize)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let begin = match response.parse(bytes) {
        Ok(httparse::Status::Complete(begin)) => begin,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Fault::Malformed),
    };
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let length = header("content-length").and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    let keep = header("connection").is_none_or(|header| !header.value.eq_ignore_ascii_case(b"close"));
    match (response.code, length) {
        (Some(status), Some(length)) => Ok(Some((status, keep, begin, length))),
        _ => Err(Fault::Malformed),
    }
}

fn read_some(stream: &mut TcpStream, into: &mut Vec<u8>, room: usize) -> Result<(), Fault> {
    let before = into.len();
    into.resize(before + room, 0);
    loop {
        match stream.read(&mut into[before..]) {
            Ok(0) => return Err(Fault::Closed),
            Ok(read) => {
                into.truncate(before + read);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fault(&error)),
        }
    }
}

fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fault::Timeout,
        _ => Fault::Closed,
    }
}

/// Whether the server has left the connection open; between requests it sends nothing else.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let asked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut byte));
    let open = matches!(asked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_ok() && open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_one_kind() {
        let target = Target::new("http://127.0.0.1:8080/kiln/", Some("s3cret".into())).expect("a target");
        let request = target.request("POST", "/v1/search?k=3", &["accept: */*"], b"abc");
        let expected = "POST /kiln/v1/search?k=3 HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nauthorization: Bearer s3cret\r\n\
             accept: */*\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(String::from_utf8(request).expect("text"), expected);
        assert!(Target::new("http://[::1]:80", None).is_ok() && Target::new("http://127.0.0.1", None).is_ok());
        for wrong in
            ["https://127.0.0.1", "127.0.0.1:8080", "http://", "http://host with spaces:1", "http://127.0.0.1:x"]
        {
            let message = Target::new(wrong, None).expect_err(wrong).to_string();
            assert!(message.contains(wrong) && message.contains("http://HOST:PORT"), "{message}");
        }
    }

    #[test]
    fn heads_are_read_whole() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        for part in 0..text.len() - 2 {
            assert_eq!(parse_head(&text[..part]), Ok(None), "{part}");
        }
        assert_eq!(parse_head(text), Ok(Some((503, false, text.len() - 2, 2))));
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Fault::Malformed));
        assert_eq!(parse_head(b"220 smtp ready\r\n\r\n"), Err(Fault::Malformed));
    }
}
