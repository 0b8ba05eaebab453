//! One file over HTTP(S), resumed where a former attempt stopped.
//!
//! In: an address and where the bytes go. Out: a complete `NAME.part`, durable, not yet renamed. What was received
//! is kept across failures and across runs, together with the server's validator (its ETag, or else its date)
//! in `NAME.part.etag`: a file that changed on the server is begun again, never spliced.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_kernels::Progress;
use ureq::http::{HeaderMap, header};

use crate::error::DatasetError;

/// Bytes that must arrive for a failed attempt not to count against the limit.
const PROGRESS_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: usize = 256 << 10;
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// How to go about failures.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Attempts after the first that may fail in a row, each without a MiB of progress.
    pub retries: u32,
    /// Wait before the first retry; it doubles with each, up to a minute.
    pub backoff: Duration,
    /// The SHA-256 that the (base) file must have, in hexadecimal; overrides the registry's.
    pub sha256: Option<String>,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { retries: 8, backoff: Duration::from_millis(500), sha256: None }
    }
}

/// A file to be downloaded.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub url: &'a str,
    /// Where the bytes are collected.
    pub part: PathBuf,
    /// How many bytes from the start are wanted, where not all.
    pub limit: Option<u64>,
}

/// Why an attempt ended.
enum Failure {
    /// Worth another attempt.
    Transient(String),
    /// It will not get better.
    Permanent(DatasetError),
}

impl From<DatasetError> for Failure {
    fn from(error: DatasetError) -> Self {
        Self::Permanent(error)
    }
}

/// The path with an extension added.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// Downloads until the part is complete or the failures are too many.
pub(crate) fn download(job: &Job<'_>, options: &FetchOptions, progress: &dyn Progress) -> Result<(), DatasetError> {
    let agent = agent();
    let mut failures = 0;
    loop {
        let before = job.held();
        let problem = match job.attempt(&agent, progress) {
            Ok(()) => {
                // The part is complete: the validator has served. A leftover would be harmless.
                let _ = std::fs::remove_file(job.validator_path());
                return crate::atomic::sync(&job.part);
            }
            Err(Failure::Permanent(error)) => return Err(error),
            Err(Failure::Transient(problem)) => problem,
        };
        failures = if job.held() >= before + PROGRESS_BYTES { 1 } else { failures + 1 };
        if failures > options.retries {
            return Err(DatasetError::Fetch {
                url: job.url.to_string(),
                problem: format!("{problem}, and {} attempts made no progress", failures),
                remedy: format!("run the command again: it resumes at byte {}", job.held()),
            });
        }
        let wait = options.backoff.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_BACKOFF);
        tracing::warn!(url = job.url, %problem, wait_s = wait.as_secs_f64(), "download interrupted, will resume");
        std::thread::sleep(wait);
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        // Byte ranges are ranges of the file, not of a compressed form of it.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .build()
        .new_agent()
}

/// What a `Content-Range` header says.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    /// First byte and the one past the last; `None` in a refusal.
    range: Option<(u64, u64)>,
    /// Size of the whole file, where the server knows it.
    total: Option<u64>,
}

/// Reads `bytes 10-99/200`, `bytes 10-99/*` or `bytes */200`.
fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    if range == "*" {
        return Some(ContentRange { range: None, total });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some(ContentRange { range: Some((first, last.checked_add(1)?)), total })
}

impl Job<'_> {
    /// Bytes received so far.
    fn held(&self) -> u64 {
        std::fs::metadata(&self.part).map_or(0, |metadata| metadata.len())
    }

    fn validator_path(&self) -> PathBuf {
        with_suffix(&self.part, ".etag")
    }

    fn permanent(&self, problem: String, remedy: &str) -> Failure {
        Failure::Permanent(DatasetError::Fetch { url: self.url.to_string(), problem, remedy: remedy.to_string() })
    }

    /// Forgets what was received.
    fn discard(&self) -> Result<(), DatasetError> {
        File::create(&self.part).map_err(DatasetError::io(&self.part))?;
        Ok(())
    }

    /// One request, and what of its body arrives.
    fn attempt(&self, agent: &ureq::Agent, progress: &dyn Progress) -> Result<(), Failure> {
        let validator = std::fs::read_to_string(self.validator_path()).ok().filter(|text| !text.is_empty());
        // Without a validator there is no telling whether the file is still the same one.
        let held = if validator.is_some() { self.held() } else { 0 };
        if self.limit.is_some_and(|limit| held >= limit) {
            return Ok(());
        }
        let mut request = agent.get(self.url);
        let last = self.limit.map_or(String::new(), |limit| (limit - 1).to_string());
        if held > 0 || self.limit.is_some() {
            request = request.header(header::RANGE, format!("bytes={held}-{last}"));
        }
        if let (Some(validator), 1..) = (&validator, held) {
            request = request.header(header::IF_RANGE, validator);
        }
        let mut response = request.call().map_err(|error| self.request_failed(error))?;
        let status = response.status().as_u16();
        let headers = response.headers();
        let offered = validator_of(headers);
        let range = text_of(headers, header::CONTENT_RANGE).and_then(parse_content_range);
        let (start, end) = match status {
            206 => {
                let Some(ContentRange { range: Some((start, end)), total }) = range else {
                    return Err(Failure::Transient("the server sent a part without saying which".to_string()));
                };
                if start != held || (validator.is_some() && offered.is_some() && offered != validator) {
                    self.discard()?;
                    return Err(Failure::Transient(format!(
                        "the server sent bytes from {start} of a file that changed"
                    )));
                }
                self.check_total(total)?;
                (start, Some(end))
            }
            200 => {
                let total = text_of(headers, header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
                self.check_total(total)?;
                (0, self.limit.or(total))
            }
            416 if range.as_ref().and_then(|range| range.total) == Some(held) && held > 0 => return Ok(()),
            416 => {
                self.discard()?;
                return Err(Failure::Transient(format!("the server has no bytes from {held} on")));
            }
            408 | 429 | 500..=599 => return Err(Failure::Transient(format!("the server answered {status}"))),
            404 | 410 => {
                return Err(self.permanent(
                    format!("the server answered {status}: there is no such file"),
                    "check the address; the data set may have moved",
                ));
            }
            _ => return Err(self.permanent(format!("the server answered {status}"), "check the address in a browser")),
        };
        if start == 0 {
            self.discard()?;
            let validator = offered.unwrap_or_default();
            let path = self.validator_path();
            std::fs::write(&path, validator).map_err(DatasetError::io(path))?;
        }
        progress.stage("download", end.unwrap_or(0));
        progress.advance(start);
        self.receive(&mut response.body_mut().as_reader(), start, end, progress)
    }

    /// Refuses a file that is shorter than the prefix that is wanted of it.
    fn check_total(&self, total: Option<u64>) -> Result<(), Failure> {
        match (self.limit, total) {
            (Some(limit), Some(total)) if total < limit => Err(self.permanent(
                format!("{limit} bytes are wanted of it, but it has {total}"),
                "the file on the server is not the one that the registry describes",
            )),
            _ => Ok(()),
        }
    }

    /// Appends the body to the part, up to byte `end` of the file where that is known.
    fn receive(
        &self,
        body: &mut impl Read,
        start: u64,
        end: Option<u64>,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let io = || DatasetError::io(&self.part);
        let mut part = OpenOptions::new().append(true).open(&self.part).map_err(io())?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut held = start;
        loop {
            let wanted = end.map_or(BUFFER_BYTES as u64, |end| (end - held).min(BUFFER_BYTES as u64)) as usize;
            if wanted == 0 {
                return Ok(());
            }
            match body.read(&mut buffer[..wanted]) {
                Ok(0) if end.is_none() => return Ok(()),
                Ok(0) => return Err(Failure::Transient(format!("the connection closed at byte {held}"))),
                Ok(received) => {
                    part.write_all(&buffer[..received]).map_err(io())?;
                    held += received as u64;
                    progress.advance(received as u64);
                }
                Err(error) => return Err(Failure::Transient(format!("the connection broke at byte {held}: {error}"))),
            }
        }
    }

    fn request_failed(&self, error: ureq::Error) -> Failure {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::TooManyRedirects => {
                self.permanent(error.to_string(), "check the address")
            }
            _ => Failure::Transient(error.to_string()),
        }
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// What identifies the file's version: a strong ETag, or else its date of change.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    text_of(headers, header::ETAG)
        .filter(|etag| !etag.starts_with("W/"))
        .or_else(|| text_of(headers, header::LAST_MODIFIED))
        .map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let range = |range, total| Some(ContentRange { range, total });
        assert_eq!(parse_content_range("bytes 10-99/200"), range(Some((10, 100)), Some(200)));
        assert_eq!(parse_content_range("bytes 0-0/*"), range(Some((0, 1)), None));
        assert_eq!(parse_content_range("bytes */200"), range(None, Some(200)));
        for bad in
            ["", "bytes", "bytes 1-2", "items 1-2/3", "bytes x-2/3", "bytes 1-2/x", "bytes 0-18446744073709551615/3"]
        {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
